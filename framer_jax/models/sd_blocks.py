"""Transformer layers of Stable Diffusion's U-Net: attention over positions, attention to the text, and a gated MLP.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022), Section 3.3 and Appendix
E.2.1. Norms and softmax are float32 whatever the compute dtype. All layers with weights are `nn.Dense` or `nn.Conv`, so
that LoRA adapters can be added to any of them, convolutions included.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype, GroupNorm, LayerNorm, attention

NORM_EPSILON = 1e-5
"""Added to the variance in the norms of tokens."""

MAP_NORM_EPSILON = 1e-6
"""Added to the variance in the norm of a map before its transformer layers."""

MLP_RATIO = 4
"""Hidden width of the MLPs as a multiple of the width of the tokens."""


def _is_convolution(primitive: Any, *_: Any, **__: Any) -> bool:
    return str(primitive) == "conv_general_dilated"


REMAT = {
    "none": None,
    "everything": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _is_convolution
    ),
}
"""Rematerialisation policies: what is recomputed for the gradient instead of stored: nothing, everything, or attention
and other cheap operations (outputs of convolutions and linear layers are stored)."""


class CrossAttention(nn.Module):
    """Attention of tokens to other tokens, or to themselves. Projections of queries, keys and values have no biases.

    Attributes:
      heads: number of heads, a divisor of the width of the tokens.
      implementation: one of framer_jax.models.layers.ATTENTIONS.
      dtype: compute dtype.
    """

    heads: int
    implementation: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Tokens [B, N, W] and those that they attend to [B, M, V] → [B, N, W]."""
        query = self._project(x, x.shape[-1], "query")
        key, value = (self._project(context, x.shape[-1], name) for name in ("key", "value"))
        attended = attention(query, key, value, self.implementation).reshape(x.shape)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(attended)

    def _project(self, tokens: jax.Array, width: int, name: str) -> jax.Array:
        """[B, N, V] → [B, N, heads, width / heads]."""
        projected = nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(tokens)
        return projected.reshape(*tokens.shape[:2], self.heads, width // self.heads)


class GatedMlp(nn.Module):
    """An MLP whose hidden layer is multiplied by the GELU of a gate (exact, with the error function).

    Shazeer, "GLU Variants Improve Transformer" (2020), GEGLU.

    Attributes:
      dtype: compute dtype.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, W] → [B, N, W]."""
        both = nn.Dense(2 * MLP_RATIO * x.shape[-1], dtype=self.dtype, name="dense_0")(x)
        hidden, gate = jnp.split(both, 2, axis=-1)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="dense_1")(hidden * nn.gelu(gate, approximate=False))


class TransformerLayer(nn.Module):
    """Attention of the tokens to each other, attention to the text, and an MLP, each after a norm and with a skip.

    Attributes:
      heads, implementation, dtype: see CrossAttention.
    """

    heads: int
    implementation: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
        """Tokens [B, N, W] and text [B, T, V] → [B, N, W]."""
        h = self._normalised(x, "norm_self")
        x = x + self._attention("self_attention")(h, h)
        x = x + self._attention("text_attention")(self._normalised(x, "norm_text"), text)
        return x + GatedMlp(self.dtype, name="mlp")(self._normalised(x, "norm_mlp"))

    def _normalised(self, x: jax.Array, name: str) -> jax.Array:
        return LayerNorm(epsilon=NORM_EPSILON, name=name)(x)

    def _attention(self, name: str) -> CrossAttention:
        return CrossAttention(self.heads, self.implementation, self.dtype, name=name)


class SpatialTransformer(nn.Module):
    """A transformer layer over the positions of a map, between two projections, with a skip.

    Attributes:
      heads, implementation, dtype: see CrossAttention.
      groups: groups of the norm that comes first.
    """

    heads: int
    groups: int
    implementation: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, text: jax.Array) -> jax.Array:
        """Map [B, H, W, C] and text [B, T, V] → [B, H, W, C]; before any training, the map itself."""
        batch, height, width, channels = x.shape
        tokens = GroupNorm(self.groups, MAP_NORM_EPSILON, name="norm")(x).reshape(batch, height * width, channels)
        tokens = nn.Dense(channels, dtype=self.dtype, name="project_in")(tokens)
        tokens = TransformerLayer(self.heads, self.implementation, self.dtype, name="layer_0")(tokens, text)
        project_out = nn.Dense(channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="project_out")
        return x + project_out(tokens).reshape(x.shape)
