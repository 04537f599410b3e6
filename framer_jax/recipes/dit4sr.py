"""DiT4SR: a text-conditioned flow on Stable Diffusion 3.5's latents, with the LR latent as a second stream of tokens.

Duan et al., "DiT4SR: Taming Diffusion Transformer for Real-World Image Super-Resolution" (ICCV 2025); FRAMER's
transformer recipe is this one with its term on top. The objective is Stable Diffusion 3's flow, as an error of the
clean latent. The base's weights stay as they are: only the parameters that a pattern names are trained, or a LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from framer_jax.data.latents import HR_LATENT, LR_LATENT
from framer_jax.data.text import Text, TextSettings
from framer_jax.diffusion import flow as process
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import flow_euler
from framer_jax.diffusion.tiles import lay, over_tiles
from framer_jax.models.lora import branches, init_lora, make_lora, merge, with_branches
from framer_jax.trees import check_same_structure
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
from framer_jax.recipes.latent_space import LatentSpace, LatentTask, in_tiles, to_model_range
from framer_jax.recipes.text import AVOIDED, NULL, TEXTS, WANTED, denoiser_shapes, text_of_all, text_of_batch

BASE = "base"
"""The entry of `frozen` with the parameters that are not trained."""

DENOISER, LORA = "denoiser", "lora"
"""The groups: parameters that are trained, and the factors of a LoRA on others."""

BASE_DTYPES = ("float32", "bfloat16")
"""In which weights that are not trained may be kept; Stable Diffusion 3.5's are published in two bytes each."""


@dataclass(frozen=True)
class Dit4srSettings:
    """The process, the objective, and what is trained.

    Attributes:
      scale: enlargement.
      shift: time shift of training and sampling.
      sampling_steps: Euler steps of `sample`.
      guidance: factor of classifier-free guidance in `sample`, from the negative text to the prompt; 1 is without.
      density: of training times, see framer_jax.diffusion.flow.draw_sigma.
      weighting: of the error of the clean latent, see framer_jax.diffusion.flow.loss_weight.
      trainable: a regex; parameters in whose path ('block_0/attention/out_control/kernel') it is found are trained.
        '' finds all.
      lora: a regex of the modules that get a LoRA; '' for none.
      lora_rank, lora_alpha: of that LoRA.
      base_dtype: one of `BASE_DTYPES`, in which parameters that are not trained are kept; what is computed with them
        stays in the dtypes of the denoiser.

    Raises:
      ValueError: a value outside its range, or no regex.
    """

    scale: int = 4
    shift: float = 3.0
    sampling_steps: int = 40
    guidance: float = 1.0
    density: str = "logit_normal"
    weighting: str = "none"
    trainable: str = "control"
    lora: str = ""
    lora_rank: int = 64
    lora_alpha: float = 64.0
    base_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.base_dtype not in BASE_DTYPES:
            raise ValueError(f"recipe.dit4sr.base_dtype is {self.base_dtype!r}: choose one of {', '.join(BASE_DTYPES)}")
        for name in ("trainable", "lora"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"recipe.dit4sr.{name} is no regular expression ({error})") from error


