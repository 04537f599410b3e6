"""Reading and writing LoRA files, with keys of PEFT and diffusers (lora_A, lora_B) or of kohya (lora_down, lora_up).

A key is `<module>.lora_A.weight` or, if a file holds several adapters, `<module>.lora_A.<adapter>.weight`, after a
prefix such as `transformer.`. Kohya's keys are `lora_unet_<module>.lora_down.weight`, with underscores for the dots of
the module's name, and `<module>.alpha` holds its alpha. The weight map of the base model maps modules to ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from framer_jax.porting.lora_files import UNSTATED, StatedAlpha
from framer_jax.porting.maps import StateDict, WeightMap, check_finite, torch_names
from framer_jax.trees import flatten_names, nest_names

PREFIXES = (
    *("base_model.model.", "unet.", "transformer.", "vae.", "diffusion_model."),
    *("lora_unet_", "lora_transformer_", "lora_vae_"),
)
"""Prefixes of a module's name; several may follow one another."""

KEY = re.compile(
    r"(?P<module>.+)\.(?:lora[_.]|lora_linear_layer\.)(?P<factor>A|B|down|up)(?:\.(?P<adapter>[^.]+))?\.weight"
)
"""`lora.down` and `lora_linear_layer.down` are names of older versions of diffusers."""

FACTORS = {"A": "down", "down": "down", "B": "up", "up": "up"}
"""Name of a factor in a key → our name."""

STYLES: Mapping[str, tuple[str, str]] = {"peft": ("lora_A", "lora_B"), "kohya": ("lora_down", "lora_up")}
"""Style of keys → its names of 'down' and 'up'."""


class LoraLayers(NamedTuple):
    """One adapter, the arguments of framer_jax.models.lora.make_lora.

    Attributes:
      factors: {'down', 'up'} float32 of each module, nested like our modules.
      alphas: path of a module → alpha.
    """

    factors: dict[str, Any]
    alphas: dict[str, float]


