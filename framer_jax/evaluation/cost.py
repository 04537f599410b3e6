"""Inference cost: parameters, MACs by module, FLOPs, memory and latency of a recipe's sampler.

MACs are counted in the traced program (framer_jax.macs); FLOPs and memory are XLA's analysis of the compiled
program. They do not depend on the values of weights, so random numbers replace weights that are not available.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion.noise import noise_field
from framer_jax.macs import Product, macs_by_kind, macs_by_module, products
from framer_jax.recipes.base import Frozen, Params, Recipe, Sampler

MODES = ("sample", "mean")

WARM_UP = 2
"""Number of calls before the timed ones."""

MAX_ROWS = 60
"""Largest number of modules in the text report."""

RANDOM_WEIGHT_STD = 0.02
"""Standard deviation of the random numbers that replace weights."""


@dataclass(frozen=True)
class CostSettings:
    """Settings of a measurement.

    Attributes:
      height, width: size of the LR image in pixels.
      batch: number of images per call.
      runs: number of timed calls.
      mode: 'sample' for the sampler with all its steps, 'mean' for the one-step estimate.
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
    """The measured cost; MACs and FLOPs are per image, memory and time per call.

    Attributes:
      recipe, scale, settings: what was measured.
      device: kind of the device.
      parameters: exported group → number of parameters.
      frozen_parameters: frozen module that `sample` uses → number of parameters.
      macs: total number of MACs.
      macs_by_kind: see framer_jax.macs.KINDS.
      macs_by_module: path of the flax module → MACs, '' outside of modules.
      unbounded_macs: MACs in loops of unknown length, counted once; 0 means that `macs` is exact.
      xla_flops: XLA's count for the compiled program, which includes additions, norms and activations, excludes
        products with zero padding, and counts the body of a loop ONCE; None if XLA provides no count.
      temporary_bytes, argument_bytes, output_bytes: memory that XLA plans for activations; for weights, image and
        noise keys; for the result. None if XLA provides no analysis.
      compile_seconds: compilation time; shorter if JAX's compilation cache had the program.
      seconds: quartiles of the timed calls: (25 %, 50 %, 75 %).
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
        """Floating-point operations, two for each MAC."""
        return 2 * self.macs


def trace(recipe: Recipe, params: Params, frozen: Frozen, settings: CostSettings) -> jax.stages.Traced:
    """Trace the sampler with abstract arrays.

    Args:
      recipe: the recipe.
      params: the exported groups, arrays or shapes.
      frozen: the frozen weights that `sample` needs, arrays or shapes.
      settings: batch, size and mode.

    Raises:
      ValueError: a size that the recipe does not accept, or a mode that it does not have.
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
    """Count MACs, compile the sampler and time it.

    Args:
      recipe: the recipe.
      params: its exported groups, arrays or shapes.
      frozen: the frozen weights that `sample` needs, arrays or shapes.
      settings: settings of the measurement.

    Raises:
      ValueError: see `trace`.
    """
    traced = trace(recipe, params, frozen, settings)
    counted = list(products(traced.jaxpr))
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
        **_macs(counted, settings.batch),
        xla_flops=None if flops is None else flops / settings.batch,
        temporary_bytes=None if memory is None else memory.temp_size_in_bytes,
        argument_bytes=None if memory is None else memory.argument_size_in_bytes,
        output_bytes=None if memory is None else memory.output_size_in_bytes,
        compile_seconds=compile_seconds,
        seconds=_time(compiled, (params, frozen), settings),
    )


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _macs(counted: list[Product], batch: int) -> dict[str, Any]:
    return {
        "macs": sum(product.macs for product in counted) / batch,
        "macs_by_kind": {name: macs / batch for name, macs in macs_by_kind(counted).items()},
        "macs_by_module": {name: macs / batch for name, macs in macs_by_module(counted).items()},
        "unbounded_macs": sum(product.macs for product in counted if not product.bounded) / batch,
    }


def _time(
    compiled: jax.stages.Compiled, weights: tuple[Params, Frozen], settings: CostSettings
) -> tuple[float, float, float]:
    """Quartiles of the time of a call in seconds."""
    rng = np.random.default_rng(0)

    def random_if_missing(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype) * RANDOM_WEIGHT_STD
        return leaf

    lr = rng.random((settings.batch, settings.height, settings.width, 3), np.float32)
    noise = noise_field(jax.random.key(0), settings.batch)
    inputs = jax.device_put((*jax.tree.map(random_if_missing, weights), lr, noise))
    seconds = []
    for call in range(WARM_UP + settings.runs):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        if call >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    lower, median, upper = (float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
    return lower, median, upper


def as_json(cost: Cost) -> dict[str, Any]:
    """The cost as JSON: plain numbers, lists and strings."""
    lower, median, upper = cost.seconds
    latency = {"median": median, "quartiles": [lower, upper], "runs": cost.settings.runs, "warm_up": WARM_UP}
    return asdict(cost) | {"flops": cost.flops, "seconds": latency}


def as_text(cost: Cost) -> list[str]:
    """The cost as lines of text; submodules are summed up if there are more than `MAX_ROWS`."""
    settings, (lower, median, upper) = cost.settings, (seconds * 1e3 for seconds in cost.seconds)
    kinds = ", ".join(f"{kind} {_giga(macs)}" for kind, macs in cost.macs_by_kind.items())
    rows = {
        "recipe": f"{cost.recipe}, x{cost.scale}, {settings.mode}",
        "LR image": f"{settings.height} x {settings.width}, batch {settings.batch}",
        "device": cost.device,
        **{f"parameters: {name}": f"{count:,}" for name, count in cost.parameters.items()},
        **{f"frozen parameters: {name}": f"{count:,}" for name, count in cost.frozen_parameters.items()},
        "GMACs per image": f"{_giga(cost.macs)} ({kinds})",
        "GFLOPs per image": f"{_giga(cost.flops)} (2 x MACs); XLA counts {_giga(cost.xla_flops)}, with additions, "
        "norms and activations, but the body of a loop only once",
        "memory": f"temporaries {_mebi(cost.temporary_bytes)}, arguments {_mebi(cost.argument_bytes)}, "
        f"output {_mebi(cost.output_bytes)}",
        "latency": f"median {median:.1f} ms (quartiles {lower:.1f} .. {upper:.1f}) of {settings.runs} calls",
        "compilation": f"{cost.compile_seconds:.2f} s, including reads from the compilation cache",
    }
    if cost.unbounded_macs:
        rows["in loops of unknown length"] = f"{_giga(cost.unbounded_macs)} GMACs, counted once"
    rows |= {
        f"  {name}": f"{_giga(macs)} GMACs, {macs / cost.macs:.1%}" for name, macs in _summed_modules(cost).items()
    }
    return [f"{name:<40} {value}" for name, value in rows.items()]


def _summed_modules(cost: Cost) -> dict[str, float]:
    """MACs by module, as deep as `MAX_ROWS` allows."""
    totals: dict[str, float] = {}
    for depth in (3, 2, 1):
        totals = {}
        for path, macs in cost.macs_by_module.items():
            prefix = "/".join(path.split("/")[:depth]) or "(outside of modules)"
            totals[prefix] = totals.get(prefix, 0.0) + macs
        if len(totals) <= MAX_ROWS:
            break
    return totals


def _giga(number: float | None) -> str:
    return "unknown" if number is None else f"{number / 1e9:.3f}"


def _mebi(number: int | None) -> str:
    return "unknown" if number is None else f"{number / 2**20:.1f} MiB"
