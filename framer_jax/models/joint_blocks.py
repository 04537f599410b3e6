"""Blocks of Stable Diffusion 3's transformer: two streams of tokens, image and text, with joint attention.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024), Figure 2; the second
attention over the image alone and the norms of queries and keys are those of Stable Diffusion 3.5. Norms, softmax and
modulation (scale, shift and gate from the time) are float32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype, LayerNorm, RmsNorm, attention

Initializer = Callable[..., jax.Array]

QueryKeyValue = tuple[jax.Array, jax.Array, jax.Array]
"""Queries, keys and values, [B, N, heads, D] each."""

TEXT_SUFFIX = "_text"
"""Suffix of the names of the text stream's layers."""


class JointAttention(nn.Module):
    """Self-attention over the tokens of both streams, with projections of its own for each stream; or over the image.

    Attributes:
      heads: number of heads, a divisor of the width.
      qk_norm: whether queries and keys are normalised within each head.
      implementation: one of framer_jax.models.layers.ATTENTIONS.
      writes_text: whether the text stream has an output.
      dtype: compute dtype.
    """

    heads: int
    qk_norm: bool
    implementation: str = "auto"
    writes_text: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Image [B, N, W] and text [B, T, W] or None → their outputs, None for a text stream without one."""
        streams = [self._query_key_value(image)]
        streams += [] if text is None else [self._query_key_value(text, TEXT_SUFFIX)]
        query, key, value = concatenate_tokens(streams)
        attended = attention(query, key, value, self.implementation)
        attended = attended.reshape(image.shape[0], -1, image.shape[-1])  # [B, N + T, W]
        count = image.shape[1]
        return self._dense(attended[:, :count], "out"), self._text_output(attended[:, count:])

    def _dense(self, x: jax.Array, name: str, init: Initializer = nn.linear.default_kernel_init) -> jax.Array:
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name=name)(x)

    def _split_heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.heads, x.shape[-1] // self.heads)

    def _norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        return RmsNorm(name=name) if self.qk_norm else lambda x: x

    def _query_key_value(self, x: jax.Array, suffix: str = "") -> QueryKeyValue:
        names = ("query", "key", "value")
        query, key, value = (self._split_heads(self._dense(x, name + suffix)) for name in names)
        return self._norm(f"norm_query{suffix}")(query), self._norm(f"norm_key{suffix}")(key), value

    def _text_output(self, attended: jax.Array) -> jax.Array | None:
        return self._dense(attended, "out" + TEXT_SUFFIX) if attended.shape[1] and self.writes_text else None


def concatenate_tokens(streams: list[QueryKeyValue]) -> QueryKeyValue:
    """Several streams as one sequence."""
    query, key, value = (jnp.concatenate(parts, axis=1) for parts in zip(*streams, strict=True))
    return query, key, value


class FeedForward(nn.Module):
    """An MLP: two linear layers with a GELU (tanh approximation) between them.

    Attributes:
      ratio: hidden width as a multiple of the input width.
      dtype: compute dtype.
    """

    ratio: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, W] → [B, N, W]."""
        h = nn.Dense(self.ratio * x.shape[-1], dtype=self.dtype, name="dense_0")(x)
        h = self.transform_hidden(nn.gelu(h, approximate=True))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="dense_1")(h)

    def transform_hidden(self, h: jax.Array) -> jax.Array:
        """Hook for subclasses: change the hidden tokens."""
        return h


