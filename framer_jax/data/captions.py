"""Captions of photographs: JSON lines, one a photograph, and the clean-up that DiT4SR and FRAMER give them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

REMOVED = (
    *("focus", "focal", "prominent", "close-up", "black and white", "blur", "depth", "dense", "locate"),
    "position",
)
"""Sentences with one of these, also within a longer word ('located'), are removed: they speak of the photograph."""


class Caption(NamedTuple):
    """What is said of a photograph.

    Attributes:
      image: its path within the folder, with '/'.
      raw: as the captioner said it.
      caption: cleaned; may be empty.
      damaged: true if the photograph cannot be read, and there is nothing to say of it.
    """

    image: str
    raw: str
    caption: str
    damaged: bool = False


def clean_caption(text: str, removed: Sequence[str] = REMOVED) -> str:
    """A caption without the sentences that have any of the words, in lower or upper case.

    Args:
      text: any; a sentence ends with '.', '!' or '?' and white space.
      removed: words or parts of words.

    Returns:
      the other sentences, joined by single spaces; '' if there is none.
    """
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    kept = [sentence for sentence in sentences if not any(word in sentence.lower() for word in removed)]
    return " ".join(kept).strip()


def line_of(caption: Caption) -> str:
    """Its line of a captions file, with the line's end."""
    entries = {name: value for name, value in caption._asdict().items() if value is not False}
    return json.dumps(entries, ensure_ascii=False) + "\n"


def read_captions(paths: Iterable[str | os.PathLike[str]]) -> dict[str, Caption]:
    """Captions by their photographs' names.

    Args:
      paths: captions files, such as those of all shards.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is damaged, or two lines speak differently of one photograph; the message names the line.
    """
    found: dict[str, Caption] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file: make it with `framer-jax precompute captions`")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            caption = _caption_in(line, f"{path}, line {number}")
            if found.setdefault(caption.image, caption) != caption:
                raise ValueError(f"{path}, line {number}: another caption of {caption.image}: remove one of them")
    return found


def drop_unfinished(path: str | os.PathLike[str]) -> None:
    """Cut off a last line without an end, which a killed process leaves."""
    path = Path(path)
    if not path.is_file():
        return
    whole = path.read_bytes()
    kept = whole.rfind(b"\n") + 1
    if kept < len(whole):
        os.truncate(path, kept)


def check_captions(captions: Mapping[str, object], names: Sequence[str], source: str) -> None:
    """Refuse captions, or what was made of them, that lack a photograph.

    Args:
      captions: by name.
      names: of the photographs.
      source: what the error calls the captions.

    Raises:
      ValueError: says how many are lacking, and names one.
    """
    if missing := [name for name in names if name not in captions]:
        raise ValueError(
            f"{source} lacks {len(missing)} of {len(names)} photographs, such as {missing[0]}: caption the same "
            "folder to its end (all shards), and embed those captions"
        )


def _caption_in(line: str, place: str) -> Caption:
    try:
        entries = json.loads(line)
        caption = Caption(**entries)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: no caption ({error}): remove the line, and caption once more") from error
    if not all(isinstance(value, str) for value in caption[:3]) or not isinstance(caption.damaged, bool):
        raise ValueError(f"{place}: image, raw and caption must be strings: remove the line, and caption once more")
    return caption
