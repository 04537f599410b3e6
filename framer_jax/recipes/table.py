"""The methods: adding one is one line here and one package."""

from __future__ import annotations

from framer_jax.knobs import check_values, knobs_of, nearest
from framer_jax.recipes import (
    augkd,
    dit4sr,
    dtkd,
    hf_diff,
    multistep_sd,
    osediff,
    pisa_sr,
    realesrgan,
    rectified_flow,
    resshift,
    sinsr,
    supervised_l1,
    supresdiffgan,
    tsd_sr,
)
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.method import PHOTOS, PURPOSES, CommonSettings, Config, Method, UpscaleProtocol, WeightReader

METHODS: tuple[Method, ...] = (
    resshift.METHOD,
    sinsr.METHOD,
    hf_diff.METHOD,
    rectified_flow.METHOD,
    dit4sr.METHOD,
    tsd_sr.METHOD,
    multistep_sd.METHOD,
    pisa_sr.METHOD,
    supresdiffgan.METHOD,
    osediff.METHOD,
    supervised_l1.METHOD,
    dtkd.METHOD,
    augkd.METHOD,
    realesrgan.METHOD,
)

DEFAULT_METHOD = resshift.METHOD
"""The method of configurations that name none."""


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
      ValueError: there is none; the message names the nearest.
    """
    for method in METHODS:
        if method.name == name:
            return method
        if name in method.former_names:
            raise ValueError(f"recipe.name {name!r} is now {method.name!r}: use the new name")
    raise ValueError(f"unknown method recipe.name {name!r}{nearest(name, [method.name for method in METHODS])}")


def method_of(config: Config) -> Method:
    """The method of a configuration's `recipe` section; errors as of `method_named`."""
    return method_named(str(config.get("name")))


def build_recipe(config: Config, reader: WeightReader, purpose: str = "training", data: str = PHOTOS) -> Recipe:
    """Build the recipe that a configuration's `recipe` section describes.

    Args:
      config: the section.
      reader: how weights are read that the configuration names.
      purpose: one of `PURPOSES`.
      data: the kind of training data, see framer_jax.recipes.method.

    Raises:
      ValueError: an unknown name or knob (the message names the nearest known one); or the path of weights that the
        purpose needs is empty, or they belong to another recipe (the message names the knob).
      FileNotFoundError, ImportError: those weights cannot be read.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"unknown purpose {purpose!r}: choose one of {', '.join(PURPOSES)}")
    method = method_of(config)
    common = knobs_of(CommonSettings)
    check_values(common, {knob.name: config[knob.name] for knob in common}, "recipe")
    _check_network(method, config)
    return method.build(config, purpose, data, reader)


def upscale_protocols() -> dict[str, UpscaleProtocol]:
    """The upscaling protocols of all methods' released codes, by name."""
    return {name: protocol for method in METHODS for name, protocol in method.protocols.items()}


def _check_network(method: Method, config: Config) -> None:
    section, names = method.networks
    if section not in config:
        raise ValueError(
            f"recipe.name {method.name} needs the section recipe.{section}: start from "
            f"framer_jax.config.default({method.name!r})"
        )
    name = config[section]["name"]
    if name not in names:
        raise ValueError(f"recipe.name {method.name} takes recipe.{section}.name {' or '.join(names)}, not {name}")
