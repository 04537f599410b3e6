"""Attention on TPUs without the matrix of logits in memory: JAX's Pallas kernel "splash attention".

Flash attention (Dao et al., NeurIPS 2022) for TPUs, of which JAX ships the kernel. It takes lengths that are multiples
of its blocks and one example per call, and XLA's partitioner cannot split it: here are the padding and the meshes.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

LANES, LARGEST_BLOCK = 128, 512
"""Blocks of tokens are multiples of the lanes of a TPU; larger ones than this do not fit into its fast memory."""


def splash_attention(query: jax.Array, key: jax.Array, value: jax.Array, interpret: bool = False) -> jax.Array:
    """Softmax attention of all queries to all keys, with the softmax in float32; differentiable once.

    Where the mesh of the context has several devices (`jax.sharding.use_abstract_mesh`), each computes its part of the
    batch, or all of a batch that they do not divide.

    Args:
      query: [B, N, heads, D].
      key: [B, M, heads, D].
      value: [B, M, heads, D].
      interpret: compute the kernel step by step on any platform, as tests do.

    Returns:
      [B, N, heads, D] in the dtype of the query.
    """

    def run(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        # The kernel mixes dtypes and ranks on purpose, which a strict session would refuse.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return _on_one_device(query, key, value, interpret)

    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto)
    if not axes:
        return run(query, key, value)
    devices = math.prod(mesh.shape[name] for name in axes)
    batch = PartitionSpec() if query.shape[0] % devices else PartitionSpec(axes)  # (): every device computes all of it
    split = jax.shard_map(run, in_specs=batch, out_specs=batch, axis_names=set(axes), check_vma=False)
    return split(query, key, value)


def _on_one_device(query: jax.Array, key: jax.Array, value: jax.Array, interpret: bool) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    heads, length, keys = query.shape[2], query.shape[1], key.shape[1]
    block_q, block_kv = _block(length), _block(keys)
    scaled = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    q = _padded(scaled, block_q)  # [B, heads, N', D]
    k, v = _padded(key, block_kv), _padded(value, block_kv)  # [B, heads, M', D]
    mask = splash_attention_mask.FullMask((q.shape[2], k.shape[2]))
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=_block_sizes(splash_attention_kernel, block_q, block_kv),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # Keys of the padding belong to another segment, to which no query attends.
    segments = splash_attention_kernel.SegmentIds(
        q=jnp.zeros(q.shape[2], jnp.int32), kv=(jnp.arange(k.shape[2]) >= keys).astype(jnp.int32)
    )
    attended = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)  # [B, heads, N', D]
    return attended[:, :, :length].transpose(0, 2, 1, 3).astype(query.dtype)


def _block(length: int) -> int:
    """Tokens of a block: all of them, rounded up to lanes, or `LARGEST_BLOCK` of more."""
    return min(LARGEST_BLOCK, -(-length // LANES) * LANES)


def _block_sizes(kernels: Any, block_q: int, block_kv: int) -> Any:
    """One size for the forward pass and for the two kernels of the gradient."""
    return kernels.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
    )


def _padded(tokens: jax.Array, block: int) -> jax.Array:
    """[B, N, heads, D] → [B, heads, N', D], with N' a multiple of the block."""
    extra = -tokens.shape[1] % block
    return jnp.pad(tokens, ((0, 0), (0, extra), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
