"""Names by which results pair with references: a suffix or a pattern that the user gives, or how the file was made.

Where names differ, the partner of a result is, in this order, the reference that the record of `framer-jax upscale`
next to it names as its input, and the reference whose name is the same without known endings, such as 'baby_x4' and
'baby', 'Canon_001_LR4' and 'Canon_001_HR'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from framer_jax.inference.result_files import sidecar_path

ENDING = re.compile(r"(?<=.)(?:[-_ .]?x[1-9](?:\.\d+)?|[-_ .](?:sr|hr|lr[1-9]?|gt|hq|lq|out|output))$", re.IGNORECASE)
"""Endings that name the role of an image: a scale, with or without a separator, or a word after one."""

MOST_ENDINGS = 3
"""Number of endings that are removed from one name, as in 'photo_LR_x4_SR'."""


def without_endings(name: str) -> str:
    """A name without its known endings."""
    for _ in range(MOST_ENDINGS):
        name = ENDING.sub("", name)
    return name


def name_rule(suffix: str, pattern: str) -> Callable[[str], str]:
    """(stem of a result) → the name of its reference.

    Args:
      suffix: end of the results' stems that the references lack; '' for none.
      pattern: regular expression that matches whole stems, and whose first group is the reference's name; '' for none.

    Raises:
      ValueError: both are given, or the pattern is no regular expression with a group; or, when the rule is applied, a
        stem does not match the pattern.
    """
    if not pattern:
        return lambda stem: stem.removesuffix(suffix) or stem
    if suffix:
        raise ValueError("--suffix and --pattern exclude each other: give one of them")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--pattern {pattern!r} is no regular expression: {error}") from error
    if not compiled.groups:
        raise ValueError(
            f"--pattern {pattern!r} has no group: put the part that is the reference's name into parentheses, such as "
            r"'(.+)_x4'"
        )

    def named(stem: str) -> str:
        match = compiled.fullmatch(stem)
        if not match or not match[1]:
            raise ValueError(f"--pattern {pattern!r} does not match the name {stem!r}: correct it, or move the image")
        return match[1]

    return named


def partners(images: Mapping[str, Path], references: Collection[str]) -> dict[str, str]:
    """Name of a result → name of its reference, for results and references of different names.

    Args:
      images: name → file of the results without a reference of the same name.
      references: names of the references without a result of the same name.

    Raises:
      ValueError: two results have the same partner.
    """
    inputs = {name: input_name(path) for name, path in images.items()}
    # In a folder of folders, a name has the path within.
    by_record = {name: Path(name).with_name(source).as_posix() for name, source in inputs.items() if source}
    paired = {name: source for name, source in by_record.items() if source in references}
    remaining: dict[str, list[str]] = {}
    for reference in sorted(set(references) - set(paired.values())):
        remaining.setdefault(without_endings(reference), []).append(reference)
    for name in sorted(images.keys() - paired.keys()):
        candidates = remaining.get(without_endings(name), [])
        if len(candidates) == 1:
            paired[name] = candidates[0]
    for reference in sorted(set(paired.values())):
        rivals = [name for name, partner in paired.items() if partner == reference]
        if len(rivals) > 1:
            raise ValueError(
                f"{images[rivals[0]]} and {images[rivals[1]]} both pair with the reference {reference}: put them into "
                "folders of their own, or say which by --suffix or --pattern"
            )
    return paired


def input_name(image: Path) -> str:
    """The stem of the file that `framer-jax upscale` made an image of, by the record next to it; '' without one."""
    try:
        record = json.loads(sidecar_path(image).read_text(encoding="utf-8"))
        return Path(record["input"]["name"]).stem
    except (OSError, ValueError, KeyError, TypeError):  # no record, or one of another program
        return ""
