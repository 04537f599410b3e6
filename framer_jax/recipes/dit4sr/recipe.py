"""DiT4SR: a text-conditioned flow on Stable Diffusion 3.5's latents, with the LR latent as a second stream of tokens.

Duan et al., "DiT4SR: Taming Diffusion Transformer for Real-World Image Super-Resolution" (ICCV 2025); FRAMER's
transformer recipe is this one with its term on top. The objective is Stable Diffusion 3's flow, as an error of the
clean latent. The base's weights stay frozen: only the parameters that a pattern names are trained, or a LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from framer_jax.data.latents import HR_LATENT, LR_LATENT
from framer_jax.data.text import TEXT, TextEmbedding, TextSizes
from framer_jax.diffusion import flow as process
from framer_jax.diffusion.guidance import guided_prediction
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import flow_estimates, flow_euler
from framer_jax.diffusion.tiles import map_tiles, tile_grid
from framer_jax.losses.flow_matching import loss_weight, preconditioned_error, prediction_taps_to_clean
from framer_jax.models.denoiser import LR_LATENT as LR_CONDITION
from framer_jax.models.denoiser import Condition, Denoiser, denoise_with
from framer_jax.models.lora import apply_adapters, init_lora, make_lora, merge, with_adapters
from framer_jax.recipes.base import (
    PIXELS,
    Batch,
    Frozen,
    Loss,
    LossFunction,
    Params,
    Recipe,
    Sampler,
    State,
    StepwiseSampler,
    TiledSampler,
    Tiling,
    Update,
)
from framer_jax.recipes.components.base_model import (
    BASE,
    cast_frozen,
    join_params,
    split_params,
    transformer_inputs,
    transformer_shapes,
    zeros_like_inputs,
)
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask, to_model_range, with_tiles
from framer_jax.recipes.components.text import (
    NEGATIVE,
    NULL,
    PROMPT,
    TEXTS,
    batch_text,
    broadcast_text,
)
from framer_jax.recipes.dit4sr.settings import Dit4srSettings
from framer_jax.trees import check_same_structure

DENOISER, LORA = "denoiser", "lora"
"""The groups: parameters that are trained, and the factors of a LoRA on others."""

LATENT_ENTRIES = (HR_LATENT, LR_LATENT)


def dit4sr(
    denoiser: Denoiser,
    space: LatentSpace,
    scale: int,
    settings: Dit4srSettings,
    text: TextSizes,
    texts: Mapping[str, TextEmbedding],
    base: Params | None = None,
    batch_entries: tuple[str, ...] = PIXELS,
) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], 1000 sigma [B], {'text', 'pooled_text', 'lr_latent'}) → (velocity, taps).
      space: the latents.
      scale: upsampling factor.
      settings: see Dit4srSettings.
      text: sizes of the text embeddings.
      texts: name → text, at least the null text.
      base: all parameters of the denoiser to start from, host arrays; those that are not trained stay frozen. Without
        it the recipe holds shapes in their place: it can be described, and trained only if all parameters are trained.
      batch_entries: images or latents, with or without texts.

    Raises:
      ValueError: nothing would be trained; guidance between texts of two lengths; or another transformer's parameters.
    """
    task = LatentTask(space, scale, residual=False)
    shapes = transformer_shapes(denoiser, space, text, lr_latent=True)
    trainable, untrained = split_params(shapes, settings.trainable)
    if not trainable and not settings.lora_modules:
        raise ValueError(
            f"recipe.dit4sr.trainable {settings.trainable!r} matches none of the {len(flatten_dict(shapes))} "
            "parameters, and there is no LoRA, so nothing would be trained: choose another pattern"
        )
    if base:
        check_same_structure(base, shapes, "recipe.dit4sr.base_checkpoint")
    if settings.guidance != 1:
        _check_lengths(texts)
    initial, untrained = split_params(base, settings.trainable) if base else ({}, untrained)
    untrained = cast_frozen(untrained, settings.base_dtype)
    predict = _predictor(denoiser, settings)
    groups = (DENOISER, LORA) if settings.lora_modules else (DENOISER,)
    return Recipe(
        name="dit4sr",
        scale=scale,
        init=_init(denoiser, task, text, settings),
        updates=(Update(DENOISER, groups, _loss(task, settings, predict, denoiser.taps, batch_entries)),),
        **_samplers(task, settings, predict)._asdict(),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        exported=groups,
        frozen={**space.frozen, TEXTS: dict(texts), **({BASE: untrained} if untrained else {})},
        initial_params={DENOISER: initial} if initial else {},
        batch_entries=batch_entries,
    )


