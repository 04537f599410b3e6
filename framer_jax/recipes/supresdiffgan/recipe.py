"""SupResDiffGAN: latent diffusion whose estimates a discriminator compares with the HR image.

Kopeć et al., "SupResDiffGAN: a new approach for the Super-Resolution task" (ICCS 2025, arXiv 2504.13622), and the
released code. The U-Net estimates the clean latent from a noisy one, the latent of the upsampled LR image and ᾱ_t. Both
the estimate and the clean latent are noised at a time s and decoded, and the discriminator says which of the two images
is real. The more accurate it has been, the larger s is (framer_jax.diffusion.adaptive_noise). Generator and
discriminator are updated in turn, in the even and in the odd steps; the batch statistics of the discriminator and its
moving accuracy change in both and are the mutable state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from framer_jax.diffusion import ddpm
from framer_jax.diffusion.adaptive_noise import initial_accuracy, noise_time, update_accuracy
from framer_jax.diffusion.samplers import ddim, ddim_estimates
from framer_jax.losses.adversarial import pair_accuracy, pair_loss
from framer_jax.losses.latent import latent_mse
from framer_jax.models.denoiser import LR_LATENT as LR_CONDITION
from framer_jax.models.denoiser import Condition, Denoiser, Taps, denoise
from framer_jax.models.pair_discriminator import STATISTICS, PairDiscriminator
from framer_jax.recipes.base import (
    PIXELS,
    AuxiliaryLoss,
    Batch,
    Frozen,
    LayerTaps,
    Loss,
    LossFunction,
    Params,
    Recipe,
    State,
    Update,
    add_auxiliary,
    auxiliary_frozen,
    timestep_index,
)
from framer_jax.recipes.components.latent_sampler import LatentProcess, Predict, Step, latent_samplers, latent_taps
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask, to_model_range
from framer_jax.recipes.components.lr_condition import encode_lr_latent, training_latents
from framer_jax.recipes.method import Pretrained
from framer_jax.recipes.supresdiffgan.settings import SupResDiffGanSettings

DENOISER = "denoiser"
"""The group of the generator."""

DISCRIMINATOR, ACCURACY = "discriminator", "accuracy"
"""The group of the discriminator, and the entry of the mutable state with its batch statistics; and the entry with the
moving average of its accuracy."""

LEAST_SIDE = 16
"""Side of the images that the discriminator is initialized with; its parameters do not depend on it."""


def supresdiffgan(
    denoiser: Denoiser,
    space: LatentSpace,
    scale: int,
    settings: SupResDiffGanSettings,
    auxiliary: tuple[AuxiliaryLoss, ...] = (),
    dtype: Any = jnp.float32,
    pretrained_discriminator: Pretrained | None = None,
    batch_entries: tuple[str, ...] = PIXELS,
) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], ᾱ [B], {'lr_latent': [B, h, w, C]}) → (estimate of the clean latent, taps).
      space: the latents.
      scale: upsampling factor.
      settings: see SupResDiffGanSettings.
      auxiliary: the perceptual term; it needs images in the batches.
      dtype: compute dtype of the discriminator.
      pretrained_discriminator: a published discriminator to start from, with its batch statistics.
      batch_entries: images or latents.
    """
    task = LatentTask(space, scale, residual=False)
    adversarial = settings.adversarial_weight > 0
    discriminator = PairDiscriminator(channels=settings.discriminator_channels, dtype=dtype)
    predict = _predictor(denoiser)
    generate = _generator(task, predict, settings, batch_entries)
    discriminate = _discriminate(task, discriminator, settings)
    turns = 2 if adversarial else 1
    updates = [
        Update("generator", (DENOISER,), _generator_loss(task, generate, discriminate, settings, auxiliary), turns)
    ]
    if adversarial:
        updates.append(Update("discriminator", (DISCRIMINATOR,), _discriminator_loss(generate, discriminate), turns, 1))
    return Recipe(
        name="supresdiffgan",
        scale=scale,
        init=partial(_init, denoiser, space, discriminator if adversarial else None),
        updates=tuple(updates),
        **latent_samplers(task, sampling_process(settings), predict, encode_lr_latent, guidance=None)._asdict(),
        layer_taps=_layer_taps(task, predict, settings),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        frozen={**space.frozen, **auxiliary_frozen(auxiliary)},
        init_state=partial(_init_state, discriminator, pretrained_discriminator) if adversarial else dict,
        batch_entries=batch_entries,
        initial_params={DISCRIMINATOR: pretrained_discriminator.params["network"]} if pretrained_discriminator else {},
    )


