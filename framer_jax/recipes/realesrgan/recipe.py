"""Real-ESRGAN: a one-pass network trained with a pixel loss, a perceptual loss and a U-Net discriminator.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (ICCV Workshops 2021),
and the release's options. In a step, the generator is updated first, against the discriminator as it is; then the
discriminator, on real images and on those that the generator has just made. The vectors of the discriminator's spectral
norm are improved in each of its three calls, also in the generator's update, and are part of the mutable state.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from framer_jax.data.settings import UNSHARPENED
from framer_jax.losses.adversarial import accuracy, discriminator_loss, generator_loss
from framer_jax.losses.pixel import checkerboard_error, checkerboard_texture_error, pixel_errors
from framer_jax.models.denoiser import OnePassNetwork
from framer_jax.models.unet_discriminator import SIDE_MULTIPLE, SPECTRAL, UNetDiscriminator
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
from framer_jax.recipes.components.latent_space import to_model_range
from framer_jax.recipes.components.one_pass import (
    STUDENT,
    init_student,
    one_pass_sampler,
    one_pass_taps,
    predictor,
    references,
)
from framer_jax.recipes.method import Pretrained
from framer_jax.recipes.realesrgan.settings import RealEsrganSettings

DISCRIMINATOR = "discriminator"
"""The group of the discriminator, and the entry of the mutable state with its vectors of spectral norm."""

GENERATED = "generated"
"""The output of the generator's update that the discriminator's update reads."""


def realesrgan(
    generator: OnePassNetwork,
    scale: int,
    settings: RealEsrganSettings,
    auxiliary: tuple[AuxiliaryLoss, ...] = (),
    dtype: Any = jnp.float32,
    discriminator_weights: Pretrained | None = None,
) -> Recipe:
    """The recipe; `sample` and `mean` are the same forward pass.

    Args:
      generator: (LR image [B, H, W, 3] in [0, 1], key or None) → (image, taps); group 'student'.
      scale: its upsampling factor.
      settings: see RealEsrganSettings.
      auxiliary: the perceptual term.
      dtype: compute dtype of the discriminator.
      discriminator_weights: a published discriminator to start from, with its vectors of spectral norm.
    """
    adversarial = settings.adversarial_weight > 0
    discriminator = UNetDiscriminator(channels=settings.discriminator_channels, dtype=dtype)
    sample = one_pass_sampler(generator)
    updates = [Update("generator", (STUDENT,), _generator_loss(generator, discriminator, scale, settings, auxiliary))]
    if adversarial:
        updates.append(
            Update("discriminator", (DISCRIMINATOR,), _discriminator_loss(generator, discriminator, settings))
        )
    return Recipe(
        name="realesrgan",
        scale=scale,
        init=partial(_init, generator, discriminator if adversarial else None),
        updates=tuple(updates),
        sample=sample,
        mean=sample,
        layer_taps=one_pass_taps(generator),
        exported=(STUDENT,),
        frozen=auxiliary_frozen(auxiliary),
        init_state=partial(_init_state, discriminator, discriminator_weights) if adversarial else dict,
        batch_entries=(*PIXELS, UNSHARPENED) if settings.needs_unsharpened else PIXELS,
        window=int(getattr(generator, "window", 1)),
        initial_params=_initial_params(discriminator_weights),
    )


def _variables(discriminator: UNetDiscriminator, key: jax.Array) -> dict[str, Any]:
    image = jnp.zeros((1, SIDE_MULTIPLE, SIDE_MULTIPLE, 3), jnp.float32)
    return cast(dict[str, Any], discriminator.init(key, image))


def _init(generator: OnePassNetwork, discriminator: UNetDiscriminator | None, key: jax.Array, batch: Batch) -> Params:
    key_generator, key_discriminator = jax.random.split(key)
    params = init_student(generator, key_generator, batch)
    if discriminator is not None:
        params[DISCRIMINATOR] = _variables(discriminator, key_discriminator)["params"]
    return params


def _init_state(discriminator: UNetDiscriminator, weights: Pretrained | None) -> State:
    """The vectors of spectral norm before the first power iteration: of published weights, or random in any case."""
    if weights is not None:
        return {DISCRIMINATOR: jax.tree.map(jnp.asarray, weights.params["spectral"])}
    return {DISCRIMINATOR: _variables(discriminator, jax.random.key(0))[SPECTRAL]}


def _initial_params(weights: Pretrained | None) -> Params:
    return {} if weights is None else {DISCRIMINATOR: weights.params["network"]}


def _discriminate(
    discriminator: UNetDiscriminator, params: Params, state: State, image: jax.Array
) -> tuple[jax.Array, State]:
    """Logits [B, H, W, 1] of images in [0, 1], and the state with improved vectors of spectral norm."""
    variables = {"params": params[DISCRIMINATOR], SPECTRAL: state[DISCRIMINATOR]}
    logits, improved = discriminator.apply(variables, image, True, mutable=[SPECTRAL])
    return cast(jax.Array, logits), {**state, DISCRIMINATOR: improved[SPECTRAL]}


def _generator_loss(
    generator: OnePassNetwork,
    discriminator: UNetDiscriminator,
    scale: int,
    settings: RealEsrganSettings,
    auxiliary: tuple[AuxiliaryLoss, ...],
) -> LossFunction:
    predict, reference = predictor(generator), references(generator)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        image, taps = predict(params, batch["lr"], key)  # [B, sH, sW, 3]
        target = reference(batch["hr"])
        metrics = pixel_errors(image, target)
        values = settings.pixel_weight * metrics["pixel_l1"]
        if settings.checkerboard_weight:
            metrics = {**metrics, "checkerboard": checkerboard_error(image, target, scale)}
            values = values + settings.checkerboard_weight * metrics["checkerboard"]
        if settings.checkerboard_texture_weight:
            texture = checkerboard_texture_error(image, target, scale)
            metrics = {**metrics, "checkerboard_texture": texture}
            values = values + settings.checkerboard_texture_weight * texture
        if auxiliary:
            pair = to_model_range(image), to_model_range(target)
            values, metrics = add_auxiliary(auxiliary, frozen, values, metrics, *pair)
        if not settings.adversarial_weight:
            return Loss(values, metrics, taps, state)
        logits, state = _discriminate(discriminator, params, state, image)
        metrics = {**metrics, "adversarial": generator_loss(logits, settings.adversarial_loss)}
        values = values + settings.adversarial_weight * metrics["adversarial"]
        return Loss(values, metrics, taps, state, {GENERATED: image})

    return loss


def _discriminator_loss(
    generator: OnePassNetwork, discriminator: UNetDiscriminator, settings: RealEsrganSettings
) -> LossFunction:
    reference = references(generator)
    real_images = UNSHARPENED if settings.needs_unsharpened else "hr"

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        real, state = _discriminate(discriminator, params, state, reference(batch[real_images]))  # [B, sH, sW, 1]
        fake, state = _discriminate(discriminator, params, state, batch[GENERATED])
        on_real, on_fake = discriminator_loss(real, fake, settings.adversarial_loss)
        metrics = {"real": on_real, "fake": on_fake, "accuracy": accuracy(real, fake)}
        return Loss(on_real + on_fake, metrics, (), state)

    return loss
