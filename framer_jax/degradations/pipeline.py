"""The degradation in two halves: `draw` one record's parameters in NumPy, `apply` a batch of them under jit.

All randomness is in the parameters: the noise of an image comes from the seed words drawn for its record, so a record
gives the same LR image at any place of any batch, on any number of devices.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.degradations import kernels, resize
from framer_jax.degradations.blur import blur
from framer_jax.degradations.jpeg import jpeg
from framer_jax.degradations.matlab_bicubic import bicubic_matrix
from framer_jax.degradations.noise import (
    gaussian_noise,
    grayscale,
    poisson_counts,
    poisson_noise,
    poisson_rate,
    standard_normal,
)
from framer_jax.degradations.presets import BlurPreset, DegradationPreset, NoisePreset

RESIZE_MODES = (*resize.MODES, "matlab_bicubic")
"""A mode's number in `DegradationParameters.resize_mode` is its place here."""

NOISE_KINDS = ("none", "gaussian", "poisson")
"""A kind's number in `DegradationParameters.noise_kind` is its place here."""


class DegradationParameters(NamedTuple):
    """All that was drawn for one record (NumPy), or for a batch of them with a leading [B].

    Attributes:
      kernel: [21, 21] float32, the blur kernel in HR pixels; a delta where there is no blur.
      resize_mode: int32, place in `RESIZE_MODES`.
      noise_kind: int32, place in `NOISE_KINDS`.
      noise_level: float32: Gaussian standard deviation for images in [0, 1], or Poisson scale.
      noise_gray: bool, whether the channels share one noise pattern.
      jpeg_quality: float32, 1 to 100; 0 where there is no JPEG.
      noise_seed: [2] uint32, the words of the noise key.
    """

    kernel: Any
    resize_mode: Any
    noise_kind: Any
    noise_level: Any
    noise_gray: Any
    jpeg_quality: Any
    noise_seed: Any


def draw(rng: np.random.Generator, preset: DegradationPreset) -> DegradationParameters:
    """Draw one record's degradation.

    Args:
      rng: the record's own generator; the same state gives the same parameters.
      preset: what to draw from.

    Returns:
      NumPy scalars and arrays without a batch axis.
    """
    kernel = kernels.delta() if preset.blur is None else draw_kernel(rng, preset.blur)
    mode = preset.resize_modes[int(rng.integers(len(preset.resize_modes)))]
    kind, level, gray = (0, 0.0, False) if preset.noise is None else _draw_noise(rng, preset.noise)
    quality = 0.0 if preset.jpeg_quality is None else rng.uniform(*preset.jpeg_quality)
    return DegradationParameters(
        kernel=kernel,
        resize_mode=np.int32(RESIZE_MODES.index(mode)),
        noise_kind=np.int32(kind),
        noise_level=np.float32(level),
        noise_gray=np.bool_(gray),
        jpeg_quality=np.float32(quality),
        noise_seed=rng.integers(2**32, size=2, dtype=np.uint32),
    )


def draw_kernel(rng: np.random.Generator, preset: BlurPreset) -> kernels.Kernel:
    """Draw a blur kernel, [21, 21] float32 that sums to 1."""
    size = int(preset.sizes[int(rng.integers(len(preset.sizes)))])
    if preset.low_pass > 0.0 and rng.uniform() < preset.low_pass:
        cutoff = rng.uniform(*(preset.low_pass_cutoff_small if size < 13 else preset.low_pass_cutoff_large))
        return kernels.on_canvas(kernels.circular_low_pass(size, cutoff))
    # By the cumulative sum: Generator.choice is ten times slower for one draw.
    place = int(np.searchsorted(np.cumsum([p for _, p in preset.kinds]), rng.uniform(), side="right"))
    form, shape = preset.kinds[min(place, len(preset.kinds) - 1)][0].split("_", 1)
    sigma, angle = rng.uniform(*preset.sigma), 0.0
    sigmas = (sigma, sigma)
    if form == "anisotropic":
        sigmas, angle = (sigma, rng.uniform(*preset.sigma)), rng.uniform(-math.pi, math.pi)
    if shape == "gaussian":
        return kernels.on_canvas(kernels.gaussian(size, sigmas, angle))
    lower, upper = preset.generalized_beta if shape == "generalized_gaussian" else preset.plateau_beta
    beta = rng.uniform(lower, 1.0) if rng.uniform() < 0.5 else rng.uniform(1.0, upper)
    make = {"generalized_gaussian": kernels.generalized_gaussian, "plateau": kernels.plateau}[shape]
    return kernels.on_canvas(make(size, sigmas, angle, beta))


