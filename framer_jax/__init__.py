"""Real-world image super-resolution with diffusion priors and FRAMER, in JAX/Flax.

The three-line use:

    import framer_jax
    picture = framer_jax.upscale("photo.jpg")  # x4, with the starter model that ships
    framer_jax.write_picture("photo_x4.png", picture)

Everything else is imported from its room: framer_jax.recipes, framer_jax.training, framer_jax.inference, ...
"""

from framer_jax.simple import load_model, read_picture, upscale, write_picture
from framer_jax.version import __version__

__all__ = ["__version__", "load_model", "read_picture", "upscale", "write_picture"]
