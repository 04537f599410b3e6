"""Checkpoints of DINOv2: the authors' files (torch hub), and folders of transformers.

Our parameters follow the authors' files, in which queries, keys and values are one matrix. In transformers
(`Dinov2Model`, `Dinov2WithRegistersModel`) they are three, and layers have other names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict, WeightMap, count_of, ratio_of
from framer_jax.porting.stability import Layout

PUBLISHED: Mapping[str, dict[str, Any]] = {
    "vit_small": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536, "mlp": "gelu"},
    "vit_base": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072, "mlp": "gelu"},
    "vit_large": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096, "mlp": "gelu"},
    "vit_giant2": {"width": 1536, "depth": 40, "heads": 24, "hidden": 4096, "mlp": "swiglu"},
}
"""The authors' name of an architecture → its arguments; all have patches of 14 and positions of 37 by 37 patches."""

TITLES = {"vit_small": "ViT-S", "vit_base": "ViT-B", "vit_large": "ViT-L", "vit_giant2": "ViT-g"}
"""Their names in the paper."""

HEAD_WIDTH = 64
"""Width of a head in published models."""

RELEASED: Mapping[bool, dict[str, Any]] = {
    False: {"position_offset": 0.1, "position_antialias": False},
    True: {"position_offset": 0.0, "position_antialias": True},
}
"""Whether a model has registers → how the authors' released model interpolates its positions."""

BLOCK = "blocks.{i}"

LAYERS: Mapping[str, str] = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj.{tensor}": "embeddings.patch_embeddings.projection.{tensor}",
    f"{BLOCK}.norm1.{{tensor}}": "encoder.layer.{i}.norm1.{tensor}",
    f"{BLOCK}.norm2.{{tensor}}": "encoder.layer.{i}.norm2.{tensor}",
    f"{BLOCK}.attn.proj.{{tensor}}": "encoder.layer.{i}.attention.output.dense.{tensor}",
    f"{BLOCK}.ls1.gamma": "encoder.layer.{i}.layer_scale1.lambda1",
    f"{BLOCK}.ls2.gamma": "encoder.layer.{i}.layer_scale2.lambda1",
    f"{BLOCK}.mlp.fc1.{{tensor}}": "encoder.layer.{i}.mlp.fc1.{tensor}",
    f"{BLOCK}.mlp.fc2.{{tensor}}": "encoder.layer.{i}.mlp.fc2.{tensor}",
    f"{BLOCK}.mlp.w12.{{tensor}}": "encoder.layer.{i}.mlp.weights_in.{tensor}",
    f"{BLOCK}.mlp.w3.{{tensor}}": "encoder.layer.{i}.mlp.weights_out.{tensor}",
    "norm.{tensor}": "layernorm.{tensor}",
}
"""Names in the authors' files → in transformers, except for queries, keys and values."""

QKV, PARTS = f"{BLOCK}.attn.qkv.{{tensor}}", ("query", "key", "value")
"""Their name in the authors' files, and the last parts of their names in transformers."""

PART = "encoder.layer.{i}.attention.attention.{part}.{tensor}"


def _pattern(template: str) -> str:
    """The regex of a name, with numbered groups for {i}, if it has it, and {tensor}."""
    return re.escape(template).replace(r"\{i\}", r"(\d+)").replace(r"\{tensor\}", "(weight|bias)")


def _target(template: str) -> str:
    return template.replace("{i}", r"\1").replace("{tensor}", r"\2" if "{i}" in template else r"\1")


def _part(name: str) -> str:
    return PART.replace("{part}", name)


def _with_one_matrix(state: StateDict) -> StateDict:
    """Queries, keys and values of transformers as one matrix each block.

    Raises:
      ValueError: names the first that is missing.
    """
    pattern = re.compile(_pattern(PART).replace(r"\{part\}", f"({'|'.join(PARTS)})"))
    tensors: StateDict = {}
    for key, value in state.items():
        if not (match := pattern.fullmatch(key)):
            tensors[key] = value
            continue
        names = [_part(name).format(i=match[1], tensor=match[3]) for name in PARTS]
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"incomplete as dinov2: it lacks {missing[0]!r}")
        whole = QKV.format(i=match[1], tensor=match[3])
        if whole not in tensors:
            tensors[whole] = np.concatenate([state[name] for name in names])
    return tensors


