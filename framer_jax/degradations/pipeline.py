"""Applying drawn degradations to a batch of images, under jit: two stages of blur, resize, noise and JPEG.

All randomness is in the parameters: the noise of an image comes from the seed words drawn for its record, so a record
gives the same LR image at any place of any batch, on any number of devices. Source: Wang et al., Real-ESRGAN (2021).

Inside, an image is three planes [3, H, W] in the upper left corner of a static canvas, with a valid size that may be
known at run time only. There are two forms of the same function. On a CPU images follow one another and each takes only
its own branches, on the smallest of a few canvases that its first resizing fits on; on an accelerator all images go
through all branches at once, on one canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.degradations.blur import Size, blur, blur_either_way, centre, valid_pixels
from framer_jax.degradations.draw import DegradationParameters, StageParameters
from framer_jax.degradations.jpeg import jpeg
from framer_jax.degradations.matlab_bicubic import reduce_eight_bit
from framer_jax.degradations.noise import (
    gaussian_noise,
    grayscale,
    poisson_counts,
    poisson_noise,
    poisson_rate,
    standard_normal,
)
from framer_jax.degradations.presets import DegradationPreset, NoisePreset, StagePreset
from framer_jax.degradations.random_words import folded, pixel_words
from framer_jax.degradations.resize import resize
from framer_jax.degradations.usm import sharpen

Form = Literal["one_by_one", "together"]

CANVAS_SCALES = (0.25, 0.375, 0.5, 0.75, 1.0, 1.25)
"""Where images are degraded one by one: the largest first scales of the canvases below the preset's own largest."""

JPEG_BLOCK = 16
"""Canvases have sides that are multiples of this, so that JPEG needs no copy."""


class _Job(NamedTuple):
    """What every part of one image's degradation needs.

    Attributes:
      drawn: the image's parameters.
      preset: what they were drawn from.
      key_words: [2] uint32 folded into noise seeds, or None.
      shape, size: canvas and valid (height, width) of the HR image.
      exact: the valid size is the whole canvas.
      form: see `apply`.
    """

    drawn: DegradationParameters
    preset: DegradationPreset
    key_words: jax.Array | None
    shape: tuple[int, int]
    size: Size
    exact: bool
    form: Form

    @property
    def lr_shape(self) -> tuple[int, int]:
        return self.shape[0] // self.preset.scale, self.shape[1] // self.preset.scale

    @property
    def lr_size(self) -> Size:
        return self.size[0] // self.preset.scale, self.size[1] // self.preset.scale

    def smallest_ratio(self, old: tuple[int, int], new: tuple[int, int]) -> float:
        """Static bound of new over old sizes, given those of the largest images; a floor may halve it below."""
        ratio = min(max(n, 1) / o for o, n in zip(old, new, strict=True))
        return ratio if self.exact or ratio >= 1.0 else ratio / 2


def apply(
    parameters: DegradationParameters,
    hr: jax.Array,
    preset: DegradationPreset,
    key: jax.Array | None = None,
    size: jax.Array | None = None,
    form: Form | None = None,
) -> jax.Array:
    """Degrade a batch, each image by its own parameters. Pure, with static shapes: for use under jit.

    Args:
      parameters: with a leading [B].
      hr: [B, H, W, 3] float32 in [0, 1]; H and W multiples of the preset's scale.
      preset: static; what `parameters` were drawn from: its ranges bound the canvases, and parts that it leaves out
        are not computed.
      key: None: the noise is the record's own. A key is folded into every record's seed: other noise, all else equal.
      size: [B, 2] int32, valid (height, width) of each image, multiples of the scale, if smaller than H and W; nothing
        outside of it is read.
      form: 'one_by_one' or 'together' (see the head of this file); None: as the backend wants it. They differ by
        float32 rounding, which may turn a JPEG coefficient that lies half-way between two levels.

    Returns:
      [B, H / scale, W / scale, 3] float32 in [0, 1], multiples of 1 / 255. Of an image with a `size`, what lies
      outside of its 1 / scale is 0.

    Raises:
      ValueError: sides that are not multiples of the scale, or images without three channels.
    """
    _, height, width, channels = hr.shape
    if height % preset.scale or width % preset.scale:
        raise ValueError(f"degrading by {preset.scale} needs sides that are multiples of it; got {height} x {width}")
    if channels != 3:
        raise ValueError(f"degrading takes RGB images [B, H, W, 3]; got {hr.shape}")
    words = None if key is None else jax.random.bits(key, (2,), jnp.uint32)

    def one(inputs: tuple[DegradationParameters, jax.Array, jax.Array | None]) -> jax.Array:
        drawn, image, valid = inputs
        whole: Size = (height, width)
        own: Size = whole if valid is None else (valid[0], valid[1])
        job = _Job(drawn, preset, words, (height, width), own, valid is None, _form(form))
        return _degrade(job, jnp.transpose(image, (2, 0, 1)))

    return _over_images(one, (jax.tree.map(jnp.asarray, parameters), hr, size), form)


