"""Latent spaces of images, and what a latent super-resolution recipe computes in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from math import lcm
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion.noise import NoiseField, noise_window
from framer_jax.frequency import wavelets
from framer_jax.models.denoiser import IMAGE, Denoiser
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.lora import COLLECTION, apply_adapters
from framer_jax.models.tiny_autoencoder import TinyAutoencoder
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.recipes.base import Batch, Frozen, Params
from framer_jax.recipes.components.tiled_apply import tiled_apply

Code = Callable[[Frozen, jax.Array], jax.Array]


@dataclass(frozen=True)
class LatentSpace:
    """An autoencoder as two pure functions.

    Attributes:
      channels: C of a latent.
      image_pixels_per_latent: side of a latent position in HR pixels.
      encode: (frozen, image [B, H, W, 3] in [-1, 1]) → latent [B, H / p, W / p, C].
      decode: the inverse of `encode`, or its approximation.
      channel_scale: [C] float32, the image-domain standard deviation of one unit of each channel; ones if unknown.
      frozen: the weights that `encode` and `decode` read from their first argument.
      tiled: (side of the encoder's tiles, side of the decoder's tiles; in latents) → `encode` and `decode` that process
        larger images in tiles; None where no image is too large.
    """

    channels: int
    image_pixels_per_latent: int
    encode: Code
    decode: Code
    channel_scale: np.ndarray
    frozen: Frozen = field(default_factory=dict)
    tiled: Callable[[int, int], tuple[Code, Code]] | None = None


def with_tiles(space: LatentSpace, encoder: int, decoder: int) -> LatentSpace:
    """The space with an autoencoder that processes large images in tiles; sides are in pixels, 0 for no tiles."""
    if space.tiled is None or not (encoder or decoder):
        return space
    encode, decode = space.tiled(*(side // space.image_pixels_per_latent for side in (encoder, decoder)))
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
"""The entries of `frozen` with an autoencoder's weights and, where one was trained, with the LoRA on them."""


PREVIEW = "preview_decoder"
"""The entry of `frozen` with the decoder of a TAESD, which then decodes in place of an autoencoder's own."""


def autoencoder_space(module: VQAutoencoder | TinyAutoencoder, params: Params | None) -> LatentSpace:
    """A trained autoencoder without a distribution of latents.

    VQ-f4: [B, H, W, 3] ↔ [B, H / 4, W / 4, 3]. As in ResShift, `encode` does not quantise and `decode` does; its
    gradient passes straight through to the latent. TAESD, TAESD3: [B, H, W, 3] ↔ [B, H / 8, W / 8, 4 or 16]; its
    latents have the scale of normalized ones already.

    Args:
      module: the autoencoder.
      params: its weights, or their shapes or None for a description.
    """

    def apply(frozen: Frozen, x: jax.Array, method: str) -> jax.Array:
        return cast(jax.Array, module.apply({"params": frozen[AUTOENCODER]}, x, method=method))

    return LatentSpace(
        channels=module.latent_channels,
        image_pixels_per_latent=module.pixels_per_latent,
        encode=lambda frozen, image: apply(frozen, image, "encode"),
        decode=lambda frozen, latent: apply(frozen, latent, "decode"),
        channel_scale=np.ones(module.latent_channels, np.float32),
        frozen={} if params is None else {AUTOENCODER: params},
    )


def gaussian_space(module: KLAutoencoder, params: Params, published: KLAutoencoder | None = None) -> LatentSpace:
    """An autoencoder of Stable Diffusion: [B, H, W, 3] ↔ [B, H / 8, W / 8, 16 or 4], normalized latents.

    `encode` returns the mean of the latents' Gaussian. (The released trainers draw from it; its standard deviation is
    small.)

    Args:
      module: the autoencoder.
      params: its weights, or their shapes for a description.
      published: the autoencoder with its own scaling and shift, which TAESD's latents have too; None: as `module`.
    """

    def encode(frozen: Frozen, image: jax.Array, side: int = 0) -> jax.Array:
        variables = {"params": frozen[AUTOENCODER], COLLECTION: frozen.get(AUTOENCODER_LORA, {})}
        with apply_adapters():
            mean = tiled_apply(module, variables, lambda m, x: m.encode(x).mean, image, side, module.pixels_per_latent)
        return module.normalised(mean)

    def decode(frozen: Frozen, latent: jax.Array, side: int = 0) -> jax.Array:
        z = module.denormalised(latent)
        if PREVIEW in frozen:
            return decode_preview(frozen[PREVIEW], (published or module).normalised(z))
        return tiled_apply(module, {"params": frozen[AUTOENCODER]}, lambda m, x: m.decode(x), z, side)

    return LatentSpace(
        channels=module.latent_channels,
        image_pixels_per_latent=module.pixels_per_latent,
        encode=encode,
        decode=decode,
        channel_scale=np.ones(module.latent_channels, np.float32),
        frozen={AUTOENCODER: params},
        tiled=lambda encoder, decoder: (partial(encode, side=encoder), partial(decode, side=decoder)),
    )


