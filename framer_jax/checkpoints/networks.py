"""Published networks: a weight map, the module that it fills, and the check that they fit each other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.controlnet import ControlNet
from framer_jax.models.denoiser import IMAGE, LR_LATENT, POOLED_TEXT, TEXT
from framer_jax.models.dinov2 import DINOv2
from framer_jax.models.dit4sr_transformer import DiT4SRTransformer
from framer_jax.models.hf_extractor import HFExtractor
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.layers import Dtype
from framer_jax.models.mmdit import MMDiT
from framer_jax.models.pair_discriminator import StoredPairDiscriminator
from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.rrdbnet import RRDBNet
from framer_jax.models.sd_unet import SDUNet
from framer_jax.models.srvgg import SRVGG
from framer_jax.models.supresdiffgan_unet import SupResDiffGanUNet
from framer_jax.models.swinir import SwinIR
from framer_jax.models.tiny_autoencoder import TinyAutoencoder
from framer_jax.models.unet_discriminator import StoredDiscriminator
from framer_jax.models.vgg import Dists, Lpips, Vgg19
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.porting.maps import torch_shapes
from framer_jax.porting.stated import Statement
from framer_jax.porting.table import Ported, map_named, read_ported, read_torch
from framer_jax.porting.weights import is_ours
from framer_jax.recipes.base import Frozen
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.spaces import AUTOENCODER_ARGUMENTS, AUTOENCODER_MAPS
from framer_jax.recipes.method import Config, Pretrained
from framer_jax.trees import check_same_descriptions, check_same_structure, flatten_names

LOGGER = logging.getLogger(__name__)


class NetworkKind(NamedTuple):
    """How the network of a weight map is built and called.

    Attributes:
      module: takes the map's arguments and `dtype`.
      inputs: (module) → inputs of its `__call__`, of which only shapes matter.
    """

    module: Callable[..., nn.Module]
    inputs: Callable[[Any], tuple[Any, ...]]


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _unet_inputs(module: SwinUNet) -> tuple[Any, ...]:
    side = module.size_multiple
    lr_side = side * module.downsampling
    image = _floats(1, lr_side, lr_side, module.condition_channels)
    return _floats(1, side, side, module.out_channels), _floats(1), {IMAGE: image}


def _lr_inputs(module: RRDBNet | SRVGG) -> tuple[Any, ...]:
    return (_floats(1, 8, 8, module.image_channels),)


def _swinir_inputs(module: SwinIR) -> tuple[Any, ...]:
    if module.absolute_positions:
        return (_floats(1, module.image_size, module.image_size, module.image_channels),)
    # Three windows by two: all kinds of windows that a mask distinguishes, whatever the nominal side.
    return (_floats(1, 3 * module.window, 2 * module.window, module.image_channels),)


def _transformer_inputs(module: MMDiT | DiT4SRTransformer) -> tuple[Any, ...]:
    controlled = isinstance(module, DiT4SRTransformer)
    columns = 2 if controlled else 3  # the released code of DiT4SR takes squares only
    latent = _floats(1, 2 * module.patch, columns * module.patch, module.channels)
    condition = {TEXT: _floats(1, 8, module.context_width), POOLED_TEXT: _floats(1, module.pooled_width)}
    return latent, _floats(1), {**condition, **({LR_LATENT: latent} if controlled else {})}


def _sd_unet_inputs(module: SDUNet) -> tuple[Any, ...]:
    height, width = module.size_multiple, 2 * module.size_multiple
    text = _floats(1, 8, module.context_width)
    return _floats(1, height, width, module.out_channels), _floats(1), {TEXT: text}


def _controlnet_inputs(module: ControlNet) -> tuple[Any, ...]:
    height, width, finer = module.size_multiple, 2 * module.size_multiple, module.downsampling
    image = _floats(1, finer * height, finer * width, module.image_channels)
    text = _floats(1, 8, module.context_width)
    return _floats(1, height, width, module.in_channels), _floats(1), {TEXT: text, IMAGE: image}


def _extractor_inputs(module: HFExtractor) -> tuple[Any, ...]:
    return (_floats(1, 8, 8, module.image_channels or module.channels),)


def _residual_unet_inputs(module: SupResDiffGanUNet) -> tuple[Any, ...]:
    latent = _floats(1, module.size_multiple, module.size_multiple, module.out_channels)
    return latent, _floats(1), {LR_LATENT: latent}


def _pair_inputs(module: StoredPairDiscriminator) -> tuple[Any, ...]:
    image = _floats(1, 16, 16, module.image_channels)
    return image, image


def _image_inputs(module: Any) -> tuple[Any, ...]:
    return (_floats(1, 64, 64, 3),)


def _patch_inputs(module: DINOv2) -> tuple[Any, ...]:
    return (_floats(1, 2 * module.patch, 3 * module.patch, 3),)


KINDS: Mapping[str, NetworkKind] = {
    "resshift_unet": NetworkKind(SwinUNet, _unet_inputs),
    "vq_f4": NetworkKind(VQAutoencoder, _image_inputs),
    "mmdit": NetworkKind(MMDiT, _transformer_inputs),
    "dit4sr_transformer": NetworkKind(DiT4SRTransformer, _transformer_inputs),
    "sd_unet": NetworkKind(SDUNet, _sd_unet_inputs),
    "controlnet": NetworkKind(ControlNet, _controlnet_inputs),
    "kl_autoencoder": NetworkKind(KLAutoencoder, _image_inputs),
    "taesd": NetworkKind(TinyAutoencoder, _image_inputs),
    "swinir": NetworkKind(SwinIR, _swinir_inputs),
    "rrdbnet": NetworkKind(RRDBNet, _lr_inputs),
    "srvgg": NetworkKind(SRVGG, _lr_inputs),
    "lpips_vgg": NetworkKind(Lpips, _image_inputs),
    "lpips_alex": NetworkKind(Lpips, _image_inputs),
    "dists": NetworkKind(Dists, _image_inputs),
    "vgg19": NetworkKind(Vgg19, _image_inputs),
    "hf_extractor": NetworkKind(HFExtractor, _extractor_inputs),
    "unet_discriminator_sn": NetworkKind(StoredDiscriminator, _image_inputs),
    "supresdiffgan_unet": NetworkKind(SupResDiffGanUNet, _residual_unet_inputs),
    "pair_discriminator": NetworkKind(StoredPairDiscriminator, _pair_inputs),
    "dinov2": NetworkKind(DINOv2, _patch_inputs),
}
"""Weight map → the network that it fills."""


def build_network(name: str, arguments: Mapping[str, Any], dtype: Dtype = jnp.float32) -> nn.Module:
    """The module of a published network.

    Raises:
      ValueError: there is no network of that name, or its arguments contradict each other.
    """
    return KINDS[map_named(name).name].module(**arguments, dtype=dtype)


def network_shapes(name: str, module: nn.Module) -> dict[str, Any]:
    """Names and shapes of a network's parameters, without computing anything."""
    return jax.eval_shape(module.init, jax.random.key(0), *KINDS[name].inputs(module))["params"]