def training_target(
    hr: jax.Array, preset: DegradationPreset, size: jax.Array | None = None, form: Form | None = None
) -> jax.Array:
    """What a preset degrades and what a model shall restore: the HR images, sharpened where the preset says so.

    Args:
      hr: [B, H, W, 3] float32 in [0, 1].
      preset: as in `apply`.
      size: as in `apply`.
      form: as in `apply`.

    Returns:
      [B, H, W, 3] float32 in [0, 1]; outside of a `size` it means nothing.
    """
    if not preset.sharpen_target:
        return hr

    def one(inputs: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        image, valid = inputs
        return sharpen(jnp.transpose(image, (2, 0, 1)), None if valid is None else (valid[0], valid[1]))

    return _over_images(one, (hr, size), form)


def _over_images(one: Callable[[Any], jax.Array], inputs: Any, form: Form | None) -> jax.Array:
    """[B, h, w, 3] of a function from one image's inputs to planes [3, h, w]."""
    planes = jax.lax.map(one, inputs) if _form(form) == "one_by_one" else jax.vmap(one)(inputs)
    return jnp.transpose(planes, (0, 2, 3, 1))  # not within the loop, where it would be fused with, and slow, the rest


def _form(form: Form | None) -> Form:
    return form or ("one_by_one" if jax.default_backend() == "cpu" else "together")


def _degrade(job: _Job, planes: jax.Array) -> jax.Array:
    """One image, [3, H, W] → [3, H / scale, W / scale]."""
    first, second = job.preset.first, job.preset.second
    if second is None:
        lr = reduce_eight_bit(planes, job.preset.scale, job.size)
    elif first is None:
        ratio = 1.0 / job.preset.scale  # of valid sizes, which are multiples of the scale
        lr = _end(job, second, _reduced(job, second, planes, job.size, ratio))
    else:
        blurred = _blurred(job, job.drawn.first, first, planes, None if job.exact else job.size)
        lr = _end(job, second, _through_first(job, first, second, blurred))
    lr = jnp.round(jnp.clip(lr, 0.0, 1.0) * 255.0) / 255.0
    return lr if job.exact else jnp.where(valid_pixels(*job.lr_shape, job.lr_size)[None], lr, jnp.float32(0))


def _through_first(job: _Job, first: StagePreset, second: StagePreset, planes: jax.Array) -> jax.Array:
    """First stage after its blur, and the second up to its resizing, on the smallest canvas that is large enough."""
    low, high = first.resize.range
    high = max(high, 1.0)
    below = [scale for scale in CANVAS_SCALES if low < scale < high] if job.form == "one_by_one" else []
    # The largest scale of each different canvas: those of small images coincide.
    uppers = list({_canvas(job.shape, scale): scale for scale in (*below, high)}.values())
    bounds = list(zip([low, *uppers], uppers, strict=False))  # scales on one canvas are in (lower, upper]
    size = _scaled(job.size, job.drawn.first.scale, _canvas(job.shape, high))

    def branch(lower: float, upper: float) -> Callable[[jax.Array], jax.Array]:
        def run(planes: jax.Array) -> jax.Array:
            canvas = _canvas(job.shape, upper)
            smallest = job.smallest_ratio(job.shape, _floor(job.shape, lower))
            stage = job.drawn.first
            small = resize(planes, stage.resize_mode, canvas, job.size, size, 1.0 / stage.scale, smallest)
            small = _noisy(job, stage, first.noise, small, size)
            if first.jpeg_quality is not None:
                small = jpeg(small, stage.jpeg_quality, size)
            ratio = job.smallest_ratio(canvas, _floor(job.lr_shape, second.resize.range[0]))
            return _reduced(job, second, small, size, ratio)

        return run

    canvases = [_canvas(job.shape, upper) for _, upper in bounds]
    fits = jnp.stack([(size[0] <= height) & (size[1] <= width) for height, width in canvases])
    return jax.lax.switch(jnp.argmax(fits), [branch(*pair) for pair in bounds], planes)


def _reduced(job: _Job, second: StagePreset, planes: jax.Array, size: Size, smallest_ratio: float) -> jax.Array:
    """The second stage up to its resizing, or without a second stage what stands before the last filter.

    From [3, h, w] valid in `size` to [3, *_second_canvas] valid in the second stage's size, or in the LR size without a
    second stage; `smallest_ratio` is a static bound of the former over `size`.
    """
    drawn, canvas = job.drawn, _second_canvas(job, second)

    def with_second(planes: jax.Array) -> jax.Array:
        stage = drawn.second
        blurred = _blurred(job, stage, second, planes, size)
        new_size = _second_size(job, second)
        return resize(blurred, stage.resize_mode, canvas, size, new_size, smallest_scale=smallest_ratio)

    def without(planes: jax.Array) -> jax.Array:
        if second.jpeg_quality is not None:

            def compressed(planes: jax.Array) -> jax.Array:
                return jpeg(jnp.clip(planes, 0.0, 1.0), drawn.second.jpeg_quality, size)

            planes = jax.lax.cond(drawn.low_pass_first, lambda planes: planes, compressed, planes)
        smallest = smallest_ratio / max(second.resize.range[0], 1e-3)
        return resize(planes, drawn.last_resize_mode, canvas, size, job.lr_size, smallest_scale=smallest)

    if job.preset.second_probability == 1.0:
        return with_second(planes)
    if job.preset.second_probability == 0.0:
        return without(planes)
    return jax.lax.cond(drawn.has_second, with_second, without, planes)


def _end(job: _Job, second: StagePreset, planes: jax.Array) -> jax.Array:
    """From the second stage's resizing to the LR image [3, H / scale, W / scale], not yet rounded or clipped."""
    drawn, canvas = job.drawn, _second_canvas(job, second)
    lr_size = None if job.exact else job.lr_size

    def compressed(planes: jax.Array, size: Size | None) -> jax.Array:
        if second.jpeg_quality is None:
            return planes
        return jpeg(jnp.clip(planes, 0.0, 1.0), drawn.second.jpeg_quality, size)

    def with_second(planes: jax.Array) -> jax.Array:
        size = _second_size(job, second)
        planes = _noisy(job, drawn.second, second.noise, planes, size)
        planes = jax.lax.cond(
            drawn.low_pass_first, lambda planes: planes, lambda planes: compressed(planes, size), planes
        )
        smallest = job.smallest_ratio(canvas, job.lr_shape)
        return resize(planes, drawn.last_resize_mode, job.lr_shape, size, job.lr_size, smallest_scale=smallest)

    def without(planes: jax.Array) -> jax.Array:
        return planes[:, : job.lr_shape[0], : job.lr_shape[1]]

    probability = job.preset.second_probability
    if probability in (0.0, 1.0):
        lr = with_second(planes) if probability else without(planes)
    else:
        lr = jax.lax.cond(drawn.has_second, with_second, without, planes)
    if job.preset.low_pass is not None:
        reach = max(job.preset.low_pass.sizes) // 2
        lr = jax.lax.cond(
            drawn.low_passes, lambda lr: blur(lr, centre(drawn.low_pass, reach), lr_size), lambda lr: lr, lr
        )
    return jax.lax.cond(drawn.low_pass_first, lambda lr: compressed(lr, lr_size), lambda lr: lr, lr)


def _blurred(job: _Job, stage: StageParameters, preset: StagePreset, planes: jax.Array, size: Size | None) -> jax.Array:
    if preset.blur is None:
        return planes
    reach = max(preset.blur.sizes) // 2

    def run(planes: jax.Array) -> jax.Array:
        if job.form == "one_by_one":
            return blur_either_way(planes, stage.kernel, size, reach)
        return blur(planes, centre(stage.kernel, reach), size)

    if preset.blur.probability == 1.0:
        return run(planes)
    return jax.lax.cond(stage.blurs, run, lambda planes: planes, planes)


def _noisy(job: _Job, stage: StageParameters, preset: NoisePreset | None, planes: jax.Array, size: Size) -> jax.Array:
    """Image plus its noise, clipped to [0, 1]."""
    if preset is None:
        return jnp.clip(planes, 0.0, 1.0)
    _, height, width = planes.shape
    seed = stage.noise_seed if job.key_words is None else folded(stage.noise_seed, job.key_words)

    def words() -> jax.Array:
        numbers = jnp.where(stage.noise_gray, jnp.uint32(0), jnp.arange(3, dtype=jnp.uint32))
        return pixel_words(seed, numbers, height, width)  # [3, h, w]

    def none(planes: jax.Array) -> jax.Array:
        return planes

    def gaussian(planes: jax.Array) -> jax.Array:
        return planes + gaussian_noise(standard_normal(words()), stage.noise_level)

    def poisson(planes: jax.Array) -> jax.Array:
        # A gray record counts photons of its luma, once for the three channels.
        source = jnp.where(stage.noise_gray, grayscale(planes), planes)
        rate = poisson_rate(source, valid_pixels(height, width, size))
        return planes + poisson_noise(rate, poisson_counts(rate, words()), stage.noise_level)

    return jnp.clip(jax.lax.switch(stage.noise_kind, [none, gaussian, poisson], planes), 0.0, 1.0)


def _canvas(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Sides that hold an image of `shape` after scaling."""
    height, width = (math.ceil(side * scale / JPEG_BLOCK - 1e-6) * JPEG_BLOCK for side in shape)
    return height, width


def _floor(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    return int(shape[0] * scale), int(shape[1] * scale)


def _scaled(size: Size, scale: jax.Array, most: tuple[int, int]) -> Size:
    """floor(size · scale), at least 1 and at most the canvas."""
    height, width = (
        jnp.clip(jnp.floor(jnp.float32(side) * scale).astype(jnp.int32), 1, limit)
        for side, limit in zip(size, most, strict=True)
    )
    return height, width


def _second_canvas(job: _Job, second: StagePreset) -> tuple[int, int]:
    return _canvas(job.lr_shape, max(second.resize.range[1], 1.0))


def _second_size(job: _Job, second: StagePreset) -> Size:
    return _scaled(job.lr_size, job.drawn.second.scale, _second_canvas(job, second))
