"""The command line, `framer-jax COMMAND ...`. Each command is a module of framer_jax.commands, imported when needed."""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import signal
import sys
from _thread import interrupt_main
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import active_children
from threading import Timer, main_thread
from types import FrameType
from typing import Any, NoReturn

from framer_jax.commands.pixel_limit import pillow_settings
from framer_jax.compile_cache import keep_compiled_programs
from framer_jax.console import open_streams, printable_streams
from framer_jax.errors import is_correctable, is_interrupt, one_line
from framer_jax.knobs import LARGEST_INT, shown
from framer_jax.paths import check_local, local_copy
from framer_jax.version import __version__

COMMANDS = {
    "train": "train a recipe from a configuration file, or resume a run",
    "pretrain": "train the feature extractor of HF-Diff as a classifier, or resume such a run",
    "upscale": "upscale images with a trained model (by default the standard model)",
    "app": "serve a page on this machine that upscales images which are dropped onto it",
    "models": "list the models that can be used by name, and what the others need",
    "export": "write a model as one program, StableHLO or ONNX, that runs without framer_jax",
    "degrade": "make LR images from a folder of HR images, each with its own random degradation",
    "evaluate": "score a folder of images, with or without references, with confidence intervals",
    "compare": "compare models on the same images: paired differences with confidence intervals, a page, a figure",
    "analyze": "draw a model's layers, its distance to a teacher and its training as figures for a paper",
    "ablate": "train and compare the arms of a paper's ablation with several seeds, as one table with verdicts",
    "precompute": "write the outputs of frozen models for the training images to disk: teacher, captions, latents",
    "port": "convert published weights from PyTorch to framer_jax, or trained weights to PyTorch",
    "fit-niqe": "fit NIQE's model of pristine images to a folder of clean photographs",
    "doctor": "look for what is missing or broken in this installation, and name the commands that mend it",
    "info": "describe the installation and its devices, a model, a configuration or a method's knobs",
}


READS_IMAGES = ("upscale", "app", "degrade", "evaluate", "compare", "analyze", "fit-niqe")
"""Commands that take --max-pixels."""

WITHOUT_JAX = ("doctor",)
"""Commands that work where JAX cannot be imported."""

MAY_BE_EMPTY = ("suffix", "prompt", "text", "overrides", "extension")
"""Arguments whose empty text means something; any other names a file, a folder or a choice."""

READS_ADDRESSES = {"train": ("workdir", "init")}
"""Command → its arguments that may be addresses in an object store; --weights of any command are copied first."""

GOING_ON = {
    "train": "the same command goes on from the last checkpoint",
    "pretrain": "the same command goes on from the last checkpoint",
    "upscale": "the same command with --skip-existing (and without --overwrite) goes on; --in-place needs neither",
    "degrade": "the same command goes on",
    "precompute": "the same command goes on",
    "ablate": "the same command goes on",
    "evaluate": "the same command with --resume goes on from the file of --json, if one is named",
}
"""Command → how to go on after Ctrl-C; the others have written nothing."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell."""

TERMINATED = 143
"""Exit status after SIGTERM, as of a shell."""

AGAIN_AFTER = 0.1
"""Seconds after which an interrupt that was lost comes again."""

LARGEST_SEED = 2**63 - 1
"""Seeds are hashed, so that they may be larger than other numbers."""


PIPE_CLOSED = 141
"""Exit status after the reader of the output has gone, as shells use it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      arguments: command-line arguments; None for those of the process.

    Returns:
      The exit status. Errors that the user can correct are printed as one line on standard error, with status 2; any
      other error is a bug and shows its traceback, as do all errors if FRAMER_JAX_TRACEBACK is set. After Ctrl-C, one
      line says how to go on, with status 130.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words and words[0] in COMMANDS else ""
    with open_streams(), printable_streams():
        # before an import adds a handler
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        try:
            status = _run(words)
            sys.stdout.flush()  # a closed pipe is noticed here, in place of after the end
            return status
        except KeyboardInterrupt:
            return _interrupted(name)
        except BrokenPipeError:  # what reads the output, such as head, has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
            return PIPE_CLOSED
        except Exception as error:
            if is_interrupt(error):
                return _interrupted(name)
            if os.environ.get("FRAMER_JAX_TRACEBACK") or not is_correctable(error):
                raise
            print(f"framer-jax {name}: {one_line(error)}", file=sys.stderr)
            return 2


def _interrupted(name: str) -> int:
    """Say how to go on; returns the exit status."""
    print(f"framer-jax {name}: interrupted; {GOING_ON.get(name, 'nothing was written')}", file=sys.stderr)
    return INTERRUPTED


def run_process() -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit status.

    SIGTERM ends a command as Ctrl-C does, its temporary files are removed, and the status is 143. After either, the
    process ends without shutting Python down: threads of JAX may still compile, and crash while it is.
    """
    received: list[int] = []
    _interrupt_by_sigterm(received)
    _repeat_lost_interrupts(received)
    try:
        status = main()
    except KeyboardInterrupt:  # one more, while the first was reported
        status = INTERRUPTED
    if status != INTERRUPTED:
        sys.exit(status)
    for worker in active_children():  # which Python would end with itself
        worker.terminate()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # their reader may be gone
            stream.flush()
    os._exit(TERMINATED if received else INTERRUPTED)


