"""DiT4SR's transformer: Stable Diffusion 3.5's, with a second stream of image tokens for the LR image.

Duan et al., "DiT4SR: Taming Diffusion Transformer for Real-World Image Super-Resolution" (ICCV 2025); FRAMER uses this
transformer. The sequence of image tokens is [noise | LR], both with the position embeddings of the image. Only layers
with 'control' in their names are trained; the others are those of the base model.

Written from measurements of the released code. Its variant 'released' reproduces the faults of that code:
- where keys are normalised, the keys of the LR tokens are discarded: the noise tokens' keys, normalised twice, replace
  them;
- `out_control` starts from a random layer, as it is copied before the weights of the base are loaded (see
  `with_control`);
- layers that start at zero have an effect from the start: LR tokens take weight in the common softmax, though their
  values are zero, so that the untrained model differs from the base model (see `LR_ATTENTIONS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from framer_jax.knobs import inherited_knob, knob
from framer_jax.models.denoiser import LR_LATENT, Condition, Taps, condition_entry
from framer_jax.models.joint_blocks import (
    TEXT_SUFFIX,
    FeedForward,
    Initializer,
    JointAttention,
    QueryKeyValue,
    concatenate_tokens,
)
from framer_jax.models.layers import attention
from framer_jax.models.mmdit import Constructor, Grid, JointTransformer

VARIANTS = ("correct", "released")
"""Without the faults of the released code, or with them, as its weights need it.