def read_layers(
    weights: WeightMap,
    params: Mapping[str, Any],
    state: StateDict,
    source: str,
    alpha: float | None = None,
    stated: StatedAlpha = UNSTATED,
    adapter_name: Callable[[str], str] = str,
) -> dict[str, LoraLayers]:
    """Convert a LoRA's state dict to our names and layout.

    Args:
      weights: the weight map of the base model.
      params: parameters of the base model; only names and shapes matter.
      state: float32 tensors (framer_jax.porting.torch_files.read_state).
      source: its name in errors, usually a path.
      alpha: alpha of all modules, whatever the file states; None for what it states: in `.alpha` tensors first.
      stated: what the file states in its header or in the configuration next to it. Where nothing is stated, alpha is
        the rank, see `assumption`.
      adapter_name: (adapter in the file, '' if it names none) → adapter that it becomes part of: in PiSA-SR's files,
        three make one.

    Returns:
      name of an adapter → its layers.

    Raises:
      ValueError: names the keys that belong to no module of the base model; or a module lacks a factor, has one twice,
        or has factors of another shape.
    """
    modules = _modules(weights, params)
    modules |= {name.replace(".", "_"): module for name, module in modules.items() if "." in name}
    adapters: dict[str, dict[str, np.ndarray]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for key, value in state.items():
        match = KEY.fullmatch(key)
        torch_name = match["module"] if match else key.removesuffix(".alpha")
        module = next((modules[name] for name in _without_prefixes(torch_name) if name in modules), None)
        if module is None or (match is None and torch_name == key):
            unknown.append(key)
            continue
        path, shape = module
        if match is None:
            check_finite(value, f"{source}: {key!r}")
            alphas[path] = float(value.reshape(-1)[0]) if value.size == 1 else math.nan
        else:
            name = f"{path}/{FACTORS[match['factor']]}"
            leaves = adapters.setdefault(adapter_name(match["adapter"] or ""), {})
            if name in leaves:
                raise ValueError(f"{source}: two tensors for {name!r}, one of them {key!r}; keep the adapters apart")
            _check_factor(value, f"{source}: {key!r}")
            leaves[name] = _to_our_layout(value, len(shape))
    if unknown or not adapters:
        raise ValueError(f"{source} is not a LoRA of {weights.name}: {_listed(unknown, len(state))}")
    shapes, names = dict(modules.values()), {path: name for name, (path, _) in _modules(weights, params).items()}

    def alpha_of(path: str, rank: int) -> float:
        values = (alpha, alphas.get(path), stated.of(names[path], rank), float(rank))
        return next(value for value in values if value is not None)

    return {name: _layers(leaves, shapes, alpha_of, f"{source}: {name!r}") for name, leaves in adapters.items()}


def _listed(unknown: Sequence[str], total: int) -> str:
    listed = ", ".join(unknown[:8]) + (", ..." if unknown[8:] else "")
    return f"{len(unknown)} of {total} keys are unknown to it: {listed}"


def assumption(state: StateDict, stated: StatedAlpha = UNSTATED, alpha: float | None = None) -> str:
    """A sentence on the alpha that `read_layers` assumes with these arguments, '' if it is stated everywhere."""
    if alpha is not None:
        return ""
    modules = {match["module"]: state[key] for key in state if (match := KEY.fullmatch(key))}
    unstated = [name for name in modules if f"{name}.alpha" not in state and stated.of(name, 1) is None]
    if not unstated:
        return ""
    some = "" if len(unstated) == len(modules) else f" of {len(unstated)} of {len(modules)} modules"
    return f"no alpha{some} is stated: it was assumed to equal the rank, a scale of 1"


def write_layers(
    weights: WeightMap,
    params: Mapping[str, Any],
    adapters: Mapping[str, LoraLayers],
    style: str = "peft",
    prefix: str = "transformer",
    alphas: bool = True,
) -> StateDict:
    """The inverse of `read_layers`.

    Args:
      weights: the weight map of the base model.
      params: parameters of the base model; only names matter.
      adapters: name of an adapter → its layers; a single one may be named ''.
      style: 'peft' or 'kohya'.
      prefix: prefix of every key, without the dot or underscore that follows it; '' for none. Kohya's begin with
        'lora_'.
      alphas: whether to write `.alpha` keys; without them 'up' is multiplied by alpha / rank, for programs that assume
        alpha to be the rank, such as diffusers.

    Raises:
      ValueError: an unknown style, several adapters in kohya's style, adapters that differ in an alpha, or a layer that
        the weight map lacks.
    """
    if style not in STYLES:
        raise ValueError(f"unknown LoRA style {style!r}: choose {' or '.join(STYLES)}")
    if style == "kohya" and len(adapters) > 1:
        raise ValueError(f"kohya's files hold one LoRA, not {', '.join(adapters)}: write a file for each")
    names = {path: module for module, (path, _) in _modules(weights, params).items()}
    state: StateDict = {}
    for adapter, layers in adapters.items():
        for name, leaf in flatten_names(layers.factors)[0].items():
            path, _, factor = name.rpartition("/")
            if path not in names:
                raise ValueError(f"LoRA layer {path!r} is not a layer of {weights.name} with a kernel")
            module = names[path]
            if style == "kohya":
                module = f"{prefix}_{module}".removeprefix("_").replace(".", "_")
            elif prefix:
                module = f"{prefix}.{module}"
            key = ".".join(part for part in (module, STYLES[style][factor == "up"], adapter, "weight") if part)
            value = np.asarray(leaf)
            if not alphas:
                rank = value.shape[-2 if factor == "up" else -1]
                value = value * np.float32(layers.alphas[path] / rank if factor == "up" else 1)
            state[key] = np.ascontiguousarray(np.moveaxis(value, (-1, -2), (0, 1)))
            if not alphas:
                continue
            alpha = np.asarray(layers.alphas[path], np.float32)
            if state.setdefault(f"{module}.alpha", alpha) != alpha:
                raise ValueError(f"adapters differ in the alpha of {module!r}: write a file for each")
    return state


def _modules(weights: WeightMap, params: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """PyTorch's name of each module with a kernel → (its path, the kernel's shape)."""
    leaves = flatten_names(params)[0]
    return {
        key.removesuffix(".weight"): (name.removesuffix("/kernel"), tuple(leaves[name].shape))
        for name, (key, _) in torch_names(weights, params).items()
        if name.endswith("/kernel")
    }


def _without_prefixes(module: str) -> Iterator[str]:
    """A module's name, and the same with one prefix after another removed."""
    while True:
        yield module
        prefix = next((prefix for prefix in PREFIXES if module.startswith(prefix)), None)
        if prefix is None:
            return
        module = module.removeprefix(prefix)


def _to_our_layout(value: np.ndarray, axes: int) -> np.ndarray:
    """A factor in our layout; that of a linear layer may be written as a 1x1 convolution, and vice versa."""
    if value.ndim not in (2, 4):
        return value
    value = np.moveaxis(value, (0, 1), (-1, -2))
    if value.ndim == 4 and axes == 2 and value.shape[:2] == (1, 1):
        return value[0, 0]
    return value[None, None] if value.ndim == 2 and axes == 4 else value


def _check_factor(value: np.ndarray, name: str) -> None:
    if value.dtype != np.float32:
        raise ValueError(f"{name} has dtype {value.dtype}, expected float32")
    check_finite(value, name)


def _layers(
    leaves: dict[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    alpha_of: Callable[[str, int], float],
    source: str,
) -> LoraLayers:
    """The layers of one adapter, checked against the kernels that they change."""
    alphas = {}
    for path in sorted({name.rpartition("/")[0] for name in leaves}):
        down, up = (leaves.get(f"{path}/{factor}") for factor in ("down", "up"))
        if down is None or up is None:
            raise ValueError(f"{source} lacks one of the factors of {path!r}: fetch it again")
        *window, width, out = shapes[path]
        rank = down.shape[-1] if down.ndim else 0
        expected = (*window, width, rank), (*(1 for _ in window), rank, out)
        if (down.shape, up.shape) != expected or not rank:
            raise ValueError(
                f"{source}: the factors of {path!r} have shapes {down.shape} and {up.shape}, which make no kernel of "
                f"{shapes[path]}: it is a LoRA of another size of the model"
            )
        alphas[path] = alpha_of(path, rank)
        if not math.isfinite(alphas[path]):
            raise ValueError(f"{source}: alpha of {path!r} is not one finite number: correct it, or give --alpha")
    return LoraLayers(nest_names(leaves), alphas)
