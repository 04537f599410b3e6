"""Multi-step diffusion on Stable Diffusion 2 in SeeSR's manner: the LR image through a ControlNet, tokens by attention.

Wu et al., "SeeSR: Towards Semantics-Aware Real-World Image Super-Resolution" (CVPR 2024). The U-Net of the base stays
frozen; its ControlNet and the attention to image tokens are trained with the plain objective of the noise. FRAMER's
paper calls its experiments on U-Nets multi-step; its own such recipe is not published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from framer_jax.data.text import TEXT, TextEmbedding, TextSizes
from framer_jax.diffusion import ddpm
from framer_jax.diffusion.samplers import Draw, ddim, ddim_estimates
from framer_jax.losses.denoising import denoising_error
from framer_jax.models.controlled_unet import ControlledUNet
from framer_jax.models.denoiser import IMAGE, IMAGE_TOKENS, Condition, denoise
from framer_jax.models.denoiser import LR_LATENT as LR_CONDITION
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
    timestep_index,
)
from framer_jax.recipes.components.base_model import (
    BASE,
    cast_frozen,
    join_params,
    split_params,
    zeros_like_inputs,
)
from framer_jax.recipes.components.image_tokens import ImageEncoder
from framer_jax.recipes.components.latent_sampler import (
    LatentProcess,
    Predict,
    Step,
    check_text_lengths,
    latent_samplers,
    latent_taps,
)
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask
from framer_jax.recipes.components.lr_condition import EncodeLr, training_latents
from framer_jax.recipes.components.sd_base import schedule as sd_schedule
from framer_jax.recipes.components.text import TEXTS, batch_text, text_shapes
from framer_jax.recipes.multistep_sd.settings import MultistepSdSettings
from framer_jax.trees import check_same_structure

DENOISER, ENCODER = "denoiser", "image_encoder"
"""The group of parameters that are trained; the entry of `frozen` with the weights of the image encoder."""

SPACING, OFFSET = "leading", 1
"""How the times of a sampler are chosen in Stable Diffusion's schedulers."""


def multistep_sd(
    denoiser: ControlledUNet,
    space: LatentSpace,
    scale: int,
    settings: MultistepSdSettings,
    text: TextSizes,
    texts: Mapping[str, TextEmbedding],
    base: Params | None = None,
    encoder: ImageEncoder | None = None,
    batch_entries: tuple[str, ...] = PIXELS,
) -> Recipe:
    """The recipe.

    Args:
      denoiser: U-Net and ControlNet.
      space: the latents.
      scale: upsampling factor.
      settings: see MultistepSdSettings.
      text: sizes of the text embeddings.
      texts: name → text, at least the null text.
      base: all parameters of the denoiser to start from (framer_jax.recipes.multistep_sd.weights.with_controlnet), host
        arrays; those that are not trained stay frozen. Without it the recipe holds shapes in their place: it can be
        described, and trained only if all parameters are trained.
      encoder: makes the image tokens; None without them, and for a description.
      batch_entries: images or latents, with or without texts.

    Raises:
      ValueError: nothing would be trained; guidance between texts of two lengths; or the base is another network.
    """
    task = LatentTask(space, scale, residual=False)
    if settings.guidance != 1:
        check_text_lengths(texts)
    initial, untrained = _split_base(base, denoiser_shapes(denoiser, text), settings)
    encode_lr, predict = _lr_encoder(denoiser, encoder), _predictor(denoiser)
    process = sampling_process(sd_schedule(), settings)
    return Recipe(
        name="multistep_sd",
        scale=scale,
        init=_init(denoiser, text, settings),
        updates=(Update(DENOISER, (DENOISER,), _loss(task, settings, predict, encode_lr, batch_entries)),),
        **latent_samplers(task, process, predict, encode_lr, settings.guidance)._asdict(),
        layer_taps=_layer_taps(task, predict, encode_lr),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        exported=(DENOISER,),
        frozen={
            **space.frozen,
            TEXTS: dict(texts),
            **({BASE: untrained} if untrained else {}),
            **({ENCODER: encoder.params} if encoder else {}),
        },
        initial_params={DENOISER: initial} if initial else {},
        batch_entries=batch_entries,
    )


def _split_base(base: Params | None, shapes: Params, settings: MultistepSdSettings) -> tuple[Params, Params]:
    """(parameters that training starts from, frozen ones); without a base none, and the shapes of the frozen ones."""
    trainable, untrained = split_params(shapes, settings.trainable)
    if not trainable:
        raise ValueError(
            f"recipe.multistep_sd.trainable {settings.trainable!r} matches no parameter of the network, so nothing "
            "would be trained: choose another pattern, such as '^controlnet/'"
        )
    if not base:
        return {}, cast_frozen(untrained, settings.base_dtype)
    check_same_structure(base, shapes, "recipe.multistep_sd.base_checkpoint")
    initial, untrained = split_params(base, settings.trainable)
    return initial, cast_frozen(untrained, settings.base_dtype)