TRANSFORMERS = Layout(
    "the layout of transformers",
    {_pattern(theirs): _target(authors) for authors, theirs in LAYERS.items()}
    | {_pattern(_part(name)): _target(_part(name)) for name in PARTS},
    _with_one_matrix,
)
"""Folders of transformers, read in the authors' names."""

TO_TRANSFORMERS = Layout(
    "the authors' layout",
    {
        **{_pattern(authors): _target(theirs) for authors, theirs in LAYERS.items()},
        _pattern(QKV): (_target(_part("query")), _target(_part("key")), _target(_part("value"))),
    },
    lambda state: state,
)
"""The authors' files, read in the names of transformers."""


def dinov2_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.dinov2.DINOv2.

    No tensor shows the number of heads, nor how positions are interpolated: the values of released models are assumed.

    Raises:
      KeyError: a layer is missing.
      ValueError: the position embeddings are not of a square grid of patches.
    """
    kernel, first = state["patch_embed.proj.weight"], BLOCK.format(i=0)
    width, patch = kernel.shape[0], kernel.shape[-1]
    if kernel.shape[1] != 3:
        raise ValueError(f"{kernel.shape[1]} channels enter")
    count = state["pos_embed"].shape[1] - 1
    side = math.isqrt(max(count, 0))
    if side * side != count or not side:
        raise ValueError(f"pos_embed has {count} positions of patches, which make no square")
    gated = f"{first}.mlp.w12.weight" in state
    hidden = state[f"{first}.mlp.w3.weight"].shape[1] if gated else state[f"{first}.mlp.fc1.weight"].shape[0]
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    return {
        "width": width,
        "depth": count_of(state, "blocks.{}.attn.qkv.weight"),
        "heads": width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1,
        "hidden": hidden,
        "mlp": "swiglu" if gated else "gelu",
        "patch": patch,
        "image_size": side * patch,
        "registers": registers,
        "layer_scale": f"{first}.ls1.gamma" in state,
        **RELEASED[registers > 0],
    }


def dinov2_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """What no tensor shows."""
    return ("heads", "position_offset", "position_antialias")


def settle_dinov2(arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    """The arguments with what is stated.

    Raises:
      ValueError: the stated heads do not divide the width, or the offset is negative.
    """
    settled = {**arguments, **stated}
    if settled["heads"] < 1 or settled["width"] % settled["heads"]:
        raise ValueError(f"heads is {settled['heads']}: it must divide the width, {settled['width']}")
    if settled["position_offset"] < 0:
        raise ValueError(f"position_offset is {settled['position_offset']}: it must be at least 0")
    return settled


def dinov2_variant(arguments: Mapping[str, Any]) -> str:
    """'DINOv2 ViT-S/14 with 4 registers' for a published size, 'DINOv2 (…)' for others."""
    names = [
        f"{TITLES[name]}/{arguments['patch']}"
        for name, facts in PUBLISHED.items()
        if all(arguments[key] == value for key, value in facts.items())
    ]
    size = f"({arguments['width']} wide, {arguments['depth']} blocks, patches of {arguments['patch']})"
    registers = f" with {arguments['registers']} registers" if arguments["registers"] else ""
    return f"DINOv2 {names[0] if names else size}{registers}"


TYPES = {False: "dinov2", True: "dinov2_with_registers"}
"""Whether a model has registers → `model_type` in a config.json of transformers."""

CLASSES = {False: "Dinov2Model", True: "Dinov2WithRegistersModel"}
"""The same, name of the class."""

FIXED: Mapping[str, Any] = {"num_channels": 3, "qkv_bias": True, "layer_norm_eps": 1e-6}
"""Settings of which our module supports one value, which is also the default of a config.json without them."""


def gated_width(width: int, ratio: float) -> int:
    """Hidden width of SwiGLU for a ratio of hidden to token width: two thirds, rounded up to a multiple of 8."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of our module from a config.json of transformers.

    It states nothing on the interpolation of positions, so that of the authors' released models stays assumed.

    Args:
      config: its content; missing settings have the defaults of transformers.
      source: its name in errors, usually a path.

    Raises:
      KeyError: it lacks the width.
      ValueError: it is of another kind of model, or has a setting that our module does not support.
    """
    if (kind := config.get("model_type")) not in TYPES.values():
        raise ValueError(f"{source}: model_type {kind!r} is not supported, only {' and '.join(TYPES.values())}")
    gated = config.get("use_swiglu_ffn", False)
    fixed = {**FIXED, **({} if gated else {"hidden_act": "gelu"})}
    for name, value in fixed.items():
        if (setting := config.get(name, value)) != value:
            raise ValueError(f"{source}: {name} {setting!r} is not supported, only {value!r}")
    width, ratio = config["hidden_size"], config.get("mlp_ratio", 4)
    patch, default = config.get("patch_size", 14), 4 if kind == TYPES[True] else 0
    return {
        "width": width,
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "hidden": gated_width(width, ratio) if gated else int(width * ratio),
        "mlp": "swiglu" if gated else "gelu",
        "patch": patch,
        "image_size": config.get("image_size", 224) // patch * patch,
        "registers": config.get("num_register_tokens", default),
    }


def config_of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `arguments_of_config`: config.json with which transformers builds the same network.

    Raises:
      ValueError: the network has no LayerScale, which the classes of transformers always have.
    """
    if not arguments["layer_scale"]:
        raise ValueError("transformers has no DINOv2 without LayerScale: use --to torch")
    registers, gated = arguments["registers"], arguments["mlp"] == "swiglu"
    expanded = arguments["hidden"] * 3 / 2 if gated else arguments["hidden"]
    width = arguments["width"]
    return {
        "architectures": [CLASSES[registers > 0]],
        "model_type": TYPES[registers > 0],
        **FIXED,
        "hidden_act": "gelu",
        "hidden_size": width,
        "image_size": arguments["image_size"],
        "layerscale_value": 1.0,
        "mlp_ratio": ratio_of(int(expanded), width),
        "num_attention_heads": arguments["heads"],
        "num_hidden_layers": arguments["depth"],
        "patch_size": arguments["patch"],
        "use_swiglu_ffn": gated,
        **({"num_register_tokens": registers} if registers else {}),
    }


