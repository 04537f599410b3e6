"""Where a recipe's diffusion lives: a latent space of images, and the LR image carried into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from math import ceil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion.noise import NoiseField, window
from framer_jax.frequency import wavelets
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.lora import COLLECTION, branches
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.recipes.base import Batch, Frozen, Params
from framer_jax.recipes.normed_tiles import as_one

Code = Callable[[Frozen, jax.Array], jax.Array]


@dataclass(frozen=True)
class LatentSpace:
    """An autoencoder as two pure functions.

    Attributes:
      channels: C of a latent.
      image_pixels_per_latent: side of a latent position in HR pixels.
      encode: (frozen, image [B, H, W, 3] in [-1, 1]) → latent [B, H / p, W / p, C].
      decode: the inverse, or its approximation.
      channel_scale: [C] float32, the image-domain standard deviation of one unit of each channel; ones if unknown.
      frozen: the weights that `encode` and `decode` find in what they are given.
      by_tiles: (sides of the encoder's and of the decoder's tiles, in latents) → `encode` and `decode` that take
        larger images in parts; None where no image is too large.
    """

    channels: int
    image_pixels_per_latent: int
    encode: Code
    decode: Code
    channel_scale: np.ndarray
    frozen: Frozen = field(default_factory=dict)
    by_tiles: Callable[[int, int], tuple[Code, Code]] | None = None


def in_tiles(space: LatentSpace, encoder: int, decoder: int) -> LatentSpace:
    """The space with an autoencoder that takes large images in parts; the sides are in pixels, 0 for no parts."""
    if space.by_tiles is None or not (encoder or decoder):
        return space
    encode, decode = space.by_tiles(*(side // space.image_pixels_per_latent for side in (encoder, decoder)))
    return replace(space, encode=encode, decode=decode)


def wavelet_space(codec: wavelets.WaveletCodec) -> LatentSpace:
    """The training-free orthonormal Haar codec: for two levels, [B, H, W, 3] ↔ [B, H / 4, W / 4, 48]."""
    pixels = 2**codec.levels
    return LatentSpace(
        channels=3 * pixels**2,
        image_pixels_per_latent=pixels,
        encode=lambda frozen, image: wavelets.encode(image, codec),
        decode=lambda frozen, latent: wavelets.decode(latent, codec),
        channel_scale=np.asarray(codec.scale, np.float32)[wavelets.band_of_channel(codec)],
    )


AUTOENCODER, AUTOENCODER_LORA = "autoencoder", "autoencoder_lora"
"""The entries of `frozen` that an autoencoder's weights have, and, where one was trained, the branches beside them."""


def autoencoder_space(module: VQAutoencoder, params: Params | None) -> LatentSpace:
    """A trained autoencoder: for VQ-f4, [B, H, W, 3] ↔ [B, H / 4, W / 4, 3].

    As in ResShift, `encode` does not quantise and `decode` does; its gradient passes straight through to the latent.

    Args:
      module: the autoencoder.
      params: its weights, or None where nothing will be computed.
    """

    def apply(frozen: Frozen, x: jax.Array, method: str) -> jax.Array:
        return module.apply({"params": frozen[AUTOENCODER]}, x, method=method)  # type: ignore[return-value]

    return LatentSpace(
        channels=module.latent_channels,
        image_pixels_per_latent=module.pixels_per_latent,
        encode=lambda frozen, image: apply(frozen, image, "encode"),
        decode=lambda frozen, latent: apply(frozen, latent, "decode"),
        channel_scale=np.ones(module.latent_channels, np.float32),
        frozen={} if params is None else {AUTOENCODER: params},
    )


