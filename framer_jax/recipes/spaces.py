"""The spaces that a recipe's diffusion may live in: name → builder, from a configuration's `recipe.space`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from framer_jax.frequency import wavelets
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.recipes import pretrained
from framer_jax.recipes.latent_space import LatentSpace, autoencoder_space, gaussian_space, wavelet_space
from framer_jax.recipes.weights_by_path import pretrained_at

Config = Mapping[str, Any]

WAVELET_SCALES = {"image": wavelets.IMAGE_SCALE, "residual": wavelets.RESIDUAL_SCALE}


def pick(table: Mapping[str, Any], name: str, what: str) -> Any:
    """The entry of a table, or a ValueError that lists the names in it."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(sorted(table))}")
    return table[name]


def _wavelet(config: Config, dtype: Any, purpose: str) -> LatentSpace:
    scale = pick(WAVELET_SCALES, config["statistics"], "wavelet statistics")
    return wavelet_space(wavelets.WaveletCodec(levels=config["levels"], scale=scale))


def _kl(config: Config, dtype: Any, purpose: str) -> LatentSpace:
    changes = {} if config["shift"] is None else {"shift": config["shift"]}
    if purpose == "description":
        module = KLAutoencoder(dtype=dtype, **changes)
        return gaussian_space(module, pretrained.expected_params("kl_autoencoder", module))
    what = "Stable Diffusion's autoencoder (a file, or the folder vae/)"
    found = pretrained_at(config["weights"], "recipe.space.weights", what, "kl_autoencoder", dtype)
    return gaussian_space(found.module.clone(**changes), found.params)


def _vq_f4(config: Config, dtype: Any, purpose: str) -> LatentSpace:
    if purpose == "description":
        return autoencoder_space(VQAutoencoder(dtype=dtype), None)
    found = pretrained_at(config["weights"], "recipe.space.weights", "the autoencoder VQ-f4", "vq_f4", dtype)
    return autoencoder_space(found.module, found.params)


SPACES: dict[str, Callable[[Config, Any, str], LatentSpace]] = {
    "wavelet": _wavelet,
    "vq_f4": _vq_f4,
    "kl": _kl,
}
