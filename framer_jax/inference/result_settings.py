"""What is made of an SR image after the network: its size, its edges, its transparency, and its file."""

from __future__ import annotations

import math
from dataclasses import dataclass

ALPHA_METHODS = ("bicubic", "network")

LARGEST_SIDE = 1 << 20


@dataclass(frozen=True)
class ResultSettings:
    """Properties of an SR image.

    Attributes:
      outscale: size of the result relative to the image, such as 2.5; None for the model's own.
      width: width of the result in pixels, None for what follows from the height, or the model's own.
      height: height of the result in pixels, likewise; with a width too, the result has exactly that size.
      wrap: the image continues at its opposite edges, as the texture of a tiled surface does.
      alpha: how transparency is upsampled: 'bicubic', or 'network' for the model, as if it were a gray image.
      strength: share of the model in the colors, from 0 (bicubic upsampling alone) to 1 (the model alone).

    Raises:
      ValueError: a size that is none, or two that exclude each other, or another method.
    """

    outscale: float | None = None
    width: int | None = None
    height: int | None = None
    wrap: bool = False
    alpha: str = ALPHA_METHODS[0]
    strength: float = 1.0

    def __post_init__(self) -> None:
        scale = self.outscale
        if scale is not None:
            if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale <= 0:
                raise ValueError(f"outscale {scale!r} must be a number above 0, such as 2.5")
            if self.width is not None or self.height is not None:
                raise ValueError("outscale and width or height exclude each other: choose one")
        for name in ("width", "height"):
            side = getattr(self, name)
            whole = isinstance(side, int) and not isinstance(side, bool)
            if side is not None and not (whole and 1 <= side <= LARGEST_SIDE):
                raise ValueError(f"{name} {side!r} must be a whole number of pixels from 1 to {LARGEST_SIDE}")
        if not isinstance(self.wrap, bool):
            raise ValueError(f"wrap {self.wrap!r} must be True or False")
        strength = self.strength
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise ValueError(f"strength {strength!r} must be a number from 0 (bicubic upsampling) to 1 (the model)")
        if self.alpha not in ALPHA_METHODS:
            raise ValueError(f"unknown alpha {self.alpha!r}: use one of {', '.join(ALPHA_METHODS)}")

    def size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """(height, width) of the result of an image of this size, by a model of this scale.

        Raises:
          ValueError: it is larger than any image may be.
        """
        if self.outscale is not None:
            sides = (height * self.outscale, width * self.outscale)
        elif self.width is None and self.height is None:
            return height * scale, width * scale
        else:
            sides = (
                self.height or height * (self.width or 0) / width,
                self.width or width * (self.height or 0) / height,
            )
        if max(sides) > LARGEST_SIDE:
            raise ValueError(f"a result of {sides[1]:.7g}x{sides[0]:.7g} has a side of more than {LARGEST_SIDE} pixels")
        result = (max(1, round(sides[0])), max(1, round(sides[1])))
        return result

    def note(self, height: int, width: int, scale: int) -> str:
        """What should be known about the size of the result of an image of this size, or ''."""
        size = self.size(height, width, scale)
        notes = []
        if size[0] > height * scale or size[1] > width * scale:
            notes.append(
                f"{size[1]}x{size[0]} is larger than the model's result, {width * scale}x{height * scale}, which was "
                "enlarged by interpolation"
            )
        if size[0] < height or size[1] < width:
            notes.append(f"{size[1]}x{size[0]} is smaller than the image itself, {width}x{height}")
        if self.width and self.height:
            stretch = (size[1] / size[0]) / (width / height)
            if max(stretch, 1 / stretch) > 1.01:
                notes.append(f"its aspect ratio was changed, from {width}:{height} to {size[1]}:{size[0]}")
        return "; ".join(notes)


@dataclass(frozen=True)
class FileSettings:
    """Properties of the files of SR images.

    Attributes:
      quality: quality of lossy formats, 1 to 100; None for the format's default.
      background: color that transparent images are put on where the format holds no transparency; None to refuse them.
      strip_metadata: leave out EXIF, XMP, IPTC and resolution; the color profile stays.
      frames: upscale all frames of animations and all pages of TIFF files.
      in_place: each result replaces its image.
      record: write a JSON record next to each result.

    Raises:
      ValueError: an illegal quality, or in place without records, which distinguish results from images there.
    """

    quality: int | None = None
    background: str | None = None
    strip_metadata: bool = False
    frames: bool = False
    in_place: bool = False
    record: bool = True

    def __post_init__(self) -> None:
        quality = self.quality
        whole = isinstance(quality, int) and not isinstance(quality, bool)
        if quality is not None and not (whole and 1 <= quality <= 100):
            raise ValueError(f"quality {quality!r} must be a whole number from 1 to 100")
        if self.in_place and not self.record:
            raise ValueError(
                "in place, records tell the results from the images that are left: keep them (omit --no-record), or "
                "name an output"
            )
