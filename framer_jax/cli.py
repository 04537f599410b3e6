"""The command line, `framer-jax COMMAND ...`. Each command is a module of framer_jax.commands, imported when needed."""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from framer_jax.knobs import LARGEST_INT, shown
from framer_jax.version import __version__

COMMANDS = {
    "train": "train a recipe from a configuration file, or resume a run",
    "upscale": "upscale images with a trained model (by default the starter model)",
    "degrade": "make LR images from a folder of HR images, each with its own random degradation",
    "evaluate": "score a folder of images, with or without references, with confidence intervals",
    "precompute": "write the outputs of frozen models for the training images to disk: teacher, captions, latents",
    "port": "convert published weights from PyTorch to framer_jax, or trained weights to PyTorch",
    "fit-niqe": "fit NIQE's model of pristine images to a folder of clean photographs",
    "info": "describe the installation and its devices, a model, a configuration or a method's knobs",
}


LARGEST_SEED = 2**63 - 1
"""Seeds are hashed, so that they may be larger than other numbers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      arguments: command-line arguments; None for those of the process.

    Returns:
      The exit status. Errors that the user can correct are printed as one line on standard error, with status 2; any
      other error is a bug and shows its traceback, as do all errors if FRAMER_JAX_TRACEBACK is set.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")  # before an import adds a handler
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="framer-jax", description="Image super-resolution with diffusion priors.")
    parser.add_argument("--version", action="version", version=f"framer_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if words[:1] == [name]:  # import only the command that runs
            importlib.import_module(_module(name)).add_arguments(command)
    parsed = parser.parse_args(words)
    _keep_compiled_programs()
    try:
        _check_arguments(parsed, words)
        return importlib.import_module(_module(parsed.command)).run(parsed)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        if os.environ.get("FRAMER_JAX_TRACEBACK"):
            raise
        message = " ".join(line.strip() for line in str(error).splitlines())  # messages of libraries may be longer
        if isinstance(error, ZeroDivisionError | OverflowError):  # 'division by zero': no message of ours is one
            message += ": a number among the options or the knobs is out of range; FRAMER_JAX_TRACEBACK=1 shows where"
        print(f"framer-jax {parsed.command}: {message}", file=sys.stderr)
        return 2


def _check_arguments(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    """Refuse what no option can mean: numbers that are not finite or too large to count with, null characters.

    Raises:
      ValueError: the message names the option.
    """
    for name, value in vars(parsed).items():
        flag, largest = f"--{name.replace('_', '-')}", LARGEST_SEED if name == "seed" else LARGEST_INT
        option = flag if any(word.split("=")[0] == flag for word in words) else name  # of an argument without a flag
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, float) and not math.isfinite(part):
                raise ValueError(f"{option} is {part}: it must be a finite number")
            if isinstance(part, int) and abs(part) > largest:
                raise ValueError(f"{option} is {shown(part)}: it must be at most {largest} in magnitude")
            if isinstance(part, str) and "\0" in part:
                raise ValueError(f"{option} is {shown(part)}: it has a null character, which no path or value can have")


def _module(command: str) -> str:
    return f"framer_jax.commands.{command.replace('-', '_')}"


def _keep_compiled_programs() -> None:
    """Enable JAX's persistent compilation cache, unless the user or the calling program has configured it."""
    import jax

    configured = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or configured:
        return
    cache = _cache_folder()
    if cache is None:
        logging.getLogger(__name__).warning(
            "there is no home folder to keep compiled programs in, so each run compiles its own: set HOME or "
            "JAX_COMPILATION_CACHE_DIR to a folder that can be written"
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _cache_folder() -> Path | None:
    """Where compiled programs are kept; None for a user without a home folder, as in some containers and batch jobs."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # not set, or to be ignored, as its specification says
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # neither HOME nor an entry of this user
            return None
    if not base.is_absolute():  # HOME is empty
        return None
    existing = next((folder for folder in (base, *base.parents) if folder.exists()), base)
    return base / "framer_jax" / "compiled" if existing.is_dir() and os.access(existing, os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
