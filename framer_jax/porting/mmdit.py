"""Checkpoints of the transformers of Stable Diffusion 3 and 3.5, in the names of Diffusers, and of DiT4SR."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict, WeightMap, count_of

TORCH_BLOCK, FLAX_BLOCK = "transformer_blocks.{i}", "block_{i}"

TABLE = "pos_embed.pos_embed"
"""The table of positions, [1, side², width]: a constant, but a stored table takes precedence over the computed one."""

HEAD_WIDTH = 64
"""Width of an attention head in all published models; where queries are normalised, the norm's size determines it."""

POSITION_GRIDS, POSITION_BASE = {False: 192, True: 384}, 64
"""For files without the table: side of the grid of positions without and with dual attention, and its base."""


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

    Raises:
      KeyError: a layer is missing.
      ValueError: blocks with dual attention follow blocks without.
    """
    first = TORCH_BLOCK.format(i=0)
    width, channels, patch = state["pos_embed.proj.weight"].shape[:3]
    norm = state.get(f"{first}.attn.norm_q.weight")
    head_width = HEAD_WIDTH if norm is None else norm.shape[0]
    depth = count_of(state, "transformer_blocks.{}.attn.to_q.weight")
    dual = [index for index in range(depth) if f"{TORCH_BLOCK.format(i=index)}.attn2.to_q.weight" in state]
    if dual != list(range(len(dual))):
        raise ValueError(f"blocks {dual} have dual attention, which only the leading blocks may have")
    return {
        "channels": channels,
        "depth": depth,
        "heads": width // head_width,
        "head_width": head_width,
        "dual_blocks": len(dual),
        "qk_norm": norm is not None,
        "context_width": state["context_embedder.weight"].shape[1],
        "pooled_width": state["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "patch": patch,
        **_positions(state, bool(dual)),
    }


def _positions(state: StateDict, dual: bool) -> dict[str, Any]:
    table = state.get(TABLE)
    if table is None:
        return {"position_grid": POSITION_GRIDS[dual], "position_base": POSITION_BASE, "positions": "sine"}
    side = math.isqrt(table.shape[1])
    base = _base(table, side)
    return {"position_grid": side, "position_base": base or POSITION_BASE, "positions": "sine" if base else "table"}


def _base(table: np.ndarray, side: int) -> int:
    """The base of a table of sine-cosine positions, 0 if it is another table; it may have been rounded to bfloat16."""
    if side < 2:
        return 0
    sine, cosine = table[0, 1, 0], table[0, 1, table.shape[2] // 4]  # of the second column, at the highest frequency
    base = round(float(np.arctan2(sine, cosine)) * side)
    half, axis = table.shape[2] // 2, _axis(side, base, table.shape[2])
    rows = table.reshape(side, side, -1)
    ends = [part for end in (0, -1) for part in (rows[end, :, :half], rows[:, end, half:])]
    close = all(np.allclose(part, axis, rtol=0, atol=5e-3) for part in ends)
    return base if close else 0


def _axis(side: int, base: int, features: int) -> np.ndarray:
    """Positions along one side: [side, features / 2] float32, sines then cosines."""
    quarter = features // 4
    angle = np.arange(side)[:, None] * (base / side) / 10_000 ** (np.arange(quarter) / quarter)[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def mmdit_merge_config(arguments: dict[str, Any], state: StateDict, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with those that only config.json determines: heads without query norms, positions without a table.

    Raises:
      ValueError: the config.json is that of a model of another size.
      KeyError: it is not that of an MMDiT.
    """
    patch = config["patch_size"]
    dual = list(config.get("dual_attention_layers") or ())
    configured = {
        "channels": config["in_channels"],
        "depth": config["num_layers"],
        "heads": config["num_attention_heads"],
        "head_width": config["attention_head_dim"],
        "dual_blocks": len(dual),
        "qk_norm": config.get("qk_norm") == "rms_norm",
        "context_width": config["joint_attention_dim"],
        "pooled_width": config["pooled_projection_dim"],
        "patch": patch,
        "position_grid": config["pos_embed_max_size"],
    }
    arguments = dict(arguments)
    width = state["pos_embed.proj.weight"].shape[0]
    if not arguments["qk_norm"] and configured["heads"] * configured["head_width"] == width:
        arguments |= {name: configured[name] for name in ("heads", "head_width")}
    if TABLE not in state:
        arguments |= {"position_grid": configured["position_grid"], "position_base": config["sample_size"] // patch}
    if differing := [name for name, value in configured.items() if arguments[name] != value]:
        listed = ", ".join(f"{name} {configured[name]!r} and {arguments[name]!r}" for name in differing)
        raise ValueError(f"{mmdit_variant(configured)} and {mmdit_variant(arguments)} ({listed}): fetch both again")
    return arguments


def mmdit_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the class with which diffusers, and DiT4SR's code, read such weights."""
    return {
        "_class_name": "SD3Transformer2DModel",
        "attention_head_dim": arguments["head_width"],
        "caption_projection_dim": arguments["heads"] * arguments["head_width"],
        "dual_attention_layers": list(range(arguments["dual_blocks"])),
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
    facts = (arguments["depth"], arguments["dual_blocks"], arguments["qk_norm"])
    names = {(24, 0, False): "SD3-medium", (24, 13, True): "SD3.5-medium", (38, 0, True): "SD3.5-large"}
    name = names.get(facts, "an MMDiT") if arguments["heads"] == arguments["depth"] else "an MMDiT"
    norms = "with" if arguments["qk_norm"] else "without"
    return f"{name} ({arguments['depth']} blocks, {arguments['dual_blocks']} with dual attention, {norms} query norms)"


MMDIT = WeightMap(
    name="mmdit",
    rules=RULES,
    arguments=mmdit_arguments,
    buffers=mmdit_buffers,
    computed=computed_positions,
    folder="transformer",
    merge_config=mmdit_merge_config,
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

    Files of the released code hold unused layers (`attn2.add_q_proj` and others), which distinguish its weights from
    those that were trained without its faults.

    Raises:
      KeyError, ValueError: see `mmdit_arguments`.
    """
    arguments = mmdit_arguments(state)
    first = TORCH_BLOCK.format(i=0)
    if (control := f"{first}.attn.to_q_control.weight") not in state:
        raise KeyError(control)
    released = f"{first}.attn2.add_q_proj.weight" in state
    return arguments | {"variant": "released" if released else "correct"}


DIT4SR_TRANSFORMER = replace(
    MMDIT,
    name="dit4sr_transformer",
    rules=RULES + CONTROL_RULES,
    arguments=dit4sr_transformer_arguments,
    describe=lambda arguments: f"DiT4SR ({arguments['variant']}) on {mmdit_variant(arguments)}",
)
"""transformer/ of dit4sr_q and dit4sr_f, and of FRAMER."""
