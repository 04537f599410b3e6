"""Low-rank additions to kernels, as pure transforms of parameter trees, or as branches beside layers that know nothing.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), Section 4.1: W + (alpha / rank) · B A. Of a
convolution, as in PEFT, A is one of the same size to `rank` channels and B a 1x1 convolution after it; their product is
a kernel again. Several named sets may be added at once, each with a factor of its own, as PiSA-SR does.

Training computes W x + B (A x), by `with_branches`: an addition that is small beside the weights would be lost where
their sum is rounded to bfloat16, and no copy of the weights is made. `merge` gives weights that need no sets any more.

Kernels of blocks that a scan stacks have one axis more in front, and so have their factors: each block has its own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

Params = Mapping[str, Any]
"""Nested mappings of arrays."""

Scale = float | jax.Array

COLLECTION = "lora"
"""Of a module's variables: the factors beside its parameters."""


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


def with_branches(
    params: Params, loras: Mapping[str, Lora], scales: Mapping[str, Scale] | None = None
) -> dict[str, Any]:
    """Variables for a module applied within `branches()`: its layers compute W x + Σ scale · alpha / rank B A x.

    Args:
      params: of the module, as for `apply_lora`; a gradient reaches them too.
      loras: name → set.
      scales: name → further factor, may be traced; 1 each if None.

    Returns:
      {'params': params, 'lora': the sets side by side along their ranks}.

    Raises:
      ValueError: as `apply_lora`.
    """
    together: dict[str, dict[str, list[jax.Array]]] = {}
    for path, down, up, scale in _scaled(params, loras, scales):
        found = together.setdefault(path, {"down": [], "up": []})
        found["down"].append(down)
        found["up"].append(up * scale)
    joined = {
        path: {"down": jnp.concatenate(parts["down"], axis=-1), "up": jnp.concatenate(parts["up"], axis=-2)}
        for path, parts in together.items()
    }
    return {"params": params, COLLECTION: unflatten_dict(joined, sep="/")}


def branches() -> AbstractContextManager[Any]:
    """While a module is applied to the variables of `with_branches`: every layer adds its branch.

    A branch is computed in the layer's own dtype, from its own input.
    """

    def added(call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        layer, result = context.module, call(*arguments, **keywords)
        if context.method_name != "__call__" or not isinstance(layer, nn.Dense | nn.Conv):
            return result
        if not layer.has_variable(COLLECTION, "down"):
            return result
        factors: list[jax.Array] = [layer.get_variable(COLLECTION, name) for name in _FACTORS]
        down, up = factors
        narrow = layer.clone(features=down.shape[-1], use_bias=False, parent=None, name=None)
        hidden: Any = narrow.apply({"params": {"kernel": down}}, *arguments, **keywords)  # [..., rank]
        matrix: jax.Array = up.reshape(up.shape[-2:]).astype(hidden.dtype)
        return result + jnp.tensordot(hidden, matrix, axes=1).astype(result.dtype)

    return nn.intercept_methods(added)


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
    leaves = flatten_dict(params, keep_empty_nodes=True, sep="/")
    additions: dict[str, jax.Array] = {}
    for path, down, up, scale in _scaled(params, loras, scales):
        addition = low_rank_kernel(down, up) * (sign * scale)
        additions[path] = additions[path] + addition if path in additions else addition
    for path, addition in additions.items():
        kernel = jnp.asarray(leaves[f"{path}/kernel"])
        leaves[f"{path}/kernel"] = (kernel.astype(jnp.float32) + addition).astype(kernel.dtype)
    return unflatten_dict(leaves, sep="/")


def _scaled(
    params: Params, loras: Mapping[str, Lora], scales: Mapping[str, Scale] | None
) -> Iterator[tuple[str, jax.Array, jax.Array, Scale]]:
    """(path, down, up, what their product is multiplied by) of all sets, whose kernels are there."""
    scales = dict.fromkeys(loras, 1.0) if scales is None else scales
    if scales.keys() != loras.keys():
        raise ValueError(f"LoRA sets {sorted(loras)} and scales {sorted(scales)} differ: give one scale to each set")
    kernels = _kernels(params)
    for name, lora in loras.items():
        alphas = dict(lora.alphas)
        for path, (down, up) in _layers(lora.factors).items():
            kernel, wanted = kernels.get(path), (*down.shape[:-1], up.shape[-1])
            if kernel is None or tuple(kernel.shape) != wanted:
                found = "no kernel" if kernel is None else f"one of shape {kernel.shape}"
                raise ValueError(f"LoRA {name!r} wants a kernel {wanted} at {path!r}, but there is {found}")
            yield path, down, up, scales[name] * (alphas[path] / down.shape[-1])


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
