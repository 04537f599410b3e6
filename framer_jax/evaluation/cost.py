"""What a picture costs: parameters, MACs by module, FLOPs, memory and latency of a recipe's sampler.

MACs are counted in the traced program (framer_jax.evaluation.macs), FLOPs and memory are what XLA says of the compiled
one. Numbers do not depend on the values of weights, so what is not at hand is drawn at random.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion.noise import noise_field
from framer_jax.evaluation.macs import Product, by_kind, by_module, products
from framer_jax.recipes import pretrained
from framer_jax.recipes.base import Frozen, Params, Recipe, Sampler
from framer_jax.recipes.latent_space import AUTOENCODER
from framer_jax.recipes.weights_by_path import network_of

MODES = ("sample", "mean")

AUTOENCODERS = {"vq_f4": "vq_f4", "kl": "kl_autoencoder"}
"""Latent space → its weight map."""

WARM_UP = 2
"""Runs that are not timed."""

MOST_ROWS = 60
"""Modules in a text."""

SPREAD = 0.02
"""Standard deviation of stand-ins for weights."""


@dataclass(frozen=True)
class CostSettings:
    """What is measured.

    Attributes:
      height, width: of the LR picture, in pixels.
      batch: pictures at a time.
      runs: timed calls.
      mode: 'sample', the whole sampler with all its steps, or 'mean', the one-step estimate.
    """

    height: int = 64
    width: int = 64
    batch: int = 1
    runs: int = 10
    mode: str = "sample"

    def __post_init__(self) -> None:
        for name in ("height", "width", "batch", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")


@dataclass(frozen=True)
class Cost:
    """The figures; MACs and FLOPs are per picture, memory and time per call.

    Attributes:
      recipe, scale, settings: what was measured.
      device: kind of the device.
      parameters: exported group → how many.
      frozen_parameters: module that `sample` uses and training never updates → how many.
      macs: all that are counted.
      macs_by_kind: see framer_jax.evaluation.macs.KINDS.
      macs_by_module: path of the flax module → MACs, '' outside of modules.
      unbounded_macs: those in loops of unknown length, counted once; 0 means that `macs` is exact.
      xla_flops: XLA's count of the compiled program, which has additions, norms and activations too, leaves out
        products with places outside the picture, and counts the body of a loop ONCE; None if XLA gives none.
      temporary_bytes, argument_bytes, output_bytes: memory that XLA plans: for activations; for weights, picture and
        noise keys; for the result. None if XLA gives none.
      compile_seconds: of XLA; less where JAX's compilation cache had the program.
      seconds: median and quartiles of the timed calls: (25 %, 50 %, 75 %).
    """

    recipe: str
    scale: int
    settings: CostSettings
    device: str
    parameters: dict[str, int]
    frozen_parameters: dict[str, int]
    macs: float
    macs_by_kind: dict[str, float]
    macs_by_module: dict[str, float]
    unbounded_macs: float
    xla_flops: float | None
    temporary_bytes: int | None
    argument_bytes: int | None
    output_bytes: int | None
    compile_seconds: float
    seconds: tuple[float, float, float]

    @property
    def flops(self) -> float:
        """Two for each MAC."""
        return 2 * self.macs


def frozen_shapes(config: Mapping[str, Any]) -> Frozen:
    """Names and shapes of the autoencoder that a recipe's `sample` uses, without reading any.

    Args:
      config: the recipe's entry of a configuration.
    """
    name = AUTOENCODERS.get(config["space"]["name"])
    if network_of(config)[0] == "student" or name is None:
        return {}
    return {AUTOENCODER: pretrained.expected_params(name, pretrained.build(name, {}))}


def trace(recipe: Recipe, params: Params, frozen: Frozen, settings: CostSettings) -> jax.stages.Traced:
    """The sampler's program, of shapes alone.

    Args:
      recipe: the method.
      params: the exported groups, arrays or shapes.
      frozen: what `sample` needs beside them, likewise.
      settings: batch, size and mode.

    Raises:
      ValueError: a size that the recipe does not take, or a mode that it does not have.
    """
    multiple = recipe.lr_multiple
    if settings.height % multiple or settings.width % multiple:
        raise ValueError(
            f"LR size {settings.height}x{settings.width}: the recipe {recipe.name} needs multiples of {multiple}"
        )
    sampler: Sampler | None = recipe.sample if settings.mode == "sample" else recipe.mean
    if sampler is None:
        raise ValueError(f"the recipe {recipe.name} has no one-step mean: use mode 'sample'")
    lr = jax.ShapeDtypeStruct((settings.batch, settings.height, settings.width, 3), jnp.float32)
    noise = jax.eval_shape(lambda: noise_field(jax.random.key(0), settings.batch))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, frozen))
    return jax.jit(sampler).trace(*shapes, lr, noise)


def measure(recipe: Recipe, params: Params, frozen: Frozen, settings: CostSettings) -> Cost:
    """Count, compile and time.

    Args:
      recipe: the method.
      params: its exported groups, arrays or shapes.
      frozen: what `sample` needs beside them, arrays or shapes, see `frozen_shapes`.
      settings: what to measure.

    Raises:
      ValueError: as `trace`.
    """
    traced = trace(recipe, params, frozen, settings)
    found = list(products(traced.jaxpr))
    lowered = traced.lower()
    started = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    analysis = compiled.cost_analysis() or {}
    flops = analysis.get("flops")
    device = jax.devices()[0]
    return Cost(
        recipe=recipe.name,
        scale=recipe.scale,
        settings=settings,
        device=f"{device.platform}: {device.device_kind}",
        parameters={name: _count(group) for name, group in params.items()},
        frozen_parameters={name: _count(group) for name, group in frozen.items()},
        **_macs(found, settings.batch),
        xla_flops=None if flops is None else flops / settings.batch,
        temporary_bytes=None if memory is None else memory.temp_size_in_bytes,
        argument_bytes=None if memory is None else memory.argument_size_in_bytes,
        output_bytes=None if memory is None else memory.output_size_in_bytes,
        compile_seconds=compile_seconds,
        seconds=_time(compiled, (params, frozen), settings),
    )


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _macs(found: list[Product], batch: int) -> dict[str, Any]:
    return {
        "macs": sum(product.macs for product in found) / batch,
        "macs_by_kind": {name: macs / batch for name, macs in by_kind(found).items()},
        "macs_by_module": {name: macs / batch for name, macs in by_module(found).items()},
        "unbounded_macs": sum(product.macs for product in found if not product.bounded) / batch,
    }


def _time(
    compiled: jax.stages.Compiled, weights: tuple[Params, Frozen], settings: CostSettings
) -> tuple[float, float, float]:
    """Quartiles of the seconds of a call."""
    rng = np.random.default_rng(0)

    def at_hand(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype) * SPREAD
        return leaf

    lr = rng.random((settings.batch, settings.height, settings.width, 3), np.float32)
    noise = noise_field(jax.random.key(0), settings.batch)
    inputs = jax.device_put((*jax.tree.map(at_hand, weights), lr, noise))
    seconds = []
    for number in range(WARM_UP + settings.runs):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    low, middle, high = (float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
    return low, middle, high


def as_json(cost: Cost) -> dict[str, Any]:
    """Plain numbers, lists and strings."""
    low, middle, high = cost.seconds
    latency = {"median": middle, "quartiles": [low, high], "runs": cost.settings.runs, "warm_up": WARM_UP}
    return asdict(cost) | {"flops": cost.flops, "seconds": latency}


def as_text(cost: Cost) -> list[str]:
    """Lines for a person; parts of modules are added up where there are more than `MOST_ROWS`."""
    settings, (low, middle, high) = cost.settings, (second * 1e3 for second in cost.seconds)
    kinds = ", ".join(f"{kind} {_giga(macs)}" for kind, macs in cost.macs_by_kind.items())
    rows = {
        "recipe": f"{cost.recipe}, x{cost.scale}, {settings.mode}",
        "LR picture": f"{settings.height} x {settings.width}, batch {settings.batch}",
        "device": cost.device,
        **{f"parameters: {name}": f"{count:,}" for name, count in cost.parameters.items()},
        **{f"frozen parameters: {name}": f"{count:,}" for name, count in cost.frozen_parameters.items()},
        "GMACs per picture": f"{_giga(cost.macs)} ({kinds})",
        "GFLOPs per picture": f"{_giga(cost.flops)} (2 x MACs); XLA counts {_giga(cost.xla_flops)}, with additions, "
        "norms and activations, the body of a loop once",
        "memory": f"temporaries {_mebi(cost.temporary_bytes)}, arguments {_mebi(cost.argument_bytes)}, "
        f"output {_mebi(cost.output_bytes)}",
        "latency": f"median {middle:.1f} ms (quartiles {low:.1f} .. {high:.1f}) of {settings.runs} calls",
        "compilation": f"{cost.compile_seconds:.2f} s, or the cache's time where it had the program",
    }
    if cost.unbounded_macs:
        rows["in loops of unknown length"] = f"{_giga(cost.unbounded_macs)} GMACs, counted once"
    rows |= {f"  {name}": f"{_giga(macs)} GMACs, {macs / cost.macs:.1%}" for name, macs in _short(cost).items()}
    return [f"{name:<40} {value}" for name, value in rows.items()]


def _short(cost: Cost) -> dict[str, float]:
    """MACs by module, as deep as fits."""
    totals: dict[str, float] = {}
    for depth in (3, 2, 1):
        totals = {}
        for path, macs in cost.macs_by_module.items():
            short = "/".join(path.split("/")[:depth]) or "(outside of modules)"
            totals[short] = totals.get(short, 0.0) + macs
        if len(totals) <= MOST_ROWS:
            break
    return totals


def _giga(number: float | None) -> str:
    return "nothing" if number is None else f"{number / 1e9:.3f}"


def _mebi(number: int | None) -> str:
    return "unknown" if number is None else f"{number / 2**20:.1f} MiB"
