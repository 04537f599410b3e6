"""The parts of Stable Diffusion 3's transformer: two streams of tokens, image and text, that meet in attention.

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

from framer_jax.models.layers import ChannelNorm, Dtype, RmsNorm, attention

Initializer = Callable[..., jax.Array]

Heads = tuple[jax.Array, jax.Array, jax.Array]
"""Queries, keys and values, [B, N, heads, D] each."""

TEXT = "_text"
"""Ending of the names of the text stream's layers."""


class JointAttention(nn.Module):
    """One attention over the tokens of both streams, each with projections of its own; or over the image alone.

    Attributes:
      heads: they share the width evenly.
      qk_norm: queries and keys pass a norm within each head first.
      kind: who computes it, see framer_jax.models.layers.ATTENTIONS.
      writes_text: whether the text gets a result.
      dtype: compute dtype.
    """

    heads: int
    qk_norm: bool
    kind: str = "auto"
    writes_text: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Image [B, N, W] and text [B, T, W] or None → what each of them gets (None for a text that gets nothing)."""
        parts = [self._heads_of(image)] + ([] if text is None else [self._heads_of(text, TEXT)])
        query, key, value = joined(parts)
        mixed = attention(query, key, value, self.kind).reshape(image.shape[0], -1, image.shape[-1])  # [B, N + T, W]
        count = image.shape[1]
        return self._dense(mixed[:, :count], "out"), self._to_text(mixed[:, count:])

    def _dense(self, x: jax.Array, name: str, init: Initializer = nn.linear.default_kernel_init) -> jax.Array:
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name=name)(x)

    def _by_heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.heads, x.shape[-1] // self.heads)

    def _norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        return RmsNorm(name=name) if self.qk_norm else lambda x: x

    def _heads_of(self, x: jax.Array, ending: str = "") -> Heads:
        query, key, value = (self._by_heads(self._dense(x, word + ending)) for word in ("query", "key", "value"))
        return self._norm(f"norm_query{ending}")(query), self._norm(f"norm_key{ending}")(key), value

    def _to_text(self, mixed: jax.Array) -> jax.Array | None:
        return self._dense(mixed, "out" + TEXT) if mixed.shape[1] and self.writes_text else None


def joined(parts: list[Heads]) -> Heads:
    """Several streams as one sequence."""
    query, key, value = (jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return query, key, value


class FeedForward(nn.Module):
    """Two linear layers with a GELU (its tanh form) between them.

    Attributes:
      ratio: width between them as a multiple of the outer one.
      dtype: compute dtype.
    """

    ratio: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, W] → [B, N, W]."""
        h = nn.Dense(self.ratio * x.shape[-1], dtype=self.dtype, name="dense_0")(x)
        h = self.between(nn.gelu(h, approximate=True))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="dense_1")(h)

    def between(self, h: jax.Array) -> jax.Array:
        """What a descendant does to the hidden tokens."""
        return h


class Block(nn.Module):
    """Attention and a perceptron in both streams, each behind a modulated norm and before a gate, with a skip.

    Attributes:
      attention: makes the attentions; takes `name` and `writes_text`.
      feed_forward: makes the image stream's perceptron.
      dual: a second attention, over the image alone, beside the first.
      last: the text is read and not written any more.
      dtype: compute dtype.
    """

    attention: Callable[..., nn.Module]
    feed_forward: Callable[..., nn.Module]
    dual: bool = False
    last: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array, condition: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Apply the block.

        Args:
          image: [B, N, W] in the compute dtype.
          text: [B, T, W] in the compute dtype.
          condition: [B, W] float32, what modulates, behind its SiLU.

        Returns:
          image and text (of the last block as it came).
        """
        return self.streams(image, text, condition)

    def streams(self, image: jax.Array, text: jax.Array, condition: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `__call__`; for descendants that are called in another way."""
        shift, scale, gate, *mlp = modulation(condition, 9 if self.dual else 6, "modulation")
        second = mlp[3:]  # shift, scale and gate of the second attention
        if self.last:
            text_scale, text_shift = modulation(condition, 2, "modulation" + TEXT)
        else:
            text_shift, text_scale, text_gate, *text_mlp = modulation(condition, 6, "modulation" + TEXT)
        mixed, mixed_text = self.attention(name="attention", writes_text=not self.last)(
            self._modulated(image, scale, shift), self._modulated(text, text_scale, text_shift)
        )
        more = None
        if self.dual:
            more, _ = self.attention(name="attention_2")(self._modulated(image, second[1], second[0]))
        image = gated(image, gate, mixed)
        if more is not None:
            image = gated(image, second[2], more)
        image = self._perceptron(image, mlp, self.feed_forward(name="mlp"))
        if not self.last:
            text = gated(text, text_gate, mixed_text)
            text = self._perceptron(text, text_mlp, FeedForward(dtype=self.dtype, name="mlp" + TEXT))
        return image, text

    def _perceptron(self, x: jax.Array, modulation: list[jax.Array], layer: nn.Module) -> jax.Array:
        shift, scale, gate = modulation[:3]
        return gated(x, gate, layer(self._modulated(x, scale, shift)))

    def _modulated(self, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        return modulated(x, scale, shift).astype(self.dtype)


class Repeated(Block):
    """A block as a step of a scan.

    Attributes:
      kept: so many image tokens of each step are given out.
    """

    kept: int = 0

    @nn.compact
    def __call__(  # type: ignore[override]
        self, streams: tuple[jax.Array, jax.Array], condition: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Image and text, condition → (image and text, the first image tokens)."""
        image, text = self.streams(*streams, condition)
        return (image, text), image[:, : self.kept]


def modulation(condition: jax.Array, parts: int, name: str) -> list[jax.Array]:
    """Within a module: `parts` vectors [B, 1, W] float32, linear in condition [B, W]; zero at initialisation."""
    width = condition.shape[-1]
    layer = nn.Dense(parts * width, dtype=jnp.float32, kernel_init=nn.initializers.zeros, name=name)
    return jnp.split(layer(condition)[:, None, :], parts, axis=-1)


def modulated(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """The norm of x [B, N, W], scaled by 1 + scale and shifted, both [B, 1, W]; float32."""
    normal = ChannelNorm(affine=False, parent=None).apply({}, x.astype(jnp.float32))
    return cast(jax.Array, normal) * (scale + 1) + shift


def gated(x: jax.Array, gate: jax.Array, change: jax.Array) -> jax.Array:
    """X + gate · change, summed in float32: x and change [B, N, W], gate [B, 1, W] → like x."""
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
