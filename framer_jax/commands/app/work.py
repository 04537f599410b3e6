"""What the page computes: photographs in, results and a comparison out. Nothing here knows of Gradio."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from framer_jax.commands.published import open_named_model
from framer_jax.errors import is_correctable, one_line
from framer_jax.images.decode import read_image
from framer_jax.inference.folder import upscale_files
from framer_jax.inference.images import write_image
from framer_jax.inference.model import Model, settings_for
from framer_jax.inference.records import Origin
from framer_jax.inference.resample import resize_pillow
from framer_jax.inference.result_settings import FileSettings, ResultSettings

LARGEST_PREVIEW = 2400
"""Longest side of the images of the comparison, in pixels."""


class Models:
    """The models that the page offers; each is read when it is first used, and the last one is kept.

    Args:
      names: names in the order of the list.
      chosen: the one that is chosen at first.
      opened: models that were read before, by name.
    """

    def __init__(self, names: tuple[str, ...], chosen: str, opened: dict[str, Model]) -> None:
        self.names, self.chosen, self._opened = names, chosen, opened
        self._last: tuple[str, Model] | None = None

    def model(self, name: str) -> Model:
        """The model of a name.

        Raises:
          ValueError: the page does not offer it.
        """
        if name not in self.names:
            raise ValueError(f"there is no model {name!r} here")
        if name in self._opened:
            return self._opened[name]
        if self._last is None or self._last[0] != name:
            self._last = (name, open_named_model(name))
        return self._last[1]


class Results(NamedTuple):
    """Results of one request.

    Attributes:
      files: the SR images.
      before, after: the first image, enlarged bicubically, and its result, for the comparison; None without a result.
      failures: a line for each image that could not be upscaled.
    """

    files: tuple[Path, ...]
    before: Path | None
    after: Path | None
    failures: tuple[str, ...]


def upscale_uploads(
    uploads: Sequence[Path],
    model: Model,
    folder: Path,
    strength: float = 1.0,
    outscale: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Upscale uploaded images one after the other into a new folder; an image that cannot be used is a line.

    Args:
      uploads: image files.
      model: the model.
      folder: gets a folder of its own for this request.
      strength: see framer_jax.inference.result_settings.ResultSettings.
      outscale: size relative to the image; None for the model's.
      progress: called with (images done, all images).
    """
    target = Path(tempfile.mkdtemp(dir=folder))
    result = ResultSettings(outscale=outscale, strength=strength)
    settings = settings_for(model)
    origin = Origin(model.path, model.metadata["config"], model.frozen_weights, model.overrides)
    files: list[Path] = []
    failures: list[str] = []
    sources: list[Path] = []
    for index, upload in enumerate(uploads):
        progress(index, len(uploads))
        try:
            summary = upscale_files(
                [upload],
                _unused(target, upload, outscale or model.recipe.scale),
                model.recipe,
                model.params,
                settings,
                result=result,
                files=FileSettings(background="white"),
                origin=origin,
                continue_on_error=True,
            )
        except Exception as error:
            if not is_correctable(error):
                raise
            failures.append(f"{upload.name}: {_without_folder(one_line(error), upload)}")
            continue
        files += summary.written
        sources += [upload] * len(summary.written)
        failures += [f"{upload.name}: {_without_folder(reason, upload)}" for _, reason in summary.failed]
    progress(len(uploads), len(uploads))
    before, after = comparison(sources[0], files[0], target) if files else (None, None)
    return Results(tuple(files), before, after, tuple(failures))


def comparison(source: Path, result: Path, folder: Path) -> tuple[Path, Path]:
    """Two images of equal size for a slider: the source, enlarged bicubically, and the result."""
    after = read_image(result)
    height, width = after.pixels.shape[:2]
    shrink = min(1.0, LARGEST_PREVIEW / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    paths = folder / "before.png", folder / "after.png"
    for path, image in zip(paths, (read_image(source), after), strict=True):
        write_image(path, image._replace(pixels=resize_pillow(image.pixels, size), alpha=None), overwrite=True)
    return paths


def _unused(folder: Path, upload: Path, scale: float) -> Path:
    """A name for the result that no other upload of the request has."""
    name = f"{upload.stem}_x{scale:g}"
    count = sum(1 for path in folder.glob("*.png") if path.stem == name or path.stem.startswith(f"{name}_"))
    return folder / f"{name}{f'_{count + 1}' if count else ''}.png"


def _without_folder(text: str, upload: Path) -> str:
    """A message without the place where the page keeps its uploads."""
    return text.replace(f"{upload}: ", "").replace(str(upload.parent) + "/", "")