def gaussian_space(module: KLAutoencoder, params: Params) -> LatentSpace:
    """An autoencoder of Stable Diffusion: [B, H, W, 3] ↔ [B, H / 8, W / 8, 16 or 4], normalised latents.

    Args:
      module: the autoencoder.
      params: its weights, or their shapes where nothing will be computed.

    `encode` gives the mean of the latents. (The released trainers draw from the Gaussian, whose deviation is small.)
    """

    def encode(frozen: Frozen, image: jax.Array, side: int = 0) -> jax.Array:
        variables = {"params": frozen[AUTOENCODER], COLLECTION: frozen.get(AUTOENCODER_LORA, {})}
        with branches():
            mean = as_one(module, variables, lambda m, x: m.encode(x).mean, image, side, module.pixels_per_latent)
        return module.normalised(mean)

    def decode(frozen: Frozen, latent: jax.Array, side: int = 0) -> jax.Array:
        z = module.denormalised(latent)
        return as_one(module, {"params": frozen[AUTOENCODER]}, lambda m, x: m.decode(x), z, side)

    return LatentSpace(
        channels=module.latent_channels,
        image_pixels_per_latent=module.pixels_per_latent,
        encode=encode,
        decode=decode,
        channel_scale=np.ones(module.latent_channels, np.float32),
        frozen={AUTOENCODER: params},
        by_tiles=lambda encoder, decoder: (partial(encode, side=encoder), partial(decode, side=decoder)),
    )


def to_model_range(image: jax.Array) -> jax.Array:
    """[0, 1] → [-1, 1]."""
    return image * 2.0 - 1.0


def from_model_range(image: jax.Array) -> jax.Array:
    """[-1, 1] → [0, 1], not clipped."""
    return image * 0.5 + 0.5


def enlarge(lr: jax.Array, scale: int) -> jax.Array:
    """Bicubic enlargement as PyTorch does it (A = -0.75, half-pixel centres): [B, H, W, 3] → [B, sH, sW, 3]."""
    batch, height, width, channels = lr.shape
    return jax.image.resize(
        lr.astype(jnp.float32), (batch, height * scale, width * scale, channels), "cubic-pytorch", antialias=False
    )


@dataclass(frozen=True)
class LatentTask:
    """What a latent recipe predicts: z_hr, or only what the enlarged LR image lacks of it.

    Attributes:
      space: the latents; their grid must be that of the LR image.
      scale: enlargement.
      residual: the clean end of the process is z_hr - z_lr.
    """

    space: LatentSpace
    scale: int
    residual: bool

    @property
    def latents_per_lr_pixel(self) -> Fraction:
        """Latent positions per LR pixel and axis."""
        return Fraction(self.scale, self.space.image_pixels_per_latent)

    def lr_multiple(self, denoiser: nn.Module) -> int:
        """What the sides of an LR image must be multiples of, so that its latents suit the denoiser."""
        return ceil(getattr(denoiser, "multiple", 1) / self.latents_per_lr_pixel)

    def init(self, denoiser: nn.Module, key: jax.Array, batch: Batch) -> Params:
        """Parameters of the group 'denoiser', which is called with (latent, t [B], LR image)."""
        _, height, width, _ = batch["lr"].shape
        sides = (int(height * self.latents_per_lr_pixel), int(width * self.latents_per_lr_pixel))
        latent = jnp.zeros((1, *sides, self.space.channels), jnp.float32)
        condition = jnp.zeros((1, height, width, 3), jnp.float32)
        return {"denoiser": denoiser.init(key, latent, jnp.zeros((1,), jnp.float32), condition)["params"]}

    def training_pair(self, frozen: Frozen, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(clean latent x_0, z_lr on the same footing: zeros if residual, LR image in [-1, 1])."""
        z_lr, condition = self.enlarged(frozen, batch["lr"])
        z_hr = self.space.encode(frozen, to_model_range(batch["hr"]))
        return (z_hr - z_lr, jnp.zeros_like(z_lr), condition) if self.residual else (z_hr, z_lr, condition)

    def enlarged(self, frozen: Frozen, lr: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(latent of the bicubic enlargement, LR image in [-1, 1])."""
        condition = to_model_range(lr)
        return self.space.encode(frozen, enlarge(condition, self.scale)), condition

    def noise(self, like: jax.Array, noise: NoiseField, draw: int | jax.Array = 0) -> jax.Array:
        """Standard normal noise of the shape of latents [B, h, w, C], of their place on the canvas."""
        return window(noise, draw, (like.shape[1], like.shape[2], like.shape[3]), self.latents_per_lr_pixel)

    def picture(self, frozen: Frozen, x0: jax.Array, z_lr: jax.Array) -> jax.Array:
        """A clean latent as an image near [0, 1]."""
        return from_model_range(self.space.decode(frozen, x0 + z_lr if self.residual else x0))
