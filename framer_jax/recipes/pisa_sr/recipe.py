"""PiSA-SR: Stable Diffusion 2 as a one-step super-resolver with a pixel-level and a semantic-level LoRA.

Sun et al., "Pixel-level and Semantic-level Adjustable Super-resolution: A Dual-LoRA Approach" (CVPR 2025). The network
predicts the residual that is subtracted from the LR latent: z_H = z_L - ε(z_L), in one call. The first phase of
training fits the pixel-level LoRA to the image alone; the second one adds the semantic-level LoRA to it, and trains
that with LPIPS and classifier score distillation. When sampling, the effect of each can be scaled. FRAMER_U builds on
it.

Differences from the released code: the encoder returns its mean, not a draw; captions are embedded beforehand, where
the release tags the images as it trains; the null text is drawn for each example, not for a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.data.text import TEXT, TextEmbedding, TextSizes
from framer_jax.diffusion import ddpm
from framer_jax.losses import score_distillation
from framer_jax.losses.pixel import pixel_mse
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
    init_factors,
    prompt_and_negative,
    scaled_lora,
)
from framer_jax.recipes.components.base_model import (
    BASE,
    cast_frozen,
    transformer_inputs,
    transformer_shapes,
    zeros_like_inputs,
)
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask, to_model_range
from framer_jax.recipes.components.one_step import Predict, Student, one_step_samplers, one_step_taps
from framer_jax.recipes.components.sd_base import schedule
from framer_jax.recipes.components.text import NEGATIVE, NULL, PROMPT, TEXTS, batch_text, broadcast_text
from framer_jax.recipes.pisa_sr.settings import PisaSrSettings

PIXEL, SEMANTIC, DENOISER = "pixel_lora", "semantic_lora", "denoiser"
"""The groups: factors of the two LoRAs; without a base, the whole U-Net in place of the first."""

SCALES = "adapter_scales"
"""The entry of `frozen` with the factors of the two LoRAs' effects, arrays, so that other values compile nothing."""


def pisa_sr(
    denoiser: Denoiser,
    space: LatentSpace,
    scale: int,
    settings: PisaSrSettings,
    text: TextSizes,
    texts: Mapping[str, TextEmbedding],
    base: Params | None = None,
    auxiliary: tuple[AuxiliaryLoss, ...] = (),
    batch_entries: tuple[str, ...] = PIXELS,
    has_base: bool = True,
) -> Recipe:
    """The recipe. Its `sample` draws no noise.

    Args:
      denoiser: (x [B, h, w, C], t [B], {'text'}) → (noise, taps).
      space: the latents.
      scale: upsampling factor.
      settings: see PisaSrSettings.
      text: sizes of the text embeddings.
      texts: name → text, at least the null text.
      base: the U-Net's parameters, host arrays; None for a description, which has shapes in their place.
      auxiliary: terms of the second phase on the decoded image: LPIPS.
      batch_entries: images, with or without texts.
      has_base: False trains a whole U-Net in the first phase; there is no teacher then.
    """
    task, network = LatentTask(space, scale, residual=False), adapted_network(denoiser)
    frozen: Frozen = {**space.frozen, TEXTS: dict(texts), **auxiliary_frozen(auxiliary)}
    if has_base:
        unet = base or transformer_shapes(denoiser, space, text, lr_latent=False)
        frozen[BASE] = cast_frozen(unet, settings.base_dtype)
    if settings.adjusted:
        scales = {PIXEL: settings.pixel_scale, SEMANTIC: settings.semantic_scale}
        frozen[SCALES] = {name: np.float32(value) for name, value in scales.items()}
    first = PIXEL if has_base else DENOISER
    text_in_batch = TEXT in batch_entries
    pixel_loss = _loss(task, settings, network, (), text_in_batch, semantic=False)
    semantic_loss = _loss(task, settings, network, auxiliary, text_in_batch, semantic=True)
    student = _student(settings, network)
    sample, sample_tiled = one_step_samplers(task, student, lambda z_lr, residual: z_lr - residual)
    return Recipe(
        name="pisa_sr",
        scale=scale,
        init=_init(denoiser, task, text, settings, frozen),
        updates=(
            Update("pixel", (first,), pixel_loss, stop=settings.pixel_steps),
            Update("semantic", (SEMANTIC,), semantic_loss, start=settings.pixel_steps),
        ),
        denoiser_updates=("pixel", "semantic"),
        sample=sample,
        sample_tiled=sample_tiled,
        layer_taps=one_step_taps(task, student),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        exported=(first, SEMANTIC),
        frozen=frozen,
        batch_entries=batch_entries,
    )


def _init(
    denoiser: Denoiser, task: LatentTask, text: TextSizes, settings: PisaSrSettings, frozen: Frozen
) -> Callable[[jax.Array, Batch], Params]:
    """LoRA factors that change nothing yet and, without a base, the U-Net."""

    def init(key: jax.Array, batch: Batch) -> Params:
        key_first, key_semantic = jax.random.split(key)
        pattern, rank = settings.lora_modules, settings.lora_rank
        if BASE in frozen:
            first = {PIXEL: init_factors(key_first, frozen[BASE], pattern, rank)}
            return {**first, SEMANTIC: init_factors(key_semantic, frozen[BASE], pattern, rank)}
        inputs = zeros_like_inputs(transformer_inputs(denoiser, task.space, text, lr_latent=False))
        unet = denoiser.init(key_first, *inputs)["params"]
        return {DENOISER: unet, SEMANTIC: init_factors(key_semantic, unet, pattern, rank)}

    return init


