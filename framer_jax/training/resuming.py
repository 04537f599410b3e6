"""What changes when a run is resumed with other settings, in words: the learning rate, and what 'best' means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from framer_jax.training.checkpoint import Restored
from framer_jax.training.compatibility import LEARNING_RATE, changed_settings
from framer_jax.training.optimizer import learning_rate_schedule
from framer_jax.training.settings import TrainingSettings

RATE_SETTINGS = ("steps", *LEARNING_RATE)
"""Settings that decide the learning rate."""


def resumed(restored: Restored, settings: TrainingSettings, updates: Sequence[str]) -> Restored:
    """A restored checkpoint with notes on what other settings change.

    If another metric decides which validation is the best, or in another direction, the best one so far is forgotten.

    Args:
      restored: the checkpoint.
      settings: settings of the run.
      updates: names of the recipe's updates.
    """
    saved, present = restored.saved_config, restored.metadata.config
    notes = [*restored.notes, *_rate_notes(saved, present, settings, updates, restored.step)]
    metadata = restored.metadata
    changes = changed_settings(saved, present, ("best_metric", "best_mode"))
    if changes and metadata.best:
        metadata = metadata._replace(best={})
        notes.append(f"{_listed(changes)}: the best validation so far no longer counts")
    return restored._replace(metadata=metadata, notes=tuple(notes))


def _rate_notes(
    saved: dict[str, Any], present: dict[str, Any], settings: TrainingSettings, updates: Sequence[str], step: int
) -> list[str]:
    """How the learning rate of each update jumps at a step because of other settings."""
    former, old = saved.get("training", {}), dict(saved.get("training", {}).get("updates", {}))
    changes = changed_settings(saved, present, (*RATE_SETTINGS, *(f"updates.*.{name}" for name in RATE_SETTINGS)))
    if not changes and old == dict(present.get("training", {}).get("updates", {})):
        return []
    values = {name: former[name] for name in RATE_SETTINGS if name in former}
    try:
        before = replace(settings, **values, updates={name: old[name] for name in updates if name in old})
        rates = {name: (_rate(before, name, step), _rate(settings, name, step)) for name in updates}
    except (TypeError, ValueError):  # the settings of a version that knew others
        return [f"{_listed(changes)}: the learning rate may jump"] if changes else []
    several = len(updates) > 1
    jumps = [
        f"the learning rate of step {step + 1}{f' of update {name}' * several} "
        + (f"jumps from {old:.4g} to {new:.4g}" if old != new else f"stays {new:.4g}")
        for name, (old, new) in rates.items()
    ]
    return [f"{_listed(changes) or 'training.updates'}: {', '.join(jumps)}"]


def _rate(settings: TrainingSettings, update: str, step: int) -> float:
    return float(learning_rate_schedule(settings.for_update(update))(jnp.int32(step)))


def _listed(changes: Sequence[tuple[str, Any, Any]]) -> str:
    return "; ".join(f"{name} {old!r} then, {new!r} now" for name, old, new in changes)
