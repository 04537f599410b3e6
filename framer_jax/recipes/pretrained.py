"""Published models by name: a weight map, the module it fills, and the check that they fit each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.dit4sr_transformer import DiT4SR
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.layers import Dtype
from framer_jax.models.mmdit import MMDiT
from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.swinir import SwinIR
from framer_jax.models.vgg import Lpips
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.porting.table import Ported, map_named, read_ported, read_torch
from framer_jax.porting.weights import is_ours
from framer_jax.trees import check_same_structure


class Kind(NamedTuple):
    """How a model is built.

    Attributes:
      module: takes the map's arguments and `dtype`.
      inputs: (module) → inputs of its `__call__`, of which only shapes matter.
    """

    module: Callable[..., nn.Module]
    inputs: Callable[[Any], tuple[jax.ShapeDtypeStruct, ...]]


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _unet_inputs(module: SwinUNet) -> tuple[jax.ShapeDtypeStruct, ...]:
    side = module.multiple
    wide = side << module.halvings
    return _floats(1, side, side, module.out_channels), _floats(1), _floats(1, wide, wide, 3)


def _swinir_inputs(module: SwinIR) -> tuple[jax.ShapeDtypeStruct, ...]:
    # Three windows by two: all kinds of windows that a mask tells apart, whatever the nominal side.
    return (_floats(1, 3 * module.window, 2 * module.window, module.colours),)


def _transformer_inputs(module: MMDiT | DiT4SR) -> tuple[jax.ShapeDtypeStruct, ...]:
    columns = 2 if isinstance(module, DiT4SR) else 3  # the released code of DiT4SR takes squares alone
    latent = _floats(1, 2 * module.patch, columns * module.patch, module.channels)
    text = _floats(1, 8, module.context_width), _floats(1, module.pooled_width)
    return (latent, _floats(1), *text, *([latent] if isinstance(module, DiT4SR) else []))


KINDS: Mapping[str, Kind] = {
    "resshift_unet": Kind(SwinUNet, _unet_inputs),
    "vq_f4": Kind(VQAutoencoder, lambda module: (_floats(1, 64, 64, 3),)),
    "mmdit": Kind(MMDiT, _transformer_inputs),
    "dit4sr": Kind(DiT4SR, _transformer_inputs),
    "kl_autoencoder": Kind(KLAutoencoder, lambda module: (_floats(1, 64, 64, 3),)),
    "swinir": Kind(SwinIR, _swinir_inputs),
    "lpips_vgg": Kind(Lpips, lambda module: (_floats(1, 64, 64, 3),)),
    "lpips_alex": Kind(Lpips, lambda module: (_floats(1, 64, 64, 3),)),
}
"""Name of a weight map → what it fills."""


class Pretrained(NamedTuple):
    """A published model.

    Attributes:
      module: call it with {'params': params}.
      params: nested dict of float32 NumPy arrays.
      source: of the files, see framer_jax.porting.table.Ported.
    """

    module: Any
    params: dict[str, Any]
    source: dict[str, Any]


def build(name: str, arguments: Mapping[str, Any], dtype: Dtype = jnp.float32) -> nn.Module:
    """The module of a published model.

    Raises:
      ValueError: there is no model of that name, or its arguments contradict each other.
    """
    return KINDS[map_named(name).name].module(**arguments, dtype=dtype)


def expected_params(name: str, module: nn.Module) -> dict[str, Any]:
    """Names and shapes of its parameters, without computing anything."""
    return jax.eval_shape(module.init, jax.random.key(0), *KINDS[name].inputs(module))["params"]


def read(name: str, *paths: str | os.PathLike[str]) -> Ported:
    """Read a published model, from a file that `framer-jax port` wrote or from PyTorch's own, and check it.

    Args:
      name: of the weight map.
      paths: the file, or several files of PyTorch that hold a part each.

    Raises:
      ValueError, FileNotFoundError, ImportError: a file cannot be read, is of another model, or is incomplete.
    """
    ours = len(paths) == 1 and is_ours(paths[0])
    found = read_ported(name, paths[0]) if ours else read_torch(name, *paths)
    source = " and ".join(Path(path).name for path in paths)
    try:
        expected = expected_params(name, build(name, found.arguments))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{source}: its tensors do not make one {name} ({text[:200]}): fetch it again") from error
    check_same_structure(found.params, expected, source)
    return found


def load_pretrained(
    name: str, *paths: str | os.PathLike[str], dtype: Dtype = jnp.float32, **changes: Any
) -> Pretrained:
    """A published model, ready to be applied.

    Args:
      name: of the weight map ('resshift_unet', 'vq_f4', 'lpips_vgg', …).
      paths: as `read`.
      dtype: compute dtype.
      changes: arguments of the module that the parameters do not decide, such as `mask` of the Swin U-Net; others are
        demands, such as `scale` of SwinIR.

    Raises:
      ValueError, FileNotFoundError, ImportError: as `read` and `build`; or the file does not meet a demand.
    """
    found = read(name, *paths)
    module = build(name, found.arguments | changes, dtype)
    if changes:
        source = " and ".join(Path(path).name for path in paths)
        if variant := map_named(name).describe(found.arguments):
            source = f"{source}, a checkpoint of {variant},"
        check_same_structure(found.params, expected_params(name, module), source)
    return Pretrained(module, found.params, found.source)
