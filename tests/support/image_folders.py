"""Folders of results and references of random pixels."""

import numpy as np
from PIL import Image


def save(path, seed, height=24, width=20):
    """Write an image of random pixels, and return them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def result_folders(folder):
    """(folder of three results, folder of their references), of two sizes, in subfolders, of two file formats."""
    sr, gt = folder / "sr", folder / "gt"
    for index, name in enumerate(["a", "b", "sub/c"]):
        size = (24, 20) if index < 2 else (16, 30)
        save(sr / f"{name}.png", index, *size)
        save(gt / f"{name}.bmp", 100 + index, *size)
    (sr / "a.json").write_text("{}")
    return sr, gt
