"""The speed of the degradation: images per second, time per stage, and against the original PyTorch pipeline.

    python tools/benchmark_degradation.py [--preset framer_paper] [--batch 1 8 32] [--size 512] [--batches 40]
        [--usm] [--stages] [--peer BASICSR_CHECKOUT]

Every batch has new parameters; compilation is not part of the times, and one batch is warm-up. Throughput is the number
of images divided by the time of all batches: times vary with the drawn scales, and training waits for their mean. The
peer (see tools/peers) alternates with framer_jax, batch by batch, in the same process and with one thread per core.

Comparisons on a busy machine are meaningless, since PyTorch slows down more: the share of the processors' time that
other programs took is measured and printed, and a ratio is marked as disturbed if that share exceeds 5 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from framer_jax.degradations.draw import DegradationParameters, draw, stack
from framer_jax.degradations.lookup import preset_by_name
from framer_jax.degradations.pipeline import apply, training_target
from framer_jax.degradations.presets import DegradationPreset

LARGEST_DISTURBANCE = 0.05


class Program(NamedTuple):
    """A compiled degradation.

    Attributes:
      run: (parameters, hr) → LR images.
      compile_seconds: time of compilation without a cache.
      bytes_per_image: XLA's temporaries, divided by the number of images that are processed at a time.
      temporaries: XLA's temporaries, bytes.
    """

    run: Callable[[DegradationParameters, np.ndarray], jax.Array]
    compile_seconds: float
    bytes_per_image: float
    temporaries: int


class Load:
    """The share of the processors' time that other programs took since the object was created (Linux)."""

    def __init__(self) -> None:
        self._start = self._now()

    def others(self) -> float | None:
        """The share; None where the system does not report it."""
        if self._start is None or (now := self._now()) is None:
            return None
        total, busy, this_process = (after - before for before, after in zip(self._start, now, strict=True))
        return max(0.0, busy - this_process) / max(total, 1e-9)

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds: (all processors, those that were busy, this process)."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                fields = [float(field) for field in file.readline().split()[1:9]]
        except OSError:
            return None
        tick = os.sysconf("SC_CLK_TCK")
        times = os.times()
        total = sum(fields)
        return total / tick, (total - fields[3] - fields[4]) / tick, times.user + times.system


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the degradation.")
    parser.add_argument("--preset", default="framer_paper", help="a preset, or a mixture of presets")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32], help="batch sizes")
    parser.add_argument("--size", type=int, default=512, help="side of the HR images, pixels")
    parser.add_argument("--batches", type=int, default=40, help="number of timed batches")
    parser.add_argument("--usm", action="store_true", help="sharpen the HR images first, even if the preset does not")
    parser.add_argument("--stages", action="store_true", help="also time every stage, at the last batch size")
    parser.add_argument(
        "--peer", type=Path, metavar="CHECKOUT", help="BasicSR checkout to compare with (extra [torch])"
    )
    parser.add_argument("--threads", type=int, help="threads of the peer; default: one per core")
    arguments = parser.parse_args()
    preset = preset_by_name(arguments.preset)
    stages = (preset.first, preset.second)
    if arguments.peer and (preset.parts or any(stage is None or stage.blur is None for stage in stages)):
        parser.error(
            f"--peer compares presets with two stages that blur, and {preset.name} is none: choose another one"
        )
    if arguments.usm:
        preset = replace(preset, sharpen_target=True)
    console = Console(width=140)
    console.print(
        f"{preset.name}{', USM' if preset.sharpen_target else ''}, HR {arguments.size}, {arguments.batches} batches "
        f"each, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}"
    )
    console.print(throughput(preset, arguments))
    if arguments.stages:
        console.print(breakdown(preset, arguments.batch[-1], arguments))
    return 0


def throughput(preset: DegradationPreset, arguments: argparse.Namespace) -> Table:
    """The table of throughputs, one row per batch size."""
    headings = ["batch", "images/s", "ms per image", "ms per batch, median (10 to 90 %)", "compile", "memory per image"]
    if arguments.peer:
        headings += ["PyTorch images/s", "ratio"]
    table = Table(*(f"[bold]{heading}" for heading in [*headings, "other programs"]))
    for batch in arguments.batch:
        program, times, peer_times, others = time_batches(preset, batch, arguments)
        low, middle, high = np.quantile(times, (0.1, 0.5, 0.9)) * 1e3
        row = [
            str(batch),
            f"{batch / np.mean(times):.1f}",
            f"{np.mean(times) / batch * 1e3:.1f}",
            f"{middle:.0f} ({low:.0f} to {high:.0f})",
            f"{program.compile_seconds:.0f} s",
            f"{program.bytes_per_image / 2**20:.0f} MiB",
        ]
        if peer_times:
            disturbed = " (disturbed)" if others is not None and others > LARGEST_DISTURBANCE else ""
            row += [f"{batch / np.mean(peer_times):.2f}", f"{np.mean(peer_times) / np.mean(times):.2f} x{disturbed}"]
        table.add_row(*row, "unknown" if others is None else f"{others:.1%}")
    return table


