"""Checkpoints of the transformers of Stable Diffusion 3 and 3.5, in the names of Diffusers, and of DiT4SR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict, WeightMap, count_of

TORCH_BLOCK, FLAX_BLOCK = "transformer_blocks.{i}", "block_{i}"

TABLE = "pos_embed.pos_embed"
"""The table of positions, [1, side², width]: a constant, but a stored table takes precedence over the computed one."""

CLASS = "SD3Transformer2DModel"
"""Name of the class in diffusers, and in DiT4SR's code."""

BFLOAT16 = jnp.bfloat16
"""NumPy's type of that name."""

HEAD_WIDTH = 64
"""Width of an attention head in all published models; assumed where no norm of queries determines it."""

POSITION_GRIDS, POSITION_BASE = {False: 192, True: 384}, 64
"""Side of the grid of positions without and with dual attention, and its base; assumed for files without the table."""


def _attention(torch: str, flax: str) -> tuple[Rule, ...]:
    layers = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
    return _layers(torch, flax, layers, {"norm_q": "norm_query", "norm_k": "norm_key"})


def _text_attention(torch: str, flax: str) -> tuple[Rule, ...]:
    layers = {"add_q_proj": "query", "add_k_proj": "key", "add_v_proj": "value", "to_add_out": "out"}
    norms = {"norm_added_q": "norm_query", "norm_added_k": "norm_key"}
    named = [{key: f"{name}_text" for key, name in names.items()} for names in (layers, norms)]
    return _layers(torch, flax, *named)


def _layers(torch: str, flax: str, layers: dict[str, str], norms: dict[str, str]) -> tuple[Rule, ...]:
    return (
        *(Rule(f"{torch}.{key}", f"{flax}/{name}") for key, name in layers.items()),
        *(Rule(f"{torch}.{key}", f"{flax}/{name}", NORM[:1]) for key, name in norms.items()),
    )


def _mlp(torch: str, flax: str) -> tuple[Rule, ...]:
    return Rule(f"{torch}.net.0.proj", f"{flax}/dense_0"), Rule(f"{torch}.net.2", f"{flax}/dense_1")


RULES = (
    Rule("pos_embed.proj", "tokens/embed"),
    Rule(TABLE, "tokens/positions", TENSOR),
    Rule("time_text_embed.timestep_embedder.linear_1", "condition/time/dense_0"),
    Rule("time_text_embed.timestep_embedder.linear_2", "condition/time/dense_1"),
    Rule("time_text_embed.text_embedder.linear_1", "condition/pooled_0"),
    Rule("time_text_embed.text_embedder.linear_2", "condition/pooled_1"),
    Rule("context_embedder", "context"),
    Rule(f"{TORCH_BLOCK}.norm1.linear", f"{FLAX_BLOCK}/modulation"),
    Rule(f"{TORCH_BLOCK}.norm1_context.linear", f"{FLAX_BLOCK}/modulation_text"),
    *_attention(f"{TORCH_BLOCK}.attn", f"{FLAX_BLOCK}/attention"),
    *_text_attention(f"{TORCH_BLOCK}.attn", f"{FLAX_BLOCK}/attention"),
    *_attention(f"{TORCH_BLOCK}.attn2", f"{FLAX_BLOCK}/attention_2"),
    *_mlp(f"{TORCH_BLOCK}.ff", f"{FLAX_BLOCK}/mlp"),
    *_mlp(f"{TORCH_BLOCK}.ff_context", f"{FLAX_BLOCK}/mlp_text"),
    Rule("norm_out.linear", "head/modulation"),
    Rule("proj_out", "head/projection"),
)


