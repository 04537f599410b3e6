"""LoRAs that a recipe trains on frozen networks: their factors, and the networks with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from framer_jax.diffusion.guidance import deinterleave, guided_prediction, interleave
from framer_jax.models.denoiser import Condition, Denoiser, Taps, denoise_with
from framer_jax.models.lora import Lora, apply_adapters, init_lora, make_lora, merge
from framer_jax.recipes.base import Params

Variables = Mapping[str, Any]
"""A network's parameters and the LoRAs on them, as framer_jax.models.lora.with_adapters makes them."""

Network = Callable[[Variables, jax.Array, jax.Array, Condition], tuple[jax.Array, Taps]]
"""(variables, x [B, h, w, C], t [B], condition) → (prediction, taps)."""


def adapted_network(denoiser: Denoiser) -> Network:
    """A denoiser as a function of its variables, which applies the LoRAs among them."""

    def network(variables: Variables, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        with apply_adapters():
            return denoise_with(denoiser, variables, x, t, condition)

    return network


def init_factors(key: jax.Array, params: Params, pattern: str, rank: int) -> dict[str, Any]:
    """Factors of a LoRA that changes nothing yet.

    Args:
      key: random key.
      params: the frozen network's parameters; only names and shapes matter.
      pattern: regex of the modules that get the LoRA.
      rank: rank of every module.

    Raises:
      ValueError: see framer_jax.models.lora.init_lora.
    """
    return dict(init_lora(key, params, pattern, rank, rank).factors)


def scaled_lora(factors: Params, scale: float) -> Lora:
    """The LoRA of a group of trained factors; `scale` is alpha / rank of every module."""
    leaves = flatten_dict(factors, sep="/")
    ranks = {path.removesuffix("/down"): leaf.shape[-1] for path, leaf in leaves.items() if path.endswith("/down")}
    return make_lora(factors, {path: scale * rank for path, rank in ranks.items()})


def merge_factors(weights: Params, factors: Params, scale: float) -> dict[str, Any]:
    """Weights with a trained LoRA merged; `scale` is alpha / rank.

    Raises:
      ValueError: the factors are of another model.
    """
    return merge(weights, {"": scaled_lora(factors, scale)})


def guided_predictions(
    network: Network,
    variables: Variables,
    latents: tuple[jax.Array, ...],
    t: jax.Array,
    prompt: Condition,
    negative: Condition,
    scale: float,
) -> tuple[jax.Array, ...]:
    """The guided predictions for several latents of each example, in one call.

    Args:
      network: the network.
      variables: its variables.
      latents: [B, h, w, C] float32 each.
      t: [B], what the network takes as time.
      prompt: the condition of each example.
      negative: the condition that guidance leads away from, of each example.
      scale: scale of classifier-free guidance.
    """
    count = len(latents)

    def predict(x: jax.Array, t: jax.Array, condition: Condition) -> jax.Array:
        return network(variables, x, t, condition)[0]

    def repeated(condition: Condition) -> Condition:
        return {name: interleave(*[value] * count) for name, value in condition.items()}

    # An example's inputs are next to each other, so that a batch that is split over devices stays where it is.
    inputs = interleave(*latents), jnp.repeat(t, count)
    predictions = guided_prediction(predict, inputs, repeated(prompt), repeated(negative), scale, interleaved=True)
    return deinterleave(predictions, count)


def prompt_and_negative(
    network: Network, variables: Variables, x: jax.Array, t: jax.Array, prompt: Condition, negative: Condition
) -> tuple[jax.Array, jax.Array]:
    """(prediction for the prompt, prediction for the negative prompt) of latents [B, h, w, C], in one call.

    Arguments as of `guided_predictions`, which extrapolates from the second to the first.
    """
    condition = {name: interleave(value, negative[name]) for name, value in prompt.items()}
    prediction, _ = network(variables, interleave(x, x), jnp.repeat(t, 2), condition)
    with_prompt, with_negative = deinterleave(prediction, 2)
    return with_prompt, with_negative