def _variables(discriminator: PairDiscriminator, key: jax.Array) -> dict[str, Any]:
    image = jnp.zeros((1, LEAST_SIDE, LEAST_SIDE, discriminator.image_channels), jnp.float32)
    return cast(dict[str, Any], discriminator.init(key, image, image))


def _init(
    denoiser: Denoiser, space: LatentSpace, discriminator: PairDiscriminator | None, key: jax.Array, batch: Batch
) -> Params:
    """Parameters; no shape of them depends on the batch."""
    key_generator, key_discriminator = jax.random.split(key)
    latent = jnp.zeros((1, denoiser.size_multiple, denoiser.size_multiple, space.channels), jnp.float32)
    variables = denoiser.init(key_generator, latent, jnp.zeros((1,), jnp.float32), {LR_CONDITION: latent})
    params = {DENOISER: variables["params"]}
    if discriminator is not None:
        params[DISCRIMINATOR] = _variables(discriminator, key_discriminator)["params"]
    return params


def _init_state(discriminator: PairDiscriminator, weights: Pretrained | None) -> State:
    """The batch statistics, of published weights or 0 and 1, and the moving accuracy of a guess."""
    statistics = weights.params["statistics"] if weights else _variables(discriminator, jax.random.key(0))[STATISTICS]
    return {DISCRIMINATOR: jax.tree.map(jnp.asarray, statistics), ACCURACY: initial_accuracy()}


def _predictor(denoiser: Denoiser) -> Predict:
    """The generator, whose time is ᾱ and which has no text."""

    def predict(
        params: Params, frozen: Frozen, x: jax.Array, level: jax.Array, lr_condition: Condition, text: Condition
    ) -> tuple[jax.Array, Taps]:
        return denoise(denoiser, params[DENOISER], x, level, lr_condition)

    return predict


class Generated(NamedTuple):
    """An estimate of the generator.

    Attributes:
      latent: the estimate of the clean latent, [B, h, w, C] float32.
      target: the clean latent, like it.
      taps: of the denoiser.
    """

    latent: jax.Array
    target: jax.Array
    taps: Taps


Generate = Callable[[Params, Frozen, Batch, jax.Array], Generated]
"""(params, frozen, batch, key) → an estimate from noisy latents at random times."""


def _generator(
    task: LatentTask, predict: Predict, settings: SupResDiffGanSettings, batch_entries: tuple[str, ...]
) -> Generate:
    schedule = ddpm.cosine_schedule(settings.steps)
    levels = jnp.asarray(schedule.alphas_cumprod, jnp.float32)

    def generate(params: Params, frozen: Frozen, batch: Batch, key: jax.Array) -> Generated:
        z_hr, lr_condition = training_latents(task, encode_lr_latent, frozen, batch, batch_entries)
        key_time, key_noise = jax.random.split(key)
        t = jax.random.randint(key_time, (z_hr.shape[0],), 0, schedule.steps, jnp.int32)
        x = ddpm.forward(schedule, z_hr, t, jax.random.normal(key_noise, z_hr.shape, jnp.float32))
        estimate, taps = predict(params, frozen, x, levels[t], lr_condition, {})
        return Generated(estimate, z_hr, taps)

    return generate


