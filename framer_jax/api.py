"""What `import framer_jax` offers. Imports are inside the functions, so that importing the package is instant."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import jax
    import numpy as np

    from framer_jax.inference.images import ImageData
    from framer_jax.inference.model import Model
    from framer_jax.losses.framer import FramerLoss
    from framer_jax.recipes.base import Batch, Params, Recipe
    from framer_jax.training.settings import TrainingSettings
    from framer_jax.training.state import TrainState

PathLike = str | os.PathLike[str]

Function = TypeVar("Function", bound=Callable[..., Any])


def _renamed_arguments(**renamed: str) -> Callable[[Function], Function]:
    """Decorator: accept old keyword arguments (old name = new name) for one version, with a DeprecationWarning."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            moved = {}
            for old in renamed.keys() & keywords.keys():
                message = f"argument {old!r} of framer_jax.{function.__name__} is deprecated: use {renamed[old]!r}"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                moved[renamed[old]] = keywords.pop(old)
            return function(*arguments, **keywords, **moved)

        return call  # type: ignore[return-value]

    return decorate


@_renamed_arguments(path="weights", recipe="config", changes="overrides")
def load_model(
    weights: PathLike | None = None,
    config: PathLike | None = None,
    overrides: Sequence[str] = (),
    **sampling: Any,
) -> Model:
    """Read a model from a weights file or a training run's directory.

    Args:
      weights: path of the weights; None for the starter model. Published weights, ported or not, need a `config`,
        except for those of SwinIR, which determine it.
      config: configuration that the published weights belong to, such as configs/resshift_v1.py.
      overrides: changes of that configuration, such as 'recipe.space.weights=vq_f4.safetensors'.
      sampling: sampler settings to use instead of the configuration's, such as steps=20 or guidance=4.0: the fields of
        framer_jax.inference.model.Sampling.

    Raises:
      FileNotFoundError, ValueError: see framer_jax.inference.model.load_model and framer_jax.config.load_config.
    """
    from framer_jax.commands.published import config_of_weights
    from framer_jax.config import load_config, to_dict
    from framer_jax.inference import model

    if overrides and config is None:
        raise ValueError("overrides change the configuration that 'config' names: give 'config' too")
    named = None if config is None else to_dict(load_config(os.fspath(config), overrides))
    return model.load_model(weights, named or config_of_weights(weights), sampling=model.Sampling(**sampling))


def read_image(path: PathLike) -> ImageData:
    """Read an image file with its alpha, gray mode, bit depth and color profile.

    `.pixels` is [H, W, 3] float32 in [0, 1]; framer_jax.inference.images.read_image lists formats and errors.
    """
    from framer_jax.inference import images

    return images.read_image(path)


@_renamed_arguments(picture="image")
def write_image(path: PathLike, image: ImageData | np.ndarray, overwrite: bool = False) -> None:
    """Write an image in the format of the file name's suffix; see framer_jax.inference.images.write_image.

    Args:
      path: file name that ends in .png, .webp, .jpg, .jpeg, .tif, .tiff or .bmp.
      image: an image from this package, or an array [H, W, 3], float32 in [0, 1] (clipped) or uint8.
      overwrite: whether an existing file may be replaced.

    Raises:
      FileExistsError: the file exists and `overwrite` is False.
      OSError: the file cannot be written.
      ValueError: the suffix is unknown, or the format cannot hold this image.
    """
    from framer_jax.inference import images

    images.write_image(path, images.as_image_data(image), overwrite)


@_renamed_arguments(picture="image")
def upscale(image: PathLike | ImageData | np.ndarray, model: Model | None = None, **settings: Any) -> ImageData:
    """Upscale an image; it keeps its transparency, gray mode, bit depth and color profile.

    Calls with the same `Model` object, or with none, share their compiled programs.

    Args:
      image: a path, an image from `read_image`, or an array [H, W, 3], float32 in [0, 1] or uint8.
      model: model from `load_model`; None for the starter model.
      settings: fields of framer_jax.inference.settings.UpscaleSettings, such as mode='mean' or seed=1; the defaults
        depend on the model (framer_jax.inference.model.settings_for).

    Returns:
      The SR image; `.pixels` is [sH, sW, 3] float32 in [0, 1].

    Raises:
      ValueError, FileNotFoundError: an image, a model or settings that cannot be used.
    """
    from framer_jax.inference.images import as_image_data
    from framer_jax.inference.model import settings_for
    from framer_jax.inference.upscaler import make_upscaler, upscale_image

    model = model or _starter()
    upscaler = make_upscaler(model.recipe, settings_for(model, **settings))
    return upscale_image(upscaler, model.recipe.scale, model.params, as_image_data(image))[0]


