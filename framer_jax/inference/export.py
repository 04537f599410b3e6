"""A model as one program of StableHLO with its weights in it, for images of any size.

`jax.export` writes the program; `jax.export.deserialize` reads it, and needs JAX alone.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.extend.core import Jaxpr, JaxprEqn

from framer_jax.diffusion.noise import NoiseField
from framer_jax.recipes.base import Params, Recipe, Sampler

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Platforms that a program can be lowered for, as JAX names them."""

DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")

LARGEST = 2**31
"""Bytes that a file of StableHLO or ONNX can hold: its offsets are signed numbers of 32 bits."""

FACTORS = (1, 2, 4)
"""Multiples of a recipe's own multiple that are tried: some networks pad an image to 2 or 4 pixels."""

SEED = jax.ShapeDtypeStruct((), jnp.uint32)

Program = Callable[..., jax.Array]
"""(image [B, H, W, 3], seed) → [B, sH, sW, 3], or without the seed."""


class Sizes(NamedTuple):
    """The images that a program takes.

    Attributes:
      multiple: both sides are multiples of this, LR pixels.
      fixed: (height, width) of the only images that it takes, LR pixels; None for all sizes.
    """

    multiple: int = 1
    fixed: tuple[int, int] | None = None


class ExportedModel(NamedTuple):
    """A program and what it takes.

    Attributes:
      program: the program.
      sizes: the sizes of its images.
      seeded: whether it draws noise, so that its second argument is a seed.
    """

    program: export.Exported
    sizes: Sizes
    seeded: bool


def sampler_of(recipe: Recipe, mode: str) -> Sampler:
    """The recipe's sampler of a mode.

    Raises:
      ValueError: the recipe does not have it.
    """
    sampler = recipe.mean if mode == "mean" else recipe.sample
    if sampler is None:
        raise ValueError(f"recipe {recipe.name!r} has no one-step mean: omit --mode mean")
    return sampler


def model_program(recipe: Recipe, params: Params, mode: str) -> Program:
    """The function that is exported, with its weights closed over.

    (image [B, H, W, 3] float32 in [0, 1], seed uint32 []) → [B, sH, sW, 3] float32 in [0, 1]. All images of the batch
    get the same canvas of noise, as all tiles of an image do.

    Raises:
      ValueError: as of `sampler_of`.
    """
    sampler = sampler_of(recipe, mode)

    def run(image: jax.Array, seed: jax.Array) -> jax.Array:
        keys = jnp.broadcast_to(jax.random.key(seed), image.shape[:1])
        return jnp.clip(sampler(params, recipe.frozen, image, _field(keys)).astype(jnp.float32), 0, 1)

    return run


def seedless_program(recipe: Recipe, params: Params, mode: str) -> Program:
    """As `model_program`, for samplers that draw no noise: (image) → image."""
    sampler = sampler_of(recipe, mode)

    def run(image: jax.Array) -> jax.Array:
        no_keys = jnp.zeros(image.shape[:1], jnp.uint32)
        return jnp.clip(sampler(params, recipe.frozen, image, _field(no_keys)).astype(jnp.float32), 0, 1)

    return run


def _field(keys: jax.Array) -> NoiseField:
    return NoiseField(keys, jnp.zeros((*keys.shape, 2), jnp.int32))


def export_model(
    recipe: Recipe,
    params: Params,
    mode: str = "sample",
    size: tuple[int, int] | None = None,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
) -> ExportedModel:
    """Export a model for all sizes of images, or for one.

    Args:
      recipe: the recipe.
      params: its exported groups.
      mode: 'sample' or 'mean'.
      size: (height, width) of the only images, LR pixels; None for all sizes that are multiples of what the networks
        need. The number of images is free in both cases.
      platforms: some of `PLATFORMS`.

    Raises:
      ImportError: flatbuffers, the format of the file, is not installed.
      ValueError: an unknown platform, a mode that the recipe does not have, a size that it cannot compute, a program
        that depends on the size of the image, or weights that do not fit into a file.
    """
    check_platforms(platforms)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("StableHLO files need flatbuffers: pip install 'framer_jax[export]'")
    check_weights(recipe, params)
    sizes = find_sizes(recipe, params, mode, size)
    seeded = draws_noise(recipe, params, mode, sizes)
    run = (model_program if seeded else seedless_program)(recipe, params, mode)
    arguments = (image_shape(sizes), SEED)[: 1 + seeded]
    return ExportedModel(exported_program(run, platforms, arguments), sizes, seeded)