def decode_preview(decoder: Params, latent: jax.Array) -> jax.Array:
    """Normalized latents [B, h, w, C] of Stable Diffusion as images [B, 8 h, 8 w, 3] near [-1, 1], by TAESD."""
    *_, latent_channels, channels = decoder["layer_1"]["kernel"].shape
    module = TinyAutoencoder(latent_channels, channels)
    return cast(jax.Array, module.apply({"params": {"decoder": decoder}}, latent, method="decode"))


def to_model_range(image: jax.Array) -> jax.Array:
    """[0, 1] → [-1, 1]."""
    return image * 2.0 - 1.0


def from_model_range(image: jax.Array) -> jax.Array:
    """[-1, 1] → [0, 1], not clipped."""
    return image * 0.5 + 0.5


def upsample_bicubic(lr: jax.Array, scale: int) -> jax.Array:
    """Bicubic upsampling as in PyTorch (A = -0.75, half-pixel centers): [B, H, W, 3] → [B, sH, sW, 3]."""
    batch, height, width, channels = lr.shape
    return jax.image.resize(
        lr.astype(jnp.float32), (batch, height * scale, width * scale, channels), "cubic-pytorch", antialias=False
    )


@dataclass(frozen=True)
class LatentTask:
    """The prediction target of a latent recipe: z_hr, or only its difference from the upsampled LR image's latent.

    Attributes:
      space: the latents; their grid must be that of the LR image.
      scale: upsampling factor s.
      residual: the clean end of the process is z_hr - z_lr.
    """

    space: LatentSpace
    scale: int
    residual: bool

    @property
    def latents_per_lr_pixel(self) -> Fraction:
        """Latent positions per LR pixel and axis."""
        return Fraction(self.scale, self.space.image_pixels_per_latent)

    def lr_multiple(self, denoiser: Denoiser) -> int:
        """The sides of an LR image must be multiples of this: the upsampled image then is whole latents that suit it.

        At scale 3, HR sides are multiples of 3 and must be multiples of what the denoiser needs too.
        """
        return lcm(self.space.image_pixels_per_latent * denoiser.size_multiple, self.scale) // self.scale

    def init(self, denoiser: Denoiser, key: jax.Array, batch: Batch) -> Params:
        """Parameters of the group 'denoiser', which is conditioned on the LR image."""
        _, height, width, _ = batch["lr"].shape
        sides = (int(height * self.latents_per_lr_pixel), int(width * self.latents_per_lr_pixel))
        latent = jnp.zeros((1, *sides, self.space.channels), jnp.float32)
        condition = {IMAGE: jnp.zeros((1, height, width, 3), jnp.float32)}
        return {"denoiser": denoiser.init(key, latent, jnp.zeros((1,), jnp.float32), condition)["params"]}

    def training_pair(self, frozen: Frozen, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(clean end x_0, LR latent y with zeros for a residual task, LR image in [-1, 1])."""
        z_hr, z_lr, lr = self.encode_pair(frozen, batch)
        return (*self.ends(z_hr, z_lr), lr)

    def encode_pair(self, frozen: Frozen, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(HR latent, latent of the bicubically upsampled LR image, LR image in [-1, 1])."""
        z_lr, lr = self.encode_lr(frozen, batch["lr"])
        return self.space.encode(frozen, to_model_range(batch["hr"])), z_lr, lr

    def ends(self, z_hr: jax.Array, z_lr: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The clean end x_0 of the process and its LR latent y, [B, h, w, C] each."""
        return (z_hr - z_lr, jnp.zeros_like(z_lr)) if self.residual else (z_hr, z_lr)

    def clean_latent(self, x0: jax.Array, z_lr: jax.Array) -> jax.Array:
        """The latent that a clean end x_0 stands for: `z_lr` is added back for a residual task."""
        return x0 + z_lr if self.residual else x0

    def encode_lr(self, frozen: Frozen, lr: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(latent of the bicubically upsampled LR image, LR image in [-1, 1])."""
        lr = to_model_range(lr)
        return self.space.encode(frozen, upsample_bicubic(lr, self.scale)), lr

    def noise(self, like: jax.Array, noise: NoiseField, draw: int | jax.Array = 0) -> jax.Array:
        """Standard normal noise of the shape of latents [B, h, w, C], at their position on the noise canvas."""
        return noise_window(noise, draw, (like.shape[1], like.shape[2], like.shape[3]), self.latents_per_lr_pixel)

    def decode_with_previews(
        self, frozen: Frozen, x0: jax.Array, z_lr: jax.Array, estimates: jax.Array, every: int
    ) -> jax.Array:
        """The images of a `StepwiseSampler`: of x0 [B, h, w, C], and of every N-th of the estimates [T, B, h, w, C].

        A tiny decoder in `frozen` decodes the estimates, never the result.
        """
        final = {name: weights for name, weights in frozen.items() if name != PREVIEW}
        images = [self.decode(final, x0, z_lr)]
        images += [self.decode(frozen, estimate, z_lr) for estimate in estimates[every - 1 :: every]]
        return jnp.concatenate(images, axis=-1)

    def decode(self, frozen: Frozen, x0: jax.Array, z_lr: jax.Array) -> jax.Array:
        """A clean latent as an image near [0, 1]; `z_lr` is added back for a residual task."""
        return from_model_range(self.space.decode(frozen, self.clean_latent(x0, z_lr)))
