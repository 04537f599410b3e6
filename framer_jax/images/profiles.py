"""ICC color profiles: what they are called, and pixels of a profile as pixels of sRGB."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from framer_jax.images.image_data import ImageData

SRGB = "sRGB"
"""The name of all color profiles that are sRGB's, and of none."""


def profile_name(icc: bytes | None) -> str:
    """The description of an ICC profile; `SRGB` without one, and for those that describe themselves as sRGB.

    Raises:
      ValueError: it is damaged.
    """
    if not icc:
        return SRGB
    try:
        description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip()
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ValueError(f"its color profile cannot be read ({error}): save it without one, or in sRGB") from error
    return SRGB if "srgb" in description.lower() else description


def srgb_pixels(image: ImageData) -> npt.NDArray[np.float32]:
    """The pixels [H, W, 3] of an image in sRGB; converted with 8 bits per channel if its profile is another.

    Raises:
      ValueError: its profile is damaged, or cannot be converted.
    """
    name = profile_name(image.icc)
    if name == SRGB:
        return image.pixels
    opaque = image if image.alpha is None else image._replace(alpha=None, mode=image.mode.removesuffix("A"))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.icc or b""))
    try:
        converted: Image.Image | None = ImageCms.profileToProfile(
            opaque.to_pillow(), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError as error:
        raise ValueError(f"its color profile {name} cannot be converted ({error}): save it in sRGB") from error
    assert converted is not None  # not in place
    return np.asarray(converted, np.float32) / np.float32(255)


def is_gray(icc: bytes | None) -> bool:
    """Whether a color profile is one of gray images, which color images cannot have."""
    try:
        return bool(icc) and ImageCms.ImageCmsProfile(io.BytesIO(icc or b"")).profile.xcolor_space.strip() == "GRAY"
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False


def in_color(image: ImageData) -> ImageData:
    """A gray image as one of color, in sRGB if its color profile is one of gray images."""
    mode = "RGB" if image.alpha is None else "RGBA"
    if not is_gray(image.icc):
        return image._replace(mode=mode)
    pixels = srgb_pixels(image) if is_usable(image) else image.pixels
    return image._replace(pixels=pixels, icc=None, mode=mode)


def is_usable(image: ImageData) -> bool:
    """Whether the color profile can be converted; colors of one that cannot are taken for sRGB's, as without one."""
    try:
        srgb_pixels(image._replace(pixels=image.pixels[:1, :1], alpha=None, mode=image.mode.removesuffix("A")))
    except ValueError:
        return False
    return True
