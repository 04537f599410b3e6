"""Captions of photographs or crops: JSON lines, one per image, cleaned as in DiT4SR and FRAMER."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REMOVED_WORDS = (
    *("focus", "focal", "prominent", "close-up", "black and white", "blur", "depth", "dense", "locate"),
    "position",
)
"""Sentences with one of these, also as part of a longer word ('located'), are removed: they describe the photography,
not the scene."""


class Caption(NamedTuple):
    """The caption of a photograph, or of a crop.

    Attributes:
      image: path of the photograph within its folder, with '/'; or the crop's name, see `crop_name`.
      raw: the output of the captioner.
      caption: `raw` after `clean_caption`; may be empty.
      damaged: whether the photograph cannot be read, so that its captions are empty.
      photo: of a crop, the photograph that it is of.
    """

    image: str
    raw: str
    caption: str
    damaged: bool = False
    photo: str = ""


def crop_name(number: int) -> str:
    """The name of the crop of record `number` in captions and embeddings; names sort like numbers."""
    return f"crop-{number:09d}"


def clean_caption(text: str, removed_words: Sequence[str] = REMOVED_WORDS) -> str:
    """Remove the sentences of a caption that contain any of the words, in lower or upper case.

    Args:
      text: any text; a sentence ends with '.', '!' or '?' and white space.
      removed_words: words or parts of words.

    Returns:
      the remaining sentences, joined by single spaces; '' if there are none.
    """
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    remaining = [sentence for sentence in sentences if not any(word in sentence.lower() for word in removed_words)]
    return " ".join(remaining).strip()


def caption_line(caption: Caption) -> str:
    """A caption as one line of a captions file, including the newline."""
    defaults = Caption._field_defaults
    entries = {name: value for name, value in caption._asdict().items() if value != defaults.get(name)}
    return json.dumps(entries, ensure_ascii=False) + "\n"


def read_captions(paths: Iterable[str | os.PathLike[str]]) -> dict[str, Caption]:
    """Read captions files into a dict from photograph name to caption.

    Args:
      paths: captions files, such as those of all shards.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a line is damaged, or two lines give different captions to one photograph; the message names the line.
    """
    captions: dict[str, Caption] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file: make it with `framer-jax precompute captions`")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            caption = _parse_line(line, f"{path}, line {number}")
            if captions.setdefault(caption.image, caption) != caption:
                raise ValueError(
                    f"{path}, line {number}: {caption.image} already has another caption: remove one of them"
                )
    return captions


def captioned_latents(paths: Iterable[str | os.PathLike[str]]) -> dict[str, Any]:
    """What the captions of captions files are of: {'of': …, 'latents': digest} for crops, {} for whole photographs.

    Raises:
      ValueError: the files are of different images; or the settings next to a file of crops are missing or damaged.
    """
    origins = []
    for path in map(Path, paths):
        sidecar = path.with_suffix(".json")
        try:
            settings = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
            origins.append({name: settings[name] for name in ("of", "latents") if name in settings})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{sidecar} is damaged ({error}): caption again") from error
    if any(origin != origins[0] for origin in origins):
        raise ValueError(
            f"captions files {', '.join(map(str, paths))} are of different images (crops of other latents, or "
            "photographs): embed them separately"
        )
    return origins[0] if origins else {}


def drop_incomplete_line(path: str | os.PathLike[str]) -> None:
    """Remove a last line without a newline, which an interrupted process leaves."""
    path = Path(path)
    if not path.is_file():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(path, complete)


def check_captions(
    captions: Mapping[str, object], names: Sequence[str], source: str, images: str = "photographs"
) -> None:
    """Check that every image has a caption, or something computed from one.

    Args:
      captions: by the names of their images.
      names: the images.
      source: what the error message calls the captions.
      images: what it calls the images.

    Raises:
      ValueError: captions are missing; the message says how many and names the first.
    """
    if missing := [name for name in names if name not in captions]:
        raise ValueError(
            f"{source} lacks {len(missing)} of {len(names)} {images}, such as {missing[0]}: caption the same folder "
            "completely (all shards) and embed those captions"
        )


def _parse_line(line: str, location: str) -> Caption:
    try:
        entries = json.loads(line)
        caption = Caption(**entries)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{location}: not a caption ({error}): remove the line and caption again") from error
    texts = (*caption[:3], caption.photo)
    if not all(isinstance(value, str) for value in texts) or not isinstance(caption.damaged, bool):
        raise ValueError(f"{location}: image, raw and caption must be strings: remove the line and caption again")
    return caption