def _interrupt_by_sigterm(received: list[int]) -> None:
    """Let SIGTERM raise KeyboardInterrupt in the main thread, and be listed, unless it is to be ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)


def _repeat_lost_interrupts(received: list[int]) -> None:
    """Let an interrupt come again that Python ignored, because it came in a callback, such as JAX's for gc."""
    report = sys.unraisablehook

    def repeat(lost: Any) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            report(lost)
            return
        timer = Timer(AGAIN_AFTER, _send_to_main_thread, [received[-1] if received else signal.SIGINT])
        timer.daemon = True
        timer.start()

    sys.unraisablehook = repeat


def _send_to_main_thread(number: int) -> None:
    """Send a signal; where it can, it also ends what the main thread waits for in the system."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_thread().ident or 0, number)
    else:
        interrupt_main(signal.Signals(number))


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def _run(words: list[str]) -> int:
    parser = _Parser(prog="framer-jax", description="Image super-resolution with diffusion priors.")
    parser.add_argument("--version", action="version", version=f"framer_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if words[:1] == [name]:  # import only the command that runs
            importlib.import_module(_module(name)).add_arguments(command)
            if name in READS_IMAGES:
                _add_pixel_limit(command)
    parsed = parser.parse_args(words)
    if "" in words or any(word.endswith("=") for word in words):
        _refuse_empty(parser, parsed)
    _copy_weights(parsed)
    _check_arguments(parsed, words)
    if parsed.command not in WITHOUT_JAX:
        keep_compiled_programs()
    with pillow_settings(getattr(parsed, "max_pixels", None)):
        return int(importlib.import_module(_module(parsed.command)).run(parsed))


def _add_pixel_limit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="refuse images of more pixels than this (178,956,970: twice Pillow's limit against decompression bombs)",
    )


def _copy_weights(parsed: argparse.Namespace) -> None:
    """Replace addresses of weights in object stores by copies on this machine, if it is the one that computes."""
    if getattr(parsed, "engine", "local") != "local":
        return  # `_check_arguments` refuses addresses
    weights = getattr(parsed, "weights", None)
    if isinstance(weights, list):
        parsed.weights = [local_copy(each) if isinstance(each, str) else each for each in weights]
    elif isinstance(weights, str):
        parsed.weights = local_copy(weights)


def _refuse_empty(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Refuse empty names of files and folders, which would mean the current folder."""
    for action in _actions(parser, parsed):
        value = getattr(parsed, action.dest, None)
        values = value if isinstance(value, list) else [value]
        if action.dest not in MAY_BE_EMPTY and any(item == "" != action.default for item in values):
            name = "/".join(action.option_strings) or str(action.metavar or action.dest)
            raise ValueError(f"{name} is empty: give a value (for the current folder, '.')")


def _actions(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> Iterator[argparse.Action]:
    """The arguments of the command that was given, and of its own command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from _actions(action.choices[getattr(parsed, action.dest)], parsed)
        else:
            yield action


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
            if isinstance(part, str) and name not in READS_ADDRESSES.get(parsed.command, ()):
                check_local(part, option)
            if isinstance(part, str) and "\0" in part:
                raise ValueError(f"{option} is {shown(part)}: it has a null character, which no path or value can have")


def _module(command: str) -> str:
    return f"framer_jax.commands.{command.replace('-', '_')}"


if __name__ == "__main__":
    run_process()
