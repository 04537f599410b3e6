"""FRAMER_D's training step at its real size: seconds and memory with FRAMER and without, in one run.

    python tools/benchmark_framer_d.py [--readings none paper released] [--steps 20] [--set KEY=VALUE] [--json FILE]

No weights and no data are read: latents of 64 x 64, 154 text tokens and all weights are random, made on the device.
What is computed, and in which precision, is as in training: in bfloat16, with the base kept in bfloat16 and trained
weights in float32. All programs share one state, as only one would be there in training, and take steps in turn.
Compilation is apart; figures are medians with quartiles. "Plan" is the compiler's memory for the step, arguments
included. "Peak" is what the device has held at most since the process began, after the program's first step: it never
falls, so a program's peak is its own where it is above that of the one before, or where `--readings` names it alone.
`--tiny` is a small model, to try the tool on a CPU.

The authors' figures, on an H200 with batch 16: 1.01 to 1.08 s a step (+6.9 %), 87.0 to 89.7 GB (+3.0 %).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from framer_jax.config import ConfigError, load_config, to_dict
from tools.compile_for_topology import abstract_arguments
from tools.timing import in_turn

READINGS = ("none", "paper", "released")

CONFIG = "configs/framer_d_sd35.py"

TINY = (
    "recipe.denoiser.dit4sr.depth=2",
    "recipe.denoiser.dit4sr.dual_blocks=1",
    "recipe.denoiser.dit4sr.heads=2",
    "recipe.denoiser.dit4sr.head_width=8",
    "recipe.denoiser.dit4sr.position_grid=8",
    "recipe.denoiser.dit4sr.attention=manual",
    "recipe.text.clip_length=2",
    "recipe.text.t5_length=1",
    "recipe.text.clip_widths=(4, 4)",
    "recipe.text.width=16",
    "recipe.dtype=float32",
    "data.crop=64",
)

SPREAD = 0.02
"""Standard deviation of random weights and inputs."""


class Measured(NamedTuple):
    """One reading's step.

    Attributes:
      compile_seconds: of compilation alone.
      plan: bytes of arguments, temporaries and outputs on a device, by the compiler.
      peak: bytes that a device has held at most since the process began; None where it does not tell.
      seconds: of each timed step.
    """

    compile_seconds: float
    plan: int
    peak: int | None
    seconds: list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="FRAMER_D's training step, with FRAMER and without.")
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--readings", nargs="+", default=list(READINGS), choices=READINGS, help="in this order")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each")
    parser.add_argument("--warm-up", type=int, default=3, help="steps of each before those")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the tool on a CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too, each step's")
    given = parser.parse_args(arguments)
    for name in ("batch", "steps"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(given, name)}")
    try:
        config = configuration(given)
        found = measure(config, list(dict.fromkeys(given.readings)), given.steps, given.warm_up)
    except (ConfigError, ValueError) as error:
        print(f"benchmark_framer_d: {error}", file=sys.stderr)
        return 2
    Console(width=140).print(table(found, given))
    if given.json:
        facts = {"config": given.config, "set": given.changes, "batch": given.batch, "jax": jax.__version__}
        facts |= {"tiny": given.tiny, "devices": [device.device_kind for device in jax.devices()]}
        readings = {reading: one._asdict() for reading, one in found.items()}
        given.json.write_text(json.dumps({**facts, "readings": readings}, indent=1) + "\n", encoding="utf-8")
    return 0


def configuration(given: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the base: readings differ by their term alone."""
    changes = ["recipe.dit4sr.base_dtype=bfloat16", f"training.global_batch={given.batch}"]
    return to_dict(load_config(given.config, (*changes, *(TINY if given.tiny else ()), *given.changes)))