def mmdit_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.mmdit.MMDiT.

    Without norms of queries, heads are assumed to be as wide as those of all published models, or else there is one.

    Raises:
      KeyError: a layer is missing.
      ValueError: the table of positions is no square, or the heads do not divide the width.
    """
    first = TORCH_BLOCK.format(i=0)
    width, channels, patch = state["pos_embed.proj.weight"].shape[:3]
    norm = state.get(f"{first}.attn.norm_q.weight")
    head_width = (width if width % HEAD_WIDTH else HEAD_WIDTH) if norm is None else norm.shape[0]
    depth = count_of(state, "transformer_blocks.{}.attn.to_q.weight")
    dual = [index for index in range(depth) if f"{TORCH_BLOCK.format(i=index)}.attn2.to_q.weight" in state]
    return {
        "channels": channels,
        "depth": depth,
        "heads": _heads(width, head_width),
        "head_width": head_width,
        **dual_arguments(dual),
        "qk_norm": norm is not None,
        "context_width": state["context_embedder.weight"].shape[1],
        "pooled_width": state["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "patch": patch,
        **_positions(state, bool(dual)),
    }


def dual_arguments(dual: Sequence[int]) -> dict[str, Any]:
    """The arguments for blocks of these indices with dual attention: their number where they are the leading ones."""
    if list(dual) == list(range(len(dual))):
        return {"dual_blocks": len(dual), "dual_layers": ()}
    return {"dual_blocks": 0, "dual_layers": tuple(dual)}


def dual_indices(arguments: Mapping[str, Any]) -> list[int]:
    """The inverse of `dual_arguments`."""
    return list(arguments.get("dual_layers", ()) or range(arguments["dual_blocks"]))


def _heads(width: int, head_width: int) -> int:
    if width % head_width:
        raise ValueError(f"heads of width {head_width} do not divide the width of the tokens, {width}")
    return width // head_width


def mmdit_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Heads without a norm of queries, and the grid of positions without a table."""
    heads = () if arguments["qk_norm"] else ("heads", "head_width")
    return heads + (() if TABLE in state else ("position_grid", "position_base"))


