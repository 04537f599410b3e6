"""The latent spaces that diffusion may run in: name → builder, from a configuration's `recipe.space`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.frequency import wavelets
from framer_jax.knobs import changed_repr, check_knobs, inherited_knob, knob, settings_from
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.tiny_autoencoder import TinyAutoencoder
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.recipes.components.latent_space import LatentSpace, autoencoder_space, gaussian_space, wavelet_space
from framer_jax.recipes.components.networks import DTYPES
from framer_jax.recipes.method import Config, WeightFile, WeightReader

AUTOENCODER_MAPS = {"vq_f4": "vq_f4", "kl": "kl_autoencoder", "taesd": "taesd", "taesd3": "taesd"}
"""Latent space → weight map of its autoencoder."""

AUTOENCODER_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "taesd": {"latent_channels": 4},
    "taesd3": {"latent_channels": 16},
}
"""Latent space → constructor arguments of its autoencoder that the space demands of any file."""

WEIGHT_FILE = WeightFile(("space", "checkpoint"), "autoencoder", inference=True, part="vae")

RENAMED_KNOBS = {"space.weights": "space.checkpoint"}

WAVELET_SCALES = {"image": wavelets.IMAGE_SCALE, "residual": wavelets.RESIDUAL_SCALE}


@dataclass(frozen=True)
class SpaceSettings:
    """The section `recipe.space`."""

    name: str = knob(
        "wavelet",
        "wavelet: training-free Haar codec; vq_f4: ResShift's autoencoder; kl: Stable Diffusion's autoencoder; taesd, "
        "taesd3: tiny autoencoders for the latents of Stable Diffusion 1 and 2, and of 3.",
        choices=("wavelet", "vq_f4", "kl", "taesd", "taesd3"),
    )
    checkpoint: str = knob(
        "",
        "vq_f4, kl, taesd, taesd3: path of the autoencoder, as published or from `framer-jax port`; of TAESD's two "
        "files the folder that holds both.",
        empty=True,
    )
    shift: float | None = knob(
        None,
        "kl: shift of normalized latents; None: the autoencoder's own; 0 for weights trained without it.",
        at_least=-1000,
        at_most=1000,
    )
    levels: int = knob(
        2,
        "wavelet: a latent position covers 2^levels x 2^levels HR pixels; keep it at the LR grid.",
        at_least=1,
        at_most=8,
    )
    statistics: str = knob(
        "residual",
        "wavelet: bands are scaled to unit variance of images, or of residuals (HR minus upsampled LR).",
        choices=tuple(WAVELET_SCALES),
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        measured = (len(WAVELET_SCALES[self.statistics]) - 1) // 3
        if self.name == "wavelet" and self.levels != measured:
            raise ValueError(
                f"levels is {self.levels}: it must be {measured}, for which the statistics {self.statistics!r} were "
                "measured"
            )


@dataclass(frozen=True)
class KlSpaceSettings(SpaceSettings):
    """The section `recipe.space` of methods on Stable Diffusion, whose autoencoder is the default."""

    name: str = inherited_knob(SpaceSettings, "name", "kl")


def _wavelet(settings: SpaceSettings, dtype: Any, purpose: str, reader: WeightReader) -> LatentSpace:
    scale = WAVELET_SCALES[settings.statistics]
    return wavelet_space(wavelets.WaveletCodec(levels=settings.levels, scale=scale))


def _kl(settings: SpaceSettings, dtype: Any, purpose: str, reader: WeightReader) -> LatentSpace:
    changes: dict[str, Any] = {} if settings.shift is None else {"shift": settings.shift}
    if purpose == "description":
        module = KLAutoencoder(dtype=dtype, **changes)
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        return gaussian_space(module, jax.eval_shape(module.init, jax.random.key(0), image)["params"])
    what = "Stable Diffusion's autoencoder (a file, or the folder vae/)"
    network = reader.network(WEIGHT_FILE.knob, settings.checkpoint, AUTOENCODER_MAPS["kl"], what, dtype)
    return gaussian_space(network.module.clone(**changes), network.params, published=network.module)


def _vq_f4(settings: SpaceSettings, dtype: Any, purpose: str, reader: WeightReader) -> LatentSpace:
    if purpose == "description":
        return autoencoder_space(VQAutoencoder(dtype=dtype), None)
    network = reader.network(
        WEIGHT_FILE.knob, settings.checkpoint, AUTOENCODER_MAPS["vq_f4"], "the autoencoder VQ-f4", dtype
    )
    return autoencoder_space(network.module, network.params)


def _taesd(settings: SpaceSettings, dtype: Any, purpose: str, reader: WeightReader) -> LatentSpace:
    arguments = AUTOENCODER_ARGUMENTS[settings.name]
    if purpose == "description":
        module = TinyAutoencoder(**arguments, dtype=dtype)
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        return autoencoder_space(module, jax.eval_shape(module.init, jax.random.key(0), image)["params"])
    what = f"the autoencoder {settings.name.upper()} (its folder, or one file)"
    model = AUTOENCODER_MAPS[settings.name]
    network = reader.network(WEIGHT_FILE.knob, settings.checkpoint, model, what, dtype, **arguments)
    return autoencoder_space(network.module, network.params)


SPACES: dict[str, Callable[[SpaceSettings, Any, str, WeightReader], LatentSpace]] = {
    "wavelet": _wavelet,
    "vq_f4": _vq_f4,
    "kl": _kl,
    "taesd": _taesd,
    "taesd3": _taesd,
}


def build_space(config: Config, purpose: str, reader: WeightReader) -> LatentSpace:
    """The latent space that a configuration describes.

    Raises:
      ValueError, FileNotFoundError, ImportError: an unknown space or knob, or an autoencoder that cannot be read.
    """
    settings = settings_from(SpaceSettings, config["space"], "recipe.space")
    return SPACES[settings.name](settings, DTYPES[config["dtype"]], purpose, reader)


def check_grid(config: Config, space: LatentSpace, downsampling: int) -> None:
    """Check that the LR image lies on the latents' grid, or on one that the denoiser downsamples to it.

    Args:
      config: the `recipe` section.
      space: the latents.
      downsampling: how many times finer than the latents the denoiser's LR image is, per axis.

    Raises:
      ValueError: scale, space and denoiser do not fit together.
    """
    pixels = config["scale"] * downsampling
    if space.image_pixels_per_latent != pixels:
        raise ValueError(
            f"recipe.space.name {config['space']['name']!r} has one latent position per "
            f"{space.image_pixels_per_latent} HR pixels of a side, but recipe.scale {config['scale']} and "
            f"recipe.denoiser.name {config['denoiser']['name']!r} need {pixels}: use another autoencoder or scale, or "
            "resshift_unet with a condition_size that fits"
        )
