"""Photographs that scikit-image and scikit-learn contain, available wherever the extra `photos` is installed.

They are located inside the installed packages without importing these, and nothing is downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from framer_jax.data.sources import CACHE_BYTES, ImageFiles

_SCIKIT_IMAGE, _SCIKIT_LEARN = ("skimage", "data"), ("sklearn", "datasets/images")

PHOTOS: dict[str, tuple[tuple[str, str], str]] = {
    "astronaut": (_SCIKIT_IMAGE, "astronaut.png"),
    "brick": (_SCIKIT_IMAGE, "brick.png"),
    "chelsea": (_SCIKIT_IMAGE, "chelsea.png"),
    "china": (_SCIKIT_LEARN, "china.jpg"),
    "coffee": (_SCIKIT_IMAGE, "coffee.png"),
    "flower": (_SCIKIT_LEARN, "flower.jpg"),
    "grass": (_SCIKIT_IMAGE, "grass.png"),
    "gravel": (_SCIKIT_IMAGE, "gravel.png"),
    "hubble_deep_field": (_SCIKIT_IMAGE, "hubble_deep_field.jpg"),
    "ihc": (_SCIKIT_IMAGE, "ihc.png"),
    "motorcycle": (_SCIKIT_IMAGE, "motorcycle_left.png"),
    "retina": (_SCIKIT_IMAGE, "retina.jpg"),
    "rocket": (_SCIKIT_IMAGE, "rocket.jpg"),
}
"""Name → ((package, subfolder), file). Motorcycle is the left image of a stereo pair; brick, grass, gravel are gray."""

HELD_OUT = ("chelsea", "china", "coffee")
"""Validation images, never trained on: a cat, a temple, a cup."""

TRAINING = tuple(name for name in PHOTOS if name not in HELD_OUT)


def photo_path(name: str) -> Path:
    """The path of a built-in photograph.

    Raises:
      ValueError: unknown name.
      FileNotFoundError: its package is not installed, or no longer contains it.
    """
    if name not in PHOTOS:
        raise ValueError(f"there is no built-in photograph {name!r}; choose from {', '.join(PHOTOS)}")
    (package, folder), file = PHOTOS[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the built-in photographs need {package}: pip install 'framer_jax[photos]'")
    path = Path(spec.origin).parent / folder / file
    if not path.is_file():
        raise FileNotFoundError(f"the installed {package} lacks {file}: pip install --upgrade 'framer_jax[photos]'")
    return path


def photo_source(names: tuple[str, ...] = TRAINING, crop: int = 1, cache_bytes: int = CACHE_BYTES) -> ImageFiles:
    """Built-in photographs as a source; by default the training photographs.

    Raises:
      ValueError, FileNotFoundError: see `photo_path` and `ImageFiles`.
    """
    return ImageFiles([photo_path(name) for name in names], names, crop, cache_bytes, source="the built-in photographs")