def dit4sr(
    denoiser: nn.Module,
    space: LatentSpace,
    settings: Dit4srSettings,
    text: TextSettings,
    texts: Mapping[str, Text],
    base: Params | None = None,
) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], 1000 sigma [B], context, pooled, z_lr like x) → (velocity, taps).
      space: the latents.
      settings: see Dit4srSettings.
      text: sizes of the texts.
      texts: name → text, at least the empty one.
      base: all parameters of the denoiser to start from, host arrays; those that are not trained stay so. Without it
        the recipe holds shapes in their place: it can be described, and trained only if everything is.

    Raises:
      ValueError: nothing would be trained; guidance between texts of two lengths; or another transformer's parameters.
    """
    task = LatentTask(space, settings.scale, residual=False)
    shapes = _shapes(denoiser, task, text)
    trained, kept = split(shapes, settings.trainable)
    if not trained and not settings.lora:
        raise ValueError(
            f"recipe.dit4sr.trainable {settings.trainable!r} finds none of the {len(flatten_dict(shapes))} parameters, "
            "and there is no LoRA: nothing would be trained"
        )
    if base:
        check_same_structure(base, shapes, "recipe.dit4sr.base")
    if settings.guidance != 1:
        _check_lengths(texts)
    own, kept = split(base, settings.trainable) if base else ({}, kept)
    kept = jax.tree.map(lambda leaf: kept_as(leaf, settings.base_dtype), kept)
    predict = _predictor(denoiser, settings)
    samplers = _samplers(task, settings, predict)
    groups = (DENOISER, LORA) if settings.lora else (DENOISER,)
    return Recipe(
        name="dit4sr",
        scale=settings.scale,
        init=_init(denoiser, task, text, settings),
        updates=(Update(DENOISER, groups, _loss(task, settings, predict, denoiser.taps)),),  # type: ignore[attr-defined]
        **samplers._asdict(),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,  # type: ignore[attr-defined]
        exported=groups,
        frozen={**space.frozen, TEXTS: dict(texts), **({BASE: kept} if kept else {})},
        initial_params={DENOISER: own} if own else {},
    )


def split(params: Mapping[str, Any], pattern: str) -> tuple[Params, Params]:
    """Parameters by the path 'block_0/attention/out/kernel': those in which a regex is found, and the others."""
    leaves = flatten_dict(params, sep="/")
    found = {path: leaf for path, leaf in leaves.items() if re.search(pattern, path)}
    others = {path: leaf for path, leaf in leaves.items() if path not in found}
    return unflatten_dict(found, sep="/"), unflatten_dict(others, sep="/")


def _check_lengths(texts: Mapping[str, Text]) -> None:
    """Guidance calls the network with both texts at once."""
    wanted, avoided = (texts.get(name, texts[NULL]).prompt.shape[0] for name in (WANTED, AVOIDED))
    if wanted != avoided:
        empty = " (the empty text, as it is not set)"
        names = [f"recipe.text.{name}{'' if name in texts else empty}" for name in (WANTED, AVOIDED)]
        raise ValueError(
            f"{names[0]} has {wanted} tokens, {names[1]} has {avoided}: make all texts of a run with one --t5-length"
        )


def kept_as(leaf: Any, dtype: str) -> Any:
    """A weight, or its shape, in the dtype in which it is kept."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype, copy=False)


def whole(params: Params, frozen: Frozen, settings: Dit4srSettings) -> Params:
    """All parameters of the denoiser, as training has changed them, the LoRA within."""
    own = _own(params, frozen)
    return merge(own, {LORA: make_lora(params[LORA], settings.lora_alpha)}) if settings.lora else own


def _own(params: Params, frozen: Frozen) -> Params:
    """All parameters of the denoiser, those of the base and those that are trained."""
    leaves = flatten_dict(frozen.get(BASE, {}), sep="/") | flatten_dict(params[DENOISER], sep="/")
    return unflatten_dict(leaves, sep="/")


def _inputs(denoiser: Any, task: LatentTask, text: TextSettings) -> tuple[jax.ShapeDtypeStruct, ...]:
    return denoiser_shapes(denoiser, task.space.channels, text, latents=2)


def _shapes(denoiser: nn.Module, task: LatentTask, text: TextSettings) -> Params:
    return jax.eval_shape(denoiser.init, jax.random.key(0), *_inputs(denoiser, task, text))["params"]


def _init(
    denoiser: nn.Module, task: LatentTask, text: TextSettings, settings: Dit4srSettings
) -> Callable[[jax.Array, Batch], Params]:
    def init(key: jax.Array, batch: Batch) -> Params:
        zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in _inputs(denoiser, task, text)]
        trained, others = split(denoiser.init(key, *zeros)["params"], settings.trainable)
        if not settings.lora:
            return {DENOISER: trained}
        key = jax.random.fold_in(key, 1)
        factors = init_lora(key, others, settings.lora, settings.lora_rank, settings.lora_alpha).factors
        return {DENOISER: trained, LORA: dict(factors)}

    return init


