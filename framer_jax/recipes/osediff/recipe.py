"""OSEDiff: Stable Diffusion 2 as a one-step super-resolver, by variational score distillation.

Wu et al., "One-Step Effective Diffusion Network for Real-World Image Super-Resolution" (NeurIPS 2024). The student is
the U-Net with a LoRA, called once at the last time with the LR latent in the place of a noisy one; the autoencoder's
encoder has another LoRA. Its teacher is the U-Net as it is; a third LoRA, the regulariser, follows the student's output
distribution. All lie on one copy of the U-Net, whose own weights never change; where the student trains a layer as a
whole (the release: its first convolution), teacher and regulariser keep the original one.

Differences from the released trainer: the encoder returns its mean, not a draw, and no direction is divided by less
than 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from framer_jax.data.text import TEXT, TextEmbedding, TextSizes
from framer_jax.diffusion import ddpm
from framer_jax.losses import score_distillation
from framer_jax.losses.pixel import pixel_mse
from framer_jax.losses.score_distillation import REGULARISER_TIMES, VSD_TIMES, TeacherOutputs
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
from framer_jax.recipes.components.adapters import Network, adapted_network, prompt_and_negative, scaled_lora
from framer_jax.recipes.components.base_model import (
    BASE,
    cast_frozen,
    join_params,
    split_params,
    transformer_shapes,
)
from framer_jax.recipes.components.latent_space import AUTOENCODER, LatentSpace, LatentTask, to_model_range
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
from framer_jax.recipes.components.sd_base import schedule
from framer_jax.recipes.components.text import NEGATIVE, PROMPT, TEXTS, batch_text, broadcast_text
from framer_jax.recipes.osediff.settings import OsediffSettings

DENOISER = "denoiser"
"""The group of the U-Net's parameters that the student trains as a whole."""

SCHEDULE = schedule()


def osediff(
    denoiser: Denoiser,
    space: LatentSpace,
    scale: int,
    settings: OsediffSettings,
    text: TextSizes,
    texts: Mapping[str, TextEmbedding],
    base: Params | None = None,
    auxiliary: tuple[AuxiliaryLoss, ...] = (),
    batch_entries: tuple[str, ...] = PIXELS,
) -> Recipe:
    """The recipe. Its `sample` is one network call, and draws no noise.

    In training, student, teacher and regulariser get the text of each example, or the prompt where the batch has none;
    the teacher is guided away from the negative prompt. `sample` has the prompt for every image.

    Args:
      denoiser: (x [B, h, w, C], t [B], {'text'}) → (noise, taps).
      space: the latents, of an autoencoder with weights if its encoder gets a LoRA.
      scale: upsampling factor.
      settings: see OsediffSettings.
      text: sizes of the text embeddings.
      texts: name → text, at least the null text.
      base: the U-Net's parameters, host arrays; None for a description, which has shapes in their place.
      auxiliary: terms on the decoded image: LPIPS.
      batch_entries: images, with or without texts.

    Raises:
      ValueError: a LoRA for an encoder without weights, or `trainable` matches no parameter.
    """
    check_encoder(space, settings.encoder_lora_modules, "recipe.osediff.encoder_lora_modules")
    task, network = LatentTask(space, scale, residual=False), adapted_network(denoiser)
    weights = base or transformer_shapes(denoiser, space, text, lr_latent=False)
    whole = _trained_whole(weights, settings)
    unet = cast_frozen(weights, settings.base_dtype)
    frozen: Frozen = {**space.frozen, TEXTS: dict(texts), BASE: unet, **auxiliary_frozen(auxiliary)}
    student = _student(settings, network)
    sample, sample_tiled = one_step_samplers(task, student, _clean_latent)
    text_in_batch = TEXT in batch_entries
    groups = (STUDENT, *([DENOISER] if whole else []), *([ENCODER] if settings.encoder_lora_modules else []))
    student_loss = _student_loss(task, settings, (network, student), auxiliary, text_in_batch)
    return Recipe(
        name="osediff",
        scale=scale,
        init=_init(settings, frozen, whole),
        updates=(
            Update("student", groups, student_loss),
            Update("regulariser", (REGULARISER,), _regulariser_loss(settings, network, text_in_batch)),
        ),
        sample=sample,
        sample_tiled=sample_tiled,
        layer_taps=one_step_taps(task, student),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        exported=groups,
        frozen=frozen,
        batch_entries=batch_entries,
        initial_params={DENOISER: cast_frozen(whole, "float32")} if base and whole else {},
    )


def _trained_whole(weights: Params, settings: OsediffSettings) -> Params:
    """The U-Net's parameters, or their shapes, that the student trains as a whole."""
    if not settings.trainable:
        return {}
    whole, _ = split_params(weights, settings.trainable)
    if not whole:
        raise ValueError(
            f"recipe.osediff.trainable {settings.trainable!r} matches none of the {len(flatten_dict(weights))} "
            "parameters of the U-Net: correct it, or leave it empty"
        )
    return whole


