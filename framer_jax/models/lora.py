"""Low-rank additions to kernels, as pure transforms of parameter trees: no module knows of them.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), Section 4.1: W + (alpha / rank) · B A. Of a
convolution, as in PEFT, A is one of the same size to `rank` channels and B a 1x1 convolution after it; their product is
a kernel again. Several named sets may be added at once, each with a factor of its own, as PiSA-SR does.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

Params = Mapping[str, Any]
"""Nested mappings of arrays."""

Scale = float | jax.Array


@flax.struct.dataclass
class Lora:
    """One set; a pytree whose leaves are the factors alone, so an optimiser or a gradient sees nothing else.

    Attributes:
      factors: {module: … {'down': [in, rank], 'up': [rank, out]}} float32, nested as the modules whose kernels they
        change; of a convolution 'down' is [height, width, in, rank] and 'up' [1, 1, rank, out].
      alphas: (path of a module, alpha) of each, static.
    """

    factors: Params
    alphas: tuple[tuple[str, float], ...] = flax.struct.field(pytree_node=False)


def make_lora(factors: Params, alpha: float | Mapping[str, float]) -> Lora:
    """A set from its factors, such as a trained group of a recipe.

    Args:
      factors: see Lora.
      alpha: of all modules, or of each by its path.

    Raises:
      ValueError: a module lacks a factor or its alpha.
    """
    paths = list(_layers(factors))
    known = alpha if isinstance(alpha, Mapping) else dict.fromkeys(paths, alpha)
    if missing := [path for path in paths if path not in known]:
        raise ValueError(f"the LoRA layer {missing[0]!r} has no alpha: give one for all, or one for each")
    return Lora(factors, tuple((path, float(known[path])) for path in sorted(paths)))


def init_lora(key: jax.Array, params: Params, patterns: str | Sequence[str], rank: int, alpha: float) -> Lora:
    """A set that changes nothing yet: 'down' normal of standard deviation 1 / rank, 'up' zero, as in PiSA-SR.

    Args:
      key: one PRNG key; each module draws from its own part of it, whatever other modules there are.
      params: of which only names and shapes matter.
      patterns: regexes; every module with a kernel in whose path ('unet/down_0/query') one of them is found.
      rank: of every module.
      alpha: the addition is scaled by alpha / rank.

    Raises:
      ValueError: a pattern finds no kernel, a kernel that is neither a matrix nor that of a 2-D convolution, or the
        rank is less than 1.
    """
    if rank < 1:
        raise ValueError(f"a LoRA needs a rank of at least 1, not {rank}")
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    kernels = _kernels(params)
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in kernels):
            raise ValueError(
                f"the LoRA pattern {pattern!r} finds no kernel among {len(kernels)}: see the module's names"
            )
    factors = {}
    for path, kernel in kernels.items():
        if not any(re.search(pattern, path) for pattern in patterns):
            continue
        if len(kernel.shape) not in (2, 4):
            raise ValueError(
                f"the kernel of {path!r} has shape {kernel.shape}: LoRA takes matrices and 2-D convolutions"
            )
        part = jax.random.fold_in(key, zlib.crc32(path.encode()))
        *window, width, out = kernel.shape
        down = jax.random.normal(part, (*window, width, rank), jnp.float32) / rank
        factors[path] = {"down": down, "up": jnp.zeros((*(1 for _ in window), rank, out), jnp.float32)}
    return make_lora(unflatten_dict(factors, sep="/"), alpha)


def apply_lora(params: Params, loras: Mapping[str, Lora], scales: Mapping[str, Scale] | None = None) -> dict[str, Any]:
    """The effective parameters; a gradient through them reaches the factors (and the scales), not `params`.

    Args:
      params: nested mappings of arrays, of any float type, which the result keeps.
      loras: name → set.
      scales: name → further factor, may be traced; 1 each if None.

    Raises:
      ValueError: a set is for another model, or sets and scales have other names.
    """
    return merge(jax.lax.stop_gradient(params), loras, scales)


def merge(params: Params, loras: Mapping[str, Lora], scales: Mapping[str, Scale] | None = None) -> dict[str, Any]:
    """As `apply_lora`, with a gradient to `params` too: weights that need their sets no more.

    Raises:
      ValueError: as `apply_lora`.
    """
    return _moved(params, loras, scales, 1.0)


def unmerge(params: Params, loras: Mapping[str, Lora], scales: Mapping[str, Scale] | None = None) -> dict[str, Any]:
    """The inverse of `merge` with the same sets and scales, up to rounding.

    Raises:
      ValueError: as `apply_lora`.
    """
    return _moved(params, loras, scales, -1.0)


def low_rank_kernel(down: jax.Array, up: jax.Array) -> jax.Array:
    """B A as a kernel, in float32 with exact products whatever the backend's default: it is added to weights.

    Args:
      down: [in, rank] or [h, w, in, rank].
      up: [rank, out] or [1, 1, rank, out].

    Returns:
      [in, out] or [h, w, in, out].
    """
    matrix = up.reshape(up.shape[-2:])
    return jnp.tensordot(down, matrix, axes=1, precision="highest")


def _moved(
    params: Params, loras: Mapping[str, Lora], scales: Mapping[str, Scale] | None, sign: float
) -> dict[str, Any]:
    scales = dict.fromkeys(loras, 1.0) if scales is None else scales
    if scales.keys() != loras.keys():
        raise ValueError(f"LoRA sets {sorted(loras)} and scales {sorted(scales)} differ: give one scale to each set")
    leaves = flatten_dict(params, keep_empty_nodes=True, sep="/")
    additions: dict[str, jax.Array] = {}
    for name, lora in loras.items():
        alphas = dict(lora.alphas)
        for path, (down, up) in _layers(lora.factors).items():
            kernel = leaves.get(f"{path}/kernel")
            addition = low_rank_kernel(down, up)
            if kernel is None or kernel.shape != addition.shape:
                found = "no kernel" if kernel is None else f"one of shape {kernel.shape}"
                raise ValueError(f"LoRA {name!r} wants a kernel {addition.shape} at {path!r}, but there is {found}")
            addition = addition * (scales[name] * (sign * alphas[path] / down.shape[-1]))
            additions[path] = additions[path] + addition if path in additions else addition
    for path, addition in additions.items():
        kernel = jnp.asarray(leaves[f"{path}/kernel"])
        leaves[f"{path}/kernel"] = (kernel.astype(jnp.float32) + addition).astype(kernel.dtype)
    return unflatten_dict(leaves, sep="/")


def _kernels(params: Params) -> dict[str, Any]:
    """Path of a module → its kernel."""
    leaves = flatten_dict(params, sep="/")
    return {path.removesuffix("/kernel"): leaf for path, leaf in leaves.items() if path.endswith("/kernel")}


def _layers(factors: Params) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Path of a module → (down, up)."""
    leaves = flatten_dict(factors, sep="/")
    paths = sorted({path.rpartition("/")[0] for path in leaves})
    for path in paths:
        wrong = [name for name in leaves if name.rpartition("/")[0] == path and name.rpartition("/")[2] not in _FACTORS]
        if wrong or any(f"{path}/{factor}" not in leaves for factor in _FACTORS):
            raise ValueError(f"the LoRA layer {path!r} needs the factors 'down' and 'up' and nothing else")
        ranks = leaves[f"{path}/down"].shape[-1], math.prod(leaves[f"{path}/up"].shape[:-1])
        if ranks[0] != ranks[1]:
            raise ValueError(f"the LoRA layer {path!r} has a factor of rank {ranks[0]} and one of rank {ranks[1]}")
    return {path: (leaves[f"{path}/down"], leaves[f"{path}/up"]) for path in paths}


_FACTORS = ("down", "up")
