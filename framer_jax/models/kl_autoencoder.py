"""The autoencoders of Stable Diffusion: an image becomes a Gaussian distribution of latents at an eighth of its side.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022); Esser et al., "Scaling
Rectified Flow Transformers for High-Resolution Image Synthesis" (2024). The defaults are those of the latter, with 16
channels and 83,819,683 parameters. Published weights are read by framer_jax.porting.kl_autoencoder.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.autoencoder_layers import Decoder, Encoder
from framer_jax.models.layers import Dtype, GroupNorm

LOG_VARIANCES = (-30.0, 20.0)
"""Range to which the published encoders clip the logarithm of the variance."""


class Gaussian(NamedTuple):
    """The distribution of an image's latent; positions and channels are independent.

    Attributes:
      mean: [B, h, w, C] float32, which is also the mode.
      log_variance: [B, h, w, C] float32, within LOG_VARIANCES.
    """

    mean: jax.Array
    log_variance: jax.Array

    @property
    def standard_deviation(self) -> jax.Array:
        """[B, h, w, C] float32."""
        return jnp.exp(0.5 * self.log_variance)


class KLAutoencoder(nn.Module):
    """Encoder and decoder. Apply it by method: `apply(variables, image, method="encode")`.

    `encode` and `decode` use unnormalised latents; denoisers work on the `normalised` ones.

    Attributes:
      channels: width of the finest level.
      multipliers: width of each level as a multiple of `channels`; each level but the last halves the side.
      blocks: residual blocks per level of the encoder; the decoder has one more.
      latent_channels: channels of the latents: 16 in Stable Diffusion 3, 4 in Stable Diffusion 1 and 2.
      groups: groups of every norm.
      quantisation_convs: whether a 1x1 convolution follows the encoder and another precedes the decoder, as in Stable
        Diffusion 1 and 2.
      scaling: factor of normalised latents: 1.5305 in Stable Diffusion 3, 0.18215 in 1 and 2.
      shift: subtracted from latents before scaling: 0.0609 in Stable Diffusion 3, 0 in 1 and 2.
      dtype: compute dtype; parameters, norms, softmax, latents and images are float32.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent_channels: int = 16
    groups: int = knob(32, "Groups of every norm.", at_least=1)
    quantisation_convs: bool = False
    scaling: float = knob(1.5305, "Factor of normalised latents.", above=0)
    shift: float = knob(0.0609, "Subtracted from latents before scaling.")
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        super().__post_init__()

    def setup(self) -> None:
        """Create the submodules."""
        shape = (self.channels, self.multipliers, self.blocks, ())
        norm = partial(GroupNorm, groups=self.groups, epsilon=1e-6)
        self.encoder = Encoder(*shape, 2 * self.latent_channels, self.dtype, norm, dense=True)
        self.decoder = Decoder(*shape, self.dtype, norm, dense=True, coarsest_first=True)
        if self.quantisation_convs:
            self.after_encoder = nn.Conv(2 * self.latent_channels, (1, 1))
            self.before_decoder = nn.Conv(self.latent_channels, (1, 1))

    @property
    def pixels_per_latent(self) -> int:
        """Pixels per latent position and axis; the sides of an image must be multiples of it."""
        return 2 ** (len(self.multipliers) - 1)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Encode, take the mean and decode: [B, H, W, 3] → [B, H, W, 3]."""
        return self.decode(self.encode(image).mean)

    def encode(self, image: jax.Array) -> Gaussian:
        """Encode an image as a distribution of latents.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1].

        Returns:
          the distribution of latents [B, H / p, W / p, latent_channels], p = `pixels_per_latent`; not normalised.

        Raises:
          ValueError: H or W is not a multiple of p.
        """
        if any(side % self.pixels_per_latent for side in image.shape[1:3]):
            raise ValueError(
                f"images to encode need sides that are multiples of {self.pixels_per_latent}, got {image.shape[1:3]}"
            )
        moments = self.encoder(image)
        if self.quantisation_convs:
            moments = self.after_encoder(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_variance, *LOG_VARIANCES))

    def decode(self, z: jax.Array) -> jax.Array:
        """Decode a latent.

        Args:
          z: [B, h, w, latent_channels] float32, not normalised.

        Returns:
          image [B, p h, p w, 3] float32 near [-1, 1], not clipped.
        """
        return self.decoder(self.before_decoder(z) if self.quantisation_convs else z)

    @nn.nowrap
    def normalised(self, z: jax.Array) -> jax.Array:
        """The latent that denoisers work on, of about unit variance: (z - shift) · scaling."""
        return (z - self.shift) * self.scaling

    @nn.nowrap
    def denormalised(self, z: jax.Array) -> jax.Array:
        """The inverse of `normalised`."""
        return z / self.scaling + self.shift
