"""Image tokens for attention: features of the LR image from a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from framer_jax.models.dinov2 import DINOv2, Features
from framer_jax.recipes.base import Params
from framer_jax.recipes.components.latent_space import from_model_range


class ImageEncoder(NamedTuple):
    """A frozen encoder of images.

    Attributes:
      encode: (parameters, images [B, H, W, 3] in [-1, 1]) → tokens [B, N, V] float32, without a gradient.
      params: its parameters.
    """

    encode: Callable[[Params, jax.Array], jax.Array]
    params: Params


def dinov2_encoder(module: DINOv2, params: Params, side: int, knob: str) -> ImageEncoder:
    """DINOv2's class token and patch tokens of images that are resized to squares.

    Args:
      module: the network.
      params: its parameters.
      side: side of the squares, pixels.
      knob: name of the side, for the message.

    Raises:
      ValueError: the side is no multiple of the network's patches.
    """
    if side % module.patch:
        nearest = max(1, round(side / module.patch)) * module.patch
        raise ValueError(
            f"{knob} is {side}: it must be a multiple of the patches of {module.patch} pixels, such as {nearest}"
        )

    def encode(params: Params, image: jax.Array) -> jax.Array:
        shape = (image.shape[0], side, side, image.shape[-1])
        resized = jax.image.resize(from_model_range(image), shape, "cubic", antialias=True)
        features = cast(Features, module.apply({"params": params}, resized))
        tokens = jnp.concatenate([features.cls[:, None], features.patches], axis=1)  # [B, 1 + N, V]
        return jax.lax.stop_gradient(tokens)

    return ImageEncoder(encode, params)
