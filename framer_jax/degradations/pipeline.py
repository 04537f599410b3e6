"""Apply degradation parameters to a batch of images under jit: two stages of blur, resize, noise and JPEG.

All randomness is in the parameters: the noise of an image comes from the seed words drawn for its record, so a record
gives the same LR image at any position of any batch, on any number of devices. Source: Wang et al., Real-ESRGAN (2021).

Internally, an image is three planes [3, H, W] in the upper left corner of a static canvas, with a valid size that may
be known only at run time. The same function can be executed in two ways. On a CPU, images are processed one after
another; each takes only its own branches, on the smallest of a few canvases that holds the result of its first
resizing. On an accelerator, all images take all branches at once, on one canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.degradations.blur import Size, blur, blur_separably_if_possible, crop_kernel, valid_pixels
from framer_jax.degradations.draw import DegradationParameters, StageParameters
from framer_jax.degradations.jpeg import jpeg
from framer_jax.degradations.matlab_bicubic import downsample_eight_bit
from framer_jax.degradations.noise import (
    gaussian_noise,
    grayscale,
    poisson_counts,
    poisson_noise,
    poisson_rate,
    standard_normal,
)
from framer_jax.degradations.presets import DegradationPreset, NoisePreset, StagePreset
from framer_jax.degradations.random_words import fold_seed, pixel_words
from framer_jax.degradations.resize import resize
from framer_jax.degradations.usm import sharpen

Execution = Literal["sequential", "batched"]
"""One image after another, or all at once; see the head of this file."""

CANVAS_SCALES = (0.25, 0.375, 0.5, 0.75, 1.0, 1.25)
"""Sequential execution: the largest scales of the first stage's canvases, below the largest scale of the preset."""

JPEG_BLOCK = 16
"""Canvas sides are multiples of this, so that JPEG needs no padding."""


class _Image(NamedTuple):
    """The inputs that all steps of one image's degradation share.

    Attributes:
      parameters: the image's degradation parameters.
      preset: the preset that they were drawn from.
      key_words: words [2] uint32 that are folded into the noise seeds, or None.
      shape, size: canvas and valid (height, width) of the HR image.
      exact: whether the valid size is the whole canvas.
      execution: see `apply`.
    """

    parameters: DegradationParameters
    preset: DegradationPreset
    key_words: jax.Array | None
    shape: tuple[int, int]
    size: Size
    exact: bool
    execution: Execution

    @property
    def lr_shape(self) -> tuple[int, int]:
        return self.shape[0] // self.preset.scale, self.shape[1] // self.preset.scale

    @property
    def lr_size(self) -> Size:
        return self.size[0] // self.preset.scale, self.size[1] // self.preset.scale

    def smallest_ratio(self, old: tuple[int, int], new: tuple[int, int]) -> float:
        """Static lower bound of new over old valid sizes, given those of a full canvas; a floor may halve the ratio."""
        ratio = min(max(n, 1) / o for o, n in zip(old, new, strict=True))
        return ratio if self.exact or ratio >= 1.0 else ratio / 2