The authors' later `dit4sr_r1`, whose code normalises the LR keys themselves, has weights of the same names and shapes
as 'released': the two cannot be told apart, and `dit4sr_r1` is not supported.
"""

LR_ATTENTIONS = ("auto", "joint", "added")
"""How noise and text tokens attend to the LR tokens: in one softmax over all tokens, as published (joint); or in a
softmax of their own whose result is added, which makes the untrained model the base model (added). 'auto' is 'joint'
for variant 'released' and 'added' for 'correct'."""

CONTROL = "control"
"""Part of the names of all trained layers."""

Params = dict[str, Any]


class ControlledAttention(JointAttention):
    """Joint attention whose image tokens are [noise | LR].

    Attributes:
      variant: one of `VARIANTS`.
      lr_attention: 'joint' or 'added', see `LR_ATTENTIONS`.
    """

    variant: str = "correct"
    lr_attention: str = "added"

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Image [B, 2 N, W] and text [B, T, W] or None → their outputs."""
        count, width = image.shape[1] // 2, image.shape[-1]
        noise, lr = self._noise_and_lr(image)
        if text is None and self.variant == "released":
            self._unused_text_layers(width)
        attended = self._attend(noise, lr, None if text is None else self._query_key_value(text, TEXT_SUFFIX))
        attended = attended.reshape(image.shape[0], -1, width)  # [B, 2 N + T, W]
        noise_output = self._dense(attended[:, :count], "out")
        lr_output = self._dense(attended[:, count : 2 * count] + image[:, count:], f"out_{CONTROL}")
        image_output = jnp.concatenate([noise_output, lr_output], axis=1)
        return image_output, self._text_output(attended[:, 2 * count :])

    def _noise_and_lr(self, image: jax.Array) -> tuple[QueryKeyValue, QueryKeyValue]:
        """Queries, keys and values of noise and LR tokens; the latter pass one more layer each."""
        noise, lr = {}, {}
        for name in ("query", "key", "value"):
            noise_part, lr_part = jnp.split(self._dense(image, name), 2, axis=1)
            noise[name] = self._split_heads(noise_part)
            init = control_kernel_init(f"{name}_{CONTROL}", self.variant)
            lr[name] = self._split_heads(self._dense(lr_part, f"{name}_{CONTROL}", init))
        norm_query, norm_key = self._norm("norm_query"), self._norm("norm_key")
        noise_query, noise_key = norm_query(noise["query"]), norm_key(noise["key"])
        lr_query = norm_query(lr["query"])
        lr_key = norm_key(noise_key if self.variant == "released" and self.qk_norm else lr["key"])
        return (noise_query, noise_key, noise["value"]), (lr_query, lr_key, lr["value"])

    def _attend(self, noise: QueryKeyValue, lr: QueryKeyValue, text: QueryKeyValue | None) -> jax.Array:
        """Outputs of attention for [noise | LR | text], [B, 2 N + T, heads, D]."""
        streams = [] if text is None else [text]
        all_tokens = concatenate_tokens([noise, lr, *streams])
        if self.lr_attention == "joint":
            return attention(*all_tokens, self.implementation)
        base = concatenate_tokens([noise, *streams])
        base_output = attention(*base, self.implementation) + attention(base[0], lr[1], lr[2], self.implementation)
        lr_output = attention(lr[0], all_tokens[1], all_tokens[2], self.implementation)
        count = lr[0].shape[1]
        return jnp.concatenate([base_output[:, :count], lr_output, base_output[:, count:]], axis=1)

    def _unused_text_layers(self, width: int) -> None:
        """Text layers that the released checkpoints hold for the second attention, which does not see the text."""
        for name in ("query", "key", "value", "out"):
            UnusedLayer((width, width), name=name + TEXT_SUFFIX)()
        if self.qk_norm:
            for name in ("query", "key"):
                UnusedLayer((width // self.heads,), name=f"norm_{name}{TEXT_SUFFIX}")()


class UnusedLayer(nn.Module):
    """Parameters without a use, of a linear layer (shape of two sides) or of a norm (one)."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> None:
        """Create the parameters."""
        if len(self.shape) == 1:
            self.param("scale", nn.initializers.ones, self.shape)
        else:
            self.param("kernel", nn.initializers.zeros, self.shape)
            self.param("bias", nn.initializers.zeros, self.shape[-1:])


class ControlledFeedForward(FeedForward):
    """An MLP of [noise | LR] tokens that adds the convolved hidden LR tokens to the hidden noise tokens.

    Attributes:
      grid: rows and columns of tokens.
      control_scale: factor of the convolved LR tokens.
    """

    grid: Grid = (1, 1)
    control_scale: float = 1.2

    def transform_hidden(self, h: jax.Array) -> jax.Array:
        """[B, 2 N, C] → [B, 2 N, C]."""
        noise, lr = jnp.split(h, 2, axis=1)
        convolved = DepthwiseConv(self.dtype, name=f"conv_{CONTROL}")(lr.reshape(-1, *self.grid, lr.shape[-1]))
        noise = noise + jnp.asarray(self.control_scale, h.dtype) * convolved.reshape(noise.shape)
        return jnp.concatenate([noise, lr], axis=1)


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution, zero at initialisation.

    It is computed as nine shifted products, which XLA fuses into one pass: grouped convolutions, and above all their
    gradients, are slow where no library has a kernel for them.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C], with zero padding."""
        height, width, channels = x.shape[1:]
        kernel = self.param("kernel", nn.initializers.zeros, (3, 3, 1, channels)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).astype(jnp.float32)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        total = bias.reshape(1, 1, 1, channels)
        for row in range(3):
            for column in range(3):
                shifted = padded[:, row : row + height, column : column + width].astype(jnp.float32)
                total = total + shifted * kernel[row, column][None, None]
        return total.astype(self.dtype)


class DiT4SRTransformer(JointTransformer):
    """The denoiser. Its other attributes are those of JointTransformer, by default of Stable Diffusion 3.5 medium."""

    dual_blocks: int = inherited_knob(JointTransformer, "dual_blocks", 13)
    qk_norm: bool = inherited_knob(JointTransformer, "qk_norm", True)
    position_grid: int = inherited_knob(JointTransformer, "position_grid", 384)
    variant: str = knob(
        "correct",
        "Without the faults of the released code (correct), or with them, as the published weights need it (released).",
        choices=VARIANTS,
    )
    lr_attention: str = knob(
        "auto",
        "How other tokens attend to LR tokens: joint (one softmax, as published), added (a softmax of their own, so "
        "that training starts from the base model), or auto (joint for variant released, added for correct).",
        choices=LR_ATTENTIONS,
    )
    control_scale: float = knob(
        1.2,
        "Factor of the convolved LR tokens in the MLPs; the authors note that 1.0 would train better.",
        at_least=0,
        at_most=1000,
    )

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Predict the velocity.

        Args:
          x: [B, H, W, channels] float32 noisy latents, of about unit variance; any rectangle.
          t: [B] float32 times from 0 to 1000, 1000 σ.
          condition: 'text' tokens [B, T, context_width], 'pooled_text' [B, pooled_width], and 'lr_latent', the latents
            [B, H, W, channels] float32 of the upsampled LR image.

        Returns:
          prediction [B, H, W, channels] float32, and `depth` taps of the noise tokens, see MMDiT.

        Raises:
          ValueError: the condition lacks an entry, a shape does not fit, or there are more tokens than positions.
        """
        return self.predict((x, condition_entry(condition, LR_LATENT)), t, condition)

    def layer_constructors(self, grid: Grid) -> tuple[Constructor, Constructor]:
        """See JointTransformer."""
        attention = partial(
            ControlledAttention,
            self.heads,
            self.qk_norm,
            self.attention,
            dtype=self.dtype,
            variant=self.variant,
            lr_attention=resolve_lr_attention(self.lr_attention, self.variant),
        )
        feed_forward = partial(ControlledFeedForward, dtype=self.dtype, grid=grid, control_scale=self.control_scale)
        return attention, feed_forward


def resolve_lr_attention(lr_attention: str, variant: str) -> str:
    """'joint' or 'added': the value of `LR_ATTENTIONS` with 'auto' resolved."""
    if lr_attention != "auto":
        return lr_attention
    return "joint" if variant == "released" else "added"


def control_kernel_init(layer: str, variant: str) -> Initializer:
    """Initialiser of the kernel of a control layer of queries, keys or values.

    With values of zero, LR tokens have no influence yet. If queries and keys started at zero too, as in the released
    code, their norm would be at its singular point, where it multiplies gradients by 1000: they start as the identity.
    """
    if variant == "released" or layer.startswith("value"):
        return nn.initializers.zeros
    return lambda key, shape, dtype=jnp.float32: jnp.eye(shape[0], dtype=dtype)


def with_control(base: Mapping[str, Any], variant: str = "correct", seed: int = 0) -> Params:
    """Initial parameters of DiT4SR's transformer: those of the base model, and untrained control layers.

    Projections of LR values and the convolutions are zero, those of queries and keys as in `control_kernel_init`;
    `out_control` is a copy of `out`, or a random layer for variant 'released'.

    Args:
      base: parameters of an MMDiT, one group per block, on the host.
      variant: one of `VARIANTS`.
      seed: seed of the random layers.

    Raises:
      ValueError: the base has control layers already.
    """
    leaves = flatten_dict(base)
    if any(CONTROL in "/".join(path) for path in leaves):
        raise ValueError("these parameters have control layers already: give those of the base model")
    rng = np.random.default_rng(seed)
    added = {}
    for path, leaf in leaves.items():
        *parents, layer, kind = path
        control_layer = f"{layer}_{CONTROL}"
        in_attention = parents and parents[-1].startswith("attention")
        if in_attention and layer in ("query", "key", "value"):
            added[(*parents, control_layer, kind)] = np.zeros(leaf.shape, leaf.dtype)
            if kind == "kernel":
                kernel = control_kernel_init(control_layer, variant)(None, leaf.shape, leaf.dtype)
                added[(*parents, control_layer, kind)] = np.asarray(kernel)
        elif in_attention and layer == "out":
            bound = 1 / np.sqrt(leaf.shape[-1])
            random = rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)
            added[(*parents, control_layer, kind)] = leaf if variant == "correct" else random
        elif parents and parents[-1] == "mlp" and (layer, kind) == ("dense_0", "bias"):
            added[(*parents, f"conv_{CONTROL}", "bias")] = np.zeros(leaf.shape, leaf.dtype)
            added[(*parents, f"conv_{CONTROL}", "kernel")] = np.zeros((3, 3, 1, *leaf.shape), leaf.dtype)
        elif parents and parents[-1] == "attention" and layer.endswith(TEXT_SUFFIX) and variant == "released":
            second = (*parents[:-1], "attention_2")  # where the released checkpoints hold these unused layers
            if (*second, "query", "kernel") in leaves:
                added[(*second, layer, kind)] = np.zeros(leaf.shape, leaf.dtype)
    return unflatten_dict(leaves | added)


def without_control(params: Mapping[str, Any], lr_attention: str) -> Params:
    """Parameters of an MMDiT with the same predictions: the inverse of `with_control` of variant 'correct'.

    Args:
      params: of a DiT4SRTransformer whose control layers have no effect, as before its training or if they were frozen.
      lr_attention: 'joint' or 'added', see `resolve_lr_attention`.

    Raises:
      ValueError: the control layers have an effect: the convolutions or the projections of LR values are not zero, or
        the LR tokens take weight in a common softmax.
    """
    leaves = flatten_dict(params)
    nonzero = [
        "/".join(path)
        for path, leaf in leaves.items()
        if path[-2] in (f"value_{CONTROL}", f"conv_{CONTROL}") and np.any(np.asarray(leaf))
    ]
    if nonzero or lr_attention != "added":
        reason = f"{nonzero[0]} is not zero" if nonzero else "LR tokens take weight in the softmax of all tokens"
        raise ValueError(f"its control layers have an effect ({reason}), which the base model's architecture lacks")
    return unflatten_dict({path: leaf for path, leaf in leaves.items() if CONTROL not in "/".join(path)})
