"""The types that join a model, a diffusion process and losses into one way to train a super-resolver.

A `Recipe` is a handful of pure functions. `framer(recipe, settings)` (framer_jax.recipes.framer) maps a recipe to a
recipe; the training step (framer_jax.training.step) and the upscaler (framer_jax.inference.upscaler) know these types
and no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField

Params = dict[str, Any]
"""Trainable parameters: group name ('denoiser', 'framer_heads', 'discriminator', …) to a tree of float32 arrays."""

Frozen = dict[str, Any]
"""Weights that are never updated (autoencoder, teacher, feature extractors); an argument, never closed over."""

State = dict[str, Any]
"""Mutable state: what changes without a gradient (batch statistics, a discriminator's moving accuracy). Usually {}."""

Batch = Mapping[str, jax.Array]
"""'hr': [B, sH, sW, 3] and 'lr': [B, H, W, 3], float32 in [0, 1], and the further entries that a recipe declares."""

NO_OUTPUTS: Mapping[str, jax.Array] = {}  # a dict, as losses are returned from jitted functions; never changed

PIXELS = ("hr", "lr")
"""The batch entries of training on images."""


class Loss(NamedTuple):
    """The result of a loss function.

    Attributes:
      values: [B] float32, one value per example; the step applies weight, mask and the mean over the global batch.
      metrics: name to a scalar or a [B] array (averaged before it is written).
      taps: the denoiser's per-block feature maps, each [B, H_i, W_i, C_i], in order of depth, the last one FRAMER's
        teacher. Unused taps cost nothing under jit.
      state: the mutable state after this loss.
      outputs: further batch entries, [B, ...] each, for the later updates of the same step, which take no gradient
        through them; so that a generated image, say, is not computed twice. The update must run in every step.
    """

    values: jax.Array
    metrics: dict[str, jax.Array]
    taps: tuple[jax.Array, ...]
    state: State
    outputs: Mapping[str, jax.Array] = NO_OUTPUTS


class LossFunction(Protocol):
    """(params, frozen, state, batch, key, step) → Loss; `step` is the int32 number of steps already made."""

    def __call__(
        self, params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array
    ) -> Loss:
        """Evaluate the loss on a batch."""
        ...


def with_outputs(batch: Batch, loss_outputs: Mapping[str, jax.Array]) -> Batch:
    """The batch as the later updates of a step see it: with the outputs of an earlier update, without gradient."""
    return {**batch, **jax.lax.stop_gradient(dict(loss_outputs))}


@dataclass(frozen=True)
class Update:
    """One optimiser update: which groups it trains, with which loss, and when.

    It runs in steps `start <= step < stop` with `(step - offset) % every == 0`; `stop` None is the end of training.

    Raises:
      ValueError: a period below one, or a stop that is not after the start.
    """

    name: str
    groups: tuple[str, ...]
    loss: LossFunction
    every: int = 1
    offset: int = 0
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"update {self.name!r}: every is {self.every}, it must be at least 1")
        if self.stop is not None and self.stop <= max(self.start, 0):
            raise ValueError(f"update {self.name!r}: stop {self.stop} must be after start {self.start}")


