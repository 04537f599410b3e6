"""What may be changed of a trained model's sampler when a picture is made: steps, guidance and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from framer_jax.recipes.text import AVOIDED, WANTED
from framer_jax.recipes.weights_by_path import Config, Place


class Sampling(NamedTuple):
    """Changes of the sampler that a configuration describes; None leaves what it says.

    Attributes:
      steps: of the sampler.
      guidance: factor of classifier-free guidance.
      prompt_embedding: path of the embedding of what is asked of every picture.
      negative_embedding: path of the embedding that guidance leads away from.
    """

    steps: int | None = None
    guidance: float | None = None
    prompt_embedding: str | None = None
    negative_embedding: str | None = None


UNCHANGED = Sampling()

PLACES: Mapping[str, Mapping[str, Place]] = {
    "steps": {name: (name, "sampling_steps") for name in ("resshift", "flow", "dit4sr")},
    "guidance": {"dit4sr": ("dit4sr", "guidance")},
    "prompt_embedding": dict.fromkeys(("dit4sr", "tsd_sr"), ("text", WANTED)),
    "negative_embedding": {"dit4sr": ("text", AVOIDED)},
}
"""Field of Sampling → recipe → where in its configuration it is; recipes without such a place do not have it."""


def places_of(config: Config, sampling: Sampling) -> dict[Place, Any]:
    """Where in a recipe's configuration something changes → to what.

    Raises:
      ValueError: the recipe has no such setting, or not with such a value.
    """
    found: dict[Place, Any] = {}
    for field, value in sampling._asdict().items():
        if value is None:
            continue
        places, name = PLACES[field], config["name"]
        if name not in places:
            raise ValueError(
                f"{field.replace('_', ' ')} {value!r}: recipe {name!r} has no such setting, leave it out "
                f"(it is for {', '.join(places)})"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field} must be a finite number, not {value!r}")
        if field.endswith("embedding") and not str(value):
            raise ValueError(f"{field.replace('_', ' ')} is empty: give a file, or leave it out")
        found[places[name]] = str(value) if field.endswith("embedding") else value
    return found


def changed(config: Config, places: Mapping[Place, Any]) -> dict[str, Any]:
    """The configuration of a recipe with other values at some places."""
    result = dict(config)
    for (section, key), value in places.items():
        result[section] = {**result[section], key: value}
    return result
