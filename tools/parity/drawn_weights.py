"""Weights of the fixtures' reference models, drawn from their names (NumPy only)."""

from __future__ import annotations

import zlib

import numpy as np

TABLE_KEYS = (
    "relative_position_bias_table",
    "relative_attention_bias.weight",
    "pos_embed",
    "cls_token",
    "mask_token",
    "register_tokens",
    "position_embedding.weight",
    "token_embedding.weight",
    "embed_tokens.weight",
    "shared.weight",
    "class_embedding.weight",
    "quantize.embedding.weight",
    "codebook",
)
"""Suffixes of the state-dict keys of tables."""


def named_weight(key: str, shape: tuple[int, ...], salt: str = "", gain: float = 1.0) -> np.ndarray:
    """A float32 tensor whose random numbers depend on its name: the weights of the fixtures' reference models."""
    normal = np.random.Generator(np.random.PCG64(zlib.crc32((salt + key).encode()))).standard_normal(
        shape, dtype=np.float32
    )
    normal = np.asarray(normal)
    last = key.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1 + np.float32(0.1) * np.abs(normal)
    if last == "running_mean":
        return np.float32(0.1) * normal
    if key.endswith(TABLE_KEYS):
        return np.float32(0.5) * normal
    if normal.ndim >= 2:
        return normal * np.float32(gain / np.sqrt(float(np.prod(shape[1:]))))
    if last in ("weight", "gamma", "scale"):
        return 1 + np.float32(0.1) * normal
    return np.float32(0.1) * normal
