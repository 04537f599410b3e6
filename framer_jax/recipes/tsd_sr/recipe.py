"""TSD-SR: Stable Diffusion 3 as a one-step super-resolver, by target-score distillation.

Dong et al., "TSD-SR: One-Step Diffusion with Target Score Distillation for Real-World Image Super-Resolution" (CVPR
2025). The student is the transformer with a LoRA, and the autoencoder's encoder with another; its teacher is the same
transformer with a LoRA that was fine-tuned on HR images; a third LoRA, the regulariser, follows the student's output
distribution. All three lie on one copy of the transformer, whose own weights never change.

Differences from the released trainer, which are faults there: the distillation has a gradient; the network gets the
time of each example, not that of the first one; the regulariser's loss is not multiplied by random numbers (whose mean
is a half). The encoder returns its mean, not a draw; the sub-steps' bias is drawn for each example; gradients are
clipped by the joint norm of the student's two LoRAs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from framer_jax.data.text import TEXT, TextEmbedding, TextSizes
from framer_jax.diffusion import flow as process
from framer_jax.losses import score_distillation
from framer_jax.losses.flow_matching import preconditioned_error, prediction_taps_to_clean
from framer_jax.losses.latent import latent_mse
from framer_jax.losses.score_distillation import TSD_SCALE
from framer_jax.models.denoiser import Condition, Denoiser, Taps
from framer_jax.models.lora import with_adapters
from framer_jax.recipes.base import (
    PIXELS,
    AuxiliaryLoss,
    Batch,
    Frozen,
    Loss,
    LossFunction,
    Params,
    Recipe,
    State,
    Update,
    add_auxiliary,
    auxiliary_frozen,
)
from framer_jax.recipes.components.adapters import (
    Network,
    Variables,
    adapted_network,
    guided_predictions,
    scaled_lora,
)
from framer_jax.recipes.components.base_model import BASE, cast_frozen, transformer_shapes
from framer_jax.recipes.components.latent_space import (
    AUTOENCODER,
    LatentSpace,
    LatentTask,
    to_model_range,
)
from framer_jax.recipes.components.one_step import (
    ENCODER,
    REGULARISER,
    STUDENT,
    STUDENT_LATENT,
    Predict,
    Student,
    TrainedLora,
    check_encoder,
    init_loras,
    one_step_samplers,
    one_step_taps,
    with_encoder_lora,
)
from framer_jax.recipes.components.text import NULL, PROMPT, TEXTS, batch_text, broadcast_text
from framer_jax.recipes.tsd_sr.settings import TsdSrSettings

TEACHER = "teacher_lora"
"""The entry of `frozen` with the teacher's LoRA."""


def tsd_sr(
    denoiser: Denoiser,
    space: LatentSpace,
    scale: int,
    settings: TsdSrSettings,
    text: TextSizes,
    texts: Mapping[str, TextEmbedding],
    base: Params | None = None,
    teacher: Params | None = None,
    auxiliary: tuple[AuxiliaryLoss, ...] = (),
    batch_entries: tuple[str, ...] = PIXELS,
) -> Recipe:
    """The recipe. Its `sample` is one network call, and draws no noise.

    The student gets the prompt for every image; teacher and regulariser get the text of the batch, or that prompt too,
    and are guided away from the null text.

    Args:
      denoiser: (x [B, h, w, C], 1000 sigma [B], {'text', 'pooled_text'}) → (velocity, taps).
      space: the latents, of an autoencoder with weights if its encoder gets a LoRA.
      scale: upsampling factor.
      settings: see TsdSrSettings.
      text: sizes of the text embeddings.
      texts: name → text, at least the null text.
      base: the transformer's parameters, host arrays; None for a description, which has shapes in their place.
      teacher: factors of the LoRA that makes the transformer the teacher, with alphas equal to ranks; None for none.
      auxiliary: terms on the decoded image: LPIPS.
      batch_entries: images, with or without texts.

    Raises:
      ValueError: a LoRA for an encoder without weights.
    """
    check_encoder(space, settings.encoder_lora_modules, "recipe.tsd_sr.encoder_lora_modules")
    task, network = LatentTask(space, scale, residual=False), _network(denoiser)
    transformer = cast_frozen(base or transformer_shapes(denoiser, space, text, lr_latent=False), settings.base_dtype)
    frozen: Frozen = {**space.frozen, TEXTS: dict(texts), BASE: transformer, **auxiliary_frozen(auxiliary)}
    frozen |= {} if teacher is None else {TEACHER: teacher}
    exported = (STUDENT, ENCODER) if settings.encoder_lora_modules else (STUDENT,)
    student = _student(settings, network)
    sample, sample_tiled = one_step_samplers(task, student, lambda z_lr, velocity: z_lr - velocity)
    text_in_batch = TEXT in batch_entries
    student_loss = _student_loss(task, settings, (network, student), denoiser.taps, auxiliary, text_in_batch)
    return Recipe(
        name="tsd_sr",
        scale=scale,
        init=init_loras(frozen, _loras(settings)),
        updates=(
            Update("student", exported, student_loss),
            Update("regulariser", (REGULARISER,), _regulariser_loss(settings, network, text_in_batch)),
        ),
        sample=sample,
        sample_tiled=sample_tiled,
        layer_taps=one_step_taps(task, student, partial(_compared_taps, settings, denoiser.taps)),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        exported=exported,
        frozen=frozen,
        batch_entries=batch_entries,
    )


def _loras(settings: TsdSrSettings) -> tuple[TrainedLora, ...]:
    return (
        TrainedLora(STUDENT, BASE, settings.lora_modules, settings.lora_rank),
        TrainedLora(REGULARISER, BASE, settings.regulariser_lora_modules, settings.regulariser_lora_rank),
        TrainedLora(ENCODER, AUTOENCODER, settings.encoder_lora_modules, settings.encoder_lora_rank),
    )


