"""TSD-SR: Stable Diffusion 3 as a one-step super-resolver, by target-score distillation.

Dong et al., "TSD-SR: One-Step Diffusion with Target Score Distillation for Real-World Image Super-Resolution" (CVPR
2025). The student is the transformer with a LoRA, and the autoencoder's encoder with another; its teacher the same
transformer with a LoRA that was fine-tuned on HR images; a third LoRA follows what the student makes (the
regulariser). All three lie on one copy of the transformer, whose own weights never change.

Differences from the released trainer, which are faults there: the distillation has a gradient; each example's network
is told the time that the example was noised to, not that of the first one; the regulariser's loss is not multiplied by
random numbers (whose mean is a half). The encoder gives its mean, not a draw; the sub-steps' bias is drawn for each
example; gradients are clipped by the norm of both of the student's sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from framer_jax.data.text import PROMPT, Text, TextSettings
from framer_jax.diffusion import flow as process
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.tiles import lay, over_tiles
from framer_jax.losses import target_score
from framer_jax.losses.flow_matching import preconditioned_error, prediction_taps_to_clean
from framer_jax.losses.latent import latent_mse
from framer_jax.models.lora import COLLECTION, Lora, branches, init_lora, make_lora, merge, with_branches
from framer_jax.recipes.base import (
    Batch,
    Frozen,
    Loss,
    LossFunction,
    Params,
    Recipe,
    Sampler,
    State,
    TiledSampler,
    Tiling,
    Update,
)
from framer_jax.recipes.dit4sr import BASE, kept_as
from framer_jax.recipes.latent_space import (
    AUTOENCODER,
    AUTOENCODER_LORA,
    LatentSpace,
    LatentTask,
    in_tiles,
    to_model_range,
)
from framer_jax.recipes.perceptual import Perceptual
from framer_jax.recipes.text import NULL, TEXTS, WANTED, denoiser_shapes, text_of_all, text_of_batch
from framer_jax.recipes.tsd_sr_settings import TsdSrSettings

STUDENT, ENCODER, REGULARISER = "lora", "encoder_lora", "regulariser_lora"
"""The groups: factors of the student's LoRA, of that on the encoder, and of the one that follows the student."""

TEACHER = "teacher_lora"
"""The entry of `frozen` with the teacher's LoRA."""

MADE = "student_latent"
"""The entry of the batch that the student hands on to the regulariser."""


def tsd_sr(
    denoiser: nn.Module,
    space: LatentSpace,
    settings: TsdSrSettings,
    text: TextSettings,
    texts: Mapping[str, Text],
    base: Params | None = None,
    teacher: Params | None = None,
    perceptual: Perceptual | None = None,
) -> Recipe:
    """The recipe. Its `sample` is one network call, the only one it knows, and draws no noise.

    The student is told the text `wanted` of every picture; teacher and regulariser what the batch brings, or that text
    too, and are led away from the empty one.

    Args:
      denoiser: (x [B, h, w, C], 1000 sigma [B], context, pooled) → (velocity, taps).
      space: the latents; of an autoencoder whose weights are at hand if its encoder gets a LoRA.
      settings: see framer_jax.recipes.tsd_sr_settings.
      text: sizes of the texts.
      texts: name → text, at least the empty one.
      base: the transformer's parameters, host arrays. Without, the recipe holds shapes in their place and can only be
        described.
      teacher: factors of the LoRA that makes the transformer the teacher, alphas their ranks; without one the
        transformer is it as it is.
      perceptual: LPIPS, for a `perceptual_weight`.

    Raises:
      ValueError: a LoRA for an encoder without weights.
    """
    if settings.encoder_lora and AUTOENCODER not in space.frozen:
        raise ValueError("recipe.tsd_sr.encoder_lora needs an autoencoder: use recipe.space.name=kl, or leave it empty")
    task = LatentTask(space, settings.scale, residual=False)
    kept = base or _shapes(denoiser, space, text)
    kept = jax.tree.map(lambda leaf: kept_as(leaf, settings.base_dtype), kept)
    network = _network(denoiser)
    exported = (STUDENT, ENCODER) if settings.encoder_lora else (STUDENT,)
    frozen: Frozen = {**space.frozen, TEXTS: dict(texts), BASE: kept}
    if teacher is not None:
        frozen[TEACHER] = teacher
    if perceptual is not None:
        frozen |= perceptual.frozen
    sample, sample_tiled = _samplers(task, settings, network)
    student_loss = _student_loss(task, settings, network, denoiser.taps, perceptual)  # type: ignore[attr-defined]
    return Recipe(
        name="tsd_sr",
        scale=settings.scale,
        init=_init(settings, frozen),
        updates=(
            Update("student", exported, student_loss),
            Update("regulariser", (REGULARISER,), _regulariser_loss(settings, network)),
        ),
        sample=sample,
        sample_tiled=sample_tiled,
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,  # type: ignore[attr-defined]
        exported=exported,
        frozen=frozen,
    )