def _layer_taps(task: LatentTask, predict: Predict, settings: SupResDiffGanSettings) -> LayerTaps:
    schedule = ddpm.cosine_schedule(settings.steps)
    levels = jnp.asarray(schedule.alphas_cumprod, jnp.float32)

    def forward(z: jax.Array, time: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        t = timestep_index(time, schedule.steps, z.shape[0])
        return ddpm.forward(schedule, z, t, noise), levels[t]

    return latent_taps(task, forward, predict, encode_lr_latent, schedule.steps, has_text=False)


class DiscriminatorOutput(NamedTuple):
    """The discriminator's output for pairs of a generated and a real image.

    Attributes:
      logits: [B] float32, above 0 where it takes the second image for the real one.
      second_is_real: [B] bool.
      state: the mutable state with the new batch statistics and the new moving accuracy.
      metrics: its accuracy, the moving average that decided the noise, and the time of that noise.
    """

    logits: jax.Array
    second_is_real: jax.Array
    state: State
    metrics: dict[str, jax.Array]


Discriminate = Callable[[Params, Frozen, State, jax.Array, jax.Array, jax.Array], DiscriminatorOutput]
"""(params, frozen, state, generated latent, real latent, key) → the discriminator's output."""


def _discriminate(task: LatentTask, discriminator: PairDiscriminator, settings: SupResDiffGanSettings) -> Discriminate:
    schedule = ddpm.cosine_schedule(settings.steps)

    def discriminate(
        params: Params, frozen: Frozen, state: State, generated: jax.Array, real: jax.Array, key: jax.Array
    ) -> DiscriminatorOutput:
        key_order, *keys = jax.random.split(key, 3)
        time = noise_time(state[ACCURACY], schedule.steps)

        def noised_image(latent: jax.Array, key: jax.Array) -> jax.Array:  # [B, h, w, C] → [B, H, W, 3]
            x = ddpm.forward(schedule, latent, time, jax.random.normal(key, latent.shape, jnp.float32))
            return jnp.clip(task.space.decode(frozen, x), -1.0, 1.0)

        # Decoded one after the other: the decoder's backward pass is then of generated images only.
        fake, true = noised_image(generated, keys[0]), noised_image(real, keys[1])
        second_is_real = jax.random.bernoulli(key_order, 0.5, (real.shape[0],))
        swap = second_is_real[:, None, None, None]
        first, second = jnp.where(swap, fake, true), jnp.where(swap, true, fake)
        variables = {"params": params[DISCRIMINATOR], STATISTICS: state[DISCRIMINATOR]}
        logits, changed = discriminator.apply(variables, first, second, True, mutable=[STATISTICS])
        accuracy = pair_accuracy(logits, second_is_real)  # [B]
        average = update_accuracy(state[ACCURACY], accuracy.mean())
        metrics = {"accuracy": accuracy, "moving_accuracy": state[ACCURACY], "noise_time": time.astype(jnp.float32)}
        return DiscriminatorOutput(
            logits, second_is_real, {**state, DISCRIMINATOR: changed[STATISTICS], ACCURACY: average}, metrics
        )

    return discriminate


def _generator_loss(
    task: LatentTask,
    generate: Generate,
    discriminate: Discriminate,
    settings: SupResDiffGanSettings,
    auxiliary: tuple[AuxiliaryLoss, ...],
) -> LossFunction:
    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        key_generate, key_discriminate = jax.random.split(key)
        latent, target, taps = generate(params, frozen, batch, key_generate)
        values = latent_mse(latent, target)  # [B]
        metrics = {"latent_mse": values}
        # The released code decodes without recording a gradient.
        decoded = latent if settings.variant == "paper" else jax.lax.stop_gradient(latent)
        if auxiliary:
            image = jnp.clip(task.space.decode(frozen, decoded), -1.0, 1.0)  # [B, H, W, 3]
            values, metrics = add_auxiliary(auxiliary, frozen, values, metrics, image, to_model_range(batch["hr"]))
        if not settings.adversarial_weight:
            return Loss(values, metrics, taps, state)
        output = discriminate(params, frozen, state, decoded, target, key_discriminate)
        adversarial = pair_loss(output.logits, ~output.second_is_real)
        metrics = {**metrics, "adversarial": adversarial, **output.metrics}
        return Loss(values + settings.adversarial_weight * adversarial, metrics, taps, output.state)

    return loss


def _discriminator_loss(generate: Generate, discriminate: Discriminate) -> LossFunction:
    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        key_generate, key_discriminate = jax.random.split(key)
        # The generator does not run in this step, so its image is made here, without a gradient.
        generated = jax.lax.stop_gradient(generate(params, frozen, batch, key_generate))
        output = discriminate(params, frozen, state, generated.latent, generated.target, key_discriminate)
        values = pair_loss(output.logits, output.second_is_real)
        return Loss(values, output.metrics, (), output.state)

    return loss


def sampling_process(settings: SupResDiffGanSettings) -> LatentProcess:
    """Steps of DDPM or DDIM from noise, between the two of them by `eta`; the network's time is ᾱ.

    As in the release, fewer steps are a shorter cosine schedule and not a part of the training's: the network is given
    ᾱ and not a time, so it can be called at any.
    """
    schedule = ddpm.cosine_schedule(settings.sampling_steps)
    grid, levels = ddpm.ddpm_grid(schedule), jnp.asarray(schedule.alphas_cumprod, jnp.float32)
    noisiest = jnp.float32(ddpm.cosine_schedule(settings.steps).alphas_cumprod[-1])

    def at_level(step: Step, x: jax.Array, t: jax.Array) -> jax.Array:
        return step(x, levels[t])

    return LatentProcess(
        steps=settings.sampling_steps,
        start=lambda z_lr, draw: draw(jnp.int32(0)),
        run=lambda step, x, draw: ddim(grid, partial(at_level, step), x, settings.eta, draw),
        estimates=lambda step, x, draw: ddim_estimates(grid, partial(at_level, step), x, settings.eta, draw),
        one_call=lambda step, x: step(x, noisiest),
    )
