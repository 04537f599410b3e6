"""The option --max-pixels of commands that read images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pillow_settings(max_pixels: int | None) -> Iterator[None]:
    """Pillow's limit of pixels, if one is given, and none of its warnings: what they say is said by our notes."""
    if max_pixels is not None and max_pixels < 1:
        raise ValueError(f"--max-pixels must be at least 1, got {max_pixels}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        if max_pixels is None:
            yield
            return
        from PIL import Image

        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]  # it refuses more than twice as many
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