def _check_lengths(texts: Mapping[str, TextEmbedding]) -> None:
    """Guidance calls the network with both texts in one batch."""
    prompt, negative = (texts.get(name, texts[NULL]).tokens.shape[0] for name in (PROMPT, NEGATIVE))
    if prompt != negative:
        unset = " (the null text, as it is not set)"
        names = [f"recipe.text.{name}_embedding{'' if name in texts else unset}" for name in (PROMPT, NEGATIVE)]
        raise ValueError(
            f"{names[0]} has {prompt} tokens, {names[1]} has {negative}: make all texts of a run with one --t5-length"
        )


def merge_params(params: Params, frozen: Frozen, settings: Dit4srSettings) -> Params:
    """All parameters of the denoiser after training, with the LoRA merged."""
    joined = join_params(frozen.get(BASE, {}), params[DENOISER])
    return merge(joined, {LORA: make_lora(params[LORA], settings.lora_alpha)}) if settings.lora_modules else joined


def _init(
    denoiser: Denoiser, task: LatentTask, text: TextSizes, settings: Dit4srSettings
) -> Callable[[jax.Array, Batch], Params]:
    def init(key: jax.Array, batch: Batch) -> Params:
        inputs = zeros_like_inputs(transformer_inputs(denoiser, task.space, text, lr_latent=True))
        trainable, others = split_params(denoiser.init(key, *inputs)["params"], settings.trainable)
        if not settings.lora_modules:
            return {DENOISER: trainable}
        key = jax.random.fold_in(key, 1)
        lora = init_lora(key, others, settings.lora_modules, settings.lora_rank, settings.lora_alpha)
        return {DENOISER: trainable, LORA: dict(lora.factors)}

    return init


Predict = Callable[
    [Params, Frozen, jax.Array, jax.Array, jax.Array, Condition], tuple[jax.Array, tuple[jax.Array, ...]]
]
"""(params, frozen, x, sigma [B], z_lr, text) → (velocity, taps)."""