def denoiser_inputs(
    denoiser: ControlledUNet, text: TextSizes
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, dict[str, jax.ShapeDtypeStruct]]:
    """The smallest inputs of the network: latent, time, condition."""

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    side = denoiser.size_multiple
    latent, finer = floats(1, side, side, denoiser.out_channels), side * denoiser.downsampling
    condition = text_shapes(text)
    condition |= {LR_CONDITION: latent} if denoiser.control == "latent" else {IMAGE: floats(1, finer, finer, 3)}
    if width := denoiser.image_context_width:
        condition[IMAGE_TOKENS] = floats(1, 1, width)
    return latent, floats(1), condition


def denoiser_shapes(denoiser: ControlledUNet, text: TextSizes) -> Params:
    """Names and shapes of the network's parameters."""
    shapes: Params = jax.eval_shape(denoiser.init, jax.random.key(0), *denoiser_inputs(denoiser, text))["params"]
    return shapes


def _init(
    denoiser: ControlledUNet, text: TextSizes, settings: MultistepSdSettings
) -> Callable[[jax.Array, Batch], Params]:
    def init(key: jax.Array, batch: Batch) -> Params:
        params = denoiser.init(key, *zeros_like_inputs(denoiser_inputs(denoiser, text)))["params"]
        return {DENOISER: split_params(params, settings.trainable)[0]}

    return init


def _predictor(denoiser: ControlledUNet) -> Predict:
    def predict(
        params: Params, frozen: Frozen, x: jax.Array, time: jax.Array, lr_condition: Condition, text: Condition
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        joined = join_params(frozen.get(BASE, {}), params[DENOISER])
        return denoise(denoiser, joined, x, time, {**text, **lr_condition})

    return predict


def _lr_encoder(denoiser: ControlledUNet, encoder: ImageEncoder | None) -> EncodeLr:
    def encode_lr(space: LatentSpace, frozen: Frozen, image: jax.Array) -> tuple[jax.Array, Condition]:
        z_lr = space.encode(frozen, image)
        lr_condition = {LR_CONDITION: z_lr} if denoiser.control == "latent" else {IMAGE: image}
        return z_lr, {**lr_condition, **({IMAGE_TOKENS: encoder.encode(frozen[ENCODER], image)} if encoder else {})}

    return encode_lr


def _loss(
    task: LatentTask,
    settings: MultistepSdSettings,
    predict: Predict,
    encode_lr: EncodeLr,
    batch_entries: tuple[str, ...],
) -> LossFunction:
    text_in_batch = TEXT in batch_entries
    schedule = sd_schedule()

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z_hr, lr_condition = training_latents(task, encode_lr, frozen, batch, batch_entries)
        count = z_hr.shape[0]
        key_time, key_noise = jax.random.split(key)
        t = jax.random.randint(key_time, (count,), 0, schedule.steps)
        noise = jax.random.normal(key_noise, z_hr.shape, jnp.float32)
        x = ddpm.forward(schedule, z_hr, t, noise)
        text = batch_text(frozen, batch, count, text_in_batch)
        output, taps = predict(params, frozen, x, t.astype(jnp.float32), lr_condition, text)
        error = denoising_error(schedule, output, z_hr, t, noise, settings.prediction)  # [B]
        return Loss(error, {"noise_mse": error}, taps, state)

    return loss


def _layer_taps(task: LatentTask, predict: Predict, encode_lr: EncodeLr) -> LayerTaps:
    schedule = sd_schedule()

    def forward(z: jax.Array, time: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        t = timestep_index(time, schedule.steps, z.shape[0])
        return ddpm.forward(schedule, z, t, noise), t.astype(jnp.float32)

    return latent_taps(task, forward, predict, encode_lr, schedule.steps, has_text=True)


def sampling_process(schedule: ddpm.Schedule, settings: MultistepSdSettings) -> LatentProcess:
    """Steps of DDPM or DDIM from noise, or from the LR latent with the noise of the last time."""
    ancestral = settings.sampler == "ddpm"
    make_grid = ddpm.ddpm_grid if ancestral else ddpm.ddim_grid
    grid = make_grid(schedule, settings.sampling_steps, SPACING, OFFSET)
    eta, last = 1.0 if ancestral else settings.eta, jnp.int32(schedule.steps - 1)

    def clean(step: Step, x: jax.Array, t: jax.Array) -> jax.Array:
        output = step(x, t.astype(jnp.float32))
        return ddpm.predicted_x0(schedule, x, t, output, settings.prediction)

    def start(z_lr: jax.Array, draw: Draw) -> jax.Array:
        noise = draw(jnp.int32(0))
        return ddpm.forward(schedule, z_lr, last, noise) if settings.start == "lr" else noise

    return LatentProcess(
        steps=settings.sampling_steps,
        start=start,
        run=lambda step, x, draw: ddim(grid, partial(clean, step), x, eta, draw),
        estimates=lambda step, x, draw: ddim_estimates(grid, partial(clean, step), x, eta, draw),
        one_call=lambda step, x: clean(step, x, last),
    )