Predict = Callable[[Params, Frozen, jax.Array, jax.Array, Text, jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(params, frozen, x, sigma [B], text, z_lr) → (velocity, taps)."""


def _predictor(denoiser: nn.Module, settings: Dit4srSettings) -> Predict:
    def predict(
        params: Params, frozen: Frozen, x: jax.Array, sigma: jax.Array, text: Text, z_lr: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        loras = {LORA: make_lora(params[LORA], settings.lora_alpha)} if settings.lora else {}
        variables = with_branches(_own(params, frozen), loras)
        with branches():
            return denoiser.apply(variables, x, sigma * process.TRAINING_STEPS, *text, z_lr)  # type: ignore[return-value]

    return predict


def _latents(task: LatentTask, frozen: Frozen, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(z_hr, z_lr), [B, h, w, C] float32 each: precomputed, or encoded here."""
    if HR_LATENT in batch:
        return batch[HR_LATENT].astype(jnp.float32), batch[LR_LATENT].astype(jnp.float32)
    return task.space.encode(frozen, to_model_range(batch["hr"])), task.enlarged(frozen, batch["lr"])[0]


def _loss(task: LatentTask, settings: Dit4srSettings, predict: Predict, tap_kind: str) -> LossFunction:
    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z_hr, z_lr = _latents(task, frozen, batch)  # [B, h, w, C] each
        key_sigma, key_noise = jax.random.split(key)
        sigma = process.draw_sigma(key_sigma, z_hr.shape[0], settings.density, settings.shift)
        noise = jax.random.normal(key_noise, z_hr.shape, jnp.float32)
        x = process.forward(z_hr, sigma, noise)
        text = text_of_batch(frozen, batch, z_hr.shape[0])
        prediction, taps = predict(params, frozen, x, sigma, text, z_lr)
        error = process.preconditioned_error(x, prediction, z_hr, sigma)  # [B]
        if tap_kind == "prediction":  # what the blocks say of the clean latent
            taps = tuple(process.clean(x, tap, sigma) for tap in taps)
        values = process.loss_weight(sigma, settings.weighting) * error
        return Loss(values, {"latent_mse": error}, taps, state)

    return loss


class Samplers(NamedTuple):
    """What a recipe makes pictures with, see framer_jax.recipes.base.Recipe."""

    sample: Sampler
    mean: Sampler
    sample_tiled: TiledSampler


def _samplers(task: LatentTask, settings: Dit4srSettings, predict: Predict) -> Samplers:
    sigmas = process.sampling_sigmas(settings.sampling_steps, settings.shift)

    def velocity(params: Params, frozen: Frozen, sigma: jax.Array, x: jax.Array, z_lr: jax.Array) -> jax.Array:
        """Guided, of any number of latents."""
        names = (WANTED,) if settings.guidance == 1 else (AVOIDED, WANTED)
        told = (text_of_all(frozen, name, x.shape[0]) for name in names)
        text = Text(*map(jnp.concatenate, zip(*told, strict=True)))  # type: ignore[arg-type]
        x, z_lr = (jnp.concatenate([each] * len(names)) for each in (x, z_lr))
        found = predict(params, frozen, x, jnp.full((x.shape[0],), sigma), text, z_lr)[0]
        if len(names) == 1:
            return found
        away, towards = jnp.split(found, 2)
        return process.guide(away, towards, settings.guidance)

    def from_latent(params: Params, frozen: Frozen, z_lr: jax.Array, noise: NoiseField, tiling: Tiling) -> jax.Array:
        """The clean latent; velocities of tiles are blended in each step."""
        side, overlap = (pixels // task.space.image_pixels_per_latent for pixels in tiling[:2])
        grid = lay((z_lr.shape[1], z_lr.shape[2]), side, overlap)

        def step(x: jax.Array, sigma: jax.Array) -> jax.Array:
            return over_tiles(partial(velocity, params, frozen, sigma), grid, x, z_lr, batch=tiling.batch)

        return flow_euler(sigmas, step, task.noise(z_lr, noise))

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, _ = task.enlarged(frozen, lr)
        return task.picture(frozen, from_latent(params, frozen, z_lr, noise, Tiling()), z_lr)

    def sample_tiled(params: Params, frozen: Frozen, image: jax.Array, noise: NoiseField, tiling: Tiling) -> jax.Array:
        inside = replace(task, space=in_tiles(task.space, tiling.encoder, tiling.decoder))
        z_lr = inside.space.encode(frozen, to_model_range(image))
        return inside.picture(frozen, from_latent(params, frozen, z_lr, noise, tiling), z_lr)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, _ = task.enlarged(frozen, lr)
        x, sigma = task.noise(z_lr, noise), jnp.ones((lr.shape[0],), jnp.float32)
        text = text_of_all(frozen, WANTED, lr.shape[0])
        return task.picture(frozen, process.clean(x, predict(params, frozen, x, sigma, text, z_lr)[0], sigma), z_lr)

    return Samplers(sample, mean, sample_tiled)
