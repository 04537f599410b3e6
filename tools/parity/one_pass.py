"""Fixtures of the plain generators: RRDBNet in its three namings, and SRVGGNetCompact."""

from __future__ import annotations

import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.porting.maps import layer_pairs
from framer_jax.porting.table import MAPS
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import rrdbnet_arguments, srvgg_arguments
from tools.parity.ported import apply_and_capture
from tools.parity.porting import port_model

RRDB = r"(?:body|RRDB_trunk)\.(\d+)"

BLOCKS = {
    "rrdbnet": {rf"{RRDB}\.(?:rdb|RDB)(\d)": r"block_\1/dense_\2", RRDB: r"block_\1"},
    "srvgg": {r"body\.(\d+)\.weight": r"body_\1/slope", r"body\.(\d+)": r"body_\1"},
}
"""Weight map → regex of a name in the original that is no layer with a kernel → its path in ours; the first one that
matches."""


def rrdbnet_family(case: Case, options: Options) -> Outputs:
    """Outputs of every call, of inner blocks for the first one, and gradients of the mean square of its output."""
    params, model = port_model(case, "model", "rrdbnet", rrdbnet_arguments(case.config))
    yield from one_pass_outputs(case, "rrdbnet", case.weights["model"], model, params)


def srvgg_family(case: Case, options: Options) -> Outputs:
    """As `rrdbnet_family`."""
    params, model = port_model(case, "model", "srvgg", srvgg_arguments(case.config))
    yield from one_pass_outputs(case, "srvgg", case.weights["model"], model, params)


def one_pass_outputs(
    case: Case, name: str, state: dict[str, np.ndarray], model: Any, params: dict[str, Any]
) -> Outputs:
    """The outputs and gradients of a fixture whose inputs are in/x0, in/x1, …

    Args:
      case: the fixture.
      name: the weight map.
      state: the checkpoint, whose names those of the fixture's inner outputs and gradients are.
      model: our module.
      params: its parameters.
    """
    for input_name in (each for each in case.arrays if each.startswith("in/x")):
        (y, _), inner = apply_and_capture(model, params, channels_last(case.arrays[input_name]))
        yield input_name.replace("in/x", "out/y"), channels_first(y)
        if input_name == "in/x0":
            yield from inner_outputs(case, name, state, inner)

    def loss(params: dict[str, Any], image: jax.Array) -> jax.Array:
        return jnp.square(cast(Any, model.apply({"params": params}, image))[0]).mean()

    image = channels_last(case.arrays["in/x0"])
    value, (gradient, image_gradient) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, image)
    yield "grad/loss", value
    yield "grad/x0", channels_first(image_gradient)
    for entry in (each for each in case.arrays if each.startswith("grad/") and each[5:] in state):
        leaf = np.asarray(_at(gradient, _leaf_path(name, state, entry.removeprefix("grad/"))))
        yield entry, np.moveaxis(leaf, (-1, -2), (0, 1)) if leaf.ndim > 1 else leaf


def inner_outputs(case: Case, name: str, state: dict[str, np.ndarray], inner: dict[str, Any]) -> Outputs:
    """The outputs of the layers and blocks whose outputs a fixture holds."""
    layers = layer_pairs(MAPS[name], state)
    for entry in case.arrays:
        prefix, _, layer = entry.partition("/")
        if prefix in ("hid", "hidsub"):
            path = layers.get(layer) or _block_path(name, layer)
            yield entry, channels_first(_at(inner, path)["__call__"][0])


def _leaf_path(name: str, state: dict[str, np.ndarray], key: str) -> str:
    """Path of the parameter that a key of the checkpoint is carried to."""
    layer, _, tensor = key.rpartition(".")
    if path := layer_pairs(MAPS[name], state).get(layer):
        return f"{path}/{'kernel' if tensor == 'weight' else 'bias'}"
    return _block_path(name, key)


def _block_path(name: str, text: str) -> str:
    for pattern, template in BLOCKS[name].items():
        if match := re.fullmatch(pattern, text):
            return match.expand(template)
    raise KeyError(text)


def _at(tree: dict[str, Any], path: str) -> Any:
    for part in path.split("/"):
        tree = tree[part]
    return tree
