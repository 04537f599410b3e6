"""Samplers of denoisers on latents: guidance of text-conditioned ones, estimates on the way, tiles within every step.

The methods differ in the process alone, a `LatentProcess`: DiT4SR's flow, the diffusion of SeeSR and SupResDiffGAN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.data.text import TextEmbedding
from framer_jax.diffusion.guidance import guided_prediction
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import Draw
from framer_jax.diffusion.tiles import map_tiles, tile_grid
from framer_jax.models.denoiser import Condition
from framer_jax.recipes.base import (
    PIXELS,
    Batch,
    Frozen,
    LayerTaps,
    Params,
    Sampler,
    StepwiseSampler,
    TiledSampler,
    Tiling,
)
from framer_jax.recipes.components.latent_space import LatentTask, to_model_range, upsample_bicubic, with_tiles
from framer_jax.recipes.components.lr_condition import EncodeLr, training_latents
from framer_jax.recipes.components.text import NEGATIVE, NULL, PROMPT, broadcast_text

Predict = Callable[
    [Params, Frozen, jax.Array, jax.Array, Condition, Condition], tuple[jax.Array, tuple[jax.Array, ...]]
]
"""(params, frozen, x [B, h, w, C], time [B], LR condition, text) → (prediction, taps)."""

Output = Callable[[Params, Frozen, Condition, jax.Array, jax.Array], jax.Array]
"""(params, frozen, LR condition, x [B, h, w, C], time, a scalar) → the network's output for the texts."""

Step = Callable[[jax.Array, jax.Array], jax.Array]
"""(x [B, h, w, C], time, a scalar) → what the network predicts."""


Forward = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(clean latent [B, h, w, C], fraction of the process, noise like the latent) → (noisy latent, the network's time
[B])."""

ToCompared = Callable[[tuple[jax.Array, ...], jax.Array, jax.Array], tuple[jax.Array, ...]]
"""(taps, noisy latent [B, h, w, C], time [B]) → the taps that FRAMER compares."""


@dataclass(frozen=True)
class LatentProcess:
    """How a latent is sampled with a network.

    Attributes:
      steps: number of steps.
      start: (LR latent, noise source) → the initial latent; draw 0 is its noise.
      run: (step, initial latent, noise source) → the clean latent.
      estimates: the same, and the estimates in all steps but the last, [steps - 1, B, h, w, C].
      one_call: (step, initial latent) → the clean latent that one call at the noisiest time gives.
    """

    steps: int
    start: Callable[[jax.Array, Draw], jax.Array]
    run: Callable[[Step, jax.Array, Draw], jax.Array]
    estimates: Callable[[Step, jax.Array, Draw], tuple[jax.Array, jax.Array]]
    one_call: Callable[[Step, jax.Array], jax.Array]


class Samplers(NamedTuple):
    """A recipe's samplers, see framer_jax.recipes.base.Recipe."""

    sample: Sampler
    mean: Sampler
    sample_tiled: TiledSampler
    stepwise: StepwiseSampler | None


def latent_samplers(
    task: LatentTask, process: LatentProcess, predict: Predict, encode_lr: EncodeLr, guidance: float | None
) -> Samplers:
    """The samplers.

    Args:
      task: the latents; not residual.
      process: how a latent is sampled.
      predict: the network.
      encode_lr: makes the LR condition.
      guidance: scale of classifier-free guidance, from the negative prompt to the prompt; 1 for none, with one text;
        None for a network without text.
    """
    output = _output(predict, guidance)
    prompted_output = _output(predict, None if guidance is None else 1.0)

    def encode(frozen: Frozen, lr: jax.Array, noise: NoiseField) -> tuple[jax.Array, Condition, jax.Array, Draw]:
        """(LR latent, LR condition, initial latent, noise source)."""
        z_lr, lr_condition = encode_lr(task.space, frozen, upsample_bicubic(to_model_range(lr), task.scale))
        draw = _noise_source(task, z_lr, noise)
        return z_lr, lr_condition, process.start(z_lr, draw), draw

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, lr_condition, x, draw = encode(frozen, lr, noise)
        x0 = process.run(partial(output, params, frozen, lr_condition), x, draw)
        return task.decode(frozen, x0, z_lr)

    def stepwise(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField, every: int) -> jax.Array:
        z_lr, lr_condition, x, draw = encode(frozen, lr, noise)
        x0, estimates = process.estimates(partial(output, params, frozen, lr_condition), x, draw)
        return task.decode_with_previews(frozen, x0, z_lr, estimates, every)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        """One call of the network, with the prompt alone."""
        z_lr, lr_condition, x, _ = encode(frozen, lr, noise)
        x0 = process.one_call(partial(prompted_output, params, frozen, lr_condition), x)
        return task.decode(frozen, x0, z_lr)

    return Samplers(
        sample,
        mean,
        _tiled_sampler(task, process, output, encode_lr),
        StepwiseSampler(process.steps, stepwise) if process.steps > 1 else None,
    )


