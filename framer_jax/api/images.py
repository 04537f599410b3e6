"""Images and models: reading, writing, upscaling, degrading."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framer_jax.api.arguments import (
    PathLike,
    check_float_leaves,
    described,
    path_of,
    plain_values,
    real_number,
    text_of,
    unknown_names,
    whole_number,
)
from framer_jax.api.renamed import renamed_arguments

if TYPE_CHECKING:
    import jax
    import numpy as np
    from PIL import Image

    from framer_jax.checkpoints.sampling import Sampling
    from framer_jax.images.image_data import ImageData
    from framer_jax.inference.model import Model

    ImageLike = PathLike | ImageData | Image.Image | np.ndarray | jax.Array


@renamed_arguments(path="weights", recipe="config", changes="overrides")
def load_model(
    weights: PathLike | None = None,
    config: PathLike | None = None,
    overrides: Sequence[str] = (),
    denoise_strength: float | None = None,
    **sampling: Any,
) -> Model:
    """Read a model from a weights file or a training run's directory.

    Args:
      weights: path of the weights, or the name of a model such as 'realesrgan-x4plus' (`framer-jax models` lists
        them); None for the standard model. Published weights, ported or not, need a `config`, except for those of
        SwinIR, RRDBNet and SRVGG, which determine it.
      config: configuration that the published weights belong to, such as configs/resshift_v1.py.
      overrides: changes of that configuration, such as ['recipe.space.checkpoint=vq_f4.safetensors'].
      denoise_strength: of realesr-general-x4v3, from 0 (keeps noise) to 1 (the model alone, as None): it is blended
        with its twin realesr-general-wdn-x4v3 next to it.
      sampling: sampler settings to use instead of the configuration's, such as steps=20 or guidance=4.0: the fields of
        framer_jax.inference.model.Sampling.

    Raises:
      FileNotFoundError, ValueError: see framer_jax.inference.model.load_model and framer_jax.config.load_config.
      TypeError: an argument of another kind, or an unknown sampler setting.
    """
    from framer_jax.commands.published import open_model
    from framer_jax.inference import model

    if isinstance(weights, model.Model):
        raise TypeError("weights is a model that is loaded already: give it to framer_jax.upscale, or a path here")
    if weights is not None:
        path_of(weights, "weights", "None is the standard model")
    changes = [overrides] if isinstance(overrides, str) else [text_of(change, "an override") for change in overrides]
    if changes and config is None:
        raise ValueError("overrides change the configuration that 'config' names: give 'config' too")
    if config is not None:
        path_of(config, "config", "the name of a shipped configuration or the path of a .py file")
    strength = None if denoise_strength is None else real_number(denoise_strength, "denoise_strength")
    return open_model(weights, config, changes, _sampling("load_model", sampling), strength)


def read_image(path: PathLike) -> ImageData:
    """Read an image file with its alpha, gray mode, bit depth and color profile.

    `.pixels` is [H, W, 3] float32 in [0, 1]; framer_jax.images.decode.read_image lists formats and errors.
    """
    from framer_jax.images import decode

    return decode.read_image(path_of(path, "path", "upscale and write_image also take images and arrays"))


@renamed_arguments(picture="image")
def write_image(
    path: PathLike,
    image: ImageLike,
    overwrite: bool = False,
    quality: int | None = None,
    strip_metadata: bool = False,
) -> None:
    """Write an image in the format of the file name's suffix; see framer_jax.inference.images.write_image.

    Args:
      path: file name that ends in .png, .webp, .jpg, .jpeg, .tif, .tiff, .avif, .gif or .bmp.
      image: an image from this package, a Pillow image, a path, or an array [H, W, 3] of uint8 or floats in [0, 1]; an
        overshoot of up to 0.5 is clipped.
      overwrite: whether an existing file may be replaced.
      quality: quality of JPEG, WebP and AVIF, 1 to 100; None for the format's default.
      strip_metadata: whether to leave out EXIF (date, place, camera), XMP, IPTC and the resolution.

    Raises:
      FileExistsError: the file exists and `overwrite` is False.
      OSError: the file cannot be written.
      ValueError, TypeError: the suffix is unknown, the format cannot hold this image, or it is no image.
    """
    from framer_jax.images.arrays import OVERSHOOT
    from framer_jax.inference import formats, images

    formats.output_format(path_of(path, "path"))  # before a large image is converted
    number = None if quality is None else whole_number(quality, "quality", at_least=1)
    images.write_image(path, images.as_image_data(image, OVERSHOOT), overwrite, number, strip_metadata)


@renamed_arguments(picture="image")
def upscale(
    image: ImageLike, model: Model | PathLike | None = None, denoise_strength: float | None = None, **settings: Any
) -> ImageData:
    """Upscale an image; it keeps its transparency, gray mode, bit depth, color profile and metadata.

    Calls with the same `Model` object, with the same path, or with none share their compiled programs, which JAX's
    compilation cache also keeps for the next process (framer_jax.compile_cache).

    Args:
      image: a path, an image from `read_image`, a Pillow image, or an array [H, W, 3] of uint8 or floats in [0, 1].
      model: model from `load_model`, or the path or the name of one; None for the standard model.
      denoise_strength: as of `load_model`; without a `Model` object.
      settings: fields of framer_jax.inference.settings.UpscaleSettings, such as mode='mean' or seed=1; the defaults
        depend on the model (framer_jax.inference.model.settings_for); and of
        framer_jax.inference.result_settings.ResultSettings: outscale=2.5, width=1920 or height=1080 for the size of the
        result, strength=0.7 for less of the model, wrap=True for seamless textures, alpha='network'. Without a `Model`
        object, also those of the sampler, such as steps=8 (see `load_model`).

    Returns:
      The SR image; `.pixels` is float32 in [0, 1], [sH, sW, 3] or of the size that was asked for.

    Raises:
      ValueError, FileNotFoundError: an image, a model or settings that cannot be used.
      TypeError: an argument of another kind, or an unknown setting.
    """
    import dataclasses

    from framer_jax.checkpoints.sampling import Sampling
    from framer_jax.compile_cache import keep_compiled_programs
    from framer_jax.inference.images import as_image_data
    from framer_jax.inference.model import settings_for
    from framer_jax.inference.result_settings import ResultSettings
    from framer_jax.inference.settings import UpscaleSettings
    from framer_jax.inference.upscaler import make_upscaler, upscale_image

    of_result = [field.name for field in dataclasses.fields(ResultSettings)]
    sampling = {name: value for name, value in settings.items() if name in Sampling._fields}
    result = ResultSettings(**plain_values({name: settings[name] for name in settings if name in of_result}))
    settings = {name: value for name, value in settings.items() if name not in (*sampling, *of_result)}
    known = [*(field.name for field in dataclasses.fields(UpscaleSettings)), *of_result, *Sampling._fields]
    if problem := unknown_names("framer_jax.upscale", list(settings), known, {}):
        raise TypeError(problem)
    for name in ("mode", "color_fix", "protocol"):
        if settings.get(name) is not None:
            text_of(settings[name], name)
    keep_compiled_programs()
    source = as_image_data(image)
    strength = None if denoise_strength is None else real_number(denoise_strength, "denoise_strength")
    used = _used_model(model, _sampling("upscale", sampling), strength)
    upscaler = make_upscaler(used.recipe, settings_for(used, **plain_values(settings)))
    return upscale_image(upscaler, used.recipe.scale, used.params, source, result=result)[0]


def degrade(
    image: ImageLike,
    preset: str = "framer_paper",
    seed: int = 0,
    scale: int = 4,
    name: str | None = None,
    geometry: str = "released",
) -> ImageData:
    """Make the LR image of an HR image with a random degradation.

    For a file and its file name, `write_image` writes the bytes that `framer-jax degrade` writes for the same preset,
    seed, scale and geometry. (For a file in a subfolder of the command's input, `name` is its path within the input.)

    It is computed by one compiled program for each canvas of 256-pixel steps. JAX's compilation cache keeps it for the
    next process (framer_jax.compile_cache).

    Args:
      image: an HR image: a path, an image from `read_image`, a Pillow image, or an array [H, W, 3] of uint8 or floats
        in [0, 1]. It is rounded to 8 bits, transparency is dropped, and its sides are cropped to multiples of `scale`.
      preset: name of a degradation preset, see framer_jax.degradations.presets.PRESETS, or a mixture such as
        'framer_released:0.4,camera:0.6', one of whose presets is drawn.
      seed: seed of the random draws, not negative.
      scale: downsampling factor.
      name: the random draws depend on the seed and this name; None for the file name, or '' if the image is no file.
      geometry: 'released' or 'aligned', see framer_jax.degradations.presets.GEOMETRIES.

    Returns:
      The LR image: `.pixels` is [H / scale, W / scale, 3] float32 in [0, 1], multiples of 1 / 255.

    Raises:
      ValueError: an unknown preset or geometry (the message lists the known ones), an unsupported scale, a negative
        seed, or an image that cannot be read or is smaller than `scale`.
      TypeError: an argument of another kind.
    """
    import numpy as np

    from framer_jax.compile_cache import keep_compiled_programs
    from framer_jax.data.whole_photos import degrade_photos, photo_generator
    from framer_jax.degradations.draw import draw
    from framer_jax.degradations.lookup import preset_by_name
    from framer_jax.images.decode import read_rgb
    from framer_jax.images.image_data import ImageData
    from framer_jax.inference.images import as_image_data

    factor = whole_number(scale, "scale", at_least=1)
    settings = preset_by_name(text_of(preset, "preset"), factor, text_of(geometry, "geometry"))
    seed = whole_number(seed, "seed")
    if isinstance(image, str | os.PathLike):
        pixels = read_rgb(path_of(image, "image"))
        name = Path(image).name if name is None else name
    else:
        pixels = np.rint(as_image_data(image).pixels * np.float32(255)).astype(np.uint8)
    name = "" if name is None else text_of(name, "name")
    height, width = (side - side % factor for side in pixels.shape[:2])
    if not height or not width:
        raise ValueError(f"the image is {pixels.shape[0]}x{pixels.shape[1]}, smaller than the scale {factor}")
    keep_compiled_programs()
    parameters = draw(photo_generator(seed, name), settings)
    ((_, lr),) = degrade_photos([np.ascontiguousarray(pixels[:height, :width])], [parameters], settings)
    return ImageData(np.ascontiguousarray(lr))


def _sampling(function: str, values: dict[str, Any]) -> Sampling:
    """Sampler settings by name.

    Raises:
      TypeError: an unknown one.
    """
    import dataclasses

    from framer_jax.checkpoints.sampling import Sampling
    from framer_jax.inference.settings import UpscaleSettings

    elsewhere = {
        field.name: f"give it to framer_jax.upscale(image, model, {field.name}=…)"
        for field in dataclasses.fields(UpscaleSettings)
    }
    if problem := unknown_names(f"framer_jax.{function}", list(values), Sampling._fields, elsewhere):
        raise TypeError(problem)
    return Sampling(**plain_values(values))


def _used_model(model: Any, sampling: Sampling, denoise_strength: float | None) -> Model:
    """The model that an argument means: itself, the one at a path or of a name, or the standard one."""
    from framer_jax.commands.published import is_model_name
    from framer_jax.inference.model import Model, weights_file
    from framer_jax.inference.named_models import model_file

    if isinstance(model, Model):
        values = {**sampling._asdict(), "denoise_strength": denoise_strength}
        if any(value is not None for value in values.values()):
            name = next(name for name, value in values.items() if value is not None)
            raise TypeError(
                f"{name} is a setting of the model, which is loaded already: framer_jax.load_model(weights, {name}=…)"
            )
        check_float_leaves(model.params, "model.params")
        return model
    if model is not None and not isinstance(model, str | os.PathLike):
        raise TypeError(
            f"model is {described(model)}: give a model from framer_jax.load_model, a path, a name, or None"
        )
    if isinstance(model, str) and is_model_name(model):
        path, _ = model_file(model)
        return _load_once(model, path.stat().st_mtime_ns, sampling, denoise_strength)
    path = weights_file(None if model is None else path_of(model, "model"))
    modified = path.stat().st_mtime_ns if path.exists() else 0  # load_model names a file that is missing
    return _load_once(path, modified, sampling, denoise_strength)


@functools.lru_cache(maxsize=2)
def _load_once(weights: str | Path, modified: int, sampling: Sampling, denoise_strength: float | None) -> Model:
    """The model of a name, or of a file with this time of modification.

    It never leaves this module, so nobody can change it.
    """
    changes = {name: value for name, value in sampling._asdict().items() if value is not None}
    return load_model(weights, denoise_strength=denoise_strength, **changes)