def _init(settings: OsediffSettings, frozen: Frozen, whole: Params) -> Callable[[jax.Array, Batch], Params]:
    """LoRA factors that change nothing yet; the layers that are trained as a whole get their values from the base."""
    loras = (
        TrainedLora(STUDENT, BASE, settings.lora_modules, settings.lora_rank),
        TrainedLora(REGULARISER, BASE, settings.regulariser_lora_modules, settings.regulariser_lora_rank),
        TrainedLora(ENCODER, AUTOENCODER, settings.encoder_lora_modules, settings.encoder_lora_rank),
    )
    factors = init_loras(frozen, loras)

    def init(key: jax.Array, batch: Batch) -> Params:
        params = factors(key, batch)
        if whole:  # `initial_params` replaces them
            params[DENOISER] = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), whole)
        return params

    return init


def _student(settings: OsediffSettings, network: Network) -> Student:
    """The student, which takes the LR latent as the process's state at its last time."""

    def student(params: Params, frozen: Frozen) -> tuple[Frozen, Predict]:
        weights = join_params(frozen[BASE], params.get(DENOISER, {}))
        unet = with_adapters(weights, {"": scaled_lora(params[STUDENT], settings.lora_scale)})

        def noise(z_lr: jax.Array, text: Condition) -> tuple[jax.Array, Taps]:
            last = jnp.full((z_lr.shape[0],), SCHEDULE.steps - 1, jnp.float32)
            return network(unet, z_lr, last, text)

        return with_encoder_lora(frozen, params, settings.lora_scale), noise

    return student


def _clean_latent(z_lr: jax.Array, noise: jax.Array) -> jax.Array:
    return ddpm.one_step_x0(SCHEDULE, z_lr, noise)


def _student_loss(
    task: LatentTask,
    settings: OsediffSettings,
    networks: tuple[Network, Student],
    auxiliary: tuple[AuxiliaryLoss, ...],
    text_in_batch: bool,
) -> LossFunction:
    network, student = networks

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        hr = to_model_range(batch["hr"])  # [B, H, W, 3]
        encoder, predict = student(params, frozen)
        z_lr, _ = task.encode_lr(encoder, batch["lr"])  # [B, h, w, C]
        text = batch_text(frozen, batch, z_lr.shape[0], text_in_batch, default=PROMPT)
        noise, taps = predict(z_lr, text)
        z = _clean_latent(z_lr, noise)
        values = jnp.zeros((z.shape[0],), jnp.float32)
        metrics: dict[str, jax.Array] = {}
        if settings.pixel_weight or auxiliary:
            image = jnp.clip(task.space.decode(frozen, z), -1, 1)  # [B, H, W, 3]
            metrics["pixel_mse"] = pixel_mse(image, hr)
            values += settings.pixel_weight * metrics["pixel_mse"]
            values, metrics = add_auxiliary(auxiliary, frozen, values, metrics, image, hr)
        if settings.distillation_weight:
            direction = _direction(settings, network, params, frozen, z, text, key)
            metrics["distillation"] = score_distillation.distillation_error(z, direction, 1.0)
            values += settings.distillation_weight * metrics["distillation"]
        return Loss(values, metrics, taps, state, {STUDENT_LATENT: z})

    return loss


def _direction(
    settings: OsediffSettings,
    network: Network,
    params: Params,
    frozen: Frozen,
    z: jax.Array,
    text: Condition,
    key: jax.Array,
) -> jax.Array:
    """The direction of variational score distillation for the student's latents, [B, h, w, C]."""
    z = jax.lax.stop_gradient(z)
    count = z.shape[0]
    key_time, key_noise = jax.random.split(key)
    t = score_distillation.draw_times(key_time, count, VSD_TIMES)
    x = ddpm.forward(SCHEDULE, z, t, jax.random.normal(key_noise, z.shape, jnp.float32))
    negative = broadcast_text(frozen, NEGATIVE, count)
    time = t.astype(jnp.float32)
    conditional, unconditional = prompt_and_negative(network, with_adapters(frozen[BASE], {}), x, time, text, negative)
    teacher = TeacherOutputs(unconditional, conditional)
    regulariser, _ = network(_regulariser(settings, params, frozen), x, time, text)
    return score_distillation.vsd_direction(SCHEDULE, z, x, t, teacher, regulariser, settings.guidance)


def _regulariser(settings: OsediffSettings, params: Params, frozen: Frozen) -> Params:
    return with_adapters(frozen[BASE], {"": scaled_lora(params[REGULARISER], settings.lora_scale)})


def _regulariser_loss(settings: OsediffSettings, network: Network, text_in_batch: bool) -> LossFunction:
    """The diffusion loss, on the student's latents."""

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z = batch[STUDENT_LATENT]  # [B, h, w, C]
        count = z.shape[0]
        key_time, key_noise = jax.random.split(key)
        t = score_distillation.draw_times(key_time, count, REGULARISER_TIMES)
        noise = jax.random.normal(key_noise, z.shape, jnp.float32)
        text = batch_text(frozen, batch, count, text_in_batch, default=PROMPT)
        x = ddpm.forward(SCHEDULE, z, t, noise)
        prediction, _ = network(_regulariser(settings, params, frozen), x, t.astype(jnp.float32), text)
        error = score_distillation.regulariser_error(SCHEDULE, prediction, z, t, noise)  # [B]
        return Loss(error, {"noise_mse": error}, (), state)

    return loss
