"""FRAMER_D's training step at its real size: seconds and memory with FRAMER and without it, in one run.

    python tools/benchmark_framer_d.py [--readings none paper released] [--steps 20] [--set KEY=VALUE] [--json FILE]

No weights and no data are read: latents of 64 x 64, 154 text tokens and all weights are random numbers made on the
device. Computations and precisions are those of training: compute in bfloat16, the frozen base model in bfloat16 and
trained weights in float32. All variants share one state, since training would hold only one, and take steps
alternately. Compilation is reported separately; times are medians with quartiles. "Plan" is the compiler's memory for
the step, with its arguments. "Peak" is the largest memory that the device has held since the process started, read
after a variant's first step. It never falls, so it is a variant's own peak only if it exceeds that of the variant
before, or if `--readings` names that variant alone. `--tiny` measures a small model, to try the tool on a CPU.

The authors' figures, on an H200 with batch 16: 1.01 to 1.08 s a step (+6.9 %), 87.0 to 89.7 GB (+3.0 %).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from framer_jax.commands.memory_plan.abstract_step import abstract_step
from framer_jax.config import ConfigError, load_config, to_dict
from tools.compile_for_topology import with_variant
from tools.timing import time_alternately

VARIANTS = ("none", "paper", "released")

CONFIG = "framer_d_sd35"

TINY = (
    "recipe.denoiser.dit4sr_transformer.depth=2",
    "recipe.denoiser.dit4sr_transformer.dual_blocks=1",
    "recipe.denoiser.dit4sr_transformer.heads=2",
    "recipe.denoiser.dit4sr_transformer.head_width=8",
    "recipe.denoiser.dit4sr_transformer.position_grid=8",
    "recipe.denoiser.dit4sr_transformer.attention=manual",
    "recipe.text.clip_length=2",
    "recipe.text.t5_length=1",
    "recipe.text.clip_widths=(4, 4)",
    "recipe.text.width=16",
    "recipe.dtype=float32",
    "data.crop=64",
)

STANDARD_DEVIATION = 0.02
"""Standard deviation of random weights."""


class Measurement(NamedTuple):
    """The cost of one variant's step.

    Attributes:
      compile_seconds: time of compilation alone.
      plan: the compiler's bytes of arguments, temporaries and outputs on one device.
      peak: the most bytes that a device has held since the process started; None where the device does not report it.
      seconds: time of each timed step.
    """

    compile_seconds: float
    plan: int
    peak: int | None
    seconds: list[float]


def main(command_line: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time and memory of FRAMER_D's training step.")
    parser.add_argument("--config", default=CONFIG, help="configuration: a shipped one by name, or a file")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override one knob"
    )
    parser.add_argument(
        "--readings",
        dest="variants",
        metavar="VARIANT",
        nargs="+",
        default=list(VARIANTS),
        choices=VARIANTS,
        help="variants of FRAMER, measured in this order: none, paper or released",
    )
    parser.add_argument("--batch", type=int, default=16, help="examples per step")
    parser.add_argument("--steps", type=int, default=20, help="number of timed steps of each variant")
    parser.add_argument("--warm-up", type=int, default=3, help="number of untimed steps of each variant before them")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the tool on a CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, with those of every step")
    arguments = parser.parse_args(command_line)
    for name in ("batch", "steps"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    try:
        config = configuration(arguments)
        variants = list(dict.fromkeys(arguments.variants))
        measurements = measure(config, variants, arguments.steps, arguments.warm_up)
    except (ConfigError, ValueError) as error:
        print(f"benchmark_framer_d: {error}", file=sys.stderr)
        return 2
    Console(width=140).print(table(measurements, arguments))
    if arguments.json:
        write_json(measurements, arguments)
    return 0


def write_json(measurements: dict[str, Measurement], arguments: argparse.Namespace) -> None:
    """Write what was measured, on what and with which options."""
    report: dict[str, Any] = {"config": arguments.config, "set": arguments.overrides, "batch": arguments.batch}
    report |= {"jax": jax.__version__, "tiny": arguments.tiny}
    report |= {"devices": [device.device_kind for device in jax.devices()]}
    report |= {"readings": {variant: measurement._asdict() for variant, measurement in measurements.items()}}
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def configuration(arguments: argparse.Namespace) -> dict[str, Any]:
    """The plain configuration, which the variants share except for `framer.variant`."""
    overrides = ["recipe.dit4sr.base_dtype=bfloat16", f"training.global_batch={arguments.batch}"]
    tiny = TINY if arguments.tiny else ()
    return to_dict(load_config(arguments.config, (*overrides, *tiny, *arguments.overrides)))


def measure(config: dict[str, Any], variants: Sequence[str], steps: int, warm_up: int) -> dict[str, Measurement]:
    """Compile all variants, then time their steps alternately on one state: variant → measurement.

    Raises:
      ConfigError, ValueError: the configuration cannot be used.
    """
    abstract = {variant: abstract_step(with_variant(config, variant), jax.devices()) for variant in variants}
    first = abstract[variants[0]]
    compiled, compile_seconds = {}, {}
    for variant, (step, *inputs) in abstract.items():
        lowered = step.trace(*inputs).lower()  # type: ignore[attr-defined]
        started = time.perf_counter()
        compiled[variant] = lowered.compile()
        compile_seconds[variant] = time.perf_counter() - started
    frozen = random_tree(first.frozen, 1)
    batch = random_tree(first.batch, 2, standard_deviation=1.0)
    # FRAMER has no parameters on a transformer, so the states of all variants have the same leaves.
    leaves = jax.tree.leaves(random_tree(first.state, None).replace(params=random_tree(first.state.params, 3)))

    def advance(variant: str) -> None:
        structure = jax.tree.structure(abstract[variant].state)
        state, metrics = compiled[variant](jax.tree.unflatten(structure, leaves), frozen, batch)
        leaves[:] = jax.tree.leaves(jax.block_until_ready(state))
        if not metrics.finite:
            raise ValueError(f"framer.variant {variant!r}: a loss, gradient or parameter is NaN or infinite")

    programs: dict[str, Callable[[], None]] = {variant: partial(advance, variant) for variant in variants}
    peaks = {}
    for variant, run_step in programs.items():
        run_step()
        peaks[variant] = peak_memory()
    times = time_alternately(programs, steps, warm_up)
    return {
        variant: Measurement(
            compile_seconds[variant], planned_memory(compiled[variant]), peaks[variant], times[variant]
        )
        for variant in variants
    }


def random_tree(tree: Any, seed: int | None, standard_deviation: float = STANDARD_DEVIATION) -> Any:
    """Arrays for a tree of shapes, on its devices: normal numbers, or zeros where `seed` is None."""
    leaves, structure = jax.tree.flatten(tree)
    deviation = 0.0 if seed is None else standard_deviation
    arrays = [
        _array_maker(leaf.shape, leaf.dtype, leaf.sharding, deviation)((seed or 0) * 1009 + 97 * number)
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, arrays)


@lru_cache
def _array_maker(
    shape: tuple[int, ...], dtype: Any, sharding: Any, standard_deviation: float
) -> Callable[[int], jax.Array]:
    """One program for all leaves of one kind. Large leaves repeat a pool of numbers, which is faster to make."""

    def make(number: jax.Array) -> jax.Array:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if not standard_deviation or not jnp.issubdtype(dtype, jnp.floating):
            return jnp.zeros(shape, dtype)
        return (standard_deviation * jnp.resize(jnp.roll(_pool(), number), shape)).astype(dtype)

    return jax.jit(make, out_shardings=sharding)


@lru_cache
def _pool() -> np.ndarray:
    """Standard normal numbers; their count is chosen so that the rows of a matrix differ."""
    return np.random.default_rng(0).standard_normal(99_991, np.float32)


def planned_memory(compiled: Any) -> int:
    """Bytes that a compiled program needs on one device."""
    memory = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs)


def peak_memory() -> int | None:
    """The most bytes that any device has held so far; None where no device reports it."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    peaks = [device["peak_bytes_in_use"] for device in statistics if device and "peak_bytes_in_use" in device]
    return max(peaks) if peaks else None


