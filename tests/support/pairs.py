"""Small folders of LR and HR images that look like pairs of one camera."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.tiny import photo


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """Blobs of many sizes with an edge: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    image = photo(height, width, seed).astype(np.float64)
    for size in (4, 8, 16):
        coarse = rng.normal(0, 40, (height // size + 1, width // size + 1, 1))
        image += np.kron(coarse, np.ones((size, size, 1)))[:height, :width]
    return np.clip(image, 0, 255).astype(np.uint8)


def reduced(hr: np.ndarray, scale: int) -> np.ndarray:
    """Area averages, uint8."""
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    return np.round(hr.reshape(height, scale, width, scale, 3).mean(axis=(1, 3))).astype(np.uint8)


def pairs(folder: Path, count: int = 4, size: tuple[int, int] = (64, 80), scale: int = 4) -> tuple[Path, Path]:
    """(folder of LR images Canon_000_LR4.png, …, folder of HR images Canon_000_HR.png, …)."""
    lr, hr = folder / "lr", folder / "hr"
    for number in range(count):
        image = texture(*size, seed=number)
        for side, pixels, name in ((lr, reduced(image, scale), f"LR{scale}"), (hr, image, "HR")):
            side.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(side / f"Canon_{number:03d}_{name}.png")
    return lr, hr
