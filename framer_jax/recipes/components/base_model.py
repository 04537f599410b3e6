"""A pretrained transformer as the frozen base of a method: its trained parameters, and the dtype of others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from framer_jax.data.text import TextSizes
from framer_jax.knobs import check_same_values
from framer_jax.models.denoiser import LR_LATENT, Condition, Denoiser
from framer_jax.models.mmdit import JointTransformer, match_block_layout
from framer_jax.recipes.base import Params
from framer_jax.recipes.components.latent_space import LatentSpace
from framer_jax.recipes.components.text import text_shapes
from framer_jax.recipes.method import WeightFile

BASE = "base"
"""The entry of `frozen` with the parameters that are not trained."""

FREE_ARGUMENTS = (
    "variant",
    "lr_attention",
    "control_scale",
    "attention",
    "remat",
    "scan",
    "taps",
    "dtype",
    "positions",
    "position_base",
)
"""Constructor arguments of the networks that a base's weights do not determine, or that no knob has."""


TEXT_KNOBS = {"context_width": "recipe.text.width", "pooled_width": "the sum of recipe.text.clip_widths"}
"""Constructor arguments that the text's section determines → what an error calls them."""


def base_file(section: str, part: str = "transformer") -> WeightFile:
    """The knob `base_checkpoint` of a method's section; `part`: of the folder of a whole pipeline."""
    return WeightFile((section, "base_checkpoint"), "base model", inference=True, part=part)


def split_params(params: Mapping[str, Any], pattern: str) -> tuple[Params, Params]:
    """(parameters whose path, such as 'block_0/attention/out/kernel', matches a regex; the other parameters)."""
    leaves = flatten_dict(params, sep="/")
    matching = {path: leaf for path, leaf in leaves.items() if re.search(pattern, path)}
    others = {path: leaf for path, leaf in leaves.items() if path not in matching}
    return unflatten_dict(matching, sep="/"), unflatten_dict(others, sep="/")


def join_params(*parts: Mapping[str, Any]) -> Params:
    """The inverse of `split_params`; where several parts have a parameter, the last one takes precedence."""
    leaves: dict[str, Any] = {}
    for part in parts:
        leaves |= flatten_dict(part, sep="/")
    return unflatten_dict(leaves, sep="/")


def cast_frozen(params: Params, dtype: str) -> Params:
    """Weights, or their shapes, in the dtype in which frozen parameters are kept."""

    def cast(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, dtype)
        return leaf.astype(dtype, copy=False)

    return jax.tree.map(cast, params)


def stored_layout(params: Mapping[str, Any], denoiser: Denoiser) -> Params:
    """Parameters, a LoRA's factors, or their shapes, in the denoiser's layout: stacked blocks if it scans them."""

    def match(params: Mapping[str, Any]) -> Params:
        return match_block_layout(params, cast(JointTransformer, denoiser))

    is_described = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
    return cast(Params, jax.eval_shape(match, params)) if is_described else match(params)


def transformer_inputs(
    denoiser: Denoiser, space: LatentSpace, text: TextSizes, lr_latent: bool
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, dict[str, jax.ShapeDtypeStruct]]:
    """The smallest inputs of a text-conditioned transformer: latent, time, condition."""
    side = denoiser.size_multiple
    latent = jax.ShapeDtypeStruct((1, side, side, space.channels), jnp.float32)
    condition = text_shapes(text)
    if lr_latent:
        condition[LR_LATENT] = latent
    return latent, jax.ShapeDtypeStruct((1,), jnp.float32), condition


def transformer_shapes(denoiser: Denoiser, space: LatentSpace, text: TextSizes, lr_latent: bool) -> Params:
    """Names and shapes of a transformer's parameters."""
    inputs = transformer_inputs(denoiser, space, text, lr_latent)
    shapes: Params = jax.eval_shape(denoiser.init, jax.random.key(0), *inputs)["params"]
    return shapes


def zeros_like_inputs(
    inputs: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, Mapping[str, jax.ShapeDtypeStruct]],
) -> tuple[jax.Array, jax.Array, Condition]:
    """Zeros of the shapes of `transformer_inputs`."""
    latent, time, condition = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs)
    return latent, time, condition


def check_same_size(
    read: Mapping[str, Any], configured: Mapping[str, Any], section: str, source: str, also: tuple[str, ...] = ()
) -> None:
    """Check that weights are of the size that the configuration's network section describes.

    Args:
      read: constructor arguments that the weights determine.
      configured: the configured ones.
      section: the section of the configuration, for the message.
      source: what the error calls the weights.
      also: arguments of `FREE_ARGUMENTS` that must agree too.

    Raises:
      ValueError: they differ; one line that names the knobs.
    """
    names = [name for name in read if (name not in FREE_ARGUMENTS or name in also) and name in configured]
    knobs = {name: TEXT_KNOBS.get(name, f"{section}.{name}") for name in names}
    stored, present = ({knobs[name]: values[name] for name in names} for values in (read, configured))
    check_same_values(stored, present, source)