def mmdit_settle(arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    """Number and width of heads follow from each other."""
    width = arguments["heads"] * arguments["head_width"]
    settled = {**arguments, **stated}
    if "heads" in stated and "head_width" not in stated:
        settled["head_width"] = _heads(width, stated["heads"])
    elif "head_width" in stated:
        settled["heads"] = _heads(width, stated["head_width"])
        if settled["heads"] != stated.get("heads", settled["heads"]):
            raise ValueError(
                f"{stated['heads']} heads of width {stated['head_width']} do not make the width of the tokens, {width}"
            )
    return settled


def _positions(state: StateDict, dual: bool) -> dict[str, Any]:
    table = state.get(TABLE)
    if table is None:
        return {"position_grid": POSITION_GRIDS[dual], "position_base": POSITION_BASE, "positions": "sine"}
    side = math.isqrt(table.shape[1])
    if side * side != table.shape[1]:
        raise ValueError(f"{TABLE} has {table.shape[1]} positions, which make no square")
    base = _base(table, side)
    return {"position_grid": side, "position_base": base or POSITION_BASE, "positions": "sine" if base else "table"}


def _base(table: np.ndarray, side: int) -> int:
    """The base of a table of sine-cosine positions, 0 if it is another table.

    It may have been rounded to float16 or bfloat16; then the differences are those of the rounding.
    """
    if side < 2:
        return 0
    wide = not any(np.array_equal(table, table.astype(dtype).astype(np.float32)) for dtype in (np.float16, BFLOAT16))
    sine, cosine = table[0, 1, 0], table[0, 1, table.shape[2] // 4]  # of the second column, at the highest frequency
    base = round(float(np.arctan2(sine, cosine)) * side)
    half, axis = table.shape[2] // 2, _axis(side, base, table.shape[2])
    tolerance = 1e-4 if wide else 5e-3
    for row, positions in enumerate(table.reshape(side, side, -1)):  # row by row: a table has up to 1 GB
        columns, own_row = positions[:, :half], positions[:, half:]
        if not (np.abs(columns - axis).max() <= tolerance and np.abs(own_row - axis[row]).max() <= tolerance):
            return 0
    return base


def _axis(side: int, base: int, features: int) -> np.ndarray:
    """Positions along one side: [side, features / 2] float32, sines then cosines."""
    quarter = features // 4
    angle = np.arange(side)[:, None] * (base / side) / 10_000 ** (np.arange(quarter) / quarter)[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


QK_NORMS = {None: False, "rms_norm": True}

DEFAULTS: Mapping[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 96,
    "dual_attention_layers": (),
    "qk_norm": None,
}
"""Settings of the class in diffusers that a config.json may leave out, as saved configurations never do."""


def mmdit_arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of our module from a config.json of diffusers.

    Args:
      config: its content.
      source: its name in errors, usually a path.

    Raises:
      KeyError: it is not that of an MMDiT.
      ValueError: it has a setting that our module does not support; the message names it.
    """
    for name in ("patch_size", "num_layers", "num_attention_heads", "attention_head_dim"):
        config[name]
    settings = {**DEFAULTS, **config}
    width = settings["num_attention_heads"] * settings["attention_head_dim"]
    fixed = {"out_channels": settings["in_channels"], "caption_projection_dim": width}
    for name, value in fixed.items():
        if (setting := settings.get(name)) not in (None, value):
            raise ValueError(f"{source}: {name} {setting!r} is not supported, only {value!r}")
    if (norm := settings["qk_norm"]) not in QK_NORMS:
        raise ValueError(f"{source}: qk_norm {norm!r} is not supported, only {' and '.join(map(repr, QK_NORMS))}")
    dual = sorted(set(settings["dual_attention_layers"] or ()))
    if settings["pos_embed_max_size"] is None:
        raise ValueError(f"{source}: pos_embed_max_size None is not supported, only a number of positions")
    return {
        "channels": settings["in_channels"],
        "depth": settings["num_layers"],
        "heads": settings["num_attention_heads"],
        "head_width": settings["attention_head_dim"],
        **dual_arguments([index for index in dual if 0 <= index < settings["num_layers"]]),
        "qk_norm": QK_NORMS[norm],
        "context_width": settings["joint_attention_dim"],
        "pooled_width": settings["pooled_projection_dim"],
        "patch": settings["patch_size"],
        "position_grid": settings["pos_embed_max_size"],
        "position_base": settings["sample_size"] // settings["patch_size"],
    }


def mmdit_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the class with which diffusers, and DiT4SR's code, read such weights."""
    return {
        "_class_name": CLASS,
        "attention_head_dim": arguments["head_width"],
        "caption_projection_dim": arguments["heads"] * arguments["head_width"],
        "dual_attention_layers": dual_indices(arguments),
        "in_channels": arguments["channels"],
        "joint_attention_dim": arguments["context_width"],
        "num_attention_heads": arguments["heads"],
        "num_layers": arguments["depth"],
        "out_channels": arguments["channels"],
        "patch_size": arguments["patch"],
        "pooled_projection_dim": arguments["pooled_width"],
        "pos_embed_max_size": arguments["position_grid"],
        "qk_norm": "rms_norm" if arguments["qk_norm"] else None,
        "sample_size": arguments["position_base"] * arguments["patch"],
    }


def computed_positions(state: StateDict) -> tuple[str, ...]:
    """The key of the table of positions, if the table is what the model computes."""
    return (TABLE,) if TABLE in state and _positions(state, False)["positions"] == "sine" else ()


def mmdit_buffers(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """The table of positions, which the original requires in its checkpoint."""
    if TABLE in state:
        return {}
    side, base = arguments["position_grid"], arguments["position_base"]
    axis = _axis(side, base, state["pos_embed.proj.weight"].shape[0])
    columns, rows = np.tile(axis, (side, 1)), np.repeat(axis, side, axis=0)
    return {TABLE: np.concatenate([columns, rows], axis=1)[None]}


def mmdit_variant(arguments: Mapping[str, Any]) -> str:
    """Name and structure of a published model."""
    dual = dual_indices(arguments)
    facts = (arguments["depth"], len(dual), arguments["qk_norm"])
    names = {(24, 0, False): "SD3-medium", (24, 13, True): "SD3.5-medium", (38, 0, True): "SD3.5-large"}
    name = names.get(facts, "an MMDiT") if arguments["heads"] == arguments["depth"] else "an MMDiT"
    norms = "with" if arguments["qk_norm"] else "without"
    listed = f" ({', '.join(map(str, dual))})" if arguments.get("dual_layers") else ""
    return f"{name} ({arguments['depth']} blocks, {len(dual)} with dual attention{listed}, {norms} query norms)"


MMDIT = WeightMap(
    name="mmdit",
    rules=RULES,
    arguments=mmdit_arguments,
    buffers=mmdit_buffers,
    computed=computed_positions,
    folder="transformer",
    assumed=mmdit_assumed,
    linked=("heads", "head_width"),
    constants=("position_base",),
    settle=mmdit_settle,
    read_config=mmdit_arguments_of_config,
    config_class=CLASS,
    make_config=mmdit_config,
    group="denoiser",
    describe=mmdit_variant,
)
"""transformer/ of stable-diffusion-3-medium-diffusers, stable-diffusion-3.5-medium and -large."""


CONTROL_RULES = (
    *(
        Rule(f"{TORCH_BLOCK}.{torch}.to_{letter}_control", f"{FLAX_BLOCK}/{flax}/{name}_control")
        for torch, flax in (("attn", "attention"), ("attn2", "attention_2"))
        for letter, name in {"q": "query", "k": "key", "v": "value", "out": "out"}.items()
    ),
    Rule(f"{TORCH_BLOCK}.ff.control_conv", f"{FLAX_BLOCK}/mlp/conv_control"),
    *_text_attention(f"{TORCH_BLOCK}.attn2", f"{FLAX_BLOCK}/attention_2"),  # not used, but part of the released files
)


def dit4sr_transformer_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.dit4sr_transformer.DiT4SRTransformer.

    Files of the released code hold unused layers (`attn2.add_q_proj` and others) in blocks with dual attention; there,
    weights without these were trained without its faults. Without dual attention nothing shows it.

    Raises:
      KeyError, ValueError: see `mmdit_arguments`.
    """
    arguments = mmdit_arguments(state)
    first = TORCH_BLOCK.format(i=0)
    if (control := f"{first}.attn.to_q_control.weight") not in state:
        raise KeyError(control)
    released = _has_unused_layers(state) or not dual_indices(arguments)
    return arguments | {"variant": "released" if released else "correct", "lr_attention": "auto", "control_scale": 1.2}


def dit4sr_transformer_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of `mmdit_assumed`, and all control arguments that no tensor shows.

    The variant is among them for files of the released code too: `dit4sr_r1` has the same tensors.
    """
    plain = dual_indices(arguments) and not _has_unused_layers(state)
    variant = () if plain else ("variant",)
    return (*mmdit_assumed(state, arguments), *variant, "lr_attention", "control_scale")


def dit4sr_transformer_settle(
    arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict
) -> dict[str, Any]:
    """See `mmdit_settle`; weights with the layers that the released code does not use are not of variant 'correct'."""
    if stated.get("variant", "released") != "released" and _has_unused_layers(state):
        raise ValueError(f"variant {stated['variant']!r} has no layers such as attn2.add_q_proj: it is 'released'")
    return mmdit_settle(arguments, stated, state)


def _has_unused_layers(state: StateDict) -> bool:
    return any(key.endswith(".attn2.add_q_proj.weight") for key in state)


DIT4SR_TRANSFORMER = replace(
    MMDIT,
    name="dit4sr_transformer",
    rules=RULES + CONTROL_RULES,
    arguments=dit4sr_transformer_arguments,
    assumed=dit4sr_transformer_assumed,
    settle=dit4sr_transformer_settle,
    describe=lambda arguments: f"DiT4SR ({arguments['variant']}) on {mmdit_variant(arguments)}",
)
"""transformer/ of dit4sr_q and dit4sr_f, and of FRAMER."""