def table(measurements: dict[str, Measurement], arguments: argparse.Namespace) -> Table:
    """One row per variant, with changes relative to the first one."""
    device = jax.devices()[0]
    rows = Table(
        title=f"a training step of {arguments.config}{' (tiny)' if arguments.tiny else ''}, batch {arguments.batch}, "
        f"{device.device_kind} x {jax.device_count()}, jax {jax.__version__}, median of {arguments.steps} steps"
    )
    for heading in ("FRAMER", "s (quartiles)", "change", "peak", "change", "plan", "change", "compile"):
        rows.add_column(heading, justify="left" if heading == "FRAMER" else "right")
    base = next(iter(measurements.values()))
    for variant, measurement in measurements.items():
        low, middle, high = np.quantile(measurement.seconds, (0.25, 0.5, 0.75))
        peak = measurement.peak
        rows.add_row(
            variant,
            f"{middle:.4g} ({low:.4g} .. {high:.4g})",
            f"{middle / np.median(base.seconds) - 1:+.1%}",
            "-" if peak is None else f"{peak / 1e9:.2f} GB",
            "-" if peak is None or not base.peak else f"{peak / base.peak - 1:+.1%}",
            f"{measurement.plan / 1e9:.3g} GB",
            f"{measurement.plan / base.plan - 1:+.1%}",
            f"{measurement.compile_seconds:.0f} s",
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
