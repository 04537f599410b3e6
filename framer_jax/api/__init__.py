"""What `import framer_jax` offers. Imports are inside the functions, so that importing the package is instant."""

from framer_jax.api.images import degrade, load_model, read_image, upscale, write_image
from framer_jax.api.training import MethodSummary, band_masks, framer_loss, make_step, methods
from framer_jax.api.weights import port

__all__ = [
    "MethodSummary",
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