class JointBlock(nn.Module):
    """Attention and an MLP in both streams, each preceded by a modulated norm, gated, and with a skip.

    The subclasses differ in the signature of `__call__`.

    Attributes:
      attention: constructor of the attentions; takes `name` and `writes_text`.
      feed_forward: constructor of the image stream's MLP.
      dual: whether there is a second attention, over the image alone, in parallel to the first.
      last: whether the text stream is read only.
      dtype: compute dtype.
    """

    attention: Callable[..., nn.Module]
    feed_forward: Callable[..., nn.Module]
    dual: bool = False
    last: bool = False
    dtype: Dtype = jnp.float32

    def streams(self, image: jax.Array, text: jax.Array, condition: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image and text after the block; see Block."""
        shift, scale, gate, *mlp = modulation(condition, 9 if self.dual else 6, "modulation")
        second = mlp[3:]  # shift, scale and gate of the second attention
        if self.last:
            text_scale, text_shift = modulation(condition, 2, "modulation" + TEXT_SUFFIX)
        else:
            text_shift, text_scale, text_gate, *text_mlp = modulation(condition, 6, "modulation" + TEXT_SUFFIX)
        attended, attended_text = self.attention(name="attention", writes_text=not self.last)(
            self._modulate(image, scale, shift), self._modulate(text, text_scale, text_shift)
        )
        attended_image = None
        if self.dual:
            attended_image, _ = self.attention(name="attention_2")(self._modulate(image, second[1], second[0]))
        image = gated(image, gate, attended)
        if attended_image is not None:
            image = gated(image, second[2], attended_image)
        image = self._mlp(image, mlp, self.feed_forward(name="mlp"))
        if not self.last:
            text = gated(text, text_gate, attended_text)
            text = self._mlp(text, text_mlp, FeedForward(dtype=self.dtype, name="mlp" + TEXT_SUFFIX))
        return image, text

    def _mlp(self, x: jax.Array, modulation: list[jax.Array], layer: nn.Module) -> jax.Array:
        shift, scale, gate = modulation[:3]
        return gated(x, gate, layer(self._modulate(x, scale, shift)))

    def _modulate(self, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        return modulated(x, scale, shift).astype(self.dtype)


class Block(JointBlock):
    """A block on its own. Attributes: see JointBlock."""

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array, condition: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Apply the block.

        Args:
          image: [B, N, W] in the compute dtype.
          text: [B, T, W] in the compute dtype.
          condition: embedding that modulates the block, after its SiLU, [B, W] float32.

        Returns:
          image and text; the last block returns the text unchanged.
        """
        return self.streams(image, text, condition)


class ScanBody(JointBlock):
    """A block as the body of `nn.scan`.

    Attributes:
      tap_tokens: number of leading image tokens that each step returns as its tap.
    """

    tap_tokens: int = 0

    @nn.compact
    def __call__(
        self, streams: tuple[jax.Array, jax.Array], condition: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """(image, text), condition → (image, text), the first image tokens."""
        image, text = self.streams(*streams, condition)
        return (image, text), image[:, : self.tap_tokens]


def modulation(condition: jax.Array, parts: int, name: str) -> list[jax.Array]:
    """Within a module: `parts` vectors [B, 1, W] float32, linear in condition [B, W]; zero at initialisation."""
    width = condition.shape[-1]
    layer = nn.Dense(parts * width, dtype=jnp.float32, kernel_init=nn.initializers.zeros, name=name)
    return jnp.split(layer(condition)[:, None, :], parts, axis=-1)


def modulated(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """LayerNorm(x) · (1 + scale) + shift: x [B, N, W], scale and shift [B, 1, W] → [B, N, W] float32."""
    normal = LayerNorm(affine=False, parent=None).apply({}, x.astype(jnp.float32))
    return cast(jax.Array, normal) * (scale + 1) + shift


def gated(x: jax.Array, gate: jax.Array, change: jax.Array) -> jax.Array:
    """The sum x + gate · change, in float32: x and change [B, N, W], gate [B, 1, W] → [B, N, W] in the dtype of x."""
    return (x.astype(jnp.float32) + gate * change.astype(jnp.float32)).astype(x.dtype)


class Head(nn.Module):
    """A modulated norm, then a projection of each token to its patch; float32, zero at initialisation."""

    features: int

    @nn.compact
    def __call__(self, tokens: jax.Array, condition: jax.Array) -> jax.Array:
        """Tokens [B, N, W], condition [B, W] → [B, N, features]."""
        scale, shift = modulation(condition, 2, "modulation")
        h = modulated(tokens, scale, shift)
        return nn.Dense(self.features, dtype=jnp.float32, kernel_init=nn.initializers.zeros, name="projection")(h)