class Sampler(Protocol):
    """(params, frozen, lr, noise) → sr.

    `lr` is [B, H, W, 3] float32 in [0, 1]; the result is [B, sH, sW, 3] float32, near [0, 1] and not clipped.
    """

    def __call__(self, params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        """Super-resolve a batch."""
        ...


class StepwiseSampler(NamedTuple):
    """A sampler that also shows what it estimates on its way.

    Attributes:
      steps: number of its steps.
      sample: (params, frozen, lr, noise, every) → [B, sH, sW, 3 (1 + K)] float32: the SR image of `Recipe.sample`, and
        next to it along the channels the decoded estimates after `every`, 2 `every`, … steps, without the last step.
        `every` must not be traced.
    """

    steps: int
    sample: Callable[[Params, Frozen, jax.Array, NoiseField, int], jax.Array]

    def preview_steps(self, every: int) -> tuple[int, ...]:
        """The numbers of steps after which there is an estimate."""
        return tuple(range(every, self.steps, every))


class Tiling(NamedTuple):
    """How `sample_tiled` splits an image; sides in pixels of that image, 0 for no tiles.

    Attributes:
      side: side of the denoiser's tiles.
      overlap: pixels that neighboring tiles share at least.
      batch: number of tiles computed at a time.
      encoder: side of the tiles that an autoencoder encodes.
      decoder: side of the tiles that it decodes to.
    """

    side: int = 0
    overlap: int = 0
    batch: int = 1
    encoder: int = 0
    decoder: int = 0


class LayerTaps(NamedTuple):
    """The taps of the network's call at a chosen timestep, computed with the weights that sampling needs.

    Attributes:
      compute: (params, frozen, batch, key, time) → taps, as of `Loss.taps`. `params` are the exported groups, `batch`
        has the entries `PIXELS`, `key` draws the noise, and `time` is a float32 scalar: the fraction of the forward
        process from 0 (the least noisy timestep) to 1 (the noisiest).
      timesteps: number of the process's timesteps, of which the nearest one is taken; 0 if time is continuous, 1 for a
        network that is called at one time, whose taps do not depend on `time`.
    """

    compute: Callable[[Params, Frozen, Batch, jax.Array, jax.Array], tuple[jax.Array, ...]]
    timesteps: int

    def nearest(self, time: float) -> float:
        """The fraction of the process that is computed for a requested one; 1.0 if there is one time only."""
        if self.timesteps == 0:
            return time
        last = self.timesteps - 1
        return round(time * last) / last if last else 1.0


def timestep_index(time: jax.Array, timesteps: int, count: int) -> jax.Array:
    """[count] int32: the index of the timestep nearest to a fraction of the process, see `LayerTaps`."""
    return jnp.full((count,), jnp.round(time * (timesteps - 1)).astype(jnp.int32))


class TiledSampler(Protocol):
    """(params, frozen, image, noise, tiling) → image: a `Sampler` for images that are already upsampled.

    Both images are [B, H, W, 3] float32 near [0, 1]. The tiling must not be traced.
    """

    def __call__(
        self, params: Params, frozen: Frozen, image: jax.Array, noise: NoiseField, tiling: Tiling
    ) -> jax.Array:
        """Super-resolve a batch of bicubically upsampled images."""
        ...


class Precompute(Protocol):
    """(frozen, batch, noise) → further entries of the batch, each [B, ...], that the losses then need not compute."""

    def __call__(self, frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        """Compute what depends on frozen weights only."""
        ...


@dataclass(frozen=True)
class AuxiliaryLoss:
    """A further term of a loss on images, computed by a frozen network: LPIPS, VGG or DINOv2 features, an INN.

    Attributes:
      name: of the term in the logs, and of its entry in `frozen`.
      weight: factor of the term.
      function: (the network's weights, image, reference), images [B, H, W, 3] float32 in [-1, 1] → [B] float32; the
        gradient reaches the first image only.
      frozen: the network's weights.
    """

    name: str
    weight: float
    function: Callable[[Params, jax.Array, jax.Array], jax.Array]
    frozen: Params = field(repr=False)


def auxiliary_frozen(terms: tuple[AuxiliaryLoss, ...]) -> Frozen:
    """The entries of `frozen` that auxiliary losses need."""
    return {term.name: term.frozen for term in terms}


def add_auxiliary(
    terms: tuple[AuxiliaryLoss, ...],
    frozen: Frozen,
    values: jax.Array,
    metrics: dict[str, jax.Array],
    image: jax.Array,
    reference: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss values [B] and metrics with auxiliary terms added; images [B, H, W, 3] in [-1, 1]."""
    for term in terms:
        distance = term.function(frozen[term.name], image, reference)
        values = values + jnp.float32(term.weight) * distance
        metrics = {**metrics, term.name: distance}
    return values, metrics


@dataclass(frozen=True)
class Recipe:
    """One published way to train a super-resolver, as pure functions.

    Attributes:
      name: for logs and file names.
      scale: the upsampling factor s.
      init: (key, batch) → params; only the shapes of `batch` matter.
      updates: at least one; a GAN or score-distillation recipe has two.
      denoiser_updates: names of the updates that train the denoiser, whose taps FRAMER compares; () for the first one.
      sample: the full sampler.
      mean: the one-network-call estimate of E[hr | lr], or None if the method has none.
      sample_tiled: `sample` on upsampled images, with tiles within its steps; None if the method has none.
      stepwise: `sample` with the estimates of its steps; None for samplers of one step.
      layer_taps: the network's taps at chosen timesteps, for analysis; None if the method has none.
      lr_multiple: sides of the LR input of `sample` must be multiples of this; the upscaler pads and crops.
      window: side of the windows of a network on pixels, LR pixels; 1 for none.
      tap_kind: what the taps are: 'hidden' (feature maps) or 'prediction' (each block's estimate of the clean latent).
      exported: the groups that `sample` and `mean` use; weights files and the EMA hold these and no others.
      frozen: weights passed to every loss and sampler, never in the optimiser, never in the checkpoint.
      init_state: the mutable state before step 0.
      batch_entries: the entries that a prepared batch must have.
      precompute: what `framer-jax precompute teacher` writes to disk once; None if no loss would read it.
      precomputed_images: the entries of it that are images in [0, 1], stored as such.
      initial_params: groups whose training starts from these weights (a student from its teacher) and not from `init`.
    """

    name: str
    scale: int
    init: Callable[[jax.Array, Batch], Params]
    updates: tuple[Update, ...]
    sample: Sampler
    denoiser_updates: tuple[str, ...] = ()
    mean: Sampler | None = None
    sample_tiled: TiledSampler | None = None
    stepwise: StepwiseSampler | None = None
    layer_taps: LayerTaps | None = None
    lr_multiple: int = 1
    window: int = 1
    tap_kind: str = "hidden"
    exported: tuple[str, ...] = ("denoiser",)
    frozen: Frozen = field(default_factory=dict)
    init_state: Callable[[], State] = dict
    batch_entries: tuple[str, ...] = PIXELS
    precompute: Precompute | None = None
    precomputed_images: tuple[str, ...] = ()
    initial_params: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.updates:
            raise ValueError(f"recipe {self.name!r} has no update: give at least one")

    def __repr__(self) -> str:
        updates = ", ".join(update.name for update in self.updates)
        frozen = f", frozen {', '.join(self.frozen)}" if self.frozen else ""
        return f"<Recipe {self.name} x{self.scale}, updates {updates}{frozen}>"


def expected_params(recipe: Recipe) -> Params:
    """Names and shapes of the groups that a recipe exports, without computing anything."""
    side = 8 * recipe.lr_multiple
    batch = {
        "hr": jax.ShapeDtypeStruct((1, side * recipe.scale, side * recipe.scale, 3), jnp.float32),
        "lr": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    }
    params = jax.eval_shape(recipe.init, jax.random.key(0), batch)
    return {name: params[name] for name in recipe.exported}