def exported_program(run: Callable[..., Any], platforms: Sequence[str], arguments: Sequence[Any]) -> export.Exported:
    """A function lowered for platforms.

    Raises:
      ValueError: it holds a kernel of TPUs, and there are other platforms.
    """
    try:
        return export.export(jax.jit(run), platforms=tuple(platforms))(*arguments)
    except ValueError as error:
        if "interpret mode" not in str(error):
            raise
        raise ValueError(
            "the network's attention is a kernel of TPUs (splash), which a program for other platforms cannot hold: "
            "export it with --platforms tpu, or name its configuration with --recipe and --set ….attention=xla"
        ) from error


def draws_noise(recipe: Recipe, params: Params, mode: str, sizes: Sizes) -> bool:
    """Whether the result depends on the seed, as far as the outermost operations of the program show."""
    jaxpr = jax.make_jaxpr(model_program(recipe, params, mode))(image_shape(sizes), SEED).jaxpr
    used = {id(variable) for equation in needed_equations(jaxpr) for variable in (*equation.invars, *jaxpr.outvars)}
    return id(jaxpr.invars[-1]) in used


def needed_equations(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The outermost operations of a traced program on which its results depend, in order."""
    needed, equations = set(map(id, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if needed & set(map(id, equation.outvars)):
            needed |= set(map(id, equation.invars))
            equations.append(equation)
    return equations[::-1]


def check_platforms(platforms: Sequence[str]) -> None:
    """Raise ValueError unless platforms are some of `PLATFORMS`, each once."""
    if not platforms or len(set(platforms)) < len(platforms) or not set(platforms) <= set(PLATFORMS):
        raise ValueError(
            f"platforms {', '.join(platforms) or 'none'}: name each of {', '.join(PLATFORMS)} at most once"
        )


def check_weights(recipe: Recipe, params: Params) -> None:
    """Raise ValueError if the weights do not fit into one file."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves((params, recipe.frozen)) if hasattr(leaf, "nbytes"))
    if needed >= LARGEST:
        raise ValueError(
            f"the weights of recipe {recipe.name!r} take {needed / 2**30:.1f} GiB, and a file with a program and its "
            "weights holds less than 2 GiB: export a smaller model"
        )


def find_sizes(recipe: Recipe, params: Params, mode: str, size: tuple[int, int] | None = None) -> Sizes:
    """The sizes that a program can take: the requested one, or the smallest multiple with which its trace succeeds.

    Raises:
      ValueError: the size is none that the recipe computes, or no program suits all sizes.
    """
    base = math.lcm(recipe.lr_multiple, recipe.window)
    if size is not None:
        if min(size) < 1 or any(side % recipe.lr_multiple for side in size):
            raise ValueError(
                f"--size {size[0]}x{size[1]}: sides must be multiples of {recipe.lr_multiple} above 0, which "
                f"recipe {recipe.name!r} needs"
            )
        return Sizes(recipe.lr_multiple, size)
    run, reason = model_program(recipe, params, mode), ""
    for factor in FACTORS:
        sizes = Sizes(base * factor)
        try:
            jax.eval_shape(run, image_shape(sizes), SEED)
            return sizes
        # Networks that check sizes say ValueError or TypeError where a symbolic size decides nothing.
        except (jax.errors.InconclusiveDimensionOperation, ValueError, TypeError) as error:
            reason = reason or " ".join(str(error).split(". ")[0].split())
    raise ValueError(
        f"the program of recipe {recipe.name!r} depends on the size of the image, so one size must be chosen, such as "
        f"--size 64x64 ({reason})"
    )


def image_shape(sizes: Sizes, batch: int | None = None) -> jax.ShapeDtypeStruct:
    """Shape [B, H, W, 3] of the images, symbolic where it is free; a number of images fixes B."""
    count, rows, columns = export.symbolic_shape("b, h, w")
    height, width = sizes.fixed or (rows * sizes.multiple, columns * sizes.multiple)
    return jax.ShapeDtypeStruct((count if batch is None else batch, height, width, 3), jnp.float32)
