"""DiT4SR: a second stream of image tokens, of the LR image, through Stable Diffusion 3.5's transformer.

Duan et al., "DiT4SR: Taming Diffusion Transformer for Real-World Image Super-Resolution" (ICCV 2025); FRAMER's
transformer is this one. The sequence is [noise | LR], both with the positions of the image. Only layers with 'control'
in their names are trained; the others are the base model's.

Written from the measured facts of the released code, which `compatibility` 'released' reproduces with its faults:
- where keys are normed, those of the LR tokens are thrown away: the noise tokens' keys, normed twice, take their place;
- `out_control` starts from a random layer, as it is copied before the base's weights are loaded (see `with_control`);
- what starts at zero does not start without effect: LR tokens take weight in the common softmax, though their values
  are zero, so that the untrained model is not the base model (see `READINGS`).
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

from framer_jax.models.joint_blocks import TEXT, FeedForward, Heads, Initializer, JointAttention, joined
from framer_jax.models.layers import attention
from framer_jax.models.mmdit import Grid, JointTransformer, Maker, Taps

COMPATIBILITIES = ("correct", "released")
"""Without the released code's faults, or with them, as its weights need it.

Weights of the authors' later `dit4sr_r1`, whose code norms the LR keys themselves, have the same names and shapes as
those of 'released': they cannot be told apart, and are not known here.
"""

READINGS = ("auto", "joint", "added")
"""How the other tokens attend to the LR tokens: in one softmax over all, as published; or in one of its own, whose
result is added, which makes the untrained model the base model. 'auto' is 'joint' for compatibility 'released' and
'added' for 'correct'."""

CONTROL = "control"
"""In the names of all layers that are trained."""

Params = dict[str, Any]


class ControlledAttention(JointAttention):
    """Joint attention whose image tokens are [noise | LR].

    Attributes:
      compatibility: one of `COMPATIBILITIES`.
      reading: 'joint' or 'added', see `READINGS`.
    """

    compatibility: str = "correct"
    reading: str = "added"

    @nn.compact
    def __call__(self, image: jax.Array, text: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Image [B, 2 N, W] and text [B, T, W] or None → what each of them gets."""
        count, width = image.shape[1] // 2, image.shape[-1]
        noise, lr = self._halves(image)
        if text is None and self.compatibility == "released":
            self._unused(width)
        mixed = self._mixed(noise, lr, None if text is None else self._heads_of(text, TEXT))
        mixed = mixed.reshape(image.shape[0], -1, width)  # [B, 2 N + T, W]
        of_noise = self._dense(mixed[:, :count], "out")
        of_lr = self._dense(mixed[:, count : 2 * count] + image[:, count:], f"out_{CONTROL}")
        return jnp.concatenate([of_noise, of_lr], axis=1), self._to_text(mixed[:, 2 * count :])

    def _halves(self, image: jax.Array) -> tuple[Heads, Heads]:
        """Queries, keys and values of the noise, and of the LR tokens, which pass the same layers and one more each."""
        noise, lr = {}, {}
        for word in ("query", "key", "value"):
            noise[word], of_lr = jnp.split(self._dense(image, word), 2, axis=1)
            noise[word] = self._by_heads(noise[word])
            init = first_kernel(f"{word}_{CONTROL}", self.compatibility)
            lr[word] = self._by_heads(self._dense(of_lr, f"{word}_{CONTROL}", init))
        norm_query, norm_key = self._norm("norm_query"), self._norm("norm_key")
        of_noise = norm_query(noise["query"]), norm_key(noise["key"]), noise["value"]
        released = self.compatibility == "released" and self.qk_norm
        return of_noise, (norm_query(lr["query"]), norm_key(of_noise[1] if released else lr["key"]), lr["value"])

    def _mixed(self, noise: Heads, lr: Heads, text: Heads | None) -> jax.Array:
        """The attention's result for [noise | LR | text], [B, 2 N + T, heads, D]."""
        others = [] if text is None else [text]
        whole = joined([noise, lr, *others])
        if self.reading == "joint":
            return attention(*whole, self.kind)
        base = joined([noise, *others])
        of_base = attention(*base, self.kind) + attention(base[0], lr[1], lr[2], self.kind)
        of_lr = attention(lr[0], whole[1], whole[2], self.kind)
        count = lr[0].shape[1]
        return jnp.concatenate([of_base[:, :count], of_lr, of_base[:, count:]], axis=1)

    def _unused(self, width: int) -> None:
        """What the released checkpoints hold for a text that the second attention never sees."""
        for word in ("query", "key", "value", "out"):
            Unused((width, width), name=word + TEXT)()
        if self.qk_norm:
            for word in ("query", "key"):
                Unused((width // self.heads,), name=f"norm_{word}{TEXT}")()


class Unused(nn.Module):
    """Parameters of a linear layer (two sides) or of a norm (one), without a use."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> None:
        """Make the parameters."""
        if len(self.shape) == 1:
            self.param("scale", nn.initializers.ones, self.shape)
        else:
            self.param("kernel", nn.initializers.zeros, self.shape)
            self.param("bias", nn.initializers.zeros, self.shape[-1:])


class ControlledFeedForward(FeedForward):
    """A perceptron of [noise | LR] tokens; between its layers the LR tokens, convolved, are added to the noise tokens.

    Attributes:
      grid: rows and columns of tokens.
      strength: factor of what is added.
    """

    grid: Grid = (1, 1)
    strength: float = 1.2

    def between(self, h: jax.Array) -> jax.Array:
        """[B, 2 N, C] → [B, 2 N, C]."""
        noise, lr = jnp.split(h, 2, axis=1)
        change = DepthwiseConv(self.dtype, name=f"conv_{CONTROL}")(lr.reshape(-1, *self.grid, lr.shape[-1]))
        noise = noise + jnp.asarray(self.strength, h.dtype) * change.reshape(noise.shape)
        return jnp.concatenate([noise, lr], axis=1)


class DepthwiseConv(nn.Module):
    """3x3 convolution of each channel by itself, zero at initialisation.

    As nine shifted products, which fuse to one pass; convolutions with a group per channel are slow where no library
    has a kernel for them, their gradients most of all.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C], zeros beyond the border."""
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


class DiT4SR(JointTransformer):
    """The denoiser; the other attributes are those of JointTransformer, of Stable Diffusion 3.5 medium by default.

    Attributes:
      compatibility: one of `COMPATIBILITIES`.
      reading: one of `READINGS`.
      strength: factor of the convolved LR tokens; the released code's authors note that 1.0 would train better.
    """

    dual_blocks: int = 13
    qk_norm: bool = True
    position_grid: int = 384
    compatibility: str = "correct"
    reading: str = "auto"
    strength: float = 1.2

    def __post_init__(self) -> None:
        for name, known in (("compatibility", COMPATIBILITIES), ("reading", READINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, latent: jax.Array, timestep: jax.Array, context: jax.Array, pooled: jax.Array, lr: jax.Array
    ) -> tuple[jax.Array, Taps]:
        """Predict the velocity.

        Args:
          latent: [B, H, W, channels] float32 noisy latents, of about unit variance; any rectangle.
          timestep: [B] float32 in 0..1000, 1000 σ.
          context: [B, T, context_width] text tokens.
          pooled: [B, pooled_width] pooled text embedding.
          lr: [B, H, W, channels] float32 latents of the LR image, enlarged.

        Returns:
          prediction [B, H, W, channels] float32, and `depth` taps of the noise tokens, see MMDiT.

        Raises:
          ValueError: inputs of other shapes, or more tokens than there are positions.
        """
        return self.predict((latent, lr), timestep, context, pooled)

    def parts(self, grid: Grid) -> tuple[Maker, Maker]:
        """See JointTransformer."""
        attention = partial(
            ControlledAttention,
            self.heads,
            self.qk_norm,
            self.attention,
            dtype=self.dtype,
            compatibility=self.compatibility,
            reading=reading_of(self.reading, self.compatibility),
        )
        return attention, partial(ControlledFeedForward, dtype=self.dtype, grid=grid, strength=self.strength)


def reading_of(reading: str, compatibility: str) -> str:
    """What of `READINGS` is meant: 'joint' or 'added'."""
    if reading != "auto":
        return reading
    return "joint" if compatibility == "released" else "added"


def first_kernel(layer: str, compatibility: str) -> Initializer:
    """How the kernel of a control layer of queries, keys or values starts.

    With values of zero, LR tokens say nothing yet. Zero for the others too, as in the released code, would put the norm
    of queries and keys at its singular point, where it multiplies gradients by 1000: they start as the base's own.
    """
    if compatibility == "released" or layer.startswith("value"):
        return nn.initializers.zeros
    return lambda key, shape, dtype=jnp.float32: jnp.eye(shape[0], dtype=dtype)


def with_control(base: Mapping[str, Any], compatibility: str = "correct", seed: int = 0) -> Params:
    """Parameters to start DiT4SR's training from: the base's, and control layers through which nothing passes yet.

    Projections of LR values and the convolutions are zero, those of queries and keys as `first_kernel` says;
    `out_control` is a copy of `out`, or, of compatibility 'released', a random layer.

    Args:
      base: parameters of an MMDiT, not stacked, on the host.
      compatibility: one of `COMPATIBILITIES`.
      seed: of the random layers.

    Raises:
      ValueError: the base has control layers already.
    """
    leaves = flatten_dict(base)
    if any(CONTROL in "/".join(path) for path in leaves):
        raise ValueError("these parameters have control layers already: give those of the base model")
    rng = np.random.default_rng(seed)
    added = {}
    for path, leaf in leaves.items():
        *place, layer, kind = path
        ours = f"{layer}_{CONTROL}"
        attends = place and place[-1].startswith("attention")
        if attends and layer in ("query", "key", "value"):
            added[(*place, ours, kind)] = np.zeros(leaf.shape, leaf.dtype)
            if kind == "kernel":
                first = first_kernel(ours, compatibility)(None, leaf.shape, leaf.dtype)
                added[(*place, ours, kind)] = np.asarray(first)
        elif attends and layer == "out":
            bound = 1 / np.sqrt(leaf.shape[-1])
            random = rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)
            added[(*place, ours, kind)] = leaf if compatibility == "correct" else random
        elif place and place[-1] == "mlp" and (layer, kind) == ("dense_0", "bias"):
            added[(*place, f"conv_{CONTROL}", "bias")] = np.zeros(leaf.shape, leaf.dtype)
            added[(*place, f"conv_{CONTROL}", "kernel")] = np.zeros((3, 3, 1, *leaf.shape), leaf.dtype)
        elif place and place[-1] == "attention" and layer.endswith(TEXT) and compatibility == "released":
            twin = (*place[:-1], "attention_2")  # where the released code has these layers without a use
            if (*twin, "query", "kernel") in leaves:
                added[(*twin, layer, kind)] = np.zeros(leaf.shape, leaf.dtype)
    return unflatten_dict(leaves | added)


def without_control(params: Mapping[str, Any], reading: str) -> Params:
    """The parameters of an MMDiT that predicts the same: the inverse of `with_control` of compatibility 'correct'.

    Args:
      params: of a DiT4SR through whose control layers nothing passes, as before its training or with them kept fixed.
      reading: 'joint' or 'added', see `reading_of`.

    Raises:
      ValueError: something passes: the convolutions or the projections of LR values are not zero, or the LR tokens
        take weight in a common softmax.
    """
    leaves = flatten_dict(params)
    passing = [
        "/".join(path)
        for path, leaf in leaves.items()
        if path[-2] in (f"value_{CONTROL}", f"conv_{CONTROL}") and np.any(np.asarray(leaf))
    ]
    if passing or reading != "added":
        fault = f"{passing[0]} is not zero" if passing else "LR tokens have a place in the attention's softmax"
        raise ValueError(f"its control layers have an effect ({fault}), which the base model's architecture lacks")
    return unflatten_dict({path: leaf for path, leaf in leaves.items() if CONTROL not in "/".join(path)})


def divided(params: Mapping[str, Any]) -> tuple[Params, Params]:
    """DiT4SR's parameters, those that are trained and those of the base."""
    leaves = flatten_dict(params)
    trained = {path: leaf for path, leaf in leaves.items() if CONTROL in "/".join(path)}
    kept = {path: leaf for path, leaf in leaves.items() if path not in trained}
    return unflatten_dict(trained), unflatten_dict(kept)


def united(trained: Mapping[str, Any], base: Mapping[str, Any]) -> Params:
    """The inverse of `divided`."""
    return unflatten_dict(flatten_dict(base) | flatten_dict(trained))
