"""`framer-jax port --check`: compare the layers of an original network and of ours on the same input.

The weight map relates the layers of the original to ours, so every layer with parameters is compared, for new maps too;
framer_jax.commands.port_originals builds and calls the originals. The user names the folder that the original is
imported from; it needs PyTorch and whatever the original itself imports.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from framer_jax.checkpoints.networks import KINDS, build_network
from framer_jax.commands.port_originals import ORIGINALS
from framer_jax.porting.maps import StateDict, layer_pairs, to_torch
from framer_jax.porting.table import map_named

LARGEST_DIFFERENCE = 1e-4
"""Largest difference of a layer's output that passes, relative to its largest value, in float32; measured differences
are near 2e-6."""

INSTALLED = "installed"
"""The word that stands for a folder where the original is a package of this environment."""


class Difference(NamedTuple):
    """One layer's largest difference, relative to its largest value; `layer` is the original's name for it."""

    layer: str
    relative: float


def check(
    name: str,
    params: Mapping[str, Any],
    arguments: Mapping[str, Any],
    folder: str,
    assumed: Collection[str] = (),
) -> list[Difference]:
    """Run the original and ours with the same weights on the same random input.

    Args:
      name: name of the weight map.
      params: our parameters, without an enclosing group.
      arguments: constructor arguments of our module.
      folder: folder from which the original is imported, a clone of its repository; or `INSTALLED`.
      assumed: names of arguments that nothing states; the original must not be built from the same assumption.

    Returns:
      the differences of every layer with parameters, from the input on; the last one is the output's ('output').

    Raises:
      ValueError: there is no original to compare with, an argument that it is built from is assumed, a layer of it was
        not run, or a difference is large.
      ImportError: PyTorch or the original cannot be imported.
    """
    if name not in ORIGINALS:
        raise ValueError(f"--check knows no original of {name}; it knows those of {', '.join(ORIGINALS)}")
    if guessed := [argument for argument in ORIGINALS[name].built_from if argument in assumed]:
        listed = ", ".join(f"{argument} {arguments[argument]!r}" for argument in guessed)
        raise ValueError(
            f"--check: {listed} is assumed, and the original would be built from the same assumption: state it with "
            f"--set {guessed[0]}=VALUE, or in config.json"
        )
    state = to_torch(map_named(name), params, name, arguments)
    module = build_network(name, arguments)
    rng = np.random.default_rng(0)
    inputs = [_random_input(rng, shapes) for shapes in KINDS[name].inputs(module)]
    theirs, output = _run_original(name, state, arguments, inputs, folder)
    ours, result = _run_ours(name, module, params, inputs)
    pairs = layer_pairs(map_named(name), state)
    original = ORIGINALS[name]
    pairs = {layer: path for layer, path in pairs.items() if not re.search(original.unused, layer)}
    if silent := [layer for layer, path in pairs.items() if layer not in theirs or path not in ours]:
        raise ValueError(f"--check {folder}: {len(silent)} layers gave no output to compare, such as {silent[0]}")
    differences = [
        Difference(layer, _difference(*original.match(layer, ours[path], theirs[layer])))
        for layer, path in pairs.items()
    ]
    differences.append(Difference("output", _difference(result, output)))
    worst = max(differences, key=lambda difference: difference.relative)
    if not worst.relative <= LARGEST_DIFFERENCE:
        first = next(difference for difference in differences if not difference.relative <= LARGEST_DIFFERENCE)
        raise ValueError(
            f"{name} differs from its original: first at {first.layer} ({first.relative:.1e} of its largest value), "
            f"most at {worst.layer} ({worst.relative:.1e})"
        )
    return differences


def _random_input(rng: np.random.Generator, shapes: Any) -> Any:
    """An array, or a condition of arrays, in the order of its entries."""
    if isinstance(shapes, Mapping):
        return {name: _random_input(rng, shape) for name, shape in shapes.items()}
    return rng.uniform(-1, 1, shapes.shape).astype(np.float32)


def _run_original(
    name: str, state: StateDict, arguments: Mapping[str, Any], inputs: list[Any], folder: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outputs of the original's layers by name, in the order of their first call, and of the whole network."""
    if folder != INSTALLED and not Path(folder).is_dir():
        raise ValueError(f"--check {folder}: no such folder")
    try:
        import torch
    except ImportError as error:
        raise ImportError("--check needs PyTorch: pip install 'framer_jax[torch]'") from error
    try:
        with _importing_from(folder):
            module = ORIGINALS[name].make(arguments, state)
    except ImportError as error:
        remedy = ": pip install 'framer_jax[diffusers]'" if folder == INSTALLED else ""
        raise ImportError(f"--check {folder}: the original cannot be imported ({error}){remedy}") from error
    except TypeError as error:
        raise ValueError(f"--check {folder}: the original there is not the one of {name} ({error})") from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"--check {folder}: the original does not take the weights ({text[:300]})") from error
    outputs: dict[str, np.ndarray] = {}

    def keep(layer: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            if layer not in outputs and isinstance(output, torch.Tensor):
                outputs[layer] = output.numpy().copy()  # the next layer may work in place

        return hook

    for layer, part in module.named_modules():
        part.register_forward_hook(keep(layer))
    arrays = [array for value in inputs for array in (value.values() if isinstance(value, Mapping) else (value,))]
    tensors = [torch.from_numpy(np.ascontiguousarray(_channels_first(array))) for array in arrays]
    with torch.no_grad():
        output = ORIGINALS[name].call(module.eval(), *tensors)
    return outputs, output.numpy()


@contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    if folder == INSTALLED:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _run_ours(
    name: str, module: Any, params: Mapping[str, Any], inputs: list[Any]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outputs of our layers by path, and of the whole network."""

    def run(params: Any, *inputs: Any) -> Any:
        return module.apply({"params": params}, *inputs, method=ORIGINALS[name].ours, capture_intermediates=True)

    with jax.default_matmul_precision("highest"):
        result, state = cast(Any, jax.jit(run)(params, *inputs))
    outputs: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state["intermediates"]):
        if path[-2] == jax.tree_util.DictKey("__call__"):  # the first call of several
            outputs.setdefault(jax.tree_util.keystr(path[:-2], simple=True, separator="/"), np.asarray(leaf))
    return outputs, np.asarray(result)


def _channels_first(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest value; infinite if the sizes differ or anything is not finite."""
    if ours.size != theirs.size:
        return float("inf")
    # Tokens, and windows of them, lie in one axis there and in two or three here, in the same order.
    ours = _channels_first(ours) if theirs.ndim == 4 else ours
    largest = float(np.abs(ours.reshape(theirs.shape) - theirs).max())
    peak = max(float(np.abs(theirs).max()), float(np.finfo(np.float32).tiny))
    return largest / peak if np.isfinite(largest) and np.isfinite(peak) else float("inf")
