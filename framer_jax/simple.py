"""What `import framer_jax` offers. Imports lie inside the functions, so that importing the package stays instant."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from framer_jax.inference.images import Picture
    from framer_jax.inference.model import Model


def load_model(path: str | os.PathLike[str] | None = None) -> Model:
    """Read a weights file or a training run's directory; None is the shipped starter model.

    Raises:
      FileNotFoundError, ValueError: see framer_jax.inference.model.load_model.
    """
    from framer_jax.inference import model

    return model.load_model(path)


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

    Args:
      picture: a path, a Picture, or an array [H, W, 3], float32 in [0, 1] or uint8.
      model: from `load_model`; the starter by default.
      settings: fields of framer_jax.inference.upscaler.UpscaleSettings, such as mode='mean' or seed=1.

    Returns:
      The large picture; `.pixels` is [sH, sW, 3] float32 in [0, 1].

    Raises:
      ValueError, FileNotFoundError: an image, a model or settings that cannot be used.
    """
    import numpy as np

    from framer_jax.inference import images, upscaler

    model = model or load_model()
    if isinstance(picture, str | os.PathLike):
        picture = images.read_picture(picture)
    elif isinstance(picture, np.ndarray):
        if picture.dtype == np.uint8:
            picture = picture.astype(np.float32) / np.float32(255)
        picture = images.Picture(np.asarray(picture, np.float32))
    ready = upscaler.make_upscaler(model.recipe, upscaler.UpscaleSettings(**settings))
    return upscaler.upscale_picture(ready, model.recipe.scale, model.params, picture)[0]
