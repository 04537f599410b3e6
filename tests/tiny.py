"""Tiny photographs, configurations and weights, shared by the tests of the command line and of what lies behind it."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from framer_jax.config import load_config, to_dict
from framer_jax.inference.model import expected_params, save_model
from framer_jax.porting.weights import flatten_names, nest_names
from framer_jax.recipes.table import build_recipe

CONFIGS = Path(__file__).parents[1] / "configs"

MODEL = (
    "recipe.denoiser.unet.channels=(8, 8)",
    "recipe.denoiser.unet.blocks=1",
    "recipe.denoiser.unet.condition_blocks=0",
    "recipe.denoiser.unet.time_width=8",
    "recipe.denoiser.dit.width=8",
    "recipe.denoiser.dit.depth=2",
    "recipe.denoiser.dit.heads=1",
    "recipe.resshift.steps=2",
    "recipe.flow.sampling_steps=2",
)
"""Shrinks any configuration's model."""

RUN = (
    "data.crop=32",
    "data.validation_count=1",
    "training.steps=2",
    "training.global_batch=8",
    "training.mesh.data=1",  # compiled much faster than for the session's eight devices
    "training.accumulate=1",
    "training.seed=0",
    "training.log_every=1",
    "training.checkpoint_every=1",
    "training.validate_every=1",
    # Equal numbers in all tests make equal programs, which are compiled once.
    "training.learning_rate=1e-3",
    "training.schedule=cosine",
    "training.warmup_steps=0",
    "training.ema_decay=0.9",
)
"""Shrinks any configuration's run."""


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth colour field with some noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(rng.uniform(0.05, 0.3) * x + rng.uniform(0.05, 0.3) * y + phase) for phase in range(3)]
    return np.clip(127 + 80 * np.stack(waves, axis=-1) + 8 * rng.standard_normal((height, width, 3)), 0, 255).astype(
        np.uint8
    )


def photos(folder: Path, count: int = 3, size: tuple[int, int] = (40, 48)) -> Path:
    """A folder of `count` PNG files named photo_0.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(photo(*size, seed=index)).save(folder / f"photo_{index}.png")
    return folder


def config(*changes: str) -> dict[str, Any]:
    """The default configuration with a tiny model and run."""
    return to_dict(load_config(CONFIGS / "default.py", (*MODEL, *RUN, *changes)))


def weights(path: Path, *changes: str, fill: float | None = None) -> Path:
    """A weights file of a tiny model: random (or all `fill`), nothing is compiled."""
    settings = config(*changes)
    recipe = build_recipe(settings["recipe"])
    rng = np.random.default_rng(0)
    leaves = {
        name: (0.1 * rng.standard_normal(leaf.shape) if fill is None else np.full(leaf.shape, fill)).astype(np.float32)
        for name, leaf in flatten_names(expected_params(recipe))[0].items()
    }
    save_model(path, recipe, nest_names(leaves), {"config": settings, "step": 0})
    return path
