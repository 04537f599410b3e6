"""Maps between the names of a PyTorch checkpoint and those of our parameters.

A map is a table of rules, one per kind of layer: `Rule("layers.{i}.attn.qkv", "layer_{i}/attention/qkv", KERNEL)`.
`{i}` stands for a number, the same on both sides, `{even}` and `{odd}` for an even and an odd one. No tensor is skipped
silently: one that matches no rule and no entry of `dropped` is an error. A new model needs one more table, in its own
file, and a line in framer_jax.porting.table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.trees import flatten_names, nest_names

ANY_NUMBER, NUMBERS = r"\d+", {"even": r"\d*[02468]", "odd": r"\d*[13579]"}
"""Pattern of a placeholder, and those of placeholders with certain names."""

StateDict = dict[str, np.ndarray]
"""A flat PyTorch state dict: key → array in PyTorch's layout."""


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a layer: its suffixes on both sides, and whether its channel axes are transposed."""

    torch: str
    flax: str
    transposed: bool = False


KERNEL = (TensorRule(".weight", "/kernel", True), TensorRule(".bias", "/bias"))
"""A convolution or linear layer: (out, in, …) ↔ (…, in, out)."""

NORM = (TensorRule(".weight", "/scale"), TensorRule(".bias", "/bias"))
"""A norm with scale and bias."""

TENSOR = (TensorRule("", ""),)
"""A single tensor, unchanged."""

WEIGHT = (TensorRule("", "", True),)
"""A single convolution or linear weight."""


@dataclass(frozen=True)
class Rule:
    """One kind of layer.

    Attributes:
      torch: name of the layer in the checkpoint, with placeholders such as {i} for numbers.
      flax: name in our parameters, with '/' between groups and the same placeholders.
      tensors: KERNEL, NORM, TENSOR or WEIGHT.
    """

    torch: str
    flax: str
    tensors: tuple[TensorRule, ...] = KERNEL


def no_description(arguments: Mapping[str, Any]) -> str:
    """Default of `WeightMap.describe`."""
    return ""


def no_buffers(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """Default of `WeightMap.buffers`."""
    return {}


def no_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Default of `WeightMap.read_config`: there is no config.json of such a network."""
    return {}


