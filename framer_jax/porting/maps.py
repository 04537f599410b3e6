"""Maps between the names of a PyTorch checkpoint and those of our parameters.

A map is a table of rules, one per kind of layer: `Rule("layers.{i}.attn.qkv", "layer_{i}/attention/qkv", KERNEL)`.
`{i}` stands for a number and means the same on both sides. Nothing is skipped silently: a tensor that no rule and no
entry of `dropped` names is an error. A new model is one more table in a file of its own and a line in
framer_jax.porting.table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from framer_jax.porting.weights import flatten_names, nest_names

State = dict[str, np.ndarray]
"""A flat PyTorch state dict: key → array in PyTorch's layout."""


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a layer: what it is called on both sides, and whether its channel axes change places."""

    torch: str
    flax: str
    transposed: bool = False


KERNEL = (TensorRule(".weight", "/kernel", True), TensorRule(".bias", "/bias"))
"""A convolution or linear layer: (out, in, …) ↔ (…, in, out)."""

NORM = (TensorRule(".weight", "/scale"), TensorRule(".bias", "/bias"))
"""A norm with an affine map."""

TENSOR = (TensorRule("", ""),)
"""A single tensor, as it is."""

WEIGHT = (TensorRule("", "", True),)
"""A single convolution or linear weight."""


@dataclass(frozen=True)
class Rule:
    """One kind of layer.

    Attributes:
      torch: the layer's name in the checkpoint, with placeholders such as {i} for numbers.
      flax: ours, with '/' between groups and the same placeholders.
      tensors: KERNEL, NORM, TENSOR or WEIGHT.
    """

    torch: str
    flax: str
    tensors: tuple[TensorRule, ...] = KERNEL


def one_variant(arguments: Mapping[str, Any]) -> str:
    """For families whose members differ in nothing that would need words."""
    return ""


def no_buffers(state: State, arguments: Mapping[str, Any]) -> State:
    """For models whose state dict holds parameters only."""
    return {}


def as_told(arguments: dict[str, Any], state: State, config: Mapping[str, Any]) -> dict[str, Any]:
    """For models whose tensors tell everything that a config.json would."""
    return arguments


def nothing_repeated(state: State) -> tuple[str, ...]:
    """For models that compute none of their parameters."""
    return ()


@dataclass(frozen=True)
class WeightMap:
    """How one family of checkpoints becomes ours, and back.

    Attributes:
      name: what the command line calls it.
      rules: of several rules for the same layer of ours, the first is the one on the way back.
      arguments: (checkpoint) → constructor arguments of our module; only keys and shapes matter, apart from constants
        of the design. A KeyError says that a layer is missing.
      repeated: (checkpoint) → keys with a rule that are dropped all the same: what they hold, the model computes
        itself.
      dropped: keys that are known and not needed, with placeholders: constants that the model computes itself.
      buffers: (checkpoint without them, arguments) → the dropped entries that the original insists on when it loads.
      folder: name of the model's folder in a pipeline's of Diffusers; '' if there are no such folders of it.
      configured: (arguments from the tensors, checkpoint, config.json beside it) → arguments, with those that only the
        latter tells. A ValueError says that they contradict each other.
      configuration: (arguments) → config.json for Diffusers, the inverse of `configured`; None if there are no such
        folders of it.
      group: name of the group that holds these parameters in a trained model of ours; '' if it has none.
      describe: (arguments) → which of the family's variants a checkpoint is, in a few words, or ''.
    """

    name: str
    rules: tuple[Rule, ...]
    arguments: Callable[[State], dict[str, Any]]
    dropped: tuple[str, ...] = ()
    buffers: Callable[[State, Mapping[str, Any]], State] = no_buffers
    repeated: Callable[[State], tuple[str, ...]] = nothing_repeated
    folder: str = ""
    configured: Callable[[dict[str, Any], State, Mapping[str, Any]], dict[str, Any]] = as_told
    configuration: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    group: str = ""
    describe: Callable[[Mapping[str, Any]], str] = one_variant


def to_flax(weights: WeightMap, state: State, source: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """A PyTorch state dict in our names and layout.

    Args:
      weights: the map.
      state: float32 tensors (and the map's dropped buffers, of any type).
      source: what errors call it, usually a path.

    Returns:
      (parameters, constructor arguments of our module, keys that were dropped).

    Raises:
      ValueError: names the keys that the map does not know; or two tensors for one parameter, a tensor that is not
        float32, or layers missing so that the arguments cannot be told. (Whether every parameter is there is
        for `check_same_structure` to say, with the module.)
    """
    found, unknown = _translate(state, _patterns(weights, "torch", "flax"))
    dropped = [key for key in unknown if any(re.fullmatch(_regex(text), key) for text in weights.dropped)]
    _refuse_unknown(weights, source, [key for key in unknown if key not in set(dropped)], len(state))
    leaves: dict[str, np.ndarray] = {}
    repeated = weights.repeated(state)
    for key, (name, transposed) in found.items():
        if key in repeated:
            dropped.append(key)
            continue
        if name in leaves:
            raise ValueError(f"{source}: two tensors for {name!r}, one of them {key!r}; give each layer once")
        if state[key].dtype != np.float32:
            raise ValueError(f"{source}: {key!r} has dtype {state[key].dtype}, expected float32")
        if transposed and state[key].ndim < 2:
            raise ValueError(f"{source}: {key!r} has shape {state[key].shape}, expected a matrix or a kernel")
        leaves[name] = np.moveaxis(state[key], (0, 1), (-1, -2)) if transposed else state[key]
    try:
        arguments = weights.arguments(state)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{source}: incomplete as {weights.name}: it lacks {error}") from error
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{source}: the shapes of its tensors do not make one {weights.name} ({error})") from error
    return nest_names(leaves), arguments, dropped


def to_torch(
    weights: WeightMap, params: Mapping[str, Any], source: str, arguments: Mapping[str, Any] | None = None
) -> State:
    """Our parameters in PyTorch's names and layout: the exact inverse of `to_flax`, with the map's buffers.

    Args:
      weights: the map.
      params: nested mappings of arrays, or a trained model's {group: …} around them.
      source: what errors call them.
      arguments: of our module, if known; otherwise they are told from the shapes.

    Raises:
      ValueError: as `to_flax`.
    """
    if weights.group and set(params) == {weights.group}:
        params = params[weights.group]
    leaves = flatten_names(params)[0]
    found, unknown = _translate(leaves, _patterns(weights, "flax", "torch"))
    _refuse_unknown(weights, source, unknown, len(leaves))
    state = {}
    for name, (key, transposed) in found.items():
        value = np.asarray(leaves[name])
        state[key] = np.ascontiguousarray(np.moveaxis(value, (-1, -2), (0, 1)) if transposed else value)
    try:
        return state | weights.buffers(state, arguments or weights.arguments(state))
    except (KeyError, IndexError) as error:
        raise ValueError(f"{source}: incomplete as {weights.name}: it lacks {error}") from error


def torch_names(weights: WeightMap, params: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Name of each parameter of ours that the map knows → (its key in PyTorch, whether its axes change places)."""
    return _translate(flatten_names(params)[0], _patterns(weights, "flax", "torch"))[0]


def fraction_known(weights: WeightMap, state: State) -> float:
    """Which part of the keys of a checkpoint the map has a rule for."""
    return len(_translate(state, _patterns(weights, "torch", "flax"))[0]) / max(1, len(state))


def count_of(state: State, template: str) -> int:
    """How many of template.format(0), template.format(1), … the checkpoint holds."""
    return next(index for index in count() if template.format(index) not in state)


def layer_pairs(weights: WeightMap, state: State) -> dict[str, str]:
    """The checkpoint's layers with a weight → the paths of our modules, in the checkpoint's order."""
    kernels = tuple((tensor.torch, tensor.flax) for tensors in (KERNEL, NORM) for tensor in tensors[:1])
    pairs = {}
    for key, (name, _) in _translate(state, _patterns(weights, "torch", "flax"))[0].items():
        for theirs, ours in kernels:
            if key.endswith(theirs) and name.endswith(ours):
                pairs[key.removesuffix(theirs)] = name.removesuffix(ours)
    return pairs


def _regex(text: str) -> str:
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(text))


def _patterns(weights: WeightMap, source: str, target: str) -> list[tuple[re.Pattern[str], str, bool]]:
    """(pattern of a name, template of its name on the other side, whether it is transposed) per tensor."""
    return [
        (
            re.compile(_regex(getattr(rule, source) + getattr(tensor, source))),
            getattr(rule, target) + getattr(tensor, target),
            tensor.transposed,
        )
        for rule in weights.rules
        for tensor in rule.tensors
    ]


def _translate(
    names: Iterable[str], patterns: list[tuple[re.Pattern[str], str, bool]]
) -> tuple[dict[str, tuple[str, bool]], list[str]]:
    """Name → (its name on the other side, whether it is transposed), and the names that no pattern fits."""
    found, unknown = {}, []
    for name in names:
        for pattern, template, transposed in patterns:
            if match := pattern.fullmatch(name):
                found[name] = (template.format(**match.groupdict()), transposed)
                break
        else:
            unknown.append(name)
    return found, unknown


def _refuse_unknown(weights: WeightMap, source: str, unknown: list[str], total: int) -> None:
    if unknown:
        listed = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        raise ValueError(f"{source} is not {weights.name}: {len(unknown)} of {total} names are unknown to it: {listed}")