def _predictor(denoiser: Denoiser, settings: Dit4srSettings) -> Predict:
    def predict(
        params: Params, frozen: Frozen, x: jax.Array, sigma: jax.Array, z_lr: jax.Array, text: Condition
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        loras = {LORA: make_lora(params[LORA], settings.lora_alpha)} if settings.lora_modules else {}
        variables = with_adapters(join_params(frozen.get(BASE, {}), params[DENOISER]), loras)
        with apply_adapters():
            condition = {**text, LR_CONDITION: z_lr}
            return denoise_with(denoiser, variables, x, sigma * process.TRAINING_STEPS, condition)

    return predict


def _loss(
    task: LatentTask, settings: Dit4srSettings, predict: Predict, tap_kind: str, batch_entries: tuple[str, ...]
) -> LossFunction:
    precomputed, text_in_batch = HR_LATENT in batch_entries, TEXT in batch_entries

    def latents(frozen: Frozen, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(z_hr, z_lr), [B, h, w, C] float32 each: precomputed, or encoded here."""
        if precomputed:
            return batch[HR_LATENT].astype(jnp.float32), batch[LR_LATENT].astype(jnp.float32)
        return task.space.encode(frozen, to_model_range(batch["hr"])), task.encode_lr(frozen, batch["lr"])[0]

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z_hr, z_lr = latents(frozen, batch)
        count = z_hr.shape[0]
        key_sigma, key_noise = jax.random.split(key)
        sigma = process.draw_sigma(key_sigma, count, settings.timestep_sampling, settings.shift)
        noise = jax.random.normal(key_noise, z_hr.shape, jnp.float32)
        x = process.forward(z_hr, sigma, noise)
        text = batch_text(frozen, batch, count, text_in_batch)
        prediction, taps = predict(params, frozen, x, sigma, z_lr, text)
        error = preconditioned_error(x, prediction, z_hr, sigma)  # [B]
        taps = prediction_taps_to_clean(taps, x, sigma, tap_kind)
        values = loss_weight(sigma, settings.weighting) * error
        return Loss(values, {"latent_mse": error}, taps, state)

    return loss


class Samplers(NamedTuple):
    """A recipe's samplers, see framer_jax.recipes.base.Recipe."""

    sample: Sampler
    mean: Sampler
    sample_tiled: TiledSampler
    stepwise: StepwiseSampler | None


def _samplers(task: LatentTask, settings: Dit4srSettings, predict: Predict) -> Samplers:
    sigmas = process.sampling_sigmas(settings.sampling_steps, settings.shift)

    def velocity(params: Params, frozen: Frozen, sigma: jax.Array, x: jax.Array, z_lr: jax.Array) -> jax.Array:
        """The guided velocity of any number of latents."""

        def predict_velocity(x: jax.Array, sigma: jax.Array, z_lr: jax.Array, text: Condition) -> jax.Array:
            return predict(params, frozen, x, sigma, z_lr, text)[0]

        count = x.shape[0]
        inputs = x, jnp.full((count,), sigma), z_lr
        prompt = broadcast_text(frozen, PROMPT, count)
        if settings.guidance == 1:
            return predict_velocity(*inputs, prompt)
        negative = broadcast_text(frozen, NEGATIVE, count)
        return guided_prediction(predict_velocity, inputs, prompt, negative, settings.guidance)

    def sample_latent(params: Params, frozen: Frozen, z_lr: jax.Array, noise: NoiseField, tiling: Tiling) -> jax.Array:
        """The clean latent; velocities of tiles are blended in each step."""
        side, overlap = (pixels // task.space.image_pixels_per_latent for pixels in tiling[:2])
        grid = tile_grid((z_lr.shape[1], z_lr.shape[2]), side, overlap)

        def step(x: jax.Array, sigma: jax.Array) -> jax.Array:
            return map_tiles(partial(velocity, params, frozen, sigma), grid, x, z_lr, batch=tiling.batch)

        return flow_euler(sigmas, step, task.noise(z_lr, noise))

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, _ = task.encode_lr(frozen, lr)
        return task.decode(frozen, sample_latent(params, frozen, z_lr, noise, Tiling()), z_lr)

    def stepwise(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField, every: int) -> jax.Array:
        z_lr, _ = task.encode_lr(frozen, lr)

        def step(x: jax.Array, sigma: jax.Array) -> jax.Array:
            return velocity(params, frozen, sigma, x, z_lr)

        x0, estimates = flow_estimates(sigmas, step, task.noise(z_lr, noise))
        return task.decode_with_previews(frozen, x0, z_lr, estimates, every)

    def sample_tiled(params: Params, frozen: Frozen, image: jax.Array, noise: NoiseField, tiling: Tiling) -> jax.Array:
        tiled = replace(task, space=with_tiles(task.space, tiling.encoder, tiling.decoder))
        z_lr = tiled.space.encode(frozen, to_model_range(image))
        return tiled.decode(frozen, sample_latent(params, frozen, z_lr, noise, tiling), z_lr)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, _ = task.encode_lr(frozen, lr)
        x, sigma = task.noise(z_lr, noise), jnp.ones((lr.shape[0],), jnp.float32)
        text = broadcast_text(frozen, PROMPT, lr.shape[0])
        x0 = process.x0_from_velocity(x, predict(params, frozen, x, sigma, z_lr, text)[0], sigma)
        return task.decode(frozen, x0, z_lr)

    steps = settings.sampling_steps
    return Samplers(sample, mean, sample_tiled, StepwiseSampler(steps, stepwise) if steps > 1 else None)
