"""Names by which results pair with references: a suffix or a pattern that the user gives, or how the file was made.

Where names differ, the partner of a result is, in this order, the reference that the record of `framer-jax upscale`
next to it names as its input, and the reference whose name is the same without known endings
(framer_jax.data.image_names).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from framer_jax.inference.result_files import sidecar_path


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


def stated_references(images: Mapping[str, Path]) -> dict[str, str]:
    """Name of a result → name of the reference that the record of `framer-jax upscale` next to it states.

    Args:
      images: name → file of the results.
    """
    inputs = {name: input_name(path) for name, path in images.items()}
    # In a folder of folders, a name has the path within.
    return {name: Path(name).with_name(source).as_posix() for name, source in inputs.items() if source}


def input_name(image: Path) -> str:
    """The stem of the file that `framer-jax upscale` made an image of, by the record next to it; '' without one."""
    try:
        record = json.loads(sidecar_path(image).read_text(encoding="utf-8"))
        return Path(record["input"]["name"]).stem
    except (OSError, ValueError, KeyError, TypeError):  # no record, or one of another program
        return ""