def degrade(
    image: PathLike | ImageData | np.ndarray,
    preset: str = "framer_paper",
    seed: int = 0,
    scale: int = 4,
    name: str | None = None,
    geometry: str = "released",
) -> ImageData:
    """Make the LR image of an HR image with a random degradation.

    For a file and its file name, `write_image` writes the bytes that `framer-jax degrade` writes for the same preset,
    seed, scale and geometry. (For a file in a subfolder of the command's input, `name` is its path within the input.)

    Args:
      image: an HR image: a path, an image from `read_image`, or an array [H, W, 3], float32 in [0, 1] or uint8. It is
        rounded to 8 bits, transparency is dropped, and its sides are cropped to multiples of `scale`.
      preset: name of a degradation preset, see framer_jax.degradations.presets.PRESETS.
      seed: seed of the random draws, not negative.
      scale: downsampling factor.
      name: the random draws depend on the seed and this name; None for the file name, or '' if the image is no file.
      geometry: 'released' or 'aligned', see framer_jax.degradations.presets.GEOMETRIES.

    Returns:
      The LR image: `.pixels` is [H / scale, W / scale, 3] float32 in [0, 1], multiples of 1 / 255.

    Raises:
      ValueError: an unknown preset or geometry (the message lists the known ones), an unsupported scale, a negative
        seed, or an image that cannot be read or is smaller than `scale`.
    """
    import numpy as np

    from framer_jax.data import sources
    from framer_jax.data.whole_photos import degrade_photos, photo_generator
    from framer_jax.degradations.draw import draw
    from framer_jax.degradations.presets import preset_by_name
    from framer_jax.inference.images import ImageData, as_image_data

    settings = preset_by_name(preset, scale, geometry)
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must not be negative")
    if isinstance(image, str | os.PathLike):
        pixels = sources.read_image(Path(image))
        name = Path(image).name if name is None else name
    else:
        pixels = np.rint(np.clip(as_image_data(image).pixels, 0, 1) * np.float32(255)).astype(np.uint8)
    height, width = (side - side % scale for side in pixels.shape[:2])
    if not height or not width:
        raise ValueError(f"the image is {pixels.shape[0]}x{pixels.shape[1]}, smaller than the scale {scale}")
    parameters = draw(photo_generator(seed, name or ""), settings)
    ((_, lr),) = degrade_photos([np.ascontiguousarray(pixels[:height, :width])], [parameters], settings)
    return ImageData(lr)


