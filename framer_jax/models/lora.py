"""LoRA adapters, as pure transforms of parameter trees or as additions to the layers of any module.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), Section 4.1: W + (alpha / rank) · B A. For
convolutions, as in PEFT, A is a convolution of the same size to `rank` channels and B a 1x1 convolution after it; their
product is a kernel again. Several named adapters may be added at once, each with its own scale, as in PiSA-SR.

Training computes W x + B (A x) (`with_adapters` and `apply_adapters`): it copies no weights, and an addition that is
small compared to the weights is not lost in rounding their sum to bfloat16. `merge` adds adapters to the weights.

Kernels of blocks that a scan stacks have one more leading axis, and so have their factors: each block has its own.

Names and shapes do not tell which layer a kernel belongs to. Layers other than nn.Dense and nn.Conv, and grouped
convolutions, are refused where they are called (`apply_adapters`).
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
"""The collection of a module's variables that holds the factors."""

_FACTORS = ("down", "up")


@flax.struct.dataclass
class Lora:
    """One adapter; a pytree whose leaves are the factors only, so that optimisers and gradients see nothing else.

    Attributes:
      factors: {module: … {'down': [in, rank], 'up': [rank, out]}} float32, nested like the modules whose kernels they
        change; for a convolution 'down' is [height, width, in, rank] and 'up' [1, 1, rank, out]; for a stack of n
        blocks both have a leading axis n.
      alphas: (path of a module, alpha) of each module, static.
    """

    factors: Params
    alphas: tuple[tuple[str, float], ...] = flax.struct.field(pytree_node=False)


def make_lora(factors: Params, alpha: float | Mapping[str, float]) -> Lora:
    """An adapter from its factors, such as a trained group of a recipe.

    Args:
      factors: see Lora.
      alpha: of all modules, or of each module by its path.

    Raises:
      ValueError: a module lacks a factor or its alpha.
    """
    paths = list(_layers(factors))
    alphas = alpha if isinstance(alpha, Mapping) else dict.fromkeys(paths, alpha)
    if missing := [path for path in paths if path not in alphas]:
        raise ValueError(f"the LoRA layer {missing[0]!r} has no alpha: give one for all layers, or one for each")
    return Lora(factors, tuple((path, float(alphas[path])) for path in sorted(paths)))


def init_lora(key: jax.Array, params: Params, patterns: str | Sequence[str], rank: int, alpha: float) -> Lora:
    """An untrained adapter, which has no effect: 'down' normal with standard deviation 1 / rank, 'up' zero (PiSA-SR).

    Args:
      key: random key; the draws of a module do not depend on what other modules there are.
      params: parameters of the model; only names and shapes matter.
      patterns: regexes; an adapter is added to every module with a kernel whose path ('unet/down_0/query') one of them
        matches anywhere. The modules must be of the kinds that `apply_adapters` takes.
      rank: rank of every module.
      alpha: the addition is scaled by alpha / rank.

    Raises:
      ValueError: a pattern matches no kernel, or one that is neither a matrix nor that of a 2-D convolution nor a stack
        of these; or the rank is less than 1.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}: a LoRA needs a rank of at least 1")
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
        module_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        down, up = factor_shapes(kernel.shape, rank)
        factors[path] = {
            "down": jax.random.normal(module_key, down, jnp.float32) / rank,
            "up": jnp.zeros(up, jnp.float32),
        }
    return make_lora(unflatten_dict(factors, sep="/"), alpha)


def factor_shapes(kernel: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of 'down' and 'up' for a kernel [in, out] or [h, w, in, out], with a leading axis n for a stack of n."""
    stack, (*window, width, out) = kernel[: _stack_axes(kernel)], kernel[_stack_axes(kernel) :]
    return (*stack, *window, width, rank), (*stack, *(1 for _ in window), rank, out)


def _stack_axes(shape: tuple[int, ...]) -> int:
    """Matrices and kernels of 2-D convolutions have an even number of axes; stacks have one more."""
    return len(shape) % 2


def with_adapters(
    params: Params, adapters: Mapping[str, Lora], scales: Mapping[str, Scale] | None = None
) -> dict[str, Any]:
    """Variables for a module within `apply_adapters()`: its layers compute W x + Σ scale · alpha / rank · B A x.

    Args:
      params: parameters of the module, nested mappings of arrays; gradients reach them too.
      adapters: name → adapter.
      scales: name → further factor, may be traced; None for ones.

    Returns:
      {'params': params, 'lora': the factors of all adapters, concatenated along their ranks}.

    Raises:
      ValueError: an adapter is for another model, or adapters and scales have different names.
    """
    parts: dict[str, dict[str, list[jax.Array]]] = {}
    for path, down, up, scale in _scaled_factors(params, adapters, scales):
        layer = parts.setdefault(path, {"down": [], "up": []})
        layer["down"].append(down)
        layer["up"].append(up * scale)
    factors = {
        path: {"down": jnp.concatenate(layer["down"], axis=-1), "up": jnp.concatenate(layer["up"], axis=-2)}
        for path, layer in parts.items()
    }
    return {"params": params, COLLECTION: unflatten_dict(factors, sep="/")}


