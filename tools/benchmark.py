"""The speed of framer_jax on this machine, next to PyTorch in the same run, as a file from which the docs are rendered.

    python tools/benchmark.py OUTPUT.json [--cases NAME …] [--resshift CLONE] [--swinir-checkout CLONE]
        [--basicsr CLONE] [--programs framer_jax,eager,compile] [--rounds 20] [--seconds 120] [--threads N]
        [--clock wall] [--overwrite]

Cases: samplers and networks of ResShift and SinSR, one-pass networks, the degradation and its primitives, training
steps with and without FRAMER, and a run with its data. Programs of a case run alternately, so that a busy machine slows
all alike; compilation and warm-up are not part of the times. The file is written after each case, and cases that it
holds are kept: the same command goes on where it was stopped. A file of another machine, of other versions, threads or
clock is refused without --overwrite; what else was asked is recorded with each case. A case that cannot run is a line
at the end and exit status 1; the others go on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import benchmark_one_pass
from tools.benchmark_swinir import limit_threads
from tools.benchmarks import degradation, diffusion, primitives, training

PACKAGES = ("jax", "jaxlib", "torch", "onnxruntime", "openvino", "kornia", "albumentationsx")

ONE_PASS = {"swinir-small": "SwinIR-small", "srvgg-general": "realesr-general-x4v3's SRVGG"}
"""Networks of tools/benchmark_one_pass.py, with LR images of `ONE_PASS_SIDE`."""

ONE_PASS_SIDE = 128

WHAT: Mapping[str, str] = {
    **{name: case.what for name, case in diffusion.CASES.items()},
    **{name: f"{what}, {ONE_PASS_SIDE}² to {4 * ONE_PASS_SIDE}²" for name, what in ONE_PASS.items()},
    **{
        name: f"degradation `{degradation.PRESET}`, HR {degradation.SIDE}², batch {batch}"
        for name, batch in zip(degradation.CASES, degradation.BATCHES, strict=True)
    },
    **{name: case.what for name, case in primitives.CASES.items()},
    "step-unet": f"training step of the small U-Net, {training.BATCH} crops of {training.CROP}²",
    "step-dit": f"training step of the small DiT, {training.BATCH} crops of {training.CROP}²",
    "run": f"training run of `{training.RUN}`",
}
"""Case → what is timed."""

Measure = Callable[[argparse.Namespace], dict[str, Any]]

CASES: Mapping[str, Measure] = {
    **{name: partial(diffusion.measure, name) for name in diffusion.CASES},
    **{name: partial(benchmark_one_pass.time_case, name, ONE_PASS_SIDE) for name in ONE_PASS},
    **degradation.CASES,
    **primitives.MEASUREMENTS,
    **training.CASES,
}
"""Case → (options) → its figures."""


def main(command_line: Sequence[str] | None = None) -> int:
    arguments = parse(command_line)
    limit_threads(arguments)
    try:
        report = begin(arguments)
    except ValueError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    failures = []
    for name in arguments.cases:
        if name in report["cases"]:
            continue
        print(f"{name}: {WHAT[name]}", file=sys.stderr)
        try:
            figures = measured(name, arguments)
        except (ValueError, OSError, ImportError, RuntimeError) as error:  # torch.compile's are RuntimeErrors
            failures.append(f"{name}: {error}")
            continue
        report["cases"][name] = figures
        write(report, arguments.output)
        print("  ".join(summary(figures)), file=sys.stderr)
    for failure in failures:
        print(f"benchmark: {failure}", file=sys.stderr)
    return int(bool(failures))


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the speed of framer_jax.")
    parser.add_argument("output", type=Path, metavar="OUTPUT.json")
    parser.add_argument("--cases", nargs="+", default=list(WHAT), choices=WHAT, metavar="NAME", help=", ".join(WHAT))
    parser.add_argument("--resshift", type=Path, metavar="CLONE", help="your clone of ResShift, for its networks")
    parser.add_argument("--swinir-checkout", type=Path, metavar="CLONE", help="your clone of SwinIR, for its peers")
    parser.add_argument(
        "--basicsr", type=Path, metavar="CLONE", help="your clone of BasicSR, for the degradation's peer"
    )
    parser.add_argument("--programs", default="framer_jax,eager,compile", help="framer_jax and its peers (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="most timed calls of each program (%(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="time of a network or sampler (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of every program; default: one per core")
    parser.add_argument("--clock", default="wall", choices=benchmark_one_pass.CLOCKS, help="of networks and samplers")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of other versions or options")
    arguments = parser.parse_args(command_line, argparse.Namespace(device="cpu", dtype="float32"))
    arguments.programs = arguments.programs.split(",")
    known = {**benchmark_one_pass.NEEDS, **primitives.NEEDS}
    if unknown := [name for name in arguments.programs if name not in known]:
        parser.error(f"--programs: {unknown[0]!r} is none of {', '.join(known)}")
    if arguments.rounds < benchmark_one_pass.FEWEST_ROUNDS or (arguments.threads or 1) < 1:
        parser.error(f"--rounds must be at least {benchmark_one_pass.FEWEST_ROUNDS}, --threads at least 1")
    if arguments.clock == "processor" and arguments.threads != 1:
        parser.error("--clock processor counts threads that wait for each other as work: add --threads 1")
    return arguments


def begin(arguments: argparse.Namespace) -> dict[str, Any]:
    """The report to add to: that of the file, if it was measured in the same way, or an empty one.

    Raises:
      ValueError: the file is of another machine, version or option, or it is no report.
    """
    from tools.timing import hardware

    where = {
        "hardware": hardware(),
        "versions": {package: _version(package) for package in PACKAGES},
        "threads": arguments.threads,
        "clock": arguments.clock,
        "dtype": arguments.dtype,
    }
    if arguments.output.is_file() and not arguments.overwrite:
        try:
            report: dict[str, Any] = json.loads(arguments.output.read_text(encoding="utf-8"))
            other = [key for key, value in where.items() if report[key] != value]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{arguments.output} is no file of this tool: choose another, or --overwrite") from error
        if other:
            raise ValueError(
                f"{arguments.output} was measured with {other[0]} {report[other[0]]!r}, not {where[other[0]]!r}: "
                "choose another file, or --overwrite"
            )
        return report
    return {**where, "cases": {}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of a case, with the time that it took; the load of others includes the compilers that peers start."""
    from tools.benchmark_degradation import Load

    load, started = Load(), time.perf_counter()
    figures = CASES[name](arguments)
    asked = {option: getattr(arguments, option) for option in ("programs", "rounds", "seconds")}
    return {
        "what": WHAT[name],
        **figures,
        "asked": asked,
        "others_load": load.others(),
        "took": time.perf_counter() - started,
    }


def summary(figures: Mapping[str, Any]) -> list[str]:
    """The medians of a case, in words."""
    programs = figures["programs"].items()
    shares = (f"{name} {share:.1%}" for name, share in figures.get("shares", {}).items())
    return [*(f"{name} {program['median_seconds'] * 1e3:.1f} ms" for name, program in programs), *shares]


def write(report: Mapping[str, Any], output: Path) -> None:
    """Replace the file."""
    from framer_jax.porting.files import atomic_write

    with atomic_write(output) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
