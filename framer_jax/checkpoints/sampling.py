"""Overrides of a trained model's sampler: steps, guidance and prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from framer_jax.recipes.method import Config, KnobPath
from framer_jax.recipes.table import METHODS, method_of


class Sampling(NamedTuple):
    """Overrides of the sampler that a configuration describes; None for no override.

    Attributes:
      steps: number of sampling steps.
      guidance: scale of classifier-free guidance.
      mean_share: share of the one-step mean in the image.
      prompt_embedding: path of the prompt's embedding, one for all images.
      negative_embedding: path of the negative prompt's embedding, which guidance leads away from.
      pixel_scale: factor of the effect of a pixel-level LoRA.
      semantic_scale: factor of the effect of a semantic-level LoRA.
    """

    steps: int | None = None
    guidance: float | None = None
    mean_share: float | None = None
    prompt_embedding: str | None = None
    negative_embedding: str | None = None
    pixel_scale: float | None = None
    semantic_scale: float | None = None


UNCHANGED = Sampling()


def sampling_values(config: Config, sampling: Sampling) -> dict[KnobPath, Any]:
    """The knobs of a recipe's configuration that overrides change → their values.

    Raises:
      ValueError: the method has no such knob, or the value is not legal.
    """
    method = method_of(config)
    values: dict[KnobPath, Any] = {}
    for name, value in sampling._asdict().items():
        if value is None:
            continue
        words = name.replace("_", " ")
        if name not in method.sampling_overrides:
            others = ", ".join(other.name for other in METHODS if name in other.sampling_overrides)
            raise ValueError(
                f"{words} {value!r}: recipe {method.name!r} has no such setting (it is for {others}): omit it"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{words} must be a finite number, not {value!r}")
        is_path = name.endswith("embedding")
        if is_path and not str(value):
            raise ValueError(f"{words} is empty: give a file, or omit it")
        values[method.sampling_overrides[name]] = str(value) if is_path else value
    return values


def knob_names(values: Mapping[KnobPath, Any]) -> dict[str, Any]:
    """Overridden knobs by their full names."""
    return {".".join(("recipe", *path)): value for path, value in values.items()}