def _network(denoiser: Denoiser) -> Network:
    """The transformer as a function of sigma."""
    network = adapted_network(denoiser)

    def velocity(variables: Variables, x: jax.Array, sigma: jax.Array, text: Condition) -> tuple[jax.Array, Taps]:
        return network(variables, x, sigma * process.TRAINING_STEPS, text)

    return velocity


def _student(settings: TsdSrSettings, network: Network) -> Student:
    """The student, which takes the LR latent as the flow's state at sigma = 1."""

    def student(params: Params, frozen: Frozen) -> tuple[Frozen, Predict]:
        transformer = with_adapters(frozen[BASE], {"": scaled_lora(params[STUDENT], settings.lora_scale)})

        def velocity(z_lr: jax.Array, text: Condition) -> tuple[jax.Array, Taps]:
            return network(transformer, z_lr, jnp.ones((z_lr.shape[0],), jnp.float32), text)

        return with_encoder_lora(frozen, params, settings.lora_scale), velocity

    return student


def _student_loss(
    task: LatentTask,
    settings: TsdSrSettings,
    networks: tuple[Network, Student],
    tap_kind: str,
    auxiliary: tuple[AuxiliaryLoss, ...],
    text_in_batch: bool,
) -> LossFunction:
    network, student = networks

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        hr = to_model_range(batch["hr"])  # [B, H, W, 3]
        z_hr = jax.lax.stop_gradient(task.space.encode(frozen, hr))  # [B, h, w, C]
        encoder, predict = student(params, frozen)
        z_lr, _ = task.encode_lr(encoder, batch["lr"])
        velocity, taps = predict(z_lr, broadcast_text(frozen, PROMPT, z_lr.shape[0]))
        z = z_lr - velocity
        taps = _compared_taps(settings, tap_kind, taps, z_lr)
        error = latent_mse(z, z_hr)  # [B]
        values = settings.latent_weight * error
        metrics = {"latent_mse": error}
        if settings.distillation_weight:
            text = batch_text(frozen, batch, z.shape[0], text_in_batch, default=PROMPT)
            directions = _directions(settings, network, params, frozen, (z, z_hr), text, key)
            metrics |= {name: jnp.square(part).mean(axis=(1, 2, 3)) for name, part in directions._asdict().items()}
            direction = directions.combined(settings.vsd_weight)
            metrics["distillation"] = score_distillation.distillation_error(z, direction, TSD_SCALE)
            values += settings.distillation_weight * metrics["distillation"]
        if auxiliary:
            image = jnp.clip(task.space.decode(frozen, z), -1, 1)
            values, metrics = add_auxiliary(auxiliary, frozen, values, metrics, image, hr)
        return Loss(values, metrics, taps, state, {STUDENT_LATENT: z})

    return loss


def _compared_taps(settings: TsdSrSettings, tap_kind: str, taps: Taps, z_lr: jax.Array) -> Taps:
    """The taps that FRAMER compares: of predicting blocks, what they say of the clean latent, or velocities."""
    if settings.framer_taps != "clean":
        return taps
    return prediction_taps_to_clean(taps, z_lr, jnp.ones((z_lr.shape[0],), jnp.float32), tap_kind)


def _directions(
    settings: TsdSrSettings,
    network: Network,
    params: Params,
    frozen: Frozen,
    latents: tuple[jax.Array, jax.Array],
    text: Condition,
    key: jax.Array,
) -> score_distillation.TsdDirections:
    """The directions that teacher and regulariser give for the student's latent and the real one."""
    z, z_hr = latents
    count = z.shape[0]
    key_sigma, key_noise = jax.random.split(key)
    sigmas = score_distillation.draw_sigmas(
        key_sigma, count, settings.substeps, settings.substep_size, settings.substep_bias, settings.shift
    )
    noise = jax.random.normal(key_noise, z.shape, jnp.float32)
    null = broadcast_text(frozen, NULL, count)
    teacher = with_adapters(frozen[BASE], {"": scaled_lora(frozen[TEACHER], 1.0)} if TEACHER in frozen else {})
    regulariser = with_adapters(frozen[BASE], {"": scaled_lora(params[REGULARISER], settings.lora_scale)})

    def networks(x: jax.Array, x_hr: jax.Array, sigma: jax.Array) -> score_distillation.Velocities:
        guidance = text, null, settings.guidance
        return score_distillation.Velocities(
            *guided_predictions(network, teacher, (x, x_hr), sigma, *guidance),
            *guided_predictions(network, regulariser, (x,), sigma, *guidance),
        )

    return score_distillation.tsd_directions(z, z_hr, noise, sigmas, networks, settings.substep_weights)


def _regulariser_loss(settings: TsdSrSettings, network: Network, text_in_batch: bool) -> LossFunction:
    """The flow's error of the clean latent, on the student's latents."""

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z = batch[STUDENT_LATENT]  # [B, h, w, C]
        count = z.shape[0]
        key_sigma, key_noise = jax.random.split(key)
        sigma = score_distillation.draw_sigmas(key_sigma, count, shift=settings.shift)[:, 0]
        x = process.forward(z, sigma, jax.random.normal(key_noise, z.shape, jnp.float32))
        variables = with_adapters(frozen[BASE], {"": scaled_lora(params[REGULARISER], settings.lora_scale)})
        text = batch_text(frozen, batch, count, text_in_batch, default=PROMPT)
        prediction, _ = network(variables, x, sigma, text)
        error = preconditioned_error(x, prediction, z, sigma)  # [B]
        return Loss(0.5 * error, {"latent_mse": error}, (), state)

    return loss
