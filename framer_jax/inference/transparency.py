"""Transparency around a network that sees colors only: alpha before and after it, and grounds of one color."""

from __future__ import annotations

import numpy as np
from PIL import ImageColor

from framer_jax.images.image_data import ImageData
from framer_jax.images.profiles import in_color
from framer_jax.inference.resample import upsample_bicubic


def parse_color(text: str) -> tuple[float, float, float]:
    """A color such as 'white' or '#ffeedd', three values in [0, 1].

    Raises:
      ValueError: it is no color.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise ValueError(f"{text!r} is no color: give a name such as white, or #rrggbb") from error
    return red / 255, green / 255, blue / 255


def flatten(image: ImageData, color: tuple[float, float, float]) -> ImageData:
    """The image on a ground of one color, without alpha."""
    if image.alpha is None:
        return image
    opacity = image.alpha[:, :, None]
    if image.mode == "LA" and len(set(color)) > 1:
        image = in_color(image)
    pixels = image.pixels * opacity + np.array(color, np.float32) * (1 - opacity)
    return image._replace(pixels=pixels, alpha=None, mode=image.mode.removesuffix("A"))


def premultiply_alpha(image: ImageData) -> np.ndarray:
    """Pixels multiplied by alpha, so that the colors of transparent pixels do not bleed into their neighbors.

    Returns:
      [H, W, 3] float32 in [0, 1]; the pixels themselves if the image is opaque.
    """
    if image.alpha is None or is_opaque(image):
        return image.pixels
    return image.pixels * image.alpha[:, :, None]


def replace_pixels(image: ImageData, pixels: np.ndarray, scale: int) -> ImageData:
    """The image with super-resolved pixels; its alpha is upsampled bicubically.

    Args:
      image: LR image.
      pixels: [sH, sW, 3] float32 in [0, 1], super-resolved from `premultiply_alpha(image)`.
      scale: upsampling factor s.

    Returns:
      The SR image; colors are 0 where alpha rounds to 0.
    """
    return with_result(image, pixels, upsampled_alpha(image, scale))


def upsampled_alpha(image: ImageData, scale: int) -> np.ndarray | None:
    """The alpha of an LR image, upsampled bicubically, [sH, sW] float32 in [0, 1]; ones if it is opaque, or None."""
    if image.alpha is None:
        return None
    if is_opaque(image):
        return np.ones((image.alpha.shape[0] * scale, image.alpha.shape[1] * scale), np.float32)
    return np.clip(upsample_bicubic(image.alpha, scale), 0, 1)


def is_opaque(image: ImageData) -> bool:
    """Whether no pixel of an image is transparent."""
    return image.alpha is None or bool(image.alpha.min() >= 1)


def with_result(image: ImageData, pixels: np.ndarray, alpha: np.ndarray | None) -> ImageData:
    """The image with SR pixels [sH, sW, 3] that are multiplied by alpha [sH, sW], and with that alpha.

    Colors are 0 where alpha rounds to 0.
    """
    if alpha is None or alpha.min() >= 1:
        return image._replace(pixels=pixels, alpha=alpha)
    smallest = 0.5 / (2**image.bits - 1)
    inverse = np.where(alpha < smallest, 0, 1 / np.maximum(alpha, smallest)).astype(np.float32)
    return image._replace(pixels=np.clip(pixels * inverse[:, :, None], 0, 1), alpha=alpha)