def _output(predict: Predict, guidance: float | None) -> Output:
    """The output of the network, for any number of latents at one time; `guidance` as of `latent_samplers`."""

    def output(params: Params, frozen: Frozen, lr_condition: Condition, x: jax.Array, time: jax.Array) -> jax.Array:
        def predict_output(x: jax.Array, time: jax.Array, *rest: Any) -> jax.Array:
            *entries, text = rest
            return predict(params, frozen, x, time, dict(zip(lr_condition, entries, strict=True)), text)[0]

        count = x.shape[0]
        inputs = x, jnp.full((count,), time), *lr_condition.values()
        if guidance is None:
            return predict_output(*inputs, {})
        prompt = broadcast_text(frozen, PROMPT, count)
        if guidance == 1:
            return predict_output(*inputs, prompt)
        return guided_prediction(predict_output, inputs, prompt, broadcast_text(frozen, NEGATIVE, count), guidance)

    return output


def _tiled_sampler(task: LatentTask, process: LatentProcess, output: Output, encode_lr: EncodeLr) -> TiledSampler:
    """The sampler whose network sees tiles; their outputs are blended in each step."""

    def sample_tiled(params: Params, frozen: Frozen, image: jax.Array, noise: NoiseField, tiling: Tiling) -> jax.Array:
        tiled = replace(task, space=with_tiles(task.space, tiling.encoder, tiling.decoder))
        z_lr, lr_condition = encode_lr(tiled.space, frozen, to_model_range(image))
        side, overlap = (pixels // task.space.image_pixels_per_latent for pixels in tiling[:2])
        grid = tile_grid((z_lr.shape[1], z_lr.shape[2]), side, overlap)
        maps = {name: value for name, value in lr_condition.items() if value.ndim == 4}
        tokens = {name: value for name, value in lr_condition.items() if value.ndim == 3}

        def step(x: jax.Array, time: jax.Array) -> jax.Array:
            def tile_output(x: jax.Array, *cut: jax.Array) -> jax.Array:
                repeated = {name: jnp.tile(each, (x.shape[0] // each.shape[0], 1, 1)) for name, each in tokens.items()}
                tile_condition = {**dict(zip(maps, cut, strict=True)), **repeated}
                return output(params, frozen, tile_condition, x, time)

            return map_tiles(tile_output, grid, x, *maps.values(), batch=tiling.batch)

        draw = _noise_source(task, z_lr, noise)
        return tiled.decode(frozen, process.run(step, process.start(z_lr, draw), draw), z_lr)

    return sample_tiled


def latent_taps(
    task: LatentTask,
    forward: Forward,
    predict: Predict,
    encode_lr: EncodeLr,
    timesteps: int,
    has_text: bool,
    to_compared: ToCompared = lambda taps, x, time: taps,
) -> LayerTaps:
    """The taps of the network for noisy latents of a batch's images, with the prompt as text.

    Args:
      task: the latents; not residual.
      forward: the forward process.
      predict: the network.
      encode_lr: makes the LR condition.
      timesteps: as of `LayerTaps`.
      has_text: whether the network has a text.
      to_compared: what the loss does with the taps.
    """

    def compute(params: Params, frozen: Frozen, batch: Batch, key: jax.Array, time: jax.Array) -> tuple[jax.Array, ...]:
        z_hr, lr_condition = training_latents(task, encode_lr, frozen, batch, PIXELS)
        x, level = forward(z_hr, time, jax.random.normal(key, z_hr.shape, jnp.float32))
        text = broadcast_text(frozen, PROMPT, z_hr.shape[0]) if has_text else {}
        return to_compared(predict(params, frozen, x, level, lr_condition, text)[1], x, level)

    return LayerTaps(compute, timesteps)


def _noise_source(task: LatentTask, z_lr: jax.Array, noise: NoiseField) -> Draw:
    return lambda number: task.noise(z_lr, noise, number)


def check_text_lengths(texts: Mapping[str, TextEmbedding]) -> None:
    """Raise ValueError if prompt and negative prompt differ in length: guidance calls the network with both at once."""
    prompt, negative = (texts.get(name, texts[NULL]).tokens.shape[0] for name in (PROMPT, NEGATIVE))
    if prompt != negative:
        unset = " (the null text, as it is not set)"
        names = [f"recipe.text.{name}_embedding{'' if name in texts else unset}" for name in (PROMPT, NEGATIVE)]
        raise ValueError(
            f"{names[0]} has {prompt} tokens, {names[1]} has {negative}: make all texts of a run with the same text "
            "lengths"
        )