def log_notes(path: str | os.PathLike[str], *notes: str) -> None:
    """Log what was assumed, chosen or left out when weights were read; empty notes are none."""
    for note in notes:
        if note:
            LOGGER.warning("%s: %s", path, note)


def read_network(
    name: str, *paths: str | os.PathLike[str], variant: str = "", statements: Sequence[Statement] = ()
) -> Ported:
    """Read a published network, from a file that `framer-jax port` wrote or from PyTorch's own, and check it.

    Args:
      name: the weight map.
      paths: the file, or several PyTorch files that hold a part each.
      variant: variant of the weights in a folder of Diffusers, such as 'fp16'; see
        framer_jax.porting.diffusers_folder.find_model.
      statements: values of arguments that its tensors do not determine; see framer_jax.porting.stated.

    Raises:
      ValueError, FileNotFoundError, ImportError: a file cannot be read, is of another network, or is incomplete.
    """
    name = map_named(name).name
    ours = len(paths) == 1 and is_ours(paths[0])
    if ours:
        ported = read_ported(name, paths[0], statements)
    else:
        ported = read_torch(name, *paths, variant=variant, statements=statements)
    source = " and ".join(Path(path).name for path in paths)
    try:
        expected = network_shapes(name, build_network(name, ported.arguments))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{source}: its tensors do not make one {name} ({text[:200]}): download it again") from error
    if ours:
        check_same_structure(ported.params, expected, source)
        return ported
    own, needed = (torch_shapes(map_named(name), flatten_names(tree)[0]) for tree in (ported.params, expected))
    remedy = "take the complete file of one network, or name another model"
    check_same_descriptions(own, needed, source, remedy)
    return ported


def load_network(name: str, *paths: str | os.PathLike[str], dtype: Dtype = jnp.float32, **demands: Any) -> Pretrained:
    """A published network, ready to be applied.

    Args:
      name: the weight map ('resshift_unet', 'vq_f4', 'lpips_vgg', …).
      paths: as of `read_network`.
      dtype: compute dtype.
      demands: constructor arguments that the parameters do not determine, such as `variant` of the Swin U-Net; others
        are requirements, such as `scale` of SwinIR.

    Raises:
      ValueError, FileNotFoundError, ImportError: as `read_network` and `build_network`; or the file does not meet a
        requirement.
    """
    ported = read_network(name, *paths, statements=[Statement("the recipe", demands)])
    if not is_ours(paths[0]):
        log_notes(" and ".join(map(str, paths)), *ported.source["notes"])
    arguments = ported.arguments | demands
    module = build_network(name, arguments, dtype)
    if demands:
        source = " and ".join(Path(path).name for path in paths)
        if description := map_named(name).describe(ported.arguments):
            source = f"{source}, a checkpoint of {description},"
        check_same_structure(ported.params, network_shapes(map_named(name).name, module), source)
    return Pretrained(module, ported.params, ported.source, arguments)


def autoencoder_shapes(config: Config) -> Frozen:
    """Names and shapes of the autoencoder that a recipe's `sample` uses, without reading any; {} if it uses none."""
    space = config.get("space", {}).get("name")
    if space not in AUTOENCODER_MAPS:
        return {}
    name = AUTOENCODER_MAPS[space]
    return {AUTOENCODER: network_shapes(name, build_network(name, AUTOENCODER_ARGUMENTS.get(space, {})))}
