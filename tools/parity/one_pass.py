"""Fixtures of the plain generators: RRDBNet in its three namings, SRVGGNetCompact, and both with real weights."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.porting.maps import StateDict, layer_pairs
from framer_jax.porting.ncnn import read_ncnn
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import read_state
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import UnsupportedError, rrdbnet_arguments, srvgg_arguments
from tools.parity.ported import apply_and_capture
from tools.parity.porting import ContradictionError, port_model, port_state
from tools.parity.real_weights import find_weights

RRDB = r"(?:body|RRDB_trunk)\.(\d+)"

BLOCKS = {
    "rrdbnet": {rf"{RRDB}\.(?:rdb|RDB)(\d)": r"block_\1/dense_\2", RRDB: r"block_\1"},
    "srvgg": {r"body\.(\d+)\.weight": r"body_\1/slope", r"body\.(\d+)": r"body_\1"},
}
"""Weight map → regex of a name in the original that is no layer with a kernel → its path in ours; the first one that
matches."""

REAL = {"rrdb": ("rrdbnet", rrdbnet_arguments), "srvgg": ("srvgg", srvgg_arguments)}
"""`net` of a fixture with real weights → its weight map, and what its configuration means."""

TABLE_ERROR = 1e-5
"""Largest difference of a sum in a fixture's table of tensors, relative to the sum of absolute values."""

EVERY = 3
"""Outputs whose name ends with 'every3' have every third row and column."""


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


def realesrgan_real_family(case: Case, options: Options) -> Outputs:
    """Outputs, blends with the weak-denoise twin, inner outputs, and gradients of the mean square of the output."""
    net = case.config["net"]
    if net not in REAL:
        raise UnsupportedError(f"net {net!r} is not supported, only {' and '.join(REAL)}")
    name, arguments_of = REAL[net]
    states = _real_states(find_weights(case.real_weights, options.weights))
    main = next(iter(states))
    if "weight_table/model" in case.arrays:
        check_weight_table(case.arrays["weight_table/model"], states[main])
    expected, image = arguments_of(case.config), channels_last(case.arrays["in/x"])
    params, model = port_state(states[main], main, name, expected)
    (y, _), inner = apply_and_capture(model, params, image)
    yield "out/y" if main == "model" else f"out/{main}", channels_first(y)
    yield from inner_outputs(case, name, states[main], inner)
    yield from _square_gradient(model, params, image)
    if "wdn" in states:
        twin, _ = port_state(states["wdn"], "wdn", name, expected)
        yield from _blends(model, params, twin, image, case.config["strengths"])


def _blends(
    model: Any, general: dict[str, Any], wdn: dict[str, Any], image: jax.Array, strengths: Sequence[float]
) -> Outputs:
    """Outputs of the twin alone and of s · general + (1 - s) · wdn for every denoise strength s."""
    apply = jax.jit(lambda params: cast(Any, model.apply({"params": params}, image))[0][:, ::EVERY, ::EVERY])
    yield f"out/wdn_every{EVERY}", channels_first(apply(wdn))
    for strength in strengths:
        share = np.float32(strength)
        blend = jax.tree.map(lambda one, other, share=share: share * one + (1 - share) * other, general, wdn)
        yield f"out/dni_{strength:g}_every{EVERY}", channels_first(apply(blend))


def _square_gradient(model: Any, params: dict[str, Any], image: jax.Array) -> Outputs:
    """Gradients of the mean square of the output, in float64: rounding moves activations across the kinks of ReLU."""
    exact = model.clone(dtype=jnp.float64)

    def loss(params: dict[str, Any], image: jax.Array) -> jax.Array:
        return jnp.square(cast(Any, exact.apply({"params": params}, image))[0]).mean()

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(loss, argnums=1))(params, image)
        yield "grad/loss", value
        yield "grad/x", channels_first(gradient)


def _real_states(files: Mapping[str, Path]) -> dict[str, StateDict]:
    """Name → tensors of the networks of a fixture: 'model' of a pair of ncnn's files, or one for every file."""
    if set(files) != {"param", "bin"}:
        return {name: read_state(path)[0] for name, path in files.items()}
    with tempfile.TemporaryDirectory() as folder:  # files out of a package do not have one name
        for suffix, path in files.items():
            shutil.copy(path, Path(folder) / f"model.{suffix}")
        return {"model": read_ncnn(Path(folder) / "model.param")}


def check_weight_table(table: np.ndarray, state: StateDict) -> None:
    """Compare tensors with a fixture's table of them.

    Args:
      table: lines of name, shape, sum, first number and sum of absolute values, with tabs between them.
      state: the tensors.

    Raises:
      ContradictionError: a tensor is missing, not in the table, or another one.
    """
    rows = {key: values for key, *values in (str(line).split("\t") for line in table)}
    if rows.keys() != state.keys():
        raise ContradictionError(f"the tensor {min(rows.keys() ^ state.keys())} is in the file or in the table only")
    for key, (shape, total, first, magnitude) in rows.items():
        tensor = np.asarray(state[key], np.float64)
        error = abs(tensor.sum() - float(total)) + abs(np.abs(tensor).sum() - float(magnitude))
        same = ",".join(map(str, tensor.shape)) == shape and np.isclose(float(first), tensor.flat[0], rtol=1e-6)
        if not same or error > TABLE_ERROR * float(magnitude):
            raise ContradictionError(f"the tensor {key} is not that of the fixture's table")


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
