"""One-step students of latent diffusion models: LoRAs on a frozen denoiser and on an autoencoder's encoder.

The student maps the LR latent to the clean latent in one call of the denoiser. A method has one LoRA on the denoiser
for its student, one on the encoder, and one on the denoiser for a regulariser, which follows the student's outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax

from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.tiles import map_tiles, tile_grid
from framer_jax.models.denoiser import Condition, Taps
from framer_jax.models.lora import COLLECTION, with_adapters
from framer_jax.recipes.base import Batch, Frozen, LayerTaps, Params, Sampler, TiledSampler, Tiling
from framer_jax.recipes.components.adapters import init_factors, scaled_lora
from framer_jax.recipes.components.latent_space import (
    AUTOENCODER,
    AUTOENCODER_LORA,
    LatentSpace,
    LatentTask,
    to_model_range,
    with_tiles,
)
from framer_jax.recipes.components.text import PROMPT, broadcast_text

STUDENT, ENCODER, REGULARISER = "lora", "encoder_lora", "regulariser_lora"
"""The groups: factors of the student's LoRA, of the encoder's, and of the one that follows the student."""

STUDENT_LATENT = "student_latent"
"""The output of the student's update that the regulariser's update reads."""

Predict = Callable[[jax.Array, Condition], tuple[jax.Array, Taps]]
"""(LR latent [B, h, w, C], text of each example) → (the denoiser's prediction, taps)."""

Student = Callable[[Params, Frozen], tuple[Frozen, Predict]]
"""(params, frozen) → (`frozen` with the student's encoder, the student)."""

CleanLatent = Callable[[jax.Array, jax.Array], jax.Array]
"""(LR latent [B, h, w, C], the denoiser's prediction for it) → clean latent."""


class TrainedLora(NamedTuple):
    """A LoRA that a recipe trains.

    Attributes:
      group: its group.
      network: the entry of `frozen` that it lies on.
      modules: regex of the modules that get it; '' for none.
      rank: rank of every module.
    """

    group: str
    network: str
    modules: str
    rank: int


def init_loras(frozen: Frozen, loras: tuple[TrainedLora, ...]) -> Callable[[jax.Array, Batch], Params]:
    """The `init` of a recipe: factors that change nothing yet, drawn for the frozen weights that they lie on.

    The key of a LoRA depends on its place among `loras`, so those that a configuration may leave out come last.
    """

    def init(key: jax.Array, batch: Batch) -> Params:
        return {
            lora.group: init_factors(jax.random.fold_in(key, number), frozen[lora.network], lora.modules, lora.rank)
            for number, lora in enumerate(loras)
            if lora.modules
        }

    return init


def check_encoder(space: LatentSpace, modules: str, knob: str) -> None:
    """Raise ValueError, which names the knob, for a LoRA on the encoder of latents that have no autoencoder."""
    if modules and AUTOENCODER not in space.frozen:
        raise ValueError(f"{knob} needs an autoencoder: use recipe.space.name=kl, or leave it empty")


def with_encoder_lora(frozen: Frozen, params: Params, scale: float) -> Frozen:
    """`frozen` whose autoencoder encodes with the trained LoRA, if there is one; `scale` is alpha / rank."""
    if ENCODER not in params:
        return frozen
    encoder = with_adapters(frozen[AUTOENCODER], {"": scaled_lora(params[ENCODER], scale)})
    return {**frozen, AUTOENCODER_LORA: encoder[COLLECTION]}


def one_step_samplers(task: LatentTask, student: Student, clean: CleanLatent) -> tuple[Sampler, TiledSampler]:
    """(`sample`, `sample_tiled`) of a one-step student with one prompt for all images. They draw no noise.

    Args:
      task: the latents, without residual.
      student: the student.
      clean: the clean latent that a prediction implies; predictions of tiles are blended before.
    """

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        encoder, predict = student(params, frozen)
        z_lr, _ = task.encode_lr(encoder, lr)  # [B, h, w, C]
        prediction, _ = predict(z_lr, broadcast_text(frozen, PROMPT, z_lr.shape[0]))
        return task.decode(frozen, clean(z_lr, prediction), z_lr)

    def sample_tiled(params: Params, frozen: Frozen, image: jax.Array, noise: NoiseField, tiling: Tiling) -> jax.Array:
        encoder, predict = student(params, frozen)
        space = with_tiles(task.space, tiling.encoder, tiling.decoder)
        z_lr = space.encode(encoder, to_model_range(image))
        side, overlap = (pixels // space.image_pixels_per_latent for pixels in tiling[:2])
        grid = tile_grid((z_lr.shape[1], z_lr.shape[2]), side, overlap)

        def predict_tiles(tiles: jax.Array) -> jax.Array:
            return predict(tiles, broadcast_text(frozen, PROMPT, tiles.shape[0]))[0]

        prediction = map_tiles(predict_tiles, grid, z_lr, batch=tiling.batch)
        return replace(task, space=space).decode(frozen, clean(z_lr, prediction), z_lr)

    return sample, sample_tiled


def one_step_taps(
    task: LatentTask, student: Student, to_compared: Callable[[Taps, jax.Array], Taps] = lambda taps, z_lr: taps
) -> LayerTaps:
    """The taps of a one-step student's call, with one prompt for all images.

    Args:
      task: the latents, without residual.
      student: the student.
      to_compared: (taps, LR latent [B, h, w, C]) → the taps that FRAMER compares.
    """

    def compute(params: Params, frozen: Frozen, batch: Batch, key: jax.Array, time: jax.Array) -> Taps:
        encoder, predict = student(params, frozen)
        z_lr, _ = task.encode_lr(encoder, batch["lr"])
        return to_compared(predict(z_lr, broadcast_text(frozen, PROMPT, z_lr.shape[0]))[1], z_lr)

    return LayerTaps(compute, timesteps=1)