def _shapes(denoiser: nn.Module, space: LatentSpace, text: TextSettings) -> Params:
    inputs = denoiser_shapes(denoiser, space.channels, text, latents=1)
    return jax.eval_shape(denoiser.init, jax.random.key(0), *inputs)["params"]


def _init(settings: TsdSrSettings, frozen: Frozen) -> Callable[[jax.Array, Batch], Params]:
    """Three sets that change nothing yet, drawn for what they lie on."""

    def init(key: jax.Array, batch: Batch) -> Params:
        def factors(number: int, on: str, pattern: str, rank: int) -> Params:
            drawn = init_lora(jax.random.fold_in(key, number), frozen[on], pattern, rank, rank)
            return dict(drawn.factors)

        params = {
            STUDENT: factors(0, BASE, settings.lora, settings.lora_rank),
            REGULARISER: factors(1, BASE, settings.regulariser_lora, settings.regulariser_rank),
        }
        if settings.encoder_lora:
            params[ENCODER] = factors(2, AUTOENCODER, settings.encoder_lora, settings.encoder_rank)
        return params

    return init


def with_lora(weights: Params, factors: Params, scale: float) -> Params:
    """Weights with a trained LoRA of ours in them; `scale` is alpha / rank.

    Raises:
      ValueError: the factors are of another model.
    """
    return merge(weights, _sets(factors, scale))


def _sets(factors: Params, scale: float) -> dict[str, Lora]:
    leaves = flatten_dict(factors, sep="/")
    ranks = {path.removesuffix("/down"): leaf.shape[-1] for path, leaf in leaves.items() if path.endswith("/down")}
    return {"": make_lora(factors, {path: scale * rank for path, rank in ranks.items()})}


Variables = Mapping[str, Any]
"""Of the transformer: its parameters, and the branches of a LoRA beside them."""