def apply(
    parameters: DegradationParameters,
    hr: jax.Array,
    preset: DegradationPreset,
    key: jax.Array | None = None,
    size: jax.Array | None = None,
    execution: Execution | None = None,
) -> jax.Array:
    """Degrade a batch, each image with its own parameters. Pure, with static shapes, for use under jit.

    Args:
      parameters: degradation parameters with a leading axis B.
      hr: [B, H, W, 3] float32 in [0, 1]; H and W multiples of the preset's scale.
      preset: the preset that `parameters` were drawn from, static: its ranges bound the canvases, and steps that it
        omits are not computed.
      key: folded into every record's noise seed, which changes the noise and nothing else; None for the record's noise.
      size: valid (height, width) of each image, [B, 2] int32, multiples of the scale, if smaller than H and W; pixels
        outside of it are not read.
      execution: 'sequential' or 'batched' (see the head of this file); None for that of the backend. They differ by
        float32 rounding, which may change a JPEG coefficient half-way between two levels.

    Returns:
      [B, H / scale, W / scale, 3] float32 in [0, 1], multiples of 1 / 255; 0 outside of `size` / scale.

    Raises:
      ValueError: sides that are not multiples of the scale, or images without three channels.
    """
    _, height, width, channels = hr.shape
    if height % preset.scale or width % preset.scale:
        raise ValueError(
            f"images of {height} x {width} cannot be degraded by {preset.scale}: crop them to multiples of it"
        )
    if channels != 3:
        raise ValueError(f"degradations need RGB images [B, H, W, 3], got shape {hr.shape}")
    words = None if key is None else jax.random.bits(key, (2,), jnp.uint32)

    def degrade_one(inputs: tuple[DegradationParameters, jax.Array, jax.Array | None]) -> jax.Array:
        image_parameters, pixels, valid = inputs
        valid_size: Size = (height, width) if valid is None else (valid[0], valid[1])
        image = _Image(
            image_parameters, preset, words, (height, width), valid_size, valid is None, _execution(execution)
        )
        return _degrade(image, jnp.transpose(pixels, (2, 0, 1)))

    return _map_images(degrade_one, (jax.tree.map(jnp.asarray, parameters), hr, size), execution)


