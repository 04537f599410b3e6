"""LoRA files: keys of PEFT and diffusers (lora_A, lora_B) and of kohya's scripts (lora_down, lora_up), both ways.

A key is `<module>.lora_A.weight` or, of several adapters in one file, `<module>.lora_A.<adapter>.weight`; what precedes
the module's own name in the base model is a prefix such as `transformer.`. Kohya's keys are
`lora_unet_<module>.lora_down.weight`, with underscores for the dots of the module, and say their alpha in
`<module>.alpha`. Which module of ours is meant, the weight map of the base model says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from framer_jax.porting.maps import State, WeightMap, torch_names
from framer_jax.porting.weights import flatten_names, nest_names

PREFIXES = (
    *("base_model.model.", "unet.", "transformer.", "vae.", "diffusion_model."),
    *("lora_unet_", "lora_transformer_", "lora_vae_"),
)
"""What may precede a module's name, also several one after the other."""

KEY = re.compile(r"(?P<module>.+)\.lora_(?P<factor>A|B|down|up)(?:\.(?P<adapter>[^.]+))?\.weight")

OURS = {"A": "down", "down": "down", "B": "up", "up": "up"}

STYLES: Mapping[str, tuple[str, str]] = {"peft": ("lora_A", "lora_B"), "kohya": ("lora_down", "lora_up")}
"""Name of a style → what it calls our 'down' and 'up'."""


class LoraLayers(NamedTuple):
    """One adapter, as framer_jax.models.lora.make_lora takes it.

    Attributes:
      factors: nested as our modules, {'down', 'up'} float32 each.
      alphas: path of a module → alpha.
    """

    factors: dict[str, Any]
    alphas: dict[str, float]


def read_layers(
    weights: WeightMap,
    params: Mapping[str, Any],
    state: State,
    source: str,
    alpha: float | None = None,
    set_of: Callable[[str], str] = str,
) -> dict[str, LoraLayers]:
    """A LoRA's state dict in our names and layout.

    Args:
      weights: the map of the base model.
      params: of the base model; names and shapes matter only.
      state: float32 tensors (framer_jax.porting.torch_files.read_state).
      source: what errors call it, usually a path.
      alpha: of the modules whose alpha the file does not say, as PEFT's do not; if None, it is taken to be the rank.
      set_of: (adapter, '' in a file of one) → name of the set that it is part of: PiSA-SR has three adapters to a set.

    Returns:
      Name of a set → its layers.

    Raises:
      ValueError: names the keys that belong to no module of the base model; or a module lacks a factor, has one twice,
        or has factors of another shape.
    """
    modules = _modules(weights, params)
    modules |= {name.replace(".", "_"): place for name, place in modules.items() if "." in name}
    found: dict[str, dict[str, np.ndarray]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for key, value in state.items():
        match = KEY.fullmatch(key)
        module = match["module"] if match else key.removesuffix(".alpha")
        place = next((modules[name] for name in _bare(module) if name in modules), None)
        if place is None or (match is None and module == key):
            unknown.append(key)
            continue
        path, shape = place
        if match is None:
            alphas[path] = float(value)
        else:
            name = f"{path}/{OURS[match['factor']]}"
            leaves = found.setdefault(set_of(match["adapter"] or ""), {})
            if name in leaves:
                raise ValueError(f"{source}: two tensors for {name!r}, one of them {key!r}; give each adapter a set")
            leaves[name] = _as_ours(value, len(shape))
    if unknown or not found:
        listed = ", ".join(unknown[:8]) + (", ..." if unknown[8:] else "")
        raise ValueError(
            f"{source} is no LoRA of {weights.name}: {len(unknown)} of {len(state)} keys are unknown to it: {listed}"
        )
    shapes = dict(modules.values())
    return {name: _layers(leaves, shapes, alphas, alpha, f"{source}: {name!r}") for name, leaves in found.items()}


def write_layers(
    weights: WeightMap,
    params: Mapping[str, Any],
    sets: Mapping[str, LoraLayers],
    style: str = "peft",
    prefix: str = "transformer",
    alphas: bool = True,
) -> State:
    """The inverse of `read_layers`.

    Args:
      weights: the map of the base model.
      params: of the base model; names matter only.
      sets: name of an adapter → its layers; a lone one may be called ''.
      style: 'peft' or 'kohya'.
      prefix: of every key, without the point or underscore that follows it; '' for none. Kohya's begin with 'lora_'.
      alphas: whether there are `.alpha` keys; without them 'up' is multiplied by alpha / rank, for programs that take
        alpha to be the rank, as diffusers does.

    Raises:
      ValueError: another style, several sets in kohya's, sets that differ in an alpha, or a layer that the map lacks.
    """
    if style not in STYLES:
        raise ValueError(f"unknown LoRA style {style!r}: choose {' or '.join(STYLES)}")
    if style == "kohya" and len(sets) > 1:
        raise ValueError(f"kohya's files hold one LoRA, not {', '.join(sets)}: write a file for each")
    names = {path: module for module, (path, _) in _modules(weights, params).items()}
    state: State = {}
    for adapter, layers in sets.items():
        for name, leaf in flatten_names(layers.factors)[0].items():
            path, _, factor = name.rpartition("/")
            if path not in names:
                raise ValueError(f"LoRA layer {path!r} is no layer of {weights.name} with a kernel")
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
                raise ValueError(f"sets differ in the alpha of {module!r}: write a file for each")
    return state


def _modules(weights: WeightMap, params: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """PyTorch's name of each module with a kernel → (its path, the kernel's shape)."""
    leaves = flatten_names(params)[0]
    return {
        key.removesuffix(".weight"): (name.removesuffix("/kernel"), tuple(leaves[name].shape))
        for name, (key, _) in torch_names(weights, params).items()
        if name.endswith("/kernel")
    }


def _bare(module: str) -> Iterator[str]:
    """A module's name with ever fewer prefixes."""
    while True:
        yield module
        found = next((prefix for prefix in PREFIXES if module.startswith(prefix)), None)
        if found is None:
            return
        module = module.removeprefix(found)


def _as_ours(value: np.ndarray, axes: int) -> np.ndarray:
    """A factor in our layout; a linear layer's may be written as a 1x1 convolution, and the other way round."""
    if value.ndim not in (2, 4):
        return value
    value = np.moveaxis(value, (0, 1), (-1, -2))
    if value.ndim == 4 and axes == 2 and value.shape[:2] == (1, 1):
        return value[0, 0]
    return value[None, None] if value.ndim == 2 and axes == 4 else value


def _layers(
    leaves: dict[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    alphas: Mapping[str, float],
    alpha: float | None,
    source: str,
) -> LoraLayers:
    """The layers of one set, checked against the kernels that they change."""
    known = {}
    for path in sorted({name.rpartition("/")[0] for name in leaves}):
        down, up = (leaves.get(f"{path}/{factor}") for factor in ("down", "up"))
        if down is None or up is None:
            raise ValueError(f"{source} lacks one of the factors of {path!r}: fetch it again")
        *window, width, out = shapes[path]
        rank = down.shape[-1]
        expected = (*window, width, rank), (*(1 for _ in window), rank, out)
        if (down.shape, up.shape) != expected:
            raise ValueError(
                f"{source}: the factors of {path!r} have shapes {down.shape} and {up.shape}, which make no kernel of "
                f"{shapes[path]}: it is a LoRA of another size of the model"
            )
        known[path] = alphas.get(path, float(rank) if alpha is None else alpha)
    return LoraLayers(nest_names(leaves), known)