def measure(config: dict[str, Any], readings: Sequence[str], steps: int, warm_up: int) -> dict[str, Measured]:
    """Compile all readings, then let them take steps in turn on one state.

    Raises:
      ConfigError, ValueError: the configuration cannot be used.
    """
    described = {
        reading: abstract_arguments({**config, "framer": {**config["framer"], "reading": reading}}, jax.devices())
        for reading in readings
    }
    first = described[readings[0]]
    compiled, compile_seconds = {}, {}
    for reading, (step, *inputs) in described.items():
        lowered = step.trace(*inputs).lower()  # type: ignore[attr-defined]
        started = time.perf_counter()
        compiled[reading] = lowered.compile()
        compile_seconds[reading] = time.perf_counter() - started
    frozen, batch = filled(first.frozen, 1), filled(first.batch, 2, spread=1.0)
    # FRAMER has no parameters on a transformer: the leaves of all states are the same.
    leaves = jax.tree.leaves(filled(first.state, None).replace(params=filled(first.state.params, 3)))

    def taking(reading: str) -> Callable[[], None]:
        structure = jax.tree.structure(described[reading].state)

        def take() -> None:
            state, metrics = compiled[reading](jax.tree.unflatten(structure, leaves), frozen, batch)
            leaves[:] = jax.tree.leaves(jax.block_until_ready(state))
            if not metrics.finite:
                raise ValueError(f"reading {reading!r}: a loss, gradient or parameter is NaN or infinite")

        return take

    programs, peaks = {reading: taking(reading) for reading in readings}, {}
    for reading, take in programs.items():
        take()
        peaks[reading] = peak()
    times = in_turn(programs, steps, warm_up)
    return {
        reading: Measured(compile_seconds[reading], planned(compiled[reading]), peaks[reading], times[reading])
        for reading in readings
    }


def filled(tree: Any, seed: int | None, spread: float = SPREAD) -> Any:
    """A described tree on its devices: normal numbers, or zeros where `seed` is None."""
    leaves, structure = jax.tree.flatten(tree)
    made = [
        _maker(leaf.shape, leaf.dtype, leaf.sharding, 0.0 if seed is None else spread)((seed or 0) * 1009 + 97 * number)
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, made)


@lru_cache
def _maker(shape: tuple[int, ...], dtype: Any, sharding: Any, spread: float) -> Callable[[int], jax.Array]:
    """One program for all leaves of a kind. Large leaves repeat a pool of numbers: to draw all of them takes longer."""

    def make(number: jax.Array) -> jax.Array:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if not spread or not jnp.issubdtype(dtype, jnp.floating):
            return jnp.zeros(shape, dtype)
        return (spread * jnp.resize(jnp.roll(_pool(), number), shape)).astype(dtype)

    return jax.jit(make, out_shardings=sharding)


@lru_cache
def _pool() -> np.ndarray:
    """Normal numbers, as many as do not repeat along the rows of a matrix."""
    return np.random.default_rng(0).standard_normal(99_991, np.float32)


def planned(compiled: Any) -> int:
    """Bytes of a compiled program on a device."""
    memory = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs)


def peak() -> int | None:
    """The most bytes that one of the devices has held so far."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    found = [one["peak_bytes_in_use"] for one in stats if one and "peak_bytes_in_use" in one]
    return max(found) if found else None


def table(found: dict[str, Measured], given: argparse.Namespace) -> Table:
    """Readings, with ratios to the first one."""
    device = jax.devices()[0]
    made = Table(
        title=f"a training step of {given.config}{' (tiny)' if given.tiny else ''}, batch {given.batch}, "
        f"{device.device_kind} x {jax.device_count()}, jax {jax.__version__}, median of {given.steps} steps"
    )
    for heading in ("FRAMER", "s (quartiles)", "time", "peak", "of it", "plan", "of it", "compile"):
        made.add_column(heading, justify="left" if heading == "FRAMER" else "right")
    base = next(iter(found.values()))
    for reading, one in found.items():
        low, middle, high = np.quantile(one.seconds, (0.25, 0.5, 0.75))
        made.add_row(
            reading,
            f"{middle:.4g} ({low:.4g} .. {high:.4g})",
            f"{middle / np.median(base.seconds) - 1:+.1%}",
            "-" if one.peak is None else f"{one.peak / 1e9:.2f} GB",
            "-" if one.peak is None or not base.peak else f"{one.peak / base.peak - 1:+.1%}",
            f"{one.plan / 1e9:.3g} GB",
            f"{one.plan / base.plan - 1:+.1%}",
            f"{one.compile_seconds:.0f} s",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
