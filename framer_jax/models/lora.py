"""Low-rank additions to kernels, as pure transforms of parameter trees: no module knows of them.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), Section 4.1: W + (alpha / rank) · B A. Of a
convolution, as in PEFT, A is one of the same size to `rank` channels and B a 1x1 convolution after it; their product is
a kernel again. Several named sets may be added at once, each with a factor of its own, as PiSA-SR does.

Kernels of blocks that a scan stacks have one axis more in front, and so have their factors: each block has its own.
"""

from __future__ import annotations

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
        change; of a convolution 'down' is [height, width, in, rank] and 'up' [1, 1, rank, out]; of a stack of n both
        have n in front.
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
      ValueError: a pattern finds no kernel, a kernel that is neither a matrix nor that of a 2-D convolution nor a stack
        of them, or the rank is less than 1.
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
        if len(kernel.shape) not in (2, 3, 4, 5):
            raise ValueError(
                f"the kernel of {path!r} has shape {kernel.shape}: LoRA takes matrices, 2-D convolutions, and stacks"
            )
        part = jax.random.fold_in(key, zlib.crc32(path.encode()))
        down, up = factor_shapes(kernel.shape, rank)
        factors[path] = {"down": jax.random.normal(part, down, jnp.float32) / rank, "up": jnp.zeros(up, jnp.float32)}
    return make_lora(unflatten_dict(factors, sep="/"), alpha)


def factor_shapes(kernel: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of 'down' and 'up' of a kernel [in, out] or [h, w, in, out], or of a stack of n, which has n in front."""
    stack, (*window, width, out) = kernel[: _stack_axes(kernel)], kernel[_stack_axes(kernel) :]
    return (*stack, *window, width, rank), (*stack, *(1 for _ in window), rank, out)


def _stack_axes(shape: tuple[int, ...]) -> int:
    """Matrices and kernels of 2-D convolutions have an even number of axes; one more is that of a stack."""
    return len(shape) % 2


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
      down: [in, rank] or [h, w, in, rank], or a stack of n: [n, in, rank] or [n, h, w, in, rank].
      up: [rank, out] or [1, 1, rank, out]; of a stack [n, rank, out] or [n, 1, 1, rank, out].

    Returns:
      [in, out] or [h, w, in, out], or a stack of them.
    """
    if _stack_axes(down.shape):
        return jax.vmap(low_rank_kernel)(down, up)
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
        down, up = (leaves[f"{path}/{factor}"].shape for factor in _FACTORS)
        if len(down) < 2 or (down, up) != factor_shapes((*down[:-1], up[-1]), down[-1]):
            raise ValueError(f"the LoRA layer {path!r} has factors of shapes {down} and {up}, which make no kernel")
    return {path: (leaves[f"{path}/down"], leaves[f"{path}/up"]) for path in paths}


_FACTORS = ("down", "up")
