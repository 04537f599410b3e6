"""The networks that methods train: name → flax module, whose knobs are the network's section of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from framer_jax.knobs import Knob, as_tuple, check_values, knobs_of, nearest
from framer_jax.models.controlled_unet import ControlledUNet
from framer_jax.models.denoiser import Denoiser, OnePassNetwork
from framer_jax.models.dit import DiffusionTransformer
from framer_jax.models.dit4sr_transformer import DiT4SRTransformer
from framer_jax.models.mmdit import MMDiT
from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.rrdbnet import RRDBNet
from framer_jax.models.sd_unet import SDUNet
from framer_jax.models.srvgg import SRVGG
from framer_jax.models.supresdiffgan_unet import SupResDiffGanUNet
from framer_jax.models.swinir import SwinIR
from framer_jax.models.unet import UNet
from framer_jax.recipes.components.latent_space import LatentSpace
from framer_jax.recipes.method import Config


class Network(NamedTuple):
    """One network.

    Attributes:
      module: its flax module.
      channels: the argument that takes the number of latent channels, '' for networks on images.
      global_attention: every position sees every other, so it works best on inputs as large as its training crops.
      tiny: knobs with which a test trains it for a step.
    """

    module: type[nn.Module]
    channels: str = "out_channels"
    global_attention: bool = False
    tiny: Mapping[str, Any] = MappingProxyType({})


_TINY_TRANSFORMER = {
    "depth": 2,
    "heads": 2,
    "head_width": 8,
    "dual_blocks": 1,
    "qk_norm": True,
    "position_grid": 32,
    "attention": "manual",  # the gradient of JAX's attention mixes dtypes, which strict promotion refuses
}

_TINY_SD_UNET = {"channels": (8, 16), "blocks": 1, "attention_levels": (0,), "heads": (2, 4), "groups": 4}

NETWORKS: Mapping[str, Network] = {
    "unet": Network(UNet, tiny={"channels": (8, 8), "blocks": 1, "condition_blocks": 0, "time_width": 8}),
    "dit": Network(DiffusionTransformer, global_attention=True, tiny={"width": 8, "depth": 2, "heads": 1}),
    "resshift_unet": Network(
        SwinUNet,
        tiny={
            "channels": 32,
            "multipliers": (1,),
            "blocks": (1,),
            "swin_blocks": 1,
            "swin_channels": 32,
            "head_channels": 16,
            "image_size": 8,
            "condition_size": 8,
        },
    ),
    "dit4sr_transformer": Network(
        DiT4SRTransformer,
        "channels",
        global_attention=True,
        tiny=_TINY_TRANSFORMER,
    ),
    "mmdit": Network(MMDiT, "channels", global_attention=True, tiny=_TINY_TRANSFORMER),
    "sd_unet": Network(SDUNet, tiny=_TINY_SD_UNET),
    "controlled_sd_unet": Network(ControlledUNet, tiny=_TINY_SD_UNET),
    "supresdiffgan_unet": Network(
        SupResDiffGanUNet, tiny={"channels": (8, 16), "blocks": 1, "head_width": 8, "groups": 4}
    ),
    "swinir": Network(SwinIR, "", tiny={"channels": 8, "depths": (1, 1), "heads": 2}),
    "rrdbnet": Network(RRDBNet, "", tiny={"channels": 8, "blocks": 1, "growth": 4}),
    "srvgg": Network(SRVGG, "", tiny={"channels": 8, "depth": 1}),
}


ONE_PASS_NETWORKS = ("swinir", "rrdbnet", "srvgg")
"""The networks that map an LR image to an HR image in one pass."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Compute dtypes by their names in configurations."""


def network_section(config: Config) -> tuple[str, str]:
    """(the section that describes a recipe's network, which is its group's name too; the network's name)."""
    section = "student" if "student" in config else "denoiser"
    return section, str(config.get(section, {}).get("name"))


def network_knobs(name: str) -> tuple[Knob, ...]:
    """The knobs of a network."""
    return knobs_of(NETWORKS[name].module)


def execution_knobs(name: str) -> frozenset[str]:
    """The knobs that decide how the same numbers are computed; weights do not depend on them."""
    return frozenset(knob.name for knob in network_knobs(name) if knob.execution)


def build_denoiser(config: Config, space: LatentSpace, **arguments: Any) -> Denoiser:
    """The denoiser that a configuration describes.

    Args:
      config: the `recipe` section.
      space: the latents that it denoises.
      arguments: further constructor arguments, such as the widths of the text.

    Raises:
      ValueError: an unknown network or knob, or a value that the network refuses; the message names the knob.
    """
    name = config["denoiser"]["name"]
    arguments = {NETWORKS[name].channels: space.channels, **arguments} if name in NETWORKS else arguments
    return _build(config, "denoiser", **arguments)


def build_student(config: Config) -> OnePassNetwork:
    """The one-pass network that a configuration describes; errors as of `build_denoiser`."""
    return _build(config, "student", scale=config["scale"])


def configured_network(config: Config) -> Denoiser | OnePassNetwork:
    """The network of a `recipe` section, on latents of any number of channels: what its knobs decide by themselves.

    Raises:
      ValueError: an unknown network or knob, or values that do not fit together; the message names the knob.
    """
    section, name = network_section(config)
    if NETWORKS[name].channels if name in NETWORKS else "":
        network: Denoiser = _build(config, section, **{NETWORKS[name].channels: 4})
        return network
    return build_student(config)


def _build(config: Config, section: str, **arguments: Any) -> Any:
    name = config[section]["name"]
    if name not in NETWORKS:
        raise ValueError(f"unknown network recipe.{section}.name {name!r}{nearest(name, NETWORKS)}")
    values = {key: as_tuple(value) for key, value in config[section][name].items()}
    module: Any = NETWORKS[name].module
    check_values(network_knobs(name), values, f"recipe.{section}.{name}")
    try:
        return module(**values, **arguments, dtype=DTYPES[config["dtype"]])
    except ValueError as error:
        raise ValueError(f"recipe.{section}.{name}: {error}") from error