def time_batches(
    preset: DegradationPreset, batch: int, arguments: argparse.Namespace
) -> tuple[Program, list[float], list[float], float | None]:
    """Time batches of new parameters, framer_jax's and the peer's alternately.

    Args:
      preset: the preset.
      batch: images per batch.
      arguments: with `size` (side of the HR images), `batches` (their number), `peer` (BasicSR's checkout, or None) and
        `threads` of the peer.

    Returns:
      (the program, seconds of its batches, those of the peer, which are none without one, and the share of the
      processors' time that other programs took, if it is known).
    """
    program = compile_degradation(preset, batch, arguments.size)
    peer = None if arguments.peer is None else make_peer(preset, batch, arguments)
    hr = random_images(batch, arguments.size)
    times: list[float] = []
    peer_times: list[float] = []
    load = Load()
    for number in range(1 + arguments.batches):
        seconds = time_call(program.run, draw_batch(preset, batch, number), hr)
        peer_seconds = [] if peer is None else [peer(hr, number)]
        if number:  # the first one is warm-up
            times.append(seconds)
            peer_times += peer_seconds
    return program, times, peer_times, load.others()


def breakdown(preset: DegradationPreset, batch: int, arguments: argparse.Namespace) -> Table:
    """The table of the time that each stage adds to a program with the resizings and the stages before it."""
    programs = {
        name: compile_degradation(part, batch, arguments.size) for name, part in partial_presets(preset).items()
    }
    hr = random_images(batch, arguments.size)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(1 + arguments.batches):
        parameters = draw_batch(preset, batch, number)
        for name, program in programs.items():
            seconds = time_call(program.run, parameters, hr)
            if number:
                times[name].append(seconds)
    table = Table("[bold]stage", "[bold]ms per image", "[bold]share", title=f"batch {batch}", title_justify="left")
    means = {name: float(np.mean(values)) / batch * 1e3 for name, values in times.items()}
    total, before = list(means.values())[-1], 0.0
    for name, mean in means.items():
        table.add_row(name, f"{mean - before:+.2f}", f"{(mean - before) / total:.0%}")
        before = mean
    table.add_row("all", f"{total:.2f}", "")
    return table


def partial_presets(preset: DegradationPreset) -> dict[str, DegradationPreset]:
    """Name of a stage → the preset up to and including it."""
    if preset.first is None or preset.second is None:
        raise SystemExit(f"--stages needs a preset with two stages, such as framer_paper; {preset.name} has one")
    bare = {"blur": None, "noise": None, "jpeg_quality": None}
    first, second = replace(preset.first, **bare), replace(preset.second, **bare)  # type: ignore[arg-type]
    plain = replace(preset, first=first, second=second, low_pass=None, sharpen_target=False)
    parts = {"resizings": plain}
    parts["blur 1"] = plain = replace(plain, first=replace(first, blur=preset.first.blur))
    parts["noise 1"] = plain = replace(plain, first=replace(preset.first, jpeg_quality=None))
    parts["JPEG 1"] = plain = replace(plain, first=preset.first)
    parts["blur 2"] = plain = replace(plain, second=replace(second, blur=preset.second.blur))
    parts["noise 2"] = plain = replace(plain, second=replace(preset.second, jpeg_quality=None))
    parts["JPEG 2, last filter"] = plain = replace(plain, second=preset.second, low_pass=preset.low_pass)
    if preset.sharpen_target:
        parts["sharpening"] = preset
    return parts


def compile_degradation(preset: DegradationPreset, batch: int, size: int) -> Program:
    """Compile the degradation of batches of one shape."""

    def run(parameters: DegradationParameters, hr: jax.Array) -> jax.Array:
        return apply(parameters, training_target(hr, preset), preset)

    lowered = jax.jit(run).lower(draw_batch(preset, batch, 0), random_images(batch, size))
    started = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - started
    memory = program.memory_analysis()
    at_a_time = 1 if jax.default_backend() == "cpu" else batch
    temporaries = 0 if memory is None else memory.temp_size_in_bytes
    return Program(program, seconds, temporaries / at_a_time, temporaries)


def draw_batch(preset: DegradationPreset, batch: int, number: int) -> DegradationParameters:
    """The parameters of batch `number`."""
    return stack([draw(np.random.default_rng([number, index]), preset) for index in range(batch)])


def random_images(batch: int, size: int) -> np.ndarray:
    """Images with detail at every scale, [batch, size, size, 3] float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    images = np.full((batch, size, size, 3), 0.45, np.float32)
    cells = 4
    while cells <= size:
        field = rng.standard_normal((batch, cells, cells, 3), np.float32) * np.float32(0.3 * (4 / cells) ** 0.5)
        repeats = -(-size // cells)
        images += field.repeat(repeats, axis=1).repeat(repeats, axis=2)[:, :size, :size]
        cells *= 2
    return np.clip(images, 0, 1)


def time_call(run: Callable[..., Any], *inputs: Any) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    jax.block_until_ready(run(*inputs))
    return time.perf_counter() - started


def make_peer(
    preset: DegradationPreset, batch: int, arguments: argparse.Namespace
) -> Callable[[np.ndarray, int], float]:
    """(images, batch number) → seconds of the PyTorch pipeline, on a GPU if framer_jax uses one."""
    import torch

    from tools.peers import real_esrgan

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    torch.set_num_threads(arguments.threads or len(os.sched_getaffinity(0)))
    primitives = real_esrgan.load_primitives(arguments.peer)
    pipeline = real_esrgan.make_peer(primitives, preset, batch, arguments.size, 0, preset.sharpen_target, device)

    def run(hr: np.ndarray, number: int) -> float:
        images = torch.from_numpy(np.ascontiguousarray(hr.transpose(0, 3, 1, 2))).to(device)
        kernels = real_esrgan.draw_kernels(primitives, preset, batch, number)
        kernels = real_esrgan.Kernels(*(kernel.to(device) for kernel in kernels))
        return sum(pipeline(images, kernels)[1].values())

    return run


if __name__ == "__main__":
    sys.exit(main())
