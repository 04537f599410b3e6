"""The upscale command with a recipe that compiles at once."""

from pathlib import Path

import jax.numpy as jnp
from PIL import Image

from tests.inference.test_upscaler import SCALE, toy
from tests.support.tiny import photo

SMALL = ("--tile", "16", "--overlap", "0")


def nearest(params, frozen, lr, noise):
    """Each pixel, repeated, times the parameter."""
    return jnp.repeat(jnp.repeat(lr, SCALE, 1), SCALE, 2) * params["denoiser"]["gain"]


RECIPE = toy(nearest)


def image(path: Path, size: tuple[int, int] = (9, 7)) -> Path:
    """Write a photograph of this height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(*size, seed=len(path.name))).save(path)
    return path
