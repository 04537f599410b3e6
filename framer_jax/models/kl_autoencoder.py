"""The autoencoders of Stable Diffusion: an image becomes a Gaussian of latents at an eighth of its side.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022); Esser et al., "Scaling
Rectified Flow Transformers for High-Resolution Image Synthesis" (2024), whose 16 channels are the defaults:
83,819,683 parameters. Published weights come through framer_jax.porting.kl_autoencoder.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.autoencoder_layers import Decoder, Encoder
from framer_jax.models.layers import Dtype, GroupNorm

LOG_VARIANCES = (-30.0, 20.0)
"""Between which the published encoders' logarithms of variances are clipped."""


class Gaussian(NamedTuple):
    """What an image says of its latent; independent positions and channels.

    Attributes:
      mean: [B, h, w, C] float32, which is also its mode.
      log_variance: [B, h, w, C] float32, within LOG_VARIANCES.
    """

    mean: jax.Array
    log_variance: jax.Array

    @property
    def standard_deviation(self) -> jax.Array:
        """[B, h, w, C] float32."""
        return jnp.exp(0.5 * self.log_variance)

    def sample(self, key: jax.Array) -> jax.Array:
        """One draw, with a gradient to both parts: [B, h, w, C] float32."""
        return self.mean + self.standard_deviation * jax.random.normal(key, self.mean.shape, jnp.float32)


class KLAutoencoder(nn.Module):
    """Encoder and decoder. Apply it by method: `apply(variables, image, method="encode")`.

    Latents are as the decoder knows them; a denoiser works on `normalised` ones.

    Attributes:
      channels: width of the finest level.
      multipliers: width of each level as a multiple of it; each level but one halves the side.
      blocks: residual blocks of each level of the encoder; the decoder has one more.
      latent_channels: of the latents: 16 of Stable Diffusion 3, 4 of 1 and 2.
      groups: of every norm.
      quantisation_convs: whether a 1x1 convolution follows the encoder and another precedes the decoder, as in 1 and 2.
      scaling: of normalised latents: 1.5305 of 3, 0.18215 of 1 and 2.
      shift: what is taken off before: 0.0609 of 3, 0 of 1 and 2.
      dtype: compute dtype; parameters, norms, softmax, latents and images are float32.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent_channels: int = 16
    groups: int = 32
    quantisation_convs: bool = False
    scaling: float = 1.5305
    shift: float = 0.0609
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the parts."""
        shape = (self.channels, self.multipliers, self.blocks, ())
        norm = partial(GroupNorm, groups=self.groups, epsilon=1e-6)
        self.encoder = Encoder(*shape, 2 * self.latent_channels, self.dtype, norm, dense=True)
        self.decoder = Decoder(*shape, self.dtype, norm, dense=True, coarsest_first=True)
        if self.quantisation_convs:
            self.after_encoder = nn.Conv(2 * self.latent_channels, (1, 1))
            self.before_decoder = nn.Conv(self.latent_channels, (1, 1))

    @property
    def pixels_per_latent(self) -> int:
        """Side of a latent position in pixels; sides of an image must be multiples of it."""
        return 2 ** (len(self.multipliers) - 1)

    def __call__(self, image: jax.Array) -> jax.Array:
        """There and back through the mean: [B, H, W, 3] → the same."""
        return self.decode(self.encode(image).mean)

    def encode(self, image: jax.Array) -> Gaussian:
        """An image in [-1, 1] to the Gaussian of its latents.

        Args:
          image: [B, H, W, 3] float32.

        Returns:
          of [B, H / p, W / p, latent_channels], p = `pixels_per_latent`; not normalised.

        Raises:
          ValueError: H or W is not a multiple of p.
        """
        if any(side % self.pixels_per_latent for side in image.shape[1:3]):
            raise ValueError(
                f"images to encode need sides that are multiples of {self.pixels_per_latent}, not {image.shape[1:3]}"
            )
        moments = self.encoder(image)
        if self.quantisation_convs:
            moments = self.after_encoder(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_variance, *LOG_VARIANCES))

    def decode(self, z: jax.Array) -> jax.Array:
        """A latent to the image in (about) [-1, 1].

        Args:
          z: [B, h, w, latent_channels] float32, not normalised.

        Returns:
          [B, p h, p w, 3] float32, not clipped.
        """
        return self.decoder(self.before_decoder(z) if self.quantisation_convs else z)

    @nn.nowrap
    def normalised(self, z: jax.Array) -> jax.Array:
        """A latent as a denoiser knows it, of about unit variance: (z - shift) · scaling."""
        return (z - self.shift) * self.scaling

    @nn.nowrap
    def denormalised(self, z: jax.Array) -> jax.Array:
        """The inverse of `normalised`."""
        return z / self.scaling + self.shift
