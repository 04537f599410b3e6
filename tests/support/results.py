"""Results of several methods on the same tiny images, for the comparison of methods."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.tiny import photo

NAMES = ("b", "a", "c")


def write(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.png")


def result_folders(place: Path, names=NAMES, size=(48, 64), scale: int = 4) -> dict[str, Path]:
    """Folders gt, lr (smaller by the scale), good (near gt), bad (farther), all with the same names.

    In the first image, the methods differ in one square only, at x = 20 to 30 and y = 10 to 20.
    """
    for index, name in enumerate(names):
        pixels = photo(*size, seed=index).astype(int)
        write(place / "gt", name, pixels.astype(np.uint8))
        write(place / "lr", name, pixels[::scale, ::scale].astype(np.uint8))
        for folder, change in (("good", 2), ("bad", 8 + index)):
            changed = np.clip(pixels + change, 0, 255)
            if index == 0:
                changed = np.clip(pixels + 2, 0, 255)
                changed[10:20, 20:30] += change
                changed = np.clip(changed, 0, 255)
            write(place / folder, name, changed.astype(np.uint8))
    return {folder: place / folder for folder in ("gt", "lr", "good", "bad")}
