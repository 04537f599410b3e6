"""Whether a checkpoint belongs to the run that resumes it: its configuration, its layout and its data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from framer_jax.paths import AnyPath
from framer_jax.training.data_identity import differing_files

LEARNING_RATE = ("learning_rate", "final_learning_rate", "warmup_steps", "schedule", "decay_factor", "decay_every")
"""Settings that, with `steps`, decide the learning rate: a resumed run with others says how the rate jumps."""

MAY_CHANGE = (
    "training.steps",
    *(f"training.{name}" for name in LEARNING_RATE),
    *(f"training.updates.*.{name}" for name in LEARNING_RATE),
    "training.stop_after",
    "training.stop_after_minutes",
    "training.checkpoint_minutes",
    "training.keep_compiled",
    "training.profile_step",
    "training.profile_steps",
    "training.log_every",
    "training.checkpoint_every",
    "training.validate_every",
    "training.keep_last",
    "training.best_metric",
    "training.best_mode",
    "training.mesh",
    "training.fsdp_min_size",
    "training.sharding_rules",
    "data.embeddings",
    "data.train",  # the records are compared by their names and contents: the folder may have moved
    "data.pairs",
    "data.validation",
    "data.validation_pairs",
    "data.validation_count",
    "data.validation_preview",
    "data.threads",
    "logging",
)
"""Configuration paths, of knobs or whole sections, that may differ between a checkpoint and the run that resumes it;
'*' stands for any name."""

OF_A_HOST = (
    *("data.train", "data.pairs", "data.embeddings", "data.validation", "data.validation_pairs"),
    *("data.validation_preview", "data.threads", "logging"),
)
"""Configuration paths that may differ between the hosts of one run: places of files, and what one host does alone."""

LAYOUT = 2
"""Version of the layout of the training state. Layout 1 had no version number, the mutable state in the field `carry`
and the EMA of all groups."""


def check_layout(path: AnyPath, about: Mapping[str, Any]) -> None:
    """Refuse a checkpoint with another layout of the training state.

    Raises:
      ValueError: the message names the checkpoint at `path`.
    """
    layout = about.get("layout", 1)
    if layout != LAYOUT:
        raise ValueError(
            f"checkpoint {path} was written by another version of framer_jax (layout {layout} of the training state, "
            f"this version reads layout {LAYOUT}): use a new working folder, with the weights of this run as --init"
        )


def check_config(
    path: AnyPath,
    saved: dict[str, Any],
    present: dict[str, Any],
    may_change: Iterable[str] = MAY_CHANGE,
    migrate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Refuse a checkpoint whose configuration differs where it may not.

    Args:
      path: the checkpoint, for messages.
      saved: its configuration.
      present: the configuration of the run.
      may_change: configuration paths that may differ, as `MAY_CHANGE`. A knob that only one of the two has is no
        difference if its value is None, False, 0 or '', that is, switched off.
      migrate: turns the saved configuration into one of the present schema; raises ValueError if it cannot.

    Returns:
      The saved configuration in the present schema.

    Raises:
      ValueError: the message names the knobs that differ, with both values.
    """
    if migrate is not None:
        try:
            saved = migrate(saved)
        except ValueError as error:
            raise ValueError(f"checkpoint {path}: {error}") from error
    old, new = _knobs(saved), _knobs(present)
    may_change = tuple(may_change)
    differing = [
        name
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) and not _may_differ(name, old, new, may_change)
    ]
    if differing:
        changes = "; ".join(
            f"{name} {old.get(name, 'absent')!r} then, {new.get(name, 'absent')!r} now" for name in differing[:5]
        )
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(
            f"checkpoint {path} is of another configuration: {changes}{more}: "
            "restore these values, or use a new working folder"
        )
    return saved


def shared_by_hosts(config: Mapping[str, Any], data: Mapping[str, Any], places: Iterable[str]) -> str:
    """What all hosts of a run must have in common, as text.

    Args:
      config: configuration of this host.
      data: its `framer_jax.training.data_identity.data_identity`, or {}.
      places: configuration paths of files that may lie elsewhere on each host, besides `OF_A_HOST`.
    """
    may_differ = (*OF_A_HOST, *places)
    common = {
        name: value
        for name, value in _knobs(dict(config)).items()
        if not any(fnmatchcase(name, entry) or fnmatchcase(name, f"{entry}.*") for entry in may_differ)
    }
    return json.dumps([common, data], sort_keys=True, default=str)


def check_data(
    path: AnyPath, saved: Mapping[str, Any], present: Mapping[str, Any], file_names: Sequence[str] = ()
) -> None:
    """Refuse a checkpoint that was trained on other records.

    Args:
      path: the checkpoint, for messages.
      saved: its `framer_jax.training.data_identity.data_identity`, or {}.
      present: that of the run, or {}; contents are compared if both have them.
      file_names: the files of the present data in their order, by which the message names those that differ.

    Raises:
      ValueError: the number of records, their names, or the contents of the files differ.
    """
    if not saved or not present:
        return
    if any(saved.get(entry) != present.get(entry) for entry in ("records", "sha256")):
        raise ValueError(
            f"checkpoint {path} was trained on other records ({saved['records']} then, {present['records']} "
            "now, or other names): give the same data, or a new working folder"
        )
    if differing := differing_files(saved, present, file_names):
        raise ValueError(
            f"checkpoint {path} was trained on files of the same names and other contents ({differing}): give the same "
            "data, or a new working folder with the weights of this run as --init"
        )


def changed_settings(
    saved: Mapping[str, Any], present: Mapping[str, Any], names: Iterable[str]
) -> list[tuple[str, Any, Any]]:
    """Settings of the `training` section that differ: (full name, value then, value now).

    Args:
      saved: configuration of the checkpoint.
      present: configuration of the run.
      names: paths within the section, in which '*' stands for any name; those that only one of the two has are left
        out.
    """
    old, new = (_flat(config.get("training", {}), "training") for config in (saved, present))
    patterns = [f"training.{name}" for name in names]
    return [
        (name, old[name], new[name])
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name] and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _may_differ(name: str, old: dict[str, Any], new: dict[str, Any], may_change: Iterable[str]) -> bool:
    if any(fnmatchcase(name, entry) or fnmatchcase(name, f"{entry}.*") for entry in may_change):
        return True
    values = [config[name] for config in (old, new) if name in config]
    return len(values) == 1 and values[0] in (None, False, 0, "")


def _knobs(config: dict[str, Any]) -> dict[str, Any]:
    """Knob → value; of a mixture its shares alone, because the photographs are compared by their names and contents."""
    flat = _flat(config)
    if mixture := flat.get("data.mixture"):
        flat["data.mixture"] = [share for _, share in mixture]
    return flat


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat
