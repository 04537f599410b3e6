"""`framer-jax export`: a model as one program with its weights, StableHLO or ONNX, that runs without framer_jax."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export
from rich.markup import escape

from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.commands.upscale import add_model_arguments, add_sampler_arguments, named_by
from framer_jax.console import message_console
from framer_jax.inference.artifact import FILES, check_folder, compare, signature, write_artifact
from framer_jax.inference.export import (
    DEFAULT_PLATFORMS,
    PLATFORMS,
    Sizes,
    check_platforms,
    export_model,
    model_program,
)
from framer_jax.inference.model import Model, check_mode
from framer_jax.inference.onnx_export import INPUT, OPSET, export_onnx
from framer_jax.inference.records import Origin, origin_entries

Run = Callable[[np.ndarray], np.ndarray]


class Exported(NamedTuple):
    """An exported model.

    Attributes:
      content: the file.
      sizes: the sizes of its images.
      seeded: whether its second argument is a seed.
      facts: manifest entries of this format.
      load: reads `content` and returns (image) → result, with seed 0; None where this machine cannot run it.
    """

    content: bytes
    sizes: Sizes
    seeded: bool
    facts: dict[str, Any]
    load: Callable[[], Run] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("output", help="folder for the program, its manifest and a page on how it is used")
    add_model_arguments(parser)
    add_sampler_arguments(parser)
    parser.add_argument(
        "--mode", default="sample", choices=("sample", "mean"), help="the full sampler, or the one-step mean"
    )
    parser.add_argument(
        "--format",
        default="stablehlo",
        choices=tuple(FILES),
        help="StableHLO (extra export), or ONNX of a network of one pass (extra onnx); default: stablehlo",
    )
    parser.add_argument(
        "--size", metavar="HxW", help="the only size of LR images that it takes, one number for a square; default: all"
    )
    parser.add_argument(
        "--platforms",
        nargs="+",
        choices=PLATFORMS,
        help=f"platforms of a program of StableHLO; default: {' '.join(DEFAULT_PLATFORMS)}",
    )
    parser.add_argument("--no-check", action="store_true", help="do not compare the program with the model")
    parser.add_argument("--overwrite", action="store_true", help="replace an exported model")
    add_quiet_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export a model."""
    folder, kind, size = Path(arguments.output), arguments.format, _size(arguments.size)
    if kind == "onnx" and arguments.platforms:
        raise ValueError("--platforms is of StableHLO; an ONNX file runs wherever there is a runtime: omit it")
    platforms = tuple(arguments.platforms or DEFAULT_PLATFORMS)
    check_platforms(platforms)
    check_folder(folder, arguments.overwrite)
    console = message_console(arguments.quiet)
    model = named_by(arguments)
    check_mode(model, arguments.mode)
    console.print(escape(f"exporting {model.recipe.name} as {FILES[kind]}, which may take minutes"))
    exported = (
        _onnx(model, arguments.mode, size) if kind == "onnx" else _stablehlo(model, arguments.mode, size, platforms)
    )
    if exported.load is not None and not arguments.no_check:
        console.print(escape(f"{len(exported.content) / 2**20:.1f} MiB; comparing it with the model"))
    check = _check(model, arguments.mode, exported, arguments.no_check)
    origin = Origin(model.path, model.metadata["config"], model.frozen_weights, model.overrides)
    entries = origin_entries(origin, model.recipe)
    del entries["device"]
    manifest = {
        **signature(kind, exported.sizes, model.recipe.scale, exported.seeded),
        "mode": arguments.mode,
        **exported.facts,
        "check": check,
        **entries,
    }
    write_artifact(folder, kind, exported.content, manifest, exported.sizes)
    taken, given = (", ".join(map(str, manifest[side]["shape"])) for side in ("input", "output"))
    print(
        f"{folder / FILES[kind]}: {len(exported.content) / 2**20:.1f} MiB, [{taken}] to [{given}]; {check['summary']}"
    )
    return 0


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    if not sides:
        raise ValueError(f"--size {text!r}: give LR pixels as HEIGHTxWIDTH, or one number for a square")
    return int(sides[1]), int(sides[2] or sides[1])


def _stablehlo(model: Model, mode: str, size: tuple[int, int] | None, platforms: tuple[str, ...]) -> Exported:
    exported = export_model(model.recipe, model.params, mode, size, platforms)
    content = bytes(exported.program.serialize())
    seed = (np.uint32(0),) if exported.seeded else ()

    def load() -> Run:
        program = export.deserialize(bytearray(content))
        return lambda image: np.asarray(program.call(image, *seed))

    runs_here = export.default_export_platform() in platforms
    facts = {"platforms": list(platforms), "calling_convention": exported.program.calling_convention_version}
    return Exported(content, exported.sizes, exported.seeded, facts, load if runs_here else None)


def _onnx(model: Model, mode: str, size: tuple[int, int] | None) -> Exported:
    exported = export_onnx(model.recipe, model.params, mode, size)
    content = exported.model.SerializeToString()

    def load() -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda image: np.asarray(session.run(None, {INPUT: image})[0])

    facts = {"platforms": ["those of the runtime"], "opset": OPSET}
    return Exported(content, exported.sizes, False, facts, load)


def _check(model: Model, mode: str, exported: Exported, omitted: bool) -> dict[str, Any]:
    """The manifest's entry on the comparison with the model."""
    if omitted:
        return {"summary": "not compared with the original (--no-check)"}
    if exported.load is None:
        return {"summary": "not compared with the original, as this machine is none of the platforms"}
    program = jax.jit(model_program(model.recipe, model.params, mode))
    check = compare(lambda image: np.asarray(program(image, np.uint32(0))), exported.load(), exported.sizes)
    psnr = None if check.psnr == float("inf") else round(check.psnr, 2)
    return {
        "summary": str(check),
        "size": list(check.size),
        "largest_difference": check.largest_difference,
        "psnr": psnr,
    }