def apply_adapters() -> AbstractContextManager[Any]:
    """Context in which modules with the variables of `with_adapters` add the adapters to the outputs of their layers.

    An adapter is computed in the dtype of its layer, from the same input.

    Calling a layer that has an adapter raises ValueError unless it is an nn.Dense or an nn.Conv without groups: the
    adapter would be without effect, and `merge` would add it nonetheless.
    """

    def add_adapter(call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        layer, result = context.module, call(*arguments, **keywords)
        if not _has_factors(layer):
            return result
        if not isinstance(layer, nn.Dense | nn.Conv) or getattr(layer, "feature_group_count", 1) != 1:
            raise ValueError(
                f"the LoRA layer {'/'.join(layer.path)!r} is a {type(layer).__name__}: LoRA takes nn.Dense and nn.Conv "
                "without groups; leave it out of the pattern of the LoRA's modules"
            )
        factors: list[jax.Array] = [layer.get_variable(COLLECTION, name) for name in _FACTORS]
        down, up = factors
        down_layer = layer.clone(features=down.shape[-1], use_bias=False, parent=None, name=None)
        hidden: Any = down_layer.apply({"params": {"kernel": down}}, *arguments, **keywords)  # [..., rank]
        matrix: jax.Array = up.reshape(up.shape[-2:]).astype(hidden.dtype)
        return result + jnp.tensordot(hidden, matrix, axes=1).astype(result.dtype)

    return nn.intercept_methods(add_adapter)


def _has_factors(layer: nn.Module) -> bool:
    """Whether an adapter changes the layer's own kernel; the factors of its children lie below their names."""
    if layer.scope is None or not layer.has_variable(COLLECTION, _FACTORS[0]):
        return False
    return not isinstance(layer.get_variable(COLLECTION, _FACTORS[0]), Mapping)


def merge(params: Params, adapters: Mapping[str, Lora], scales: Mapping[str, Scale] | None = None) -> dict[str, Any]:
    """The parameters with adapters added to their kernels, which keep their dtypes.

    Args:
      params: nested mappings of arrays, of any float dtype.
      adapters: name → adapter.
      scales: name → further factor, may be traced; None for ones.

    Raises:
      ValueError: an adapter is for another model, or adapters and scales have different names.
    """
    leaves = flatten_dict(params, keep_empty_nodes=True, sep="/")
    additions: dict[str, jax.Array] = {}
    for path, down, up, scale in _scaled_factors(params, adapters, scales):
        addition = low_rank_kernel(down, up) * scale
        additions[path] = additions[path] + addition if path in additions else addition
    for path, addition in additions.items():
        kernel = jnp.asarray(leaves[f"{path}/kernel"])
        leaves[f"{path}/kernel"] = (kernel.astype(jnp.float32) + addition).astype(kernel.dtype)
    return unflatten_dict(leaves, sep="/")


def low_rank_kernel(down: jax.Array, up: jax.Array) -> jax.Array:
    """B A as a kernel, in float32 with exact products whatever the backend's default: it is added to weights.

    Args:
      down: [in, rank] or [h, w, in, rank], or a stack of n: [n, in, rank] or [n, h, w, in, rank].
      up: [rank, out] or [1, 1, rank, out], or a stack of n: [n, rank, out] or [n, 1, 1, rank, out].

    Returns:
      [in, out] or [h, w, in, out], or a stack of n.
    """
    if _stack_axes(down.shape):
        return jax.vmap(low_rank_kernel)(down, up)
    matrix = up.reshape(up.shape[-2:])
    return jnp.tensordot(down, matrix, axes=1, precision="highest")


def _scaled_factors(
    params: Params, adapters: Mapping[str, Lora], scales: Mapping[str, Scale] | None
) -> Iterator[tuple[str, jax.Array, jax.Array, Scale]]:
    """(path, down, up, factor of their product) of all adapters, checked against the kernels."""
    scales = dict.fromkeys(adapters, 1.0) if scales is None else scales
    if scales.keys() != adapters.keys():
        raise ValueError(
            f"adapters {sorted(adapters)} and scales {sorted(scales)} differ: give one scale for each adapter"
        )
    kernels = _kernels(params)
    for name, adapter in adapters.items():
        alphas = dict(adapter.alphas)
        for path, (down, up) in _layers(adapter.factors).items():
            kernel, shape = kernels.get(path), (*down.shape[:-1], up.shape[-1])
            if kernel is None or tuple(kernel.shape) != shape:
                problem = "there is no kernel" if kernel is None else f"there is one of shape {kernel.shape}"
                raise ValueError(
                    f"the adapter {name!r} needs a kernel {shape} at {path!r}, but {problem}: it is for another model"
                )
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
