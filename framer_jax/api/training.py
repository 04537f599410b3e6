"""Training: FRAMER's loss and masks, the training step of a recipe, and the methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from framer_jax.api.arguments import described, is_float, plain_values, real_number, text_of, whole_number

if TYPE_CHECKING:
    import jax
    import numpy as np

    from framer_jax.losses.framer import FramerLoss
    from framer_jax.recipes.base import Batch, Params, Recipe
    from framer_jax.training.settings import TrainingSettings
    from framer_jax.training.state import TrainState


def framer_loss(taps: Sequence[jax.Array], key: jax.Array, variant: str = "paper", **changes: Any) -> FramerLoss:
    """FRAMER's loss term (arXiv 2512.01390, Eq. 1-9) of a network's feature maps, before the factor lambda.

    Add `weight * framer_loss(taps, key).values.mean()` to your loss. Gradients reach the students only.

    Args:
      taps: feature maps of the network's blocks in order of depth, each [B, H, W, C] with the same shape, any float
        dtype; or all of them as one array [N, B, H, W, C]. The last one is the teacher.
      key: typed PRNG key (jax.random.key) that draws each student's negative; use a new one in every step.
      variant: 'paper' for the method of the paper, 'released' for that of the authors' released code, in which the last
        block is a student too.
      changes: fields of framer_jax.losses.framer.FramerSettings to change, such as temperature=0.1 or radius=0.3; not
        `weight`, `start_step` and `ramp_steps`, since the factor is yours.

    Returns:
      `.values`, [B] float32, and `.diagnostics`: name → [N] float32, one value per student.

    Raises:
      ValueError: an unknown variant, a setting that is unknown or out of range, or taps that do not fit.
      TypeError: taps that are no arrays, or no key.
    """
    import jax

    from framer_jax.losses import framer

    variants = {"paper": framer.paper, "released": framer.released}
    if text_of(variant, "variant") not in variants:
        raise ValueError(f"variant is {variant!r}: choose one of {', '.join(variants)}")
    if factor := next((name for name in ("weight", "start_step", "ramp_steps") if name in changes), ""):
        raise ValueError(f"{factor} belongs to the factor lambda: omit it, and multiply the values yourself")
    settings = variants[variant](**plain_values(changes))
    maps = _feature_maps(taps)
    maps = (*maps, maps[-1]) if settings.repeats_last and maps else maps
    if len(maps) < 2:
        raise ValueError(f"FRAMER needs at least two taps (a student and the teacher), got {len(maps)}")
    _check_key(key)
    negatives = framer.draw_negatives(key, len(maps) - 1, settings)
    return jax.jit(framer.framer_loss, static_argnums=2)(maps, negatives, settings)


def _feature_maps(taps: Any) -> tuple[jax.Array, ...]:
    """The feature maps as a tuple of arrays [B, H, W, C].

    Raises:
      TypeError: no arrays.
      ValueError: arrays of another rank, or not of floats.
    """
    import jax

    if getattr(taps, "ndim", None) == 4:
        raise ValueError(f"taps is one map of shape {taps.shape}: give a list of the maps of all blocks")
    if isinstance(taps, str | bytes | dict) or not hasattr(taps, "__iter__"):
        raise TypeError(f"taps is {described(taps)}: give a list of feature maps [B, H, W, C], one for each block")
    maps = tuple(taps)
    for index, tap in enumerate(maps):
        if not hasattr(tap, "dtype") or not hasattr(tap, "ndim"):
            raise TypeError(f"taps[{index}] is {described(tap)}: give an array [B, H, W, C]")
        if tap.ndim != 4 or not is_float(tap):
            raise ValueError(f"taps[{index}] is {tap.dtype}{list(tap.shape)}: give floats [B, H, W, C]")
    return tuple(map(jax.numpy.asarray, maps))


def _check_key(key: Any) -> None:
    """Raise a TypeError for anything but one PRNG key, typed or of two uint32."""
    import jax

    is_typed = hasattr(key, "dtype") and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    is_raw = str(getattr(key, "dtype", "")) == "uint32" and key.shape == (2,)
    if not (is_raw or (is_typed and key.shape == ())):
        raise TypeError(f"key is {described(key)}: give one key, such as jax.random.key(0)")


def band_masks(height: int, width: int, radius: float = 0.2, layout: str = "half") -> tuple[np.ndarray, np.ndarray]:
    """Masks of the low and the high frequency band, as in FRAMER (arXiv 2512.01390).

    The low band is a disc around the zero frequency: sqrt(fy^2 + fx^2) <= radius, with fy and fx in units of the
    Nyquist frequency of their axis. The high band is the rest of the spectrum.

    Args:
      height: height H of the feature map.
      width: width W of the feature map.
      radius: radius of the disc as a fraction of the Nyquist frequency, at least 0.
      layout: 'half' for the spectrum of jnp.fft.rfft2, [H, W // 2 + 1]; 'full' for that of jnp.fft.fft2, [H, W].

    Returns:
      (low, high): two bool arrays of the layout's shape; each is the complement of the other.

    Raises:
      ValueError: an empty map, a negative radius, or an unknown layout.
      TypeError: sides that are no whole numbers, or a radius that is no number.
    """
    from framer_jax.frequency.bands import disc_mask

    size = whole_number(height, "height", at_least=1), whole_number(width, "width", at_least=1)
    if layout not in ("half", "full"):
        raise ValueError(f"layout is {layout!r}: choose one of half, full")
    low = disc_mask(size, real_number(radius, "radius"), layout)
    return low, ~low


def make_step(
    recipe: Recipe,
    settings: TrainingSettings,
    batch: Batch,
    prepare: Callable[[Any], Batch] | None = None,
    initial_params: Params | None = None,
) -> tuple[TrainState, Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]]:
    """The initial state and the jitted training step of a recipe, for your own training loop:

        model = framer_jax.load_model()
        recipe = framer(model.recipe, paper())  # from framer_jax.recipes.framer and framer_jax.losses.framer
        settings = TrainingSettings(steps=1000, global_batch=8)  # from framer_jax.training.settings
        state, step = framer_jax.make_step(recipe, settings, next(batches), initial_params=model.params)
        for batch in batches:
            state, metrics = step(state, batch)

    The step donates the state that it receives: keep the new one only. For inference, use
    framer_jax.training.state.inference_params(state, recipe.exported).

    Args:
      recipe: recipe to train.
      settings: training settings; those of logging, validation and checkpoints are not used.
      batch: example batch, of which only shapes and dtypes matter; without `prepare`, its images' range is checked too.
        Values of later batches are not checked: NaN gives NaN as metrics. Without `prepare`, it holds 'hr'
        [B, sH, sW, 3] and 'lr' [B, H, W, 3], float32 in [0, 1] or uint8, and the recipe's further entries; B is
        `settings.global_batch` (divided by the number of hosts).
      prepare: function from a batch to the batch of the losses, compiled into the step; it must treat every example
        separately. None converts images of uint8 to float32 in [0, 1], and of other floats to float32.
      initial_params: groups to start from, such as `model.params`; others are those of `recipe.initial_params`, or
        random.

    Returns:
      (state, step): `step(state, batch)` returns the next state and the metrics, name → float32 scalar on the device,
      NaN for an update that did not run in this step.

    Raises:
      ValueError: a batch, settings or initial parameters that do not fit the recipe or the devices; or, of `step`, a
        batch that differs from the example.
      TypeError: an argument of another kind.
    """
    import jax

    from framer_jax.api.batches import (
        check_arguments,
        check_same_batch,
        describe_batch,
        prepared_shapes,
        to_float_images,
    )
    from framer_jax.compile_cache import keep_compiled_programs
    from framer_jax.training import sharding, step
    from framer_jax.training.optimizer import make_optimizers
    from framer_jax.training.state import init_train_state, place_frozen

    check_arguments(recipe, settings, batch, prepare, initial_params)
    keep_compiled_programs()
    prepare = prepare or to_float_images
    mesh = sharding.make_mesh(settings)
    prepared = prepared_shapes(recipe, settings, mesh.size, batch, prepare)
    optimizers = make_optimizers(recipe, settings)
    params = {**recipe.initial_params, **(initial_params or {})}
    state = init_train_state(recipe, optimizers, settings, mesh, prepared, params)
    sharding.check_rules(state.params, settings)
    frozen = place_frozen(recipe, settings, mesh, prepared, state)
    program = step.make_step(recipe, prepare, optimizers, settings, mesh, state)

    @jax.jit
    def to_scalars(averages: dict[str, Any]) -> dict[str, jax.Array]:
        return {name: average.total / average.count.astype("float32") for name, average in averages.items()}

    example = describe_batch(batch)

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        check_same_batch(batch, example)
        state, metrics = program(state, frozen, sharding.place_batch(dict(batch), mesh))
        return state, to_scalars(metrics.averages)

    return state, run


class MethodSummary(NamedTuple):
    """One row of `methods()`.

    Attributes:
      name: name of the method, the value of recipe.name in configurations.
      paper: title and arXiv number of its paper.
      summary: what it is, in one sentence.
    """

    name: str
    paper: str
    summary: str


def methods() -> tuple[MethodSummary, ...]:
    """The methods that can be trained; see `framer-jax info METHOD --knobs` for the knobs of one."""
    from framer_jax.recipes.table import METHODS

    return tuple(MethodSummary(method.name, method.paper, method.summary) for method in METHODS)
