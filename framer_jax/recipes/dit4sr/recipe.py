"""DiT4SR: a text-conditioned flow on Stable Diffusion 3.5's latents, with the LR latent as a second stream of tokens.

Duan et al., "DiT4SR: Taming Diffusion Transformer for Real-World Image Super-Resolution" (ICCV 2025); FRAMER's
transformer recipe is this one with its term on top. The objective is Stable Diffusion 3's flow, as an error of the
clean latent. The base's weights stay frozen: only the parameters that a pattern names are trained, or a LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from framer_jax.data.text import TEXT, TextEmbedding, TextSizes
from framer_jax.diffusion import flow as process
from framer_jax.diffusion.samplers import flow_estimates, flow_euler
from framer_jax.losses.flow_matching import loss_weight, preconditioned_error, prediction_taps_to_clean
from framer_jax.models.denoiser import Condition, Denoiser, denoise_with
from framer_jax.models.lora import apply_adapters, init_lora, make_lora, merge, with_adapters
from framer_jax.recipes.base import (
    PIXELS,
    Batch,
    Frozen,
    LayerTaps,
    Loss,
    LossFunction,
    Params,
    Recipe,
    State,
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
from framer_jax.recipes.components.latent_sampler import (
    LatentProcess,
    Predict,
    Step,
    check_text_lengths,
    latent_samplers,
    latent_taps,
)
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask
from framer_jax.recipes.components.lr_condition import encode_lr_latent, training_latents
from framer_jax.recipes.components.text import TEXTS, batch_text
from framer_jax.recipes.dit4sr.settings import Dit4srSettings
from framer_jax.trees import check_same_structure

DENOISER, LORA = "denoiser", "lora"
"""The groups: parameters that are trained, and the factors of a LoRA on others."""


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
        check_text_lengths(texts)
    initial, untrained = split_params(base, settings.trainable) if base else ({}, untrained)
    untrained = cast_frozen(untrained, settings.base_dtype)
    predict = _predictor(denoiser, settings)
    groups = (DENOISER, LORA) if settings.lora_modules else (DENOISER,)
    return Recipe(
        name="dit4sr",
        scale=scale,
        init=_init(denoiser, task, text, settings),
        updates=(Update(DENOISER, groups, _loss(task, settings, predict, denoiser.taps, batch_entries)),),
        **latent_samplers(task, sampling_process(settings), predict, encode_lr_latent, settings.guidance)._asdict(),
        layer_taps=_layer_taps(task, predict, denoiser.taps),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        exported=groups,
        frozen={**space.frozen, TEXTS: dict(texts), **({BASE: untrained} if untrained else {})},
        initial_params={DENOISER: initial} if initial else {},
        batch_entries=batch_entries,
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


def _predictor(denoiser: Denoiser, settings: Dit4srSettings) -> Predict:
    def predict(
        params: Params, frozen: Frozen, x: jax.Array, sigma: jax.Array, lr_condition: Condition, text: Condition
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        loras = {LORA: make_lora(params[LORA], settings.lora_alpha)} if settings.lora_modules else {}
        variables = with_adapters(join_params(frozen.get(BASE, {}), params[DENOISER]), loras)
        with apply_adapters():
            return denoise_with(denoiser, variables, x, sigma * process.TRAINING_STEPS, {**text, **lr_condition})

    return predict


def _loss(
    task: LatentTask, settings: Dit4srSettings, predict: Predict, tap_kind: str, batch_entries: tuple[str, ...]
) -> LossFunction:
    text_in_batch = TEXT in batch_entries

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z_hr, lr_condition = training_latents(task, encode_lr_latent, frozen, batch, batch_entries)
        count = z_hr.shape[0]
        key_sigma, key_noise = jax.random.split(key)
        sigma = process.draw_sigma(key_sigma, count, settings.timestep_sampling, settings.shift)
        noise = jax.random.normal(key_noise, z_hr.shape, jnp.float32)
        x = process.forward(z_hr, sigma, noise)
        text = batch_text(frozen, batch, count, text_in_batch)
        prediction, taps = predict(params, frozen, x, sigma, lr_condition, text)
        error = preconditioned_error(x, prediction, z_hr, sigma)  # [B]
        taps = prediction_taps_to_clean(taps, x, sigma, tap_kind)
        values = loss_weight(sigma, settings.weighting) * error
        return Loss(values, {"latent_mse": error}, taps, state)

    return loss


def _layer_taps(task: LatentTask, predict: Predict, tap_kind: str) -> LayerTaps:
    def forward(z: jax.Array, time: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        sigma = jnp.full((z.shape[0],), time)
        return process.forward(z, sigma, noise), sigma

    to_clean = partial(prediction_taps_to_clean, tap_kind=tap_kind)
    return latent_taps(task, forward, predict, encode_lr_latent, 0, has_text=True, to_compared=to_clean)


def sampling_process(settings: Dit4srSettings) -> LatentProcess:
    """Euler steps along the flow, from noise."""
    sigmas = process.sampling_sigmas(settings.sampling_steps, settings.shift)

    def one_call(step: Step, x: jax.Array) -> jax.Array:
        sigma = jnp.ones((x.shape[0],), jnp.float32)
        return process.x0_from_velocity(x, step(x, jnp.float32(1.0)), sigma)

    return LatentProcess(
        steps=settings.sampling_steps,
        start=lambda z_lr, draw: draw(jnp.int32(0)),
        run=lambda step, x, draw: flow_euler(sigmas, step, x),
        estimates=lambda step, x, draw: flow_estimates(sigmas, step, x),
        one_call=one_call,
    )
