"""From a plain configuration to a recipe, by explicit tables: a new method is one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from framer_jax.frequency import wavelets
from framer_jax.losses.framer import paper, released
from framer_jax.models.dit import DiffusionTransformer
from framer_jax.models.unet import UNet
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.flow import FlowSettings, flow
from framer_jax.recipes.framer import framer
from framer_jax.recipes.latent_space import LatentSpace, wavelet_space
from framer_jax.recipes.resshift import ResShiftSettings, resshift

Config = Mapping[str, Any]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

WAVELET_SCALES = {"image": wavelets.IMAGE_SCALE, "residual": wavelets.RESIDUAL_SCALE}


def _pick(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(sorted(table))}")
    return table[name]


def _tuples(config: Config) -> dict[str, Any]:
    """The keyword arguments of a settings class: lists (from JSON) become tuples."""
    return {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in config.items()}


def _wavelet(config: Config) -> LatentSpace:
    scale = _pick(WAVELET_SCALES, config["statistics"], "wavelet statistics")
    return wavelet_space(wavelets.WaveletCodec(levels=config["levels"], scale=scale))


SPACES: dict[str, Callable[[Config], LatentSpace]] = {"wavelet": _wavelet}

DENOISERS: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "dit": DiffusionTransformer}

GLOBAL_DENOISERS = frozenset({"dit"})
"""Those in which every place sees every other: they work best on inputs as large as their training crops."""


def _resshift(config: Config, denoiser: nn.Module, space: LatentSpace) -> Recipe:
    return resshift(denoiser, space, ResShiftSettings(scale=config["scale"], **config["resshift"]))


def _flow(config: Config, denoiser: nn.Module, space: LatentSpace) -> Recipe:
    return flow(denoiser, space, FlowSettings(scale=config["scale"], **config["flow"]))


RECIPES: dict[str, Callable[[Config, nn.Module, LatentSpace], Recipe]] = {"resshift": _resshift, "flow": _flow}

READINGS = {"paper": paper, "released": released}


def build_recipe(config: Config) -> Recipe:
    """Build the recipe that a configuration's `recipe` entry describes (configs/default.py documents its keys).

    Raises:
      ValueError: an unknown name; the message lists the known ones.
    """
    space = _pick(SPACES, config["space"]["name"], "latent space")(config["space"])
    name = config["denoiser"]["name"]
    denoiser = _pick(DENOISERS, name, "denoiser")(
        out_channels=space.channels,
        dtype=_pick(DTYPES, config["dtype"], "compute dtype"),
        **_tuples(config["denoiser"][name]),
    )
    return _pick(RECIPES, config["name"], "recipe")(config, denoiser, space)


def add_framer(recipe: Recipe, config: Config) -> Recipe:
    """Apply FRAMER as a configuration's `framer` entry says; reading 'none' gives the recipe back.

    Knobs that are None keep the value of the reading.

    Raises:
      ValueError: an unknown reading, or a value that a knob does not take.
    """
    if config["reading"] == "none":
        return recipe
    changes = {key: value for key, value in config.items() if key != "reading" and value is not None}
    return framer(recipe, _pick(READINGS, config["reading"], "reading of FRAMER")(**changes))
