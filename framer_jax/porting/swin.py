"""Rules and constants common to all checkpoints with Swin Transformer blocks."""

from __future__ import annotations

import math

import numpy as np

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict

BIAS_TABLE = "attn.relative_position_bias_table"

INDEX, MASK = "attn.relative_position_index", "attn_mask"
"""Constants that a block of the original registers and that ours computes."""


def block_rules(torch: str, flax: str) -> tuple[Rule, ...]:
    """A framer_jax.models.swin.SwinBlock."""
    return (
        Rule(f"{torch}.norm1", f"{flax}/norm_0", NORM),
        Rule(f"{torch}.{BIAS_TABLE}", f"{flax}/attention/bias_table", TENSOR),
        Rule(f"{torch}.attn.qkv", f"{flax}/attention/qkv"),
        Rule(f"{torch}.attn.proj", f"{flax}/attention/project"),
        Rule(f"{torch}.norm2", f"{flax}/norm_1", NORM),
        Rule(f"{torch}.mlp.fc1", f"{flax}/mlp_0"),
        Rule(f"{torch}.mlp.fc2", f"{flax}/mlp_1"),
    )


def window_and_heads(state: StateDict, block: str) -> tuple[int, int]:
    """Side of the windows and number of heads of a block, from its bias table [(2 window - 1)², heads]."""
    rows, heads = state[f"{block}.{BIAS_TABLE}"].shape
    return (math.isqrt(rows) + 1) // 2, heads


def relative_position_index(window: int) -> np.ndarray:
    """[window², window²] int64 rows of the bias table, as Swin Transformers register them."""
    position = np.indices((window, window)).reshape(2, -1)
    difference = position[:, :, None] - position[:, None, :] + window - 1  # [2, N, N]
    return (difference[0] * (2 * window - 1) + difference[1]).astype(np.int64)


def textbook_mask(windows: int, window: int) -> np.ndarray:
    """The mask of windows shifted by half their side, as in the Swin paper: it separates opposite ends of the map.

    Returns:
      [windows², window², window²] float32, 0 or -100.
    """
    wrapped = np.arange(window) >= window - window // 2
    by_row, by_column = np.repeat(wrapped, window), np.tile(wrapped, window)  # [N] each
    masked = np.zeros((windows, windows, window**2, window**2), bool)
    masked[-1] |= by_row[:, None] != by_row[None, :]
    masked[:, -1] |= by_column[:, None] != by_column[None, :]
    return np.where(masked, np.float32(-100), np.float32(0)).reshape(windows**2, window**2, window**2)
