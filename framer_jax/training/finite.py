"""What a run says when numbers are not finite: which step, what was the first to be, and what the cause may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from framer_jax.recipes.base import Recipe
from framer_jax.training.sharding import leaf_name
from framer_jax.trees import check_finite


class NonFiniteError(ArithmeticError):
    """A loss, a gradient, a parameter or the mutable state became NaN or infinite."""


def check_weights(recipe: Recipe, initial_params: Mapping[str, Any] | None) -> None:
    """Refuse weights with NaN or infinity before the first step, which otherwise would be blamed on the data.

    Raises:
      ValueError: the message names the array.
    """
    for tree, source in ((initial_params, "the weights that training starts from"), (recipe.frozen, "frozen weights")):
        leaves = jax.tree_util.tree_leaves_with_path(tree or {})
        check_finite({leaf_name(path): leaf for path, leaf in leaves}, source)


def message(
    step: int, losses: Mapping[str, Any], averages: Mapping[str, Any], records: str, saved: str, first: bool, cause: str
) -> str:
    """One line about the first step whose numbers are not finite.

    Args:
      step: the step.
      losses: update → its loss.
      averages: the metrics of the step (clu averages), among them the norms of gradients.
      records: names of the records of its batch.
      saved: words about the last checkpoint.
      first: whether no update was made before, so that parameters cannot have diverged.
      cause: settings that differ from their defaults, in words; '' if unknown.
    """
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    norms = [average.compute() for name, average in averages.items() if name.endswith("grad_norm") and average.count]
    if not np.isfinite(list(losses.values())).all():
        culprit = "loss"
    elif not np.isfinite(norms).all():
        culprit = "gradient"
    else:
        culprit = "parameter or mutable state"
    text = f"{culprit} is NaN or infinite at step {step} (loss {values})"
    if not first:
        return f"{text}; records {records}; {saved}"
    if culprit == "parameter or mutable state":
        hint = "loss and gradient were finite, so look at the optimizer's settings (training.learning_rate, …) first"
    else:
        hint = "no update was made yet, so a setting or the weights that training starts from are the likely cause"
    changed = f"; settings that differ from their defaults: {cause}" if cause else ""
    return f"{text}, the first step: {hint}{changed}; records {records}; {saved}"


def record_names(records: Any, names: Sequence[str] | None) -> str:
    """Names of the records of a batch, for messages."""
    if records is None:
        return "unknown (batches have no 'record')"
    names = names if names is not None else ()
    return ", ".join(names[i] if 0 <= i < len(names) else f"#{i}" for i in records.reshape(-1).tolist())
