"""What recipes expect of a network: the protocols of denoisers and of one-pass networks, and how they are applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Condition = Mapping[str, jax.Array]
"""What a denoiser is conditioned on: some of the entries named below."""

IMAGE = "image"
"""The LR image, [B, H, W, 3] float32 in [-1, 1]."""

LR_LATENT = "lr_latent"
"""The latent of the upsampled LR image, [B, h, w, C] float32."""

TEXT = "text"
"""Text tokens, [B, T, W]."""

POOLED_TEXT = "pooled_text"
"""The pooled text embedding, [B, P]."""

IMAGE_TOKENS = "image_tokens"
"""Tokens of an image encoder, [B, N, V]."""

TAP_KINDS = ("hidden", "prediction")
"""What the taps are: feature maps of the blocks, or each block's features decoded by the network's own head."""

Taps = tuple[jax.Array, ...]
"""One map per block, [B, H_i, W_i, C_i] each, in order of depth; the last one is FRAMER's teacher."""


class Denoiser(Protocol):
    """A flax module `(x [B, h, w, C], t [B], condition) → (prediction [B, h, w, C'], taps)`."""

    @property
    def taps(self) -> str:
        """What the taps are, one of `TAP_KINDS`."""
        ...

    @property
    def tap_count(self) -> int:
        """How many taps there are."""
        ...

    @property
    def downsampling(self) -> int:
        """How many times finer per axis the condition image must be than the latents."""
        ...

    @property
    def size_multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        ...

    def init(self, key: jax.Array, x: jax.Array, t: jax.Array, condition: Condition, /) -> Any:
        """Make the variables, {'params': …}."""
        ...

    def apply(self, variables: Mapping[str, Any], x: jax.Array, t: jax.Array, condition: Condition, /) -> Any:
        """Apply the network to its variables; `denoise` gives the result its type."""
        ...


class OnePassNetwork(Protocol):
    """A flax module `(LR image, key or None) → (image, taps)` that super-resolves in one forward pass.

    The LR image is [B, H, W, 3] float32 in [0, 1], the result [B, sH, sW, 3] float32, not clipped. The key is for
    stochastic depth in training; None drops nothing.
    """

    @property
    def scale(self) -> int:
        """The upsampling factor s."""
        ...

    @property
    def tap_count(self) -> int:
        """How many taps there are."""
        ...

    def init(self, key: jax.Array, lr: jax.Array, /) -> Any:
        """Make the variables, {'params': …}."""
        ...

    def apply(self, variables: Mapping[str, Any], lr: jax.Array, key: jax.Array | None, /) -> Any:
        """Apply the network to its variables; `upscale_once` gives the result its type."""
        ...


def denoise(
    denoiser: Denoiser, params: Mapping[str, Any], x: jax.Array, t: jax.Array, condition: Condition
) -> tuple[jax.Array, Taps]:
    """Prediction and taps of a denoiser.

    Args:
      denoiser: the network.
      params: its parameters.
      x: [B, h, w, C] float32 noisy latents.
      t: [B] times.
      condition: what the denoiser is conditioned on.

    Raises:
      ValueError: `condition` lacks an entry that the denoiser reads, or a shape does not fit.
    """
    return denoise_with(denoiser, {"params": params}, x, t, condition)


def denoise_with(
    denoiser: Denoiser, variables: Mapping[str, Any], x: jax.Array, t: jax.Array, condition: Condition
) -> tuple[jax.Array, Taps]:
    """`denoise` with all collections of variables, such as the LoRA adapters next to the parameters."""
    prediction, taps = denoiser.apply(variables, x, t, condition)
    return prediction, taps


def upscale_once(
    network: OnePassNetwork, params: Mapping[str, Any], lr: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, Taps]:
    """Image and taps of a one-pass network; arguments as described there."""
    image, taps = network.apply({"params": params}, lr, key)
    return image, taps


def condition_entry(condition: Condition, name: str) -> jax.Array:
    """The entry of a condition.

    Raises:
      ValueError: the condition lacks it.
    """
    if name not in condition:
        entries = ", ".join(sorted(condition)) or "nothing"
        raise ValueError(f"the condition lacks {name!r} (it holds {entries}): give a batch and a denoiser that match")
    return condition[name]
