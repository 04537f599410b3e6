"""Random crops of photographs and of pairs, and their random orientation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from framer_jax.data.photo_pairs import PhotoPair
from framer_jax.data.records import RECORD
from framer_jax.data.sources import Photo


def make_crop(
    photo: Photo, rng: np.random.Generator, crop: int, crop_mode: str = "crop", flip_and_rotate: bool = False
) -> dict[str, Any]:
    """Take a random crop and flip it randomly.

    Args:
      photo: the photograph, with sides of at least `crop` (for 'square', smaller ones are padded by reflection).
      rng: the record's own generator.
      crop: side of the HR crop in pixels.
      crop_mode: one of `CROP_MODES`; 'square' takes a random square as wide as the shorter side and reduces it to
        `crop` by area averaging.
      flip_and_rotate: also flip vertically and transpose, each with probability 1/2.

    Returns:
      'hr' uint8 [crop, crop, 3], 'record' int32.
    """
    height, width = photo.size
    if crop_mode == "square":
        photo = padded(photo, crop)
        height, width = photo.size
    side = min(height, width) if crop_mode == "square" else crop
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    hr = reduced(photo.crop(top, left, side, side), crop)
    return {"hr": oriented(hr, draw_orientation(rng, flip_and_rotate)), RECORD: np.int32(photo.record)}


def make_pair_crop(
    pair: PhotoPair, rng: np.random.Generator, crop: int, flip_and_rotate: bool = False
) -> dict[str, Any]:
    """Take the same random crop of the HR and the LR image of a pair, and flip both in the same way.

    Args:
      pair: the pair, whose HR image has sides of at least `crop`.
      rng: the record's own generator.
      crop: side of the HR crop in pixels, a multiple of the scale; the crop begins at a whole LR pixel.
      flip_and_rotate: see `make_crop`.

    Returns:
      'hr' uint8 [crop, crop, 3], 'lr' uint8 [crop / scale, crop / scale, 3], 'record' int32.
    """
    scale = pair.hr.shape[0] // pair.lr.shape[0]
    side = crop // scale
    height, width = pair.lr.shape[:2]
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    lr = pair.lr[top : top + side, left : left + side]
    hr = pair.hr[scale * top : scale * (top + side), scale * left : scale * (left + side)]
    orientation = draw_orientation(rng, flip_and_rotate)
    return {"hr": oriented(hr, orientation), "lr": oriented(lr, orientation), RECORD: np.int32(pair.record)}


def draw_orientation(rng: np.random.Generator, flip_and_rotate: bool) -> tuple[bool, bool, bool]:
    """Whether to flip horizontally, flip vertically and transpose; the last two only with `flip_and_rotate`."""
    horizontal = bool(rng.integers(2))
    vertical, transposed = (flip_and_rotate and bool(rng.integers(2)) for _ in range(2))
    return horizontal, vertical, transposed


def oriented(image: np.ndarray, orientation: tuple[bool, bool, bool]) -> np.ndarray:
    """An image [H, W, 3], turned as `draw_orientation` says."""
    horizontal, vertical, transposed = orientation
    image = image[:, ::-1] if horizontal else image
    image = image[::-1] if vertical else image
    return np.ascontiguousarray(image.transpose(1, 0, 2) if transposed else image)


def padded(photo: Photo, side: int) -> Photo:
    """The photograph, padded by reflection if it is smaller than `side`."""
    height, width = photo.size
    if min(height, width) >= side:
        return photo
    padding = [(0, max(side - length, 0)) for length in (height, width)]
    return photo._replace(image=np.pad(photo.image, (*padding, (0, 0)), mode="reflect"))


def reduced(square: np.ndarray, side: int) -> np.ndarray:
    """A square image [S, S, 3] uint8, reduced to `side` pixels by area averaging; one of that side is unchanged."""
    if square.shape[0] == side:
        return square
    areas = area_matrix(square.shape[0], side)
    averages = np.einsum("ij,jkc,lk->ilc", areas, square.astype(np.float32), areas, optimize=True)
    return np.clip(np.round(averages), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def area_matrix(size: int, new_size: int) -> np.ndarray:
    """Weights of area averaging (OpenCV's INTER_AREA), [new_size, size] float32: shares of old pixels in new ones."""
    edges = np.arange(new_size + 1) * (size / new_size)
    starts = np.arange(size)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return (np.maximum(overlap, 0.0) * (new_size / size)).astype(np.float32)
