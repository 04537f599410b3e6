"""The file in which OSEDiff and PiSA-SR publish their LoRAs: a pickle of state dicts, ranks and lists of modules.

`osediff.pkl` holds `state_dict_unet` and `state_dict_vae` with PEFT's names, `rank_unet` and `rank_vae`, and the lists
`unet_lora_encoder_modules`, … of the modules that have factors. `pisa_sr.pkl` is alike; its adapters and ranks have one
more word in their names (`_pix`, `_sem`). Layers that were trained as a whole are in a state dict as well
(`conv_in.base_layer.weight`). Alpha is stated nowhere: both trainers leave it at PEFT's default, `PEFT_ALPHA`.

The file is read by PyTorch's safe loader (framer_jax.porting.torch_files), which runs no code in it. The trainers split
a LoRA on the U-Net into three adapters: those of the way down, of the way up, and of the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framer_jax.porting.lora import KEY, LoraLayers, read_layers, write_layers
from framer_jax.porting.maps import StateDict, WeightMap, check_finite, torch_names
from framer_jax.porting.state_dicts import is_tensor
from framer_jax.porting.torch_files import float32_array, read_pickle
from framer_jax.trees import flatten_names, nest_names

PEFT_ALPHA = 8.0
"""`lora_alpha` of PEFT's LoraConfig where it is not given; with the rank 4 of both methods the scale is 2."""

STATE = "state_dict_"

RANK = re.compile(r"(lora_)?rank_(?P<network>[a-z]+)(_\w+)?")
"""Names of the entries with a rank: rank_unet, rank_vae, lora_rank_unet_pix."""

MODULES = re.compile(r"(?P<network>[a-z]+)_lora_\w*modules\w*")
"""Names of the entries with a list of modules: unet_lora_encoder_modules, unet_lora_others_modules_sem."""

WHOLE = ".base_layer."
"""PEFT's word in the keys of a layer's own weights, next to its factors."""


PARTS: Mapping[str, tuple[str, ...]] = {
    "encoder": ("down_blocks", "conv_in"),
    "decoder": ("up_blocks", "conv_out"),
    "others": ("mid_block",),
}
"""The adapters of a LoRA on the U-Net → beginnings of their modules' names."""


class LoraPickle(NamedTuple):
    """What such a file holds.

    Attributes:
      source: its name in errors, usually a path.
      tensors: 'unet' or 'vae' → state dict in PEFT's names, float32.
      ranks: name of the entry, such as 'rank_unet' → rank.
      modules: name of the entry, such as 'unet_lora_encoder_modules' → PyTorch's names of the modules with factors.
    """

    source: str
    tensors: Mapping[str, StateDict]
    ranks: Mapping[str, int]
    modules: Mapping[str, tuple[str, ...]]


def read_lora_pickle(path: str | os.PathLike[str]) -> LoraPickle:
    """Read such a file.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: PyTorch is not installed.
      ValueError: it is no such file, would run code, or does not hold what its lists and ranks say; one line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of LoRAs")
    return lora_pickle(read_pickle(path), str(path))


def lora_pickle(content: Mapping[str, Any], source: str) -> LoraPickle:
    """The content of such a file, checked; errors as of `read_lora_pickle`."""
    tensors: dict[str, StateDict] = {}
    ranks: dict[str, int] = {}
    modules: dict[str, tuple[str, ...]] = {}
    unknown = []
    for name, value in content.items():
        if _is_state(name, value):
            state = {key: float32_array(tensor, f"{source}: {key!r}") for key, tensor in value.items()}
            tensors[name.removeprefix(STATE)] = state
        elif RANK.fullmatch(str(name)) and type(value) is int and value > 0:
            ranks[name] = value
        elif MODULES.fullmatch(str(name)) and _is_list_of_texts(value):
            modules[name] = tuple(dict.fromkeys(value))  # OSEDiff's list names some modules several times
        else:
            unknown.append(str(name))
    if unknown or not tensors:
        held = ", ".join(unknown[:5] or map(str, list(content)[:5])) or "nothing"
        raise ValueError(
            f"{source}: not a file of LoRAs as OSEDiff and PiSA-SR publish them (state_dict_unet, lists of modules, "
            f"ranks): it holds {held}"
        )
    pickle = LoraPickle(source, tensors, ranks, modules)
    _check_lists(pickle)
    return pickle


def adapters_of(
    pickle: LoraPickle,
    network: str,
    weights: WeightMap,
    params: Mapping[str, Any],
    adapter_name: Callable[[str], str],
    alpha: float = PEFT_ALPHA,
) -> dict[str, LoraLayers]:
    """The LoRAs on one network.

    Args:
      pickle: the file.
      network: 'unet' or 'vae'.
      weights: the weight map of the network.
      params: its parameters; only names and shapes matter.
      adapter_name: (adapter in the file, such as 'default_encoder_pix') → adapter that it becomes part of.
      alpha: of all modules.

    Raises:
      ValueError: there are none, or they belong to another network.
    """
    state = {key: value for key, value in _state(pickle, network).items() if KEY.fullmatch(key)}
    return read_layers(weights, params, state, pickle.source, alpha, adapter_name=adapter_name)


def whole_layers(
    pickle: LoraPickle, network: str, weights: WeightMap, params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The layers of one network that are in the file as a whole: path of a parameter of ours → its array.

    Args:
      pickle: the file.
      network: 'unet' or 'vae'.
      weights: the weight map of the network.
      params: its parameters; only names and shapes matter.

    Raises:
      ValueError: a tensor belongs to no parameter of the network, or has another shape.
    """
    names = {key: (name, transposed) for name, (key, transposed) in torch_names(weights, params).items()}
    leaves = {}
    for key, value in _state(pickle, network).items():
        if KEY.fullmatch(key):
            continue
        plain = key.replace(WHOLE, ".")
        if plain not in names:
            raise ValueError(f"{pickle.source}: {key!r} in state_dict_{network} is no tensor of {weights.name}")
        check_finite(value, f"{pickle.source}: {key!r}")
        name, transposed = names[plain]
        leaves[name] = np.moveaxis(value, (0, 1), (-1, -2)) if transposed and value.ndim > 1 else value
        expected = _shape_at(params, name)
        if leaves[name].shape != expected:
            raise ValueError(
                f"{pickle.source}: {key!r} has shape {leaves[name].shape} in our layout, and that of {weights.name} "
                f"is {expected}: it is of another size of the network"
            )
    return leaves