def nothing_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Default of `WeightMap.assumed`: the tensors determine all arguments."""
    return ()


def with_values(arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    """Default of `WeightMap.settle`: no argument follows from another."""
    return {**arguments, **stated}


def as_given(paths: Sequence[str | os.PathLike[str]], stated: Mapping[str, Any]) -> list[Path]:
    """Default of `WeightMap.files`."""
    return [Path(path) for path in paths]


def same_tensors(state: StateDict) -> StateDict:
    """Default of `WeightMap.folder_tensors`: a folder has the names of the map."""
    return state


def same_key(key: str, arguments: Mapping[str, Any]) -> str:
    """Default of `WeightMap.original_key`."""
    return key


def nothing_computed(state: StateDict) -> tuple[str, ...]:
    """Default of `WeightMap.computed`."""
    return ()


@dataclass(frozen=True)
class WeightMap:
    """Conversion of one family of checkpoints to our parameters, and back.

    Attributes:
      name: name on the command line.
      rules: of several rules for one layer of ours, the first is used for the conversion back.
      arguments: (checkpoint) → constructor arguments of our module; only keys and shapes matter, apart from constants
        of the architecture. A KeyError means that a layer is missing.
      dropped: known keys that are not needed, with placeholders: constants that the model computes itself.
      buffers: (checkpoint without them, arguments) → the dropped entries that the original requires when it loads.
      computed: (checkpoint) → keys that are dropped although they have a rule, as the model computes their values.
      files: (paths of a checkpoint, arguments that are expected of it) → its files, where a folder of another layout
        than that of Diffusers stands for several.
      original_key: (key by the first rule, arguments) → its name in the original code that has a network of these
        arguments, where different code bases name the same layers differently.
      folder: name of the model's folder in a Diffusers pipeline; '' if there are no such folders.
      assumed: (checkpoint, its arguments) → names of those that its tensors do not determine, whose values are those of
        published models; see framer_jax.porting.stated.
      linked: those of them of which each follows from any other.
      constants: arguments that config.json may state otherwise, because a stored tensor takes precedence.
      settle: (arguments, stated values of some of the assumed ones, checkpoint) → arguments, with those that follow.
      read_config: (config.json, its name in errors) → the arguments that it states. A ValueError names a setting that
        our module does not have.
      config_class: `_class_name` in such a config.json; '' if there is none.
      make_config: (arguments) → config.json for Diffusers, the inverse of `read_config`; None if there are no such
        folders.
      folder_tensors: (tensors in the map's names) → those of such a folder, where a file's names are others.
      folder_stem: stem of the weights file in such a folder that is written.
      group: name of the group that holds these parameters in a trained model of ours; '' if there is none.
      describe: (arguments) → which variant of the family a checkpoint is, in a few words, or ''.
      fixed_arguments: constructor arguments for which the original code has only this value.
    """

    name: str
    rules: tuple[Rule, ...]
    arguments: Callable[[StateDict], dict[str, Any]]
    dropped: tuple[str, ...] = ()
    buffers: Callable[[StateDict, Mapping[str, Any]], StateDict] = no_buffers
    computed: Callable[[StateDict], tuple[str, ...]] = nothing_computed
    files: Callable[[Sequence[str | os.PathLike[str]], Mapping[str, Any]], list[Path]] = as_given
    original_key: Callable[[str, Mapping[str, Any]], str] = same_key
    folder: str = ""
    assumed: Callable[[StateDict, Mapping[str, Any]], tuple[str, ...]] = nothing_assumed
    linked: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    settle: Callable[[Mapping[str, Any], Mapping[str, Any], StateDict], dict[str, Any]] = with_values
    read_config: Callable[[Mapping[str, Any], str], dict[str, Any]] = no_config
    config_class: str = ""
    make_config: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    folder_tensors: Callable[[StateDict], StateDict] = same_tensors
    folder_stem: str = "diffusion_pytorch_model"
    group: str = ""
    describe: Callable[[Mapping[str, Any]], str] = no_description
    fixed_arguments: Mapping[str, Any] = field(default_factory=dict)


def to_flax(weights: WeightMap, state: StateDict, source: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Convert a PyTorch state dict to our names and layout.

    Args:
      weights: the map.
      state: float32 tensors (and the map's dropped buffers, of any type).
      source: name of the checkpoint in errors, usually a path.

    Returns:
      (parameters, constructor arguments of our module, keys that were dropped).

    Raises:
      ValueError: names the keys that the map does not know; or there are two tensors for one parameter, a tensor is not
        float32, or a missing layer leaves arguments undetermined. (`check_same_structure`, with the module, tells
        whether all parameters are there.)
    """
    names, unknown = _translate(state, _patterns(weights, "torch", "flax"))
    dropped = [key for key in unknown if any(re.fullmatch(_regex(text), key) for text in weights.dropped)]
    _refuse_unknown(weights, source, [key for key in unknown if key not in set(dropped)], len(state))
    leaves: dict[str, np.ndarray] = {}
    computed = weights.computed(state)
    for key, (name, transposed) in names.items():
        if key in computed:
            dropped.append(key)
            continue
        if name in leaves:
            raise ValueError(f"{source}: two tensors for {name!r}, one of them {key!r}; give each layer once")
        if state[key].dtype != np.float32:
            raise ValueError(
                f"{source}: {key!r} is {state[key].dtype}, not a float: quantised weights are not read; take the file "
                "that is not quantised"
            )
        if transposed and state[key].ndim < 2:
            raise ValueError(f"{source}: {key!r} has shape {state[key].shape}, expected a matrix or a kernel")
        check_finite(state[key], f"{source}: {key!r}")
        leaves[name] = np.moveaxis(state[key], (0, 1), (-1, -2)) if transposed else state[key]
    try:
        arguments = weights.arguments(state)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{source}: incomplete as {weights.name}: it lacks {error}") from error
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{source}: the shapes of its tensors do not make one {weights.name} ({error})") from error
    return nest_names(leaves), arguments, dropped


def check_finite(value: np.ndarray, name: str) -> None:
    """Raise ValueError, which begins with `name`, if an array holds infinite values or NaN."""
    if not (finite := np.isfinite(value)).all():
        raise ValueError(
            f"{name} holds {int(finite.size - finite.sum())} values that are not finite (NaN or infinity): the file is "
            "damaged, its training diverged, or it was cast to a type that is too short"
        )


def to_torch(
    weights: WeightMap, params: Mapping[str, Any], source: str, arguments: Mapping[str, Any] | None = None
) -> StateDict:
    """Convert our parameters to PyTorch's names and layout: the exact inverse of `to_flax`, with the map's buffers.

    Args:
      weights: the map.
      params: nested mappings of arrays, or {group: …} of a trained model.
      source: name of the parameters in errors.
      arguments: of our module, if known; otherwise they are inferred from the shapes.

    Raises:
      ValueError: see `to_flax`.
    """
    if weights.group and set(params) == {weights.group}:
        params = params[weights.group]
    leaves = flatten_names(params)[0]
    keys, unknown = _translate(leaves, _patterns(weights, "flax", "torch"))
    _refuse_unknown(weights, source, unknown, len(leaves))
    state = {}
    for name, (key, transposed) in keys.items():
        value = np.asarray(leaves[name])
        state[key] = np.ascontiguousarray(np.moveaxis(value, (-1, -2), (0, 1)) if transposed else value)
    try:
        arguments = arguments or weights.arguments(state)
        named = {weights.original_key(key, arguments): value for key, value in state.items()}
        return named | weights.buffers(named, arguments)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{source}: incomplete as {weights.name}: it lacks {error}") from error


def torch_names(weights: WeightMap, params: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Name of each of our parameters that the map knows → (its key in PyTorch, whether it is transposed)."""
    return _translate(flatten_names(params)[0], _patterns(weights, "flax", "torch"))[0]


def fraction_known(weights: WeightMap, state: StateDict) -> float:
    """Fraction of the keys of a checkpoint for which the map has a rule."""
    return len(_translate(state, _patterns(weights, "torch", "flax"))[0]) / max(1, len(state))


def takes_all(weights: WeightMap, state: StateDict) -> bool:
    """Whether the map has a rule for some keys of a checkpoint, and drops all others."""
    names, unknown = _translate(state, _patterns(weights, "torch", "flax"))
    dropped = [re.compile(_regex(text)) for text in weights.dropped]
    return bool(names) and all(any(pattern.fullmatch(key) for pattern in dropped) for key in unknown)


def key_test(weights: WeightMap) -> Callable[[str], bool]:
    """(key of a checkpoint, without any prefix) → whether the map has a rule for it."""
    texts = (_regex(rule.torch + tensor.torch) for rule in weights.rules for tensor in rule.tensors)
    pattern = re.compile("|".join(re.sub(r"\?P<\w+>", "?:", text) for text in texts))
    return lambda key: pattern.fullmatch(key) is not None


def count_of(state: StateDict, template: str) -> int:
    """Number of consecutive keys template.format(0), template.format(1), … in the checkpoint."""
    return next(index for index in count() if template.format(index) not in state)


def ratio_of(hidden: int, width: int) -> int | float:
    """How many times the width a hidden layer has: a whole number where it is one."""
    return hidden // width if hidden % width == 0 else hidden / width


def multiples_of(widths: Sequence[int], width: int, names: str) -> tuple[int, ...]:
    """Widths of levels as multiples of another.

    Raises:
      ValueError: one is no multiple.
    """
    if any(each % width for each in widths):
        raise ValueError(f"{names} {tuple(widths)} are not multiples of {width}, as this network needs them")
    return tuple(each // width for each in widths)


def layer_pairs(weights: WeightMap, state: StateDict) -> dict[str, str]:
    """Names of the checkpoint's layers with a weight → paths of our modules, in the order of the checkpoint."""
    kernels = tuple((tensor.torch, tensor.flax) for tensors in (KERNEL, NORM) for tensor in tensors[:1])
    pairs = {}
    for key, (name, _) in _translate(state, _patterns(weights, "torch", "flax"))[0].items():
        for torch, flax in kernels:
            if key.endswith(torch) and name.endswith(flax):
                pairs[key.removesuffix(torch)] = name.removesuffix(flax)
    return pairs


def torch_shapes(weights: WeightMap, leaves: Mapping[str, Any]) -> dict[str, str]:
    """PyTorch's name → its shape as a text, of our parameters; where the map has no rule, our name and shape.

    Args:
      weights: the map.
      leaves: our name → array, or anything with a `shape`.
    """
    translations, _ = _translate(leaves, _patterns(weights, "flax", "torch"))
    shapes = {}
    for name, leaf in leaves.items():
        torch, transposed = translations.get(name, (name, False))
        shape = tuple(leaf.shape)
        shapes[torch] = str((shape[-1], shape[-2], *shape[:-2]) if transposed else shape)
    return shapes


def _regex(text: str) -> str:
    return re.sub(r"\\{(\w+)\\}", lambda name: f"(?P<{name[1]}>{NUMBERS.get(name[1], ANY_NUMBER)})", re.escape(text))


def _patterns(weights: WeightMap, source: str, target: str) -> list[tuple[re.Pattern[str], str, bool]]:
    """(pattern of a name, template of its translation, whether it is transposed) of each tensor of the rules."""
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
    """(name → (its translation, whether it is transposed), names that match no pattern)."""
    translations, unknown = {}, []
    for name in names:
        for pattern, template, transposed in patterns:
            if match := pattern.fullmatch(name):
                translations[name] = (template.format(**match.groupdict()), transposed)
                break
        else:
            unknown.append(name)
    return translations, unknown


def _refuse_unknown(weights: WeightMap, source: str, unknown: list[str], total: int) -> None:
    if unknown:
        listed = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        text = f"{len(unknown)} of {total} names are unknown to it: {listed}"
        if 2 * len(unknown) >= total:
            raise ValueError(f"{source} is not {weights.name}: {text}")
        raise ValueError(
            f"{source} is not {weights.name} alone: {text}: name another model, or save the file without them"
        )
