"""What identifies the training data of a run, so that it is not resumed with other data: names and contents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

GROUPS = 256
"""Largest number of digests of contents in a checkpoint: with up to so many files, a message can name each of them."""


def data_identity(record_names: Sequence[str] | None, file_digests: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Number of the records and digests of their names and contents, as JSON values; {} without names.

    Args:
      record_names: names of the records in their order; None if they are unknown.
      file_digests: name of each file of the data → digest of its content; None if the contents are unknown.
    """
    if record_names is None:
        return {}
    names = "\n".join(record_names).encode(errors="surrogateescape")  # file names that are not UTF-8
    identity = {"records": len(record_names), "sha256": hashlib.sha256(names).hexdigest()}
    if file_digests is None:
        return identity
    groups = [
        hashlib.sha256("".join(group).encode()).hexdigest()[:16] for group in _groups(list(file_digests.values()))
    ]
    return {**identity, "files": len(file_digests), "contents": groups}


def differing_files(saved: Mapping[str, Any], present: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """The files whose contents differ between two identities, in words; '' if none does or one has no contents.

    Args:
      saved: identity in a checkpoint.
      present: identity of the run.
      names: names of the present files in their order.
    """
    if "contents" not in saved or "contents" not in present:
        return ""
    if saved["files"] != present["files"]:
        return f"{saved['files']} files then, {present['files']} now"
    pairs = zip(saved["contents"], present["contents"], strict=True)
    differing = [index for index, (old, new) in enumerate(pairs) if old != new]
    groups = _groups(list(names))
    if not differing or len(groups) != len(present["contents"]):
        return "files that are not known" if differing else ""
    shown = [group[0] if len(group) == 1 else f"some of {group[0]} to {group[-1]}" for group in groups]
    listed = ", ".join(shown[index] for index in differing[:5])
    return f"{listed} and {len(differing) - 5} more" if len(differing) > 5 else listed


def _groups(values: list[str]) -> list[list[str]]:
    """At most `GROUPS` runs of neighbours, as even as possible."""
    count = min(len(values), GROUPS)
    bounds = [index * len(values) // count for index in range(count + 1)] if count else [0]
    return [values[start:stop] for start, stop in pairwise(bounds)]