def _rules() -> tuple[Rule, ...]:
    ours = "block_{i}"
    return (
        Rule("cls_token", "cls_token", TENSOR),
        Rule("mask_token", "mask_token", TENSOR),
        Rule("pos_embed", "positions", TENSOR),
        Rule("register_tokens", "register_tokens", TENSOR),
        Rule("patch_embed.proj", "patch_embedding"),
        Rule(f"{BLOCK}.norm1", f"{ours}/norm_0", NORM),
        Rule(f"{BLOCK}.norm2", f"{ours}/norm_1", NORM),
        Rule(f"{BLOCK}.attn.qkv", f"{ours}/attention/qkv"),
        Rule(f"{BLOCK}.attn.proj", f"{ours}/attention/out"),
        Rule(f"{BLOCK}.mlp.fc1", f"{ours}/mlp/dense_0"),
        Rule(f"{BLOCK}.mlp.fc2", f"{ours}/mlp/dense_1"),
        Rule(f"{BLOCK}.mlp.w12", f"{ours}/mlp/swiglu_0"),
        Rule(f"{BLOCK}.mlp.w3", f"{ours}/mlp/swiglu_1"),
        Rule(f"{BLOCK}.ls1.gamma", f"{ours}/scale_0", TENSOR),
        Rule(f"{BLOCK}.ls2.gamma", f"{ours}/scale_1", TENSOR),
        Rule("norm", "norm_out", NORM),
    )


DINOV2 = WeightMap(
    name="dinov2",
    rules=_rules(),
    arguments=dinov2_arguments,
    assumed=dinov2_assumed,
    settle=settle_dinov2,
    folder="image_encoder",
    read_config=arguments_of_config,
    config_class=CLASSES[False],
    make_config=config_of_arguments,
    folder_tensors=lambda state: TO_TRANSFORMERS.to_diffusers(state, "dinov2"),
    folder_stem="model",
    describe=dinov2_variant,
)
"""dinov2_vits14_pretrain, dinov2_vitg14_reg4_pretrain and others of any width and depth."""
