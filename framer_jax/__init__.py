"""Real-world image super-resolution with diffusion priors and FRAMER, in JAX/Flax.

Upscale an image in three lines:

    import framer_jax
    image = framer_jax.upscale("photo.jpg")  # x4, with the standard model that ships with the package
    framer_jax.write_image("photo_x4.png", image)

Also here: `load_model` and `port` for other weights, `degrade` for LR images, `framer_loss` and `band_masks` for your
own training code, `make_step` for your own training loop, and `methods` for the list of methods. Everything else is
imported from its subpackage: framer_jax.recipes, framer_jax.training, framer_jax.inference, ...
"""

import warnings
from typing import Any

from framer_jax.api import (
    band_masks,
    degrade,
    framer_loss,
    load_model,
    make_step,
    methods,
    port,
    read_image,
    upscale,
    write_image,
)
from framer_jax.version import __version__

__all__ = [
    "__version__",
    "band_masks",
    "degrade",
    "framer_loss",
    "load_model",
    "make_step",
    "methods",
    "port",
    "read_image",
    "upscale",
    "write_image",
]

_RENAMED = {"read_picture": "read_image", "write_picture": "write_image"}
"""Deprecated name → current name; the deprecated ones work for one version."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        warnings.warn(f"framer_jax.{name} is deprecated: use framer_jax.{new}", DeprecationWarning, stacklevel=2)
        return globals()[new]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
