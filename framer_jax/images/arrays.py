"""Arrays that a user passes as an image: what they hold is checked, and refused by name if it is no RGB image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from framer_jax.images.image_data import ImageData

ACCEPTED = "a path, a Pillow image, an image of framer_jax, or an array [height, width, 3], uint8 or floats in [0, 1]"

OVERSHOOT = 0.5
"""How far outside [0, 1] values are clipped where clipping is offered: a network's or a filter's overshoot, and not
another range such as [-1, 1] or [0, 255]."""


def image_from_array(value: Any, overshoot: float = 0.0) -> ImageData:
    """An RGB image from anything that NumPy can convert: NumPy, JAX and PyTorch arrays, nested lists.

    Args:
      value: [height, width, 3], uint8, or floats of any width in [0, 1].
      overshoot: how far floats may lie outside [0, 1].

    Raises:
      TypeError: no array of numbers.
      ValueError: an array of another shape, dtype or range.
    """
    array = _as_array(value)
    check_shape(array.shape)
    name = array.dtype.name
    if array.dtype == np.uint8:
        return ImageData(array.astype(np.float32) / np.float32(255))
    if not name.startswith(("float", "bfloat")):
        advice = {
            "b": "; image * 1.0 has 0 and 1",
            "u": "; divide by the largest value of its range",
            "i": "; image.astype(numpy.uint8) if its range is 0 to 255",
        }
        hint = advice.get(array.dtype.kind, "")
        raise ValueError(f"image of dtype {name}: give uint8 (0 to 255) or floats in [0, 1]{hint}")
    pixels = np.ascontiguousarray(array, np.float32)
    check_range(pixels, overshoot)
    return ImageData(pixels)


def _as_array(value: Any) -> npt.NDArray[Any]:
    kind = type(value).__name__
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"image is {kind}: give {ACCEPTED}; of an encoded file, PIL.Image.open(io.BytesIO(data))")
    if hasattr(value, "read"):
        raise TypeError(f"image is an open file ({kind}): give its path, or PIL.Image.open(file)")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError("image is a masked array with masked pixels: fill them first (image.filled)")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # arrays traced by JAX, on another device, or ragged lists
        traced = "Tracer" in type(error).__name__
        reason = "it is traced by JAX: call this outside of jax.jit" if traced else str(error).splitlines()[0]
        raise TypeError(f"image is a {kind} that NumPy cannot convert ({reason}): give {ACCEPTED}") from error
    if array.dtype.kind in "OUSMm" or array.ndim == 0:
        raise TypeError(f"image is {'None' if value is None else f'a {kind}'}: give {ACCEPTED}")
    return array


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise a ValueError that names the layout, if a shape is not that of an RGB image."""
    if len(shape) == 3 and shape[2] == 3 and 0 not in shape:
        return
    hint = ""
    if 0 in shape:
        hint = ", and at least one pixel"
    elif len(shape) == 2:
        hint = "; of a gray image, numpy.stack([image] * 3, axis=-1) or PIL.Image.fromarray(image)"
    elif len(shape) == 4:
        hint = "; of a batch, one image at a time"
    elif len(shape) == 3 and shape[0] in (1, 3, 4):
        hint = "; this looks like [channels, height, width]: numpy.moveaxis(image, 0, -1)"
    elif len(shape) == 3 and shape[2] == 4:
        hint = "; an image with alpha is taken as a Pillow image, image[..., :3] is without alpha"
    elif len(shape) == 3 and shape[2] == 1:
        hint = "; of a gray image, numpy.repeat(image, 3, axis=-1)"
    raise ValueError(f"image of shape {shape}: give [height, width, 3]{hint}")


def check_range(pixels: npt.NDArray[np.float32], overshoot: float = 0.0) -> None:
    """Raise a ValueError if values are not finite, or lie outside [0, 1] by more than `overshoot`."""
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not (lowest >= -overshoot and highest <= 1 + overshoot):  # NaN is neither
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            hint = "some are not finite"
        elif lowest >= 0 and highest <= 255:
            hint = "divide by 255, or give uint8"
        elif lowest >= -1 and highest <= 1:
            hint = "from [-1, 1], (image + 1) / 2"
        else:
            hint = "clip or rescale them"
        raise ValueError(f"image values from {lowest:g} to {highest:g}: give floats in [0, 1] ({hint})")