def split_adapter(
    weights: WeightMap, params: Mapping[str, Any], factors: Mapping[str, Any], scale: float, word: str = ""
) -> tuple[StateDict, dict[str, list[str]]]:
    """A LoRA on the U-Net as such a file has it: the inverse of `adapters_of`.

    Args:
      weights: the weight map of the U-Net.
      params: its parameters; only names and shapes matter.
      factors: the LoRA.
      scale: alpha / rank with which it is applied; in the file alpha is `PEFT_ALPHA`.
      word: last word of the adapters' names, such as 'pix'; '' for none.

    Returns:
      (state dict in PEFT's names, part of `PARTS` → its modules).
    """
    leaves = flatten_names(factors)[0]
    scaled = {
        name: np.asarray(leaf, np.float32) * np.float32(scale * leaf.shape[-2] / PEFT_ALPHA)
        if name.endswith("/up")
        else np.asarray(leaf, np.float32)
        for name, leaf in leaves.items()
    }
    alphas = {name.removesuffix("/down"): PEFT_ALPHA for name in scaled if name.endswith("/down")}
    layers = LoraLayers(nest_names(scaled), alphas)
    plain = write_layers(weights, params, {"": layers}, prefix="")  # with alphas, so that they stay out of the factors
    ending = f"_{word}" if word else ""
    state: StateDict = {}
    modules: dict[str, list[str]] = {part: [] for part in PARTS}
    for key, value in plain.items():
        if key.endswith(".alpha"):
            continue
        part = next((part for part, starts in PARTS.items() if key.startswith(starts)), "")
        if not part:
            raise ValueError(
                f"the module {key.partition('.lora_')[0]!r} has a LoRA and no place in such a file, which has those of "
                "the way down, of the way up and of the middle: train with the default lora_modules"
            )
        state[key.replace(".weight", f".default_{part}{ending}.weight")] = value
        modules[part].append(key.partition(".lora_")[0])
    return state, {part: sorted(set(names)) for part, names in modules.items()}


def _state(pickle: LoraPickle, network: str) -> StateDict:
    if network not in pickle.tensors:
        raise ValueError(f"{pickle.source}: it has no state_dict_{network}, so no LoRA on that network")
    return pickle.tensors[network]


def _shape_at(params: Mapping[str, Any], name: str) -> tuple[int, ...]:
    leaf: Any = params
    for part in name.split("/"):
        leaf = leaf[part]
    return tuple(leaf.shape)


def _is_state(name: Any, value: Any) -> bool:
    return (
        str(name).startswith(STATE)
        and isinstance(value, Mapping)
        and all(isinstance(key, str) and is_tensor(tensor) for key, tensor in value.items())
    )


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _check_lists(pickle: LoraPickle) -> None:
    """Check that the modules with factors are those of the lists, and that their ranks are those stated."""
    for network, state in pickle.tensors.items():
        factors = {match["module"]: key for key in state if (match := KEY.fullmatch(key))}
        lists = [names for entry, names in pickle.modules.items() if _network_of(MODULES, entry) == network]
        listed = {module for names in lists for module in names}
        if lists and (differing := sorted(listed ^ set(factors))):
            problem = "has no factors" if differing[0] in listed else "has factors"
            other = "" if differing[0] in listed else " and is in none of them"
            raise ValueError(
                f"{pickle.source}: its lists of modules and state_dict_{network} differ: {differing[0]!r} {problem}"
                f"{other}; fetch or save it again"
            )
        ranks = {rank for entry, rank in pickle.ranks.items() if _network_of(RANK, entry) == network}
        for key, value in state.items():
            match = KEY.fullmatch(key)
            if match and match["factor"] == "A" and ranks and not (value.ndim and value.shape[0] in ranks):
                raise ValueError(
                    f"{pickle.source}: {key!r} has shape {value.shape}, and the file states the rank "
                    f"{' or '.join(map(str, sorted(ranks)))}; fetch or save it again"
                )


def _network_of(pattern: re.Pattern[str], entry: str) -> str:
    match = pattern.fullmatch(entry)
    return match["network"] if match else ""