def _draw_noise(rng: np.random.Generator, preset: NoisePreset) -> tuple[int, float, bool]:
    """Kind (place in `NOISE_KINDS`), level, gray."""
    gray = bool(rng.uniform() < preset.gray)
    if rng.uniform() < preset.gaussian:
        return NOISE_KINDS.index("gaussian"), rng.uniform(*preset.sigma) / 255.0, gray
    return NOISE_KINDS.index("poisson"), rng.uniform(*preset.poisson_scale), gray


def stack(parameters: list[DegradationParameters]) -> DegradationParameters:
    """Join records' parameters to a batch."""
    return DegradationParameters(*(np.stack(field) for field in zip(*parameters, strict=True)))


def apply(parameters: DegradationParameters, hr: jax.Array, key: jax.Array | None = None, scale: int = 4) -> jax.Array:
    """Degrade a batch, each image by its own parameters. Pure, with static shapes: for use under jit.

    Args:
      parameters: with a leading [B].
      hr: [B, H, W, 3] float32 in [0, 1]; H and W multiples of `scale`, above 10 pixels.
      key: None: the noise is the record's own. A key is folded into every record's seed: other noise, all else equal.
      scale: HR pixels per LR pixel.

    Returns:
      [B, H / scale, W / scale, 3] float32 in [0, 1], multiples of 1 / 255.

    Raises:
      ValueError: the image sides are not multiples of the scale, or too small for the blur.
    """
    height, width = hr.shape[1:3]
    if height % scale or width % scale:
        raise ValueError(f"degrading by {scale} needs sides that are multiples of it; got {height} x {width}")
    parameters = jax.tree.map(jnp.asarray, parameters)
    blurred = blur(hr, parameters.kernel)
    lr = _reduce(blurred, parameters.resize_mode, scale)  # [B, h, w, 3]
    lr = jnp.clip(lr + _noise(lr, parameters, key), 0.0, 1.0)
    compressed = jpeg(lr, jnp.maximum(parameters.jpeg_quality, 1.0))
    lr = jnp.where((parameters.jpeg_quality > 0.0)[:, None, None, None], compressed, lr)
    return jnp.round(lr * 255.0) / 255.0


def _reduce(images: jax.Array, modes: jax.Array, scale: int) -> jax.Array:
    """Resize to 1 / scale, each image in its own of `RESIZE_MODES`: a table of weights per axis, two products."""

    def matrices(size: int) -> jax.Array:
        ours = [
            resize.interpolation_matrix(mode, size, size // scale, float(scale), size, size // scale)
            for mode in range(len(resize.MODES))
        ]
        return jnp.stack([*ours, jnp.asarray(bicubic_matrix(size, size // scale, 1.0 / scale))])

    rows, columns = matrices(images.shape[1]), matrices(images.shape[2])
    return resize.apply_matrices(images, rows[modes], columns[modes])


def _noise(images: jax.Array, parameters: DegradationParameters, key: jax.Array | None) -> jax.Array:
    """The noise to be added, [B, H, W, 3]. Both kinds are computed: on LR images they cost next to nothing."""

    def draw_uniform(seed: jax.Array) -> jax.Array:
        own = jax.random.wrap_key_data(seed, impl="threefry2x32")
        if key is not None:
            words = jax.random.bits(key, (2,), jnp.uint32)
            own = jax.random.fold_in(jax.random.fold_in(own, words[0]), words[1])
        return jax.random.uniform(own, images.shape[1:], jnp.float32)

    # One draw serves both kinds: a record has one of them, and a gray record uses the first channel.
    uniform = jax.vmap(draw_uniform)(parameters.noise_seed)  # [B, H, W, 3]
    gray = parameters.noise_gray[:, None, None, None]
    uniform = jnp.where(gray, uniform[..., :1], uniform)
    gaussian = gaussian_noise(standard_normal(uniform), parameters.noise_level)
    # A gray record counts photons of its luma, once for the three channels.
    rate = poisson_rate(jnp.where(gray, grayscale(images), images))
    poisson = poisson_noise(rate, poisson_counts(rate, uniform), parameters.noise_level)
    kind = parameters.noise_kind[:, None, None, None]
    noise = jnp.where(kind == NOISE_KINDS.index("gaussian"), gaussian, poisson)
    return jnp.where(kind == NOISE_KINDS.index("none"), jnp.float32(0), noise)
