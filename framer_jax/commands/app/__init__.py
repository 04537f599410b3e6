"""`framer-jax app`: a page on this machine that upscales photographs which are dropped onto it."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from framer_jax.checkpoints.sampling import UNCHANGED
from framer_jax.commands.app import page
from framer_jax.commands.app.work import Models
from framer_jax.commands.published import open_model
from framer_jax.inference.model import DEFAULT
from framer_jax.inference.named_models import MODELS, locate, named_model

HOST = "127.0.0.1"
"""The page is for this machine alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--model", metavar="NAME", help="the model that is chosen at first (default: standard)")
    parser.add_argument("--weights", metavar="FILE", help="also offer this weights file or training directory")
    parser.add_argument("--port", type=int, default=7860, help="port of the page (7860); 0 for any free one")
    parser.add_argument(
        "--largest-upload", type=float, default=50.0, metavar="MB", help="refuse larger image files (50)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or a signal to end; uploads and results are removed then."""
    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port is {arguments.port}: it must be a number from 0 to 65535")
    if arguments.largest_upload <= 0:
        raise ValueError(f"--largest-upload is {arguments.largest_upload}: it must be above 0")
    _check_free(arguments.port)
    models = offered_models(arguments.model, arguments.weights)
    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="framer_jax_app_") as folder:
        prepare_gradio(Path(folder))
        try:
            url = page.serve(models, Path(folder), HOST, arguments.port, arguments.largest_upload, arguments.open)
            print(f"open {url} in a browser on this machine; Ctrl-C ends it, and its files are removed", flush=True)
            page.wait()
        except KeyboardInterrupt:
            print("ended")
    return 0


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the block as Ctrl-C does when the process is terminated or its terminal is closed: photographs are removed.

    A second signal, which `timeout` and service managers may send, does not interrupt the removal. Python handles
    signals in the main thread alone, so that elsewhere nothing changes.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []

    def end(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _check_free(port: int) -> None:
    """Refuse a port that another program has; any free one (0) is one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(f"--port {port} cannot be used ({error.strerror}): choose another one, or 0") from error


def offered_models(first: str | None, weights: str | None) -> Models:
    """The models that can be used by name, and `weights`, read now; `first` or else the weights are chosen at first.

    Raises:
      ValueError, FileNotFoundError: an unknown name, a model that lacks something, or weights that cannot be used.
    """
    if first is not None:
        named_model(first)
        if missing := locate(first).missing:
            raise ValueError(f"--model {first}: {missing}")
    names = [name for name in MODELS if not locate(name).missing]
    opened = {}
    if weights is not None:
        label = Path(weights).name
        opened[label] = open_model(Path(weights), None, (), UNCHANGED, None)
        names.insert(0, label)
    chosen = first or (names[0] if weights else DEFAULT)
    return Models(tuple(names), chosen, opened)


def prepare_gradio(folder: Path) -> None:
    """Let Gradio keep its files in `folder` and send nothing anywhere.

    Raises:
      ImportError: it is not installed.
    """
    os.environ.update({"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"})
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the page needs Gradio ({error}): pip install 'framer_jax[app]'") from error
