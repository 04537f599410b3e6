"""What `import framer_jax` offers. Imports lie inside the functions, so that importing the package stays instant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from framer_jax.inference.images import Picture
    from framer_jax.inference.model import Model


def load_model(
    path: str | os.PathLike[str] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    changes: Sequence[str] = (),
    **sampling: Any,
) -> Model:
    """Read a weights file or a training run's directory; None is the shipped starter model.

    Args:
      path: of the weights; published ones, ported or not, need a `recipe`.
      recipe: a configuration file that says what published weights belong to, such as configs/resshift_v1.py.
      changes: of its knobs, such as 'recipe.space.weights=vq_f4.safetensors'.
      sampling: fields of framer_jax.recipes.sampling.Sampling, such as steps=20 or guidance=4.0, instead of what the
        model's configuration says.

    Raises:
      FileNotFoundError, ValueError: see framer_jax.inference.model.load_model and framer_jax.config.load_config.
    """
    from framer_jax.config import load_config, to_dict
    from framer_jax.inference import model

    if changes and recipe is None:
        raise ValueError("changes are of the configuration that 'recipe' names: give that too")
    config = None if recipe is None else to_dict(load_config(Path(recipe), changes))
    return model.load_model(path, config, sampling=model.Sampling(**sampling))


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read any usual image; see framer_jax.inference.images.read_picture."""
    from framer_jax.inference import images

    return images.read_picture(path)


def write_picture(path: str | os.PathLike[str], picture: Picture, overwrite: bool = False) -> None:
    """Write a picture in the format of the suffix; see framer_jax.inference.images.write_picture."""
    from framer_jax.inference import images

    images.write_picture(path, picture, overwrite)


def upscale(
    picture: str | os.PathLike[str] | Picture | np.ndarray, model: Model | None = None, **settings: Any
) -> Picture:
    """Upscale one picture with all it has: transparency, grey, depth, colour profile.

    Calls with the same `Model` object, or with none, share their compiled programs.

    Args:
      picture: a path, a Picture, or an array [H, W, 3], float32 in [0, 1] or uint8.
      model: from `load_model`; the starter by default.
      settings: fields of framer_jax.inference.upscaler.UpscaleSettings, such as mode='mean' or seed=1; those left out
        suit the model (framer_jax.inference.model.settings_for).

    Returns:
      The large picture; `.pixels` is [sH, sW, 3] float32 in [0, 1].

    Raises:
      ValueError, FileNotFoundError: an image, a model or settings that cannot be used.
    """
    import numpy as np

    from framer_jax.inference import images, upscaler
    from framer_jax.inference.model import settings_for

    model = model or _starter()
    if isinstance(picture, str | os.PathLike):
        picture = images.read_picture(picture)
    elif isinstance(picture, np.ndarray):
        if picture.dtype == np.uint8:
            picture = picture.astype(np.float32) / np.float32(255)
        picture = images.Picture(np.asarray(picture, np.float32))
    ready = upscaler.make_upscaler(model.recipe, settings_for(model, **settings))
    return upscaler.upscale_picture(ready, model.recipe.scale, model.params, picture)[0]


def _starter() -> Model:
    from framer_jax.inference import model

    return _loaded(model.STARTER, model.STARTER.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded(path: Path, modified: int) -> Model:
    """The model as it was at that time; nobody else gets hold of it, so nobody changes it."""
    return load_model(path)
