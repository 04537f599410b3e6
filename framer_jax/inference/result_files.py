"""An SR image and the JSON record next to it, which appear together, or an image without one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from framer_jax.images.image_data import ImageData
from framer_jax.inference.images import Animation, encode_image
from framer_jax.inference.result_settings import FileSettings
from framer_jax.porting.files import atomic_write

DEFAULT_FILES = FileSettings()

LONGEST_NAME = 255
"""Bytes of a file name that common file systems take."""


def sidecar_path(target: str | os.PathLike[str]) -> Path:
    """The record next to an SR image: photo.png.json for photo.png; a name that were too long ends with a digest."""
    target = Path(target)
    name = os.fsencode(target.name)
    if len(name) + len(b".json") > LONGEST_NAME:
        digest = hashlib.sha256(name).hexdigest()[:16]
        start = name[: LONGEST_NAME - len(f"~{digest}.json")].decode("utf-8", "ignore")
        return target.with_name(f"{start}~{digest}.json")
    return target.with_name(target.name + ".json")


def is_record(path: Path) -> bool:
    """Whether a file is a record of this library."""
    return bool(read_record(path))


def read_record(path: Path) -> dict[str, Any]:
    """The content of a record of this library; {} if the file is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(record, dict) and {"framer_jax", "settings", "input"} <= record.keys()
    return record if is_ours else {}


def write_result(
    target: Path, image: ImageData | Animation, record: Mapping[str, Any], settings: FileSettings = DEFAULT_FILES
) -> None:
    """Write an SR image, and its record unless the settings leave it out, see `write_encoded`."""
    write_encoded(target, lambda file: encode_image(file, target, image, settings), record, settings)


def write_encoded(
    target: Path, encode: Callable[[Path], None], record: Mapping[str, Any], settings: FileSettings = DEFAULT_FILES
) -> None:
    """Write an SR image and its record; after an error, neither is there.

    Both are complete before the first one gets its name. A new record precedes its image: an image without a record is
    not of this library. Where an image is replaced, its old record is removed first, and the new one comes last, so
    that no image is ever described by the record of another. In place, the record comes first again, and states the
    size of the result, so that neither a result is taken for an image nor an image for its result.

    Without a record, the one of an image that is replaced is removed.

    Args:
      target: name of the image.
      encode: writes the image into the file that it is given.
      record: content of the record.
      settings: whether the image is replaced by its own result (`in_place`), and whether it has a record.

    Raises:
      OSError, ValueError: as of `encode`.
    """
    sidecar = sidecar_path(target)
    if not settings.record:
        with atomic_write(target) as file:
            encode(file)
            if is_record(sidecar):
                sidecar.unlink()
        return
    replaces = target.exists()
    first, last = (target, sidecar) if replaces and not settings.in_place else (sidecar, target)
    placed = False
    try:
        with atomic_write(last) as last_file:
            with atomic_write(first) as first_file:
                files = {first: first_file, last: last_file}
                encode(files[target])
                # A name that is not UTF-8 has surrogates, whose escapes are JSON's
                text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
                files[sidecar].write_text(text, encoding="utf-8", errors="backslashreplace")
                if replaces:
                    sidecar.unlink(missing_ok=True)
            placed = True
    except BaseException:
        if placed and not replaces:
            first.unlink(missing_ok=True)
        raise
