"""Which validation metric chooses the best checkpoint, checked before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from framer_jax.training.settings import TrainingSettings

DEFAULT = TrainingSettings.best_metric


def metric_names(validate: Callable[..., Any] | None) -> Sequence[str] | None:
    """The names that `training.best_metric` may have; None for a validation function that does not state them.

    A function states them as its attribute `names`. It may leave out a metric of these that is undefined at a step.
    """
    names: Sequence[str] | None = getattr(validate, "names", None)
    return names


def check_best_metric(settings: TrainingSettings, validate: Callable[..., Any] | None) -> str:
    """A note on a `training.best_metric` without effect, '' if there is nothing to note.

    Args:
      settings: settings of the run.
      validate: its validation function, None if there is no validation. Its attribute `left_out`, if it has one, says
        which metrics it cannot compute.

    Raises:
      ValueError: the function states the names of its metrics, and this is none of them.
    """
    name = settings.best_metric
    if not name:
        return ""
    if validate is None:
        # Every configuration has the default: only a metric that somebody chose is worth a note.
        return "" if name == DEFAULT else f"training.best_metric {name!r} has no effect: there is no validation"
    names = metric_names(validate)
    if names is None or name in names:
        return ""
    raise ValueError(
        f"training.best_metric {name!r} is not a metric of validation: use one of {', '.join(names)}, or None for no "
        f"best checkpoint{getattr(validate, 'left_out', '')}"
    )