def network_variables(settings: PisaSrSettings, params: Params, frozen: Frozen, semantic: bool) -> Variables:
    """The U-Net's variables with the pixel-level LoRA, if there is a base, and with the semantic-level one or not."""
    names = [name for name in (PIXEL, SEMANTIC) if name in params and (semantic or name == PIXEL)]
    adapters = {name: scaled_lora(params[name], settings.lora_scale) for name in names}
    return with_adapters(frozen[BASE] if BASE in frozen else params[DENOISER], adapters)


def _residual(
    settings: PisaSrSettings, network: Network, variables: Variables, z_lr: jax.Array, text: Condition
) -> tuple[jax.Array, Taps]:
    """The residual that is subtracted from the LR latent [B, h, w, C], and the taps."""
    return network(variables, z_lr, jnp.full((z_lr.shape[0],), settings.timestep, jnp.float32), text)


def _loss(
    task: LatentTask,
    settings: PisaSrSettings,
    network: Network,
    auxiliary: tuple[AuxiliaryLoss, ...],
    text_in_batch: bool,
    semantic: bool,
) -> LossFunction:
    """The loss of the first phase or, with `semantic`, of the second one."""
    distills = semantic and settings.distillation_weight > 0

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        hr = to_model_range(batch["hr"])  # [B, H, W, 3]
        z_lr, _ = task.encode_lr(frozen, batch["lr"])  # [B, h, w, C]
        text = batch_text(frozen, batch, z_lr.shape[0], text_in_batch, default=PROMPT)
        key_text, key_distillation = jax.random.split(key)
        student_text = _with_null_text(key_text, text, broadcast_text(frozen, NULL, z_lr.shape[0]), settings)
        variables = network_variables(settings, params, frozen, semantic)
        residual, taps = _residual(settings, network, variables, z_lr, student_text)
        z = z_lr - residual
        image = jnp.clip(task.space.decode(frozen, z), -1, 1)  # [B, H, W, 3]
        metrics = {"pixel_mse": pixel_mse(image, hr)}  # [B]
        values = settings.pixel_weight * metrics["pixel_mse"]
        if auxiliary:
            values, metrics = add_auxiliary(auxiliary, frozen, values, metrics, image, hr)
        if distills:
            metrics["distillation"] = _distillation(settings, network, frozen, z, text, key_distillation)
            values = values + settings.distillation_weight * metrics["distillation"]
        return Loss(values, metrics, taps, state)

    return loss


def _with_null_text(key: jax.Array, text: Condition, null: Condition, settings: PisaSrSettings) -> Condition:
    """The text of each example, or for a share of them the null text."""
    count = next(iter(text.values())).shape[0]
    is_null = jax.random.uniform(key, (count,), jnp.float32) < settings.null_text_ratio
    return {name: jnp.where(is_null[:, None, None], null[name], value) for name, value in text.items()}


def _distillation(
    settings: PisaSrSettings, network: Network, frozen: Frozen, z: jax.Array, text: Condition, key: jax.Array
) -> jax.Array:
    """Classifier score distillation of the student's latent [B, h, w, C], with the base as teacher: [B]."""
    process, count = schedule(), z.shape[0]
    key_time, key_noise = jax.random.split(key)
    t = score_distillation.draw_times(key_time, count, score_distillation.CSD_TIMES)
    fixed = jax.lax.stop_gradient(z)
    x = ddpm.forward(process, fixed, t, jax.random.normal(key_noise, z.shape, jnp.float32))
    negative = broadcast_text(frozen, NEGATIVE, count)
    conditional, unconditional = prompt_and_negative(
        network, with_adapters(frozen[BASE], {}), x, t.astype(jnp.float32), text, negative
    )
    teacher = score_distillation.TeacherOutputs(unconditional, conditional)
    direction = score_distillation.csd_direction(process, fixed, x, t, teacher, settings.guidance)
    return score_distillation.distillation_error(z, direction, 1.0)


def _student(settings: PisaSrSettings, network: Network) -> Student:
    """One call of the network; or two, whose difference is the effect of the semantic-level LoRA (Section 3.4)."""

    def student(params: Params, frozen: Frozen) -> tuple[Frozen, Predict]:
        def residual(z_lr: jax.Array, text: Condition, semantic: bool) -> tuple[jax.Array, Taps]:
            return _residual(settings, network, network_variables(settings, params, frozen, semantic), z_lr, text)

        def scaled(z_lr: jax.Array, text: Condition) -> tuple[jax.Array, Taps]:
            both, taps = residual(z_lr, text, semantic=True)
            if not settings.adjusted:
                return both, taps
            pixel, scales = residual(z_lr, text, semantic=False)[0], frozen[SCALES]
            return scales[PIXEL] * pixel + scales[SEMANTIC] * (both - pixel), taps

        return frozen, scaled

    return student
