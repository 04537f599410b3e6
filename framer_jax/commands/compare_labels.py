"""The words of `framer-jax compare`: files and folders with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framer_jax.evaluation.comparison import Arm, read_scores


def split_label(text: str) -> tuple[str, str]:
    """Split `LABEL=REST`; the label is empty where there is none, or where the whole is an existing file or folder."""
    label, separator, rest = text.partition("=")
    return (label, rest) if separator and not Path(text).exists() else ("", text)


def read_arm(text: str) -> Arm:
    """Read `[LABEL=]FILE[,FILE]`; the label is by default the stem of the first file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: an empty name, or a file of another kind.
    """
    label, files = split_label(text)
    paths = [files] if Path(files).is_file() else files.split(",")
    if "" in paths:
        raise ValueError(f"{text!r} names an empty file: write FILE,FILE or LABEL=FILE,FILE")
    return Arm(label or Path(paths[0]).stem, tuple(map(read_scores, paths)))


def check_labels(labels: Sequence[str], kind: str) -> None:
    """Refuse a single model, and models of one name.

    Args:
      labels: their names.
      kind: what a label is written before, 'FILE' or 'FOLDER'.

    Raises:
      ValueError: the message has the remedy.
    """
    if len(labels) < 2:
        what = {"FILE": "the JSON files of `framer-jax evaluate --json`", "FOLDER": "the folders of their images"}
        raise ValueError(f"compare needs two models or more: name {what[kind]}")
    if repeated := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two models are called {repeated[0]!r}: write LABEL={kind}")