def port(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    model: str,
    to: str = "jax",
    overwrite: bool = False,
    check: str | None = None,
    variant: str = "",
    alpha: float | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Convert weights between PyTorch and framer_jax, as `framer-jax port` does.

    Args:
      inputs: checkpoint to read; several if each holds a part of the model; LoRAs behind it are added to it.
      output: file to write (.safetensors, or .pth with to='torch'); a folder with to='diffusers'.
      model: network that the checkpoint belongs to: a key of framer_jax.porting.table.MAPS.
      to: 'jax' for framer_jax's format, 'torch' for a PyTorch state dict, 'diffusers' for a folder of config.json and
        weights, or 'lora' for the LoRA of a trained run in PEFT's names.
      overwrite: whether an existing output may be replaced.
      check: clone of the original repository (or 'installed' for an installed package) with which the output of every
        layer is compared first; None for no comparison.
      variant: variant of the weights in a folder of Diffusers, such as 'fp16'.
      alpha: alpha of the LoRAs; None for what they state.
      values: arguments of the network that its tensors do not determine, such as {'head_width': 32}; those that nothing
        states are in the result's 'assumed'.

    Returns:
      What the command prints: 'written', 'sha256', 'model', 'parameters' and further facts, by name.

    Raises:
      FileExistsError: the output exists and `overwrite` is False.
      ValueError, FileNotFoundError, ImportError: weights that cannot be converted; see framer_jax.commands.port.
    """
    from framer_jax.commands.port import FORMS, port_to_jax, port_to_torch

    if to not in FORMS:
        raise ValueError(f"to is {to!r}: choose one of {', '.join(FORMS)}")
    if Path(output).exists() and not overwrite:
        raise FileExistsError(f"{output} exists: choose another name or set overwrite=True")
    paths = [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(path) for path in inputs]
    if to == "jax":
        return port_to_jax(model, paths, Path(output), check, variant, alpha, values)
    return port_to_torch(model, paths, Path(output), to, check, variant, alpha, values)


def framer_loss(taps: Sequence[jax.Array], key: jax.Array, variant: str = "paper", **changes: Any) -> FramerLoss:
    """FRAMER's loss term (arXiv 2512.01390, Eq. 1-9) of a network's feature maps, before the factor lambda.

    Add `weight * framer_loss(taps, key).values.mean()` to your loss. Gradients reach the students only.

    Args:
      taps: feature maps of the network's blocks in order of depth, each [B, H, W, C] with the same shape, any float
        dtype. The last one is the teacher.
      key: typed PRNG key (jax.random.key) that draws each student's negative; use a new one in every step.
      variant: 'paper' for the method of the paper, 'released' for that of the authors' released code, in which the last
        block is a student too.
      changes: fields of framer_jax.losses.framer.FramerSettings to change, such as temperature=0.1 or radius=0.3.

    Returns:
      `.values`, [B] float32, and `.diagnostics`: name → [N] float32, one value per student.

    Raises:
      ValueError: an unknown variant, a setting that is unknown or out of range, or taps that do not fit.
    """
    import jax

    from framer_jax.losses import framer

    variants = {"paper": framer.paper, "released": framer.released}
    if variant not in variants:
        raise ValueError(f"variant is {variant!r}: choose one of {', '.join(variants)}")
    settings = variants[variant](**changes)
    taps = (*taps, taps[-1]) if settings.last_is_student and taps else tuple(taps)
    negatives = framer.draw_negatives(key, len(taps) - 1, settings)
    return jax.jit(framer.framer_loss, static_argnums=2)(taps, negatives, settings)


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
    """
    from framer_jax.frequency.bands import disc_mask

    if layout not in ("half", "full"):
        raise ValueError(f"layout is {layout!r}: choose one of half, full")
    low = disc_mask((height, width), radius, layout)
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
      batch: example batch, of which only shapes and dtypes matter. Without `prepare`, it holds 'hr' [B, sH, sW, 3] and
        'lr' [B, H, W, 3], float32 in [0, 1] or uint8, and the recipe's further entries; B is `settings.global_batch`
        (divided by the number of hosts).
      prepare: function from a batch to the batch of the losses, compiled into the step; it must treat every example
        separately. None converts uint8 images to float32 in [0, 1].
      initial_params: groups to start from, such as `model.params` (None: `recipe.initial_params`); others are random.

    Returns:
      (state, step): `step(state, batch)` returns the next state and the metrics, name → float32 scalar on the device,
      NaN for an update that did not run in this step.

    Raises:
      ValueError: a batch, settings or initial parameters that do not fit the recipe or the devices.
    """
    import jax

    from framer_jax.training import sharding, step
    from framer_jax.training.optimizer import make_optimizers
    from framer_jax.training.state import init_train_state, place_frozen

    prepare = prepare or _uint8_to_float
    mesh = sharding.make_mesh(settings)
    prepared = _prepared_shapes(recipe, settings, mesh.size, batch, prepare)
    optimizers = make_optimizers(recipe, settings)
    params = recipe.initial_params if initial_params is None else initial_params
    state = init_train_state(recipe, optimizers, settings, mesh, prepared, params)
    sharding.check_rules(state.params, settings)
    frozen = place_frozen(recipe, settings, mesh, prepared, state)
    program = step.make_step(recipe, prepare, optimizers, settings, mesh, state)

    @jax.jit
    def to_scalars(averages: dict[str, Any]) -> dict[str, jax.Array]:
        return {name: average.total / average.count.astype("float32") for name, average in averages.items()}

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = program(state, frozen, sharding.place_batch(dict(batch), mesh))
        return state, to_scalars(metrics.averages)

    return state, run


def _uint8_to_float(batch: Batch) -> Batch:
    import jax

    return jax.tree.map(lambda leaf: leaf.astype("float32") / 255 if leaf.dtype == "uint8" else leaf, dict(batch))


def _prepared_shapes(
    recipe: Recipe, settings: TrainingSettings, devices: int, batch: Batch, prepare: Callable[[Any], Batch]
) -> Any:
    """Shapes of the prepared global batch."""
    import jax

    from framer_jax.training.settings import check_batch

    check_batch(settings, devices, jax.process_count())
    count = settings.global_batch // jax.process_count()
    shapes = jax.eval_shape(lambda tree: tree, dict(batch))
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if leaf.shape[:1] != (count,):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"batch entry {name!r} has shape {leaf.shape}: it must have {count} examples")
    whole = jax.tree.map(lambda leaf: leaf.update(shape=(settings.global_batch, *leaf.shape[1:])), shapes)
    prepared = jax.eval_shape(prepare, whole)
    if missing := [entry for entry in recipe.batch_entries if entry not in prepared]:
        raise ValueError(f"the batch has no {', '.join(missing)}, which recipe {recipe.name!r} needs: add it")
    return prepared


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


def _starter() -> Model:
    from framer_jax.inference import model

    return _load_once(model.STARTER, model.STARTER.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _load_once(path: Path, modified: int) -> Model:
    """The model of a file with this time of modification; it never leaves this module, so nobody can change it."""
    return load_model(path)