Network = Callable[[Variables, jax.Array, jax.Array, Text], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(variables, x, sigma [B], text) → (velocity, taps)."""


def _network(denoiser: nn.Module) -> Network:
    def network(variables: Variables, x: jax.Array, sigma: jax.Array, text: Text) -> Any:
        with branches():
            return denoiser.apply(variables, x, sigma * process.TRAINING_STEPS, *text)

    return network


def guided(
    network: Network,
    variables: Variables,
    latents: tuple[jax.Array, ...],
    sigma: jax.Array,
    asked: Text,
    avoided: Text,
    factor: float,
) -> tuple[jax.Array, ...]:
    """The guided velocities of several latents of each example, in one call.

    Args:
      network: see Network.
      variables: its own.
      latents: [B, h, w, C] float32 each.
      sigma: [B] float32.
      asked: of each example.
      avoided: of each example.
      factor: of classifier-free guidance.
    """
    count = len(latents)
    # An example's inputs side by side, so that a batch split over devices stays where it is.
    x = jnp.stack([latent for latent in latents for _ in range(2)], axis=1)  # [B, 2 count, h, w, C]
    told = (jnp.stack(count * parts, axis=1) for parts in zip(avoided, asked, strict=True))
    text = Text(*(part.reshape(-1, *part.shape[2:]) for part in told))  # type: ignore[arg-type]
    found, _ = network(variables, x.reshape(-1, *x.shape[2:]), jnp.repeat(sigma, 2 * count), text)
    found = found.reshape(x.shape)
    return tuple(process.guide(found[:, 2 * i], found[:, 2 * i + 1], factor) for i in range(count))


Student = Callable[[jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""LR latent [B, h, w, C], which the flow takes at σ = 1 → (velocity, taps)."""


def _student(settings: TsdSrSettings, network: Network, params: Params, frozen: Frozen) -> tuple[Frozen, Student]:
    """(`frozen` with the student's encoder, the student)."""
    if settings.encoder_lora:
        encoder = with_branches(frozen[AUTOENCODER], _sets(params[ENCODER], settings.lora_scale))
        frozen = {**frozen, AUTOENCODER_LORA: encoder[COLLECTION]}
    transformer = with_branches(frozen[BASE], _sets(params[STUDENT], settings.lora_scale))

    def velocity(z_lr: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        count = z_lr.shape[0]
        return network(transformer, z_lr, jnp.ones((count,), jnp.float32), text_of_all(frozen, WANTED, count))

    return frozen, velocity


def _student_loss(
    task: LatentTask, settings: TsdSrSettings, network: Network, tap_kind: str, perceptual: Perceptual | None
) -> LossFunction:
    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        hr = to_model_range(batch["hr"])  # [B, H, W, 3]
        z_hr = jax.lax.stop_gradient(task.space.encode(frozen, hr))  # [B, h, w, C]
        encoder, velocity = _student(settings, network, params, frozen)
        z_lr, _ = task.enlarged(encoder, batch["lr"])
        found, taps = velocity(z_lr)
        z = z_lr - found
        taps = prediction_taps_to_clean(taps, z_lr, jnp.ones((z_lr.shape[0],), jnp.float32), tap_kind)
        metrics = {"latent_mse": latent_mse(z, z_hr)}  # [B]
        values = settings.latent_weight * metrics["latent_mse"]
        if settings.distillation_weight:
            away = _directions(settings, network, params, frozen, batch, (z, z_hr), key)
            metrics |= {name: jnp.square(part).mean(axis=(1, 2, 3)) for name, part in away._asdict().items()}
            metrics["distillation"] = target_score.tsd_error(z, away.combined(settings.variational_share))
            values += settings.distillation_weight * metrics["distillation"]
        if perceptual is not None:
            picture = jnp.clip(task.space.decode(frozen, z), -1, 1)
            metrics["lpips"] = perceptual.distance(frozen, picture, hr)
            values += settings.perceptual_weight * metrics["lpips"]
        return Loss(values, metrics, taps, state, {MADE: z})

    return loss


def _directions(
    settings: TsdSrSettings,
    network: Network,
    params: Params,
    frozen: Frozen,
    batch: Batch,
    latents: tuple[jax.Array, jax.Array],
    key: jax.Array,
) -> target_score.Directions:
    """What teacher and regulariser say of the student's latent and the real one."""
    z, z_hr = latents
    count = z.shape[0]
    key_sigma, key_noise = jax.random.split(key)
    sigmas = target_score.draw_sigmas(
        key_sigma, count, settings.substeps, settings.substep_size, settings.substep_bias, settings.shift
    )
    noise = jax.random.normal(key_noise, z.shape, jnp.float32)
    asked, avoided = text_of_teacher(frozen, batch, count), text_of_all(frozen, NULL, count)
    teacher = with_branches(frozen[BASE], _sets(frozen[TEACHER], 1.0) if TEACHER in frozen else {})
    regulariser = with_branches(frozen[BASE], _sets(params[REGULARISER], settings.lora_scale))

    def networks(x: jax.Array, x_hr: jax.Array, sigma: jax.Array) -> target_score.Velocities:
        told = asked, avoided, settings.guidance
        return target_score.Velocities(
            *guided(network, teacher, (x, x_hr), sigma, *told), *guided(network, regulariser, (x,), sigma, *told)
        )

    return target_score.directions(z, z_hr, noise, sigmas, networks, settings.substep_weights)


def text_of_teacher(frozen: Frozen, batch: Batch, count: int) -> Text:
    """What teacher and regulariser are told of each example: its own text, or that which the student is told."""
    return text_of_batch(frozen, batch, count) if PROMPT in batch else text_of_all(frozen, WANTED, count)


def _regulariser_loss(settings: TsdSrSettings, network: Network) -> LossFunction:
    """The flow's error of the clean latent, on what the student made."""

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z = batch[MADE]  # [B, h, w, C]
        count = z.shape[0]
        key_sigma, key_noise = jax.random.split(key)
        sigma = target_score.draw_sigmas(key_sigma, count, shift=settings.shift)[:, 0]
        x = process.forward(z, sigma, jax.random.normal(key_noise, z.shape, jnp.float32))
        variables = with_branches(frozen[BASE], _sets(params[REGULARISER], settings.lora_scale))
        prediction, _ = network(variables, x, sigma, text_of_teacher(frozen, batch, count))
        error = preconditioned_error(x, prediction, z, sigma)  # [B]
        return Loss(0.5 * error, {"latent_mse": error}, (), state)

    return loss


def _samplers(task: LatentTask, settings: TsdSrSettings, network: Network) -> tuple[Sampler, TiledSampler]:
    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        encoder, velocity = _student(settings, network, params, frozen)
        z_lr, _ = task.enlarged(encoder, lr)
        return task.picture(frozen, z_lr - velocity(z_lr)[0], z_lr)

    def sample_tiled(params: Params, frozen: Frozen, image: jax.Array, noise: NoiseField, tiling: Tiling) -> jax.Array:
        encoder, velocity = _student(settings, network, params, frozen)
        space = in_tiles(task.space, tiling.encoder, tiling.decoder)
        z_lr = space.encode(encoder, to_model_range(image))
        side, overlap = (pixels // space.image_pixels_per_latent for pixels in tiling[:2])
        grid = lay((z_lr.shape[1], z_lr.shape[2]), side, overlap)
        found = over_tiles(lambda tile: velocity(tile)[0], grid, z_lr, batch=tiling.batch)
        return replace(task, space=space).picture(frozen, z_lr - found, z_lr)

    return sample, sample_tiled