def training_target(
    hr: jax.Array, preset: DegradationPreset, size: jax.Array | None = None, execution: Execution | None = None
) -> jax.Array:
    """The training targets, which are also the inputs of `apply`: the HR images, sharpened if the preset says so.

    Args:
      hr: [B, H, W, 3] float32 in [0, 1].
      preset: see `apply`.
      size: see `apply`.
      execution: see `apply`.

    Returns:
      [B, H, W, 3] float32 in [0, 1]; values outside of `size` are unspecified.
    """
    if not preset.sharpen_target:
        return hr

    def sharpen_one(inputs: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        pixels, valid = inputs
        return sharpen(jnp.transpose(pixels, (2, 0, 1)), None if valid is None else (valid[0], valid[1]))

    return _map_images(sharpen_one, (hr, size), execution)


def _map_images(function: Callable[[Any], jax.Array], inputs: Any, execution: Execution | None) -> jax.Array:
    """Apply a function from one image's inputs to planes [3, h, w] to a batch: [B, h, w, 3]."""
    sequential = _execution(execution) == "sequential"
    planes = jax.lax.map(function, inputs) if sequential else jax.vmap(function)(inputs)
    return jnp.transpose(
        planes, (0, 2, 3, 1)
    )  # outside the loop, where its fusion would slow down the other operations


def _execution(execution: Execution | None) -> Execution:
    return execution or ("sequential" if jax.default_backend() == "cpu" else "batched")


def _degrade(image: _Image, planes: jax.Array) -> jax.Array:
    """Degrade one image: [3, H, W] → [3, H / scale, W / scale]."""
    first, second = image.preset.first, image.preset.second
    if second is None:
        lr = downsample_eight_bit(planes, image.preset.scale, image.size)
    elif first is None:
        ratio = 1.0 / image.preset.scale  # exact, because valid sizes are multiples of the scale
        lr = _finish(image, second, _second_resize(image, second, planes, image.size, ratio))
    else:
        blurred = _blur_stage(image, image.parameters.first, first, planes, None if image.exact else image.size)
        lr = _finish(image, second, _first_stage(image, first, second, blurred))
    lr = jnp.round(jnp.clip(lr, 0.0, 1.0) * 255.0) / 255.0
    return lr if image.exact else jnp.where(valid_pixels(*image.lr_shape, image.lr_size)[None], lr, jnp.float32(0))


def _first_stage(image: _Image, first: StagePreset, second: StagePreset, planes: jax.Array) -> jax.Array:
    """The first stage after its blur, and the second up to its resizing, on the smallest canvas that suffices."""
    low, high = first.resize.range
    high = max(high, 1.0)
    smaller = [scale for scale in CANVAS_SCALES if low < scale < high] if image.execution == "sequential" else []
    # The largest scale of each distinct canvas: the canvases of small images coincide.
    uppers = list({_canvas(image.shape, scale): scale for scale in (*smaller, high)}.values())
    bounds = list(zip([low, *uppers], uppers, strict=False))  # a canvas holds the scales in (lower, upper]
    size = _scaled_size(image.size, image.parameters.first.scale, _canvas(image.shape, high))

    def branch(lower: float, upper: float) -> Callable[[jax.Array], jax.Array]:
        def run(planes: jax.Array) -> jax.Array:
            canvas = _canvas(image.shape, upper)
            smallest = image.smallest_ratio(image.shape, _floored(image.shape, lower))
            stage = image.parameters.first
            step = 1.0 / stage.scale if image.preset.geometry == "released" else None
            small = resize(planes, stage.resize_mode, canvas, image.size, size, step, smallest)
            small = _add_noise(image, stage, first.noise, small, size)
            if first.jpeg_quality is not None:
                small = jpeg(small, stage.jpeg_quality, size)
            ratio = image.smallest_ratio(canvas, _floored(image.lr_shape, second.resize.range[0]))
            return _second_resize(image, second, small, size, ratio)

        return run

    canvases = [_canvas(image.shape, upper) for _, upper in bounds]
    fits = jnp.stack([(size[0] <= height) & (size[1] <= width) for height, width in canvases])
    return jax.lax.switch(jnp.argmax(fits), [branch(*pair) for pair in bounds], planes)


def _second_resize(
    image: _Image, second: StagePreset, planes: jax.Array, size: Size, smallest_ratio: float
) -> jax.Array:
    """The second stage up to its resizing; without a second stage, the steps before the final filter.

    From [3, h, w] valid in `size` to [3, *_second_canvas] valid in the second stage's size, or without a second stage,
    in the LR size; `smallest_ratio` is a static lower bound of the second stage's size over `size`.
    """
    parameters, canvas = image.parameters, _second_canvas(image, second)

    def with_second(planes: jax.Array) -> jax.Array:
        stage = parameters.second
        blurred = _blur_stage(image, stage, second, planes, size)
        new_size = _second_size(image, second)
        return resize(blurred, stage.resize_mode, canvas, size, new_size, smallest_scale=smallest_ratio)

    def without_second(planes: jax.Array) -> jax.Array:
        if second.jpeg_quality is not None:

            def compressed(planes: jax.Array) -> jax.Array:
                return jpeg(jnp.clip(planes, 0.0, 1.0), parameters.second.jpeg_quality, size)

            planes = jax.lax.cond(parameters.low_pass_first, lambda planes: planes, compressed, planes)
        smallest = smallest_ratio / max(second.resize.range[0], 1e-3)
        return resize(planes, parameters.last_resize_mode, canvas, size, image.lr_size, smallest_scale=smallest)

    if image.preset.second_probability == 1.0:
        return with_second(planes)
    if image.preset.second_probability == 0.0:
        return without_second(planes)
    return jax.lax.cond(parameters.has_second, with_second, without_second, planes)


def _finish(image: _Image, second: StagePreset, planes: jax.Array) -> jax.Array:
    """The steps after the second stage's resizing: the LR image [3, H / scale, W / scale], not rounded or clipped."""
    parameters, canvas = image.parameters, _second_canvas(image, second)
    lr_size = None if image.exact else image.lr_size

    def compressed(planes: jax.Array, size: Size | None) -> jax.Array:
        if second.jpeg_quality is None:
            return planes
        return jpeg(jnp.clip(planes, 0.0, 1.0), parameters.second.jpeg_quality, size)

    def with_second(planes: jax.Array) -> jax.Array:
        size = _second_size(image, second)
        planes = _add_noise(image, parameters.second, second.noise, planes, size)
        planes = jax.lax.cond(
            parameters.low_pass_first, lambda planes: planes, lambda planes: compressed(planes, size), planes
        )
        smallest = image.smallest_ratio(canvas, image.lr_shape)
        return resize(planes, parameters.last_resize_mode, image.lr_shape, size, image.lr_size, smallest_scale=smallest)

    def without_second(planes: jax.Array) -> jax.Array:
        return planes[:, : image.lr_shape[0], : image.lr_shape[1]]

    probability = image.preset.second_probability
    if probability in (0.0, 1.0):
        lr = with_second(planes) if probability else without_second(planes)
    else:
        lr = jax.lax.cond(parameters.has_second, with_second, without_second, planes)
    if image.preset.low_pass is not None:
        reach = max(image.preset.low_pass.sizes) // 2
        lr = jax.lax.cond(
            parameters.low_passes,
            lambda lr: blur(lr, crop_kernel(parameters.low_pass, reach), lr_size),
            lambda lr: lr,
            lr,
        )
    return jax.lax.cond(parameters.low_pass_first, lambda lr: compressed(lr, lr_size), lambda lr: lr, lr)


def _blur_stage(
    image: _Image, stage: StageParameters, preset: StagePreset, planes: jax.Array, size: Size | None
) -> jax.Array:
    if preset.blur is None:
        return planes
    reach = max(preset.blur.sizes) // 2

    def run(planes: jax.Array) -> jax.Array:
        if image.execution == "sequential":
            return blur_separably_if_possible(planes, stage.kernel, size, reach)
        return blur(planes, crop_kernel(stage.kernel, reach), size)

    if preset.blur.probability == 1.0:
        return run(planes)
    return jax.lax.cond(stage.blurs, run, lambda planes: planes, planes)


def _add_noise(
    image: _Image, stage: StageParameters, preset: NoisePreset | None, planes: jax.Array, size: Size
) -> jax.Array:
    """The image plus its noise, clipped to [0, 1]."""
    if preset is None:
        return jnp.clip(planes, 0.0, 1.0)
    _, height, width = planes.shape
    seed = stage.noise_seed if image.key_words is None else fold_seed(stage.noise_seed, image.key_words)

    def words() -> jax.Array:
        plane_numbers = jnp.where(stage.noise_gray, jnp.uint32(0), jnp.arange(3, dtype=jnp.uint32))
        return pixel_words(seed, plane_numbers, height, width)  # [3, h, w]

    def none(planes: jax.Array) -> jax.Array:
        return planes

    def gaussian(planes: jax.Array) -> jax.Array:
        return planes + gaussian_noise(standard_normal(words()), stage.noise_level)

    def poisson(planes: jax.Array) -> jax.Array:
        # Gray noise counts the photons of the luma, once for all three channels.
        source = jnp.where(stage.noise_gray, grayscale(planes), planes)
        rate = poisson_rate(source, valid_pixels(height, width, size))
        return planes + poisson_noise(rate, poisson_counts(rate, words()), stage.noise_level)

    return jnp.clip(jax.lax.switch(stage.noise_kind, [none, gaussian, poisson], planes), 0.0, 1.0)


def _canvas(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """The canvas (height, width) for an image of `shape` after scaling."""
    height, width = (math.ceil(side * scale / JPEG_BLOCK - 1e-6) * JPEG_BLOCK for side in shape)
    return height, width


def _floored(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    return int(shape[0] * scale), int(shape[1] * scale)


def _scaled_size(size: Size, scale: jax.Array, canvas: tuple[int, int]) -> Size:
    """floor(size · scale), clipped to at least 1 and at most the canvas."""
    height, width = (
        jnp.clip(jnp.floor(jnp.float32(side) * scale).astype(jnp.int32), 1, limit)
        for side, limit in zip(size, canvas, strict=True)
    )
    return height, width


def _second_canvas(image: _Image, second: StagePreset) -> tuple[int, int]:
    return _canvas(image.lr_shape, max(second.resize.range[1], 1.0))


def _second_size(image: _Image, second: StagePreset) -> Size:
    return _scaled_size(image.lr_size, image.parameters.second.scale, _second_canvas(image, second))
