"""A fixture's model converted by its weight map, and compared with what the fixture's configuration says."""

from __future__ import annotations

from typing import Any

import numpy as np

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.porting.maps import to_flax
from framer_jax.porting.table import MAPS
from framer_jax.trees import check_same_structure
from tools.parity.cases import Case
from tools.parity.configurations import UnsupportedError


def port_model(case: Case, model: str, name: str, expected: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Convert a model of the fixture with the weight map `name`, and build the module: (params, module).

    Args:
      case: the fixture.
      model: name of its group of weights.
      name: the weight map.
      expected: constructor arguments by the fixture's configuration.

    Raises:
      UnsupportedError: the weight map or the module does not take the model.
      ContradictionError: the weight map infers other arguments from the tensors than the configuration states.
    """
    return port_state(case.weights[model], f"{case.family}/{model}", name, expected)


def port_state(
    state: dict[str, np.ndarray], source: str, name: str, expected: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """As `port_model`, for any state dict; `source` names it in errors."""
    weights = MAPS[name]
    try:
        params, inferred, _ = to_flax(weights, state, source)
    except ValueError as error:
        raise UnsupportedError(str(error)) from error
    # What the tensors do not tell is the configuration's, and the position table's where it is stored.
    left_open = (*weights.assumed(state, inferred), *weights.linked, *weights.constants, *FOLLOWING.get(name, ()))
    differing = [
        f"{argument} {inferred[argument]!r} instead of {value!r}"
        for argument, value in expected.items()
        if argument in inferred and argument not in left_open and inferred[argument] != value
    ]
    if differing:
        raise ContradictionError(f"{source}: the weight map {name} infers {', '.join(differing)}")
    try:
        module = build_network(name, {**inferred, **expected})
        check_same_structure(params, network_shapes(name, module), source)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UnsupportedError(" ".join(str(error).split())) from error
    return params, module


FOLLOWING = {"resshift_unet": ("condition_size",)}
"""Weight map → arguments that follow from those that tensors do not tell."""


class ContradictionError(Exception):
    """A weight map infers something else than the configuration of the fixture states; one line."""
