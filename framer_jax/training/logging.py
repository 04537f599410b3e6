"""Where numbers, images and texts of a run go: one writer protocol, five writers and the progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import numpy as np
from clu import parameter_overview

Scalars = Mapping[str, float]
Images = Mapping[str, np.ndarray]
"""Name to [H, W, 3] float in [0, 1]."""


class Writer(Protocol):
    """What the loop tells; a writer ignores what it has no form for."""

    def resume(self, step: int) -> None:
        """The run continues after `step`: forget what was written beyond it."""
        ...

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Numbers at a step."""
        ...

    def write_images(self, step: int, images: Images) -> None:
        """Pictures at a step."""
        ...

    def write_text(self, step: int, name: str, text: str) -> None:
        """A named text at a step."""
        ...

    def close(self) -> None:
        """Flush and release files."""
        ...


class SilentWriter:
    """Writes nothing; the others override what they have a form for."""

    def resume(self, step: int) -> None:
        """Nothing to forget."""

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Nothing."""

    def write_images(self, step: int, images: Images) -> None:
        """Nothing."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing to release."""


class ConsoleWriter(SilentWriter):
    """One line per step on standard error (or `stream`)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """`step 100  loss 0.1234  ...`, without the numbers per layer (names that end in '/3'): the files have them."""
        shown = {name: value for name, value in scalars.items() if not name.rpartition("/")[2].isdigit()}
        self._print("  ".join([f"step {step}", *(f"{name} {value:.4g}" for name, value in shown.items())]))

    def write_text(self, step: int, name: str, text: str) -> None:
        """The text under its name, without the step."""
        self._print(f"{name}: {text}" if "\n" not in text else f"{name}:\n{text}")

    def _print(self, line: str) -> None:
        # Looked up at each call: the progress bar replaces sys.stderr while it runs.
        print(line, file=self._stream or sys.stderr, flush=True)


class JsonLinesWriter(SilentWriter):
    """One JSON object per line, {'step': ..., name: value ...}; texts as {'step', 'text', 'value'}."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def resume(self, step: int) -> None:
        """Drop lines beyond `step`, and a last line that a killed run left half-written."""
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        fresh = self._path.with_name(self._path.name + ".tmp")
        fresh.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        fresh.replace(self._path)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Append one line."""
        self._append({"step": step, **{name: float(value) for name, value in scalars.items()}})

    def write_text(self, step: int, name: str, text: str) -> None:
        """Append one line."""
        self._append({"step": step, "text": name, "value": text})

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a log that JsonLinesWriter wrote, texts left out."""
    entries = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if "text" not in entry]


class PngWriter(SilentWriter):
    """Images as `<folder>/<name>_<step>.png`."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def write_images(self, step: int, images: Images) -> None:
        """Round to 8 bits and save."""
        from PIL import Image

        self._folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            Image.fromarray(to_uint8(image)).save(self._folder / f"{name.replace('/', '_')}_{step:07d}.png")


class TensorBoardWriter(SilentWriter):
    """Event files by tensorboardX (extra `tensorboard`)."""

    def __init__(self, folder: str | Path) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise ImportError("TensorBoard logs need tensorboardX: pip install 'framer_jax[tensorboard]'") from error
        self._open: Callable[..., Any] = lambda **arguments: tensorboardX.SummaryWriter(str(folder), **arguments)
        self._purge: int | None = None
        self._file: Any = None

    def _writer(self) -> Any:
        if self._file is None:
            self._file = self._open(purge_step=self._purge)
        return self._file

    def resume(self, step: int) -> None:
        """TensorBoard hides older events beyond `step`."""
        self._purge = step + 1

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """One scalar event each."""
        for name, value in scalars.items():
            self._writer().add_scalar(name, value, step)

    def write_images(self, step: int, images: Images) -> None:
        """One image event each."""
        for name, image in images.items():
            self._writer().add_image(name, to_uint8(image), step, dataformats="HWC")

    def write_text(self, step: int, name: str, text: str) -> None:
        """One text event, as a code block."""
        self._writer().add_text(name, "\n".join("    " + line for line in text.splitlines()), step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._file is not None:
            self._file.close()


class MultiWriter:
    """Tells several writers the same."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = tuple(writers)

    def resume(self, step: int) -> None:
        """To all."""
        for writer in self._writers:
            writer.resume(step)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """To all."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Images) -> None:
        """To all."""
        for writer in self._writers:
            writer.write_images(step, images)

    def write_text(self, step: int, name: str, text: str) -> None:
        """To all."""
        for writer in self._writers:
            writer.write_text(step, name, text)

    def close(self) -> None:
        """All."""
        for writer in self._writers:
            writer.close()


def multi(writers: Sequence[Writer]) -> Writer:
    """One writer that tells all of them."""
    return MultiWriter(writers)


def default_writer(workdir: str | Path, tensorboard: bool = False) -> Writer:
    """Console, `metrics.jsonl`, `images/` and, if asked for, `tensorboard/` in the working folder."""
    folder = Path(workdir)
    writers: list[Writer] = [ConsoleWriter(), JsonLinesWriter(folder / "metrics.jsonl"), PngWriter(folder / "images")]
    return multi([*writers, TensorBoardWriter(folder / "tensorboard")] if tensorboard else writers)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] float in [0, 1] (clipped) to uint8."""
    return np.round(np.clip(np.asarray(image, np.float32), 0, 1) * 255).astype(np.uint8)


def overview(params: Any) -> str:
    """A table of all parameters: name, shape, type, size, mesh axes, and the total."""
    return parameter_overview.get_parameter_overview(params, include_stats="sharding")


class Progress:
    """A bar with loss, images per second and the time left, if visible and standard error is a terminal."""

    def __init__(self, start: int, total: int, visible: bool = True) -> None:
        self._bar: Any = None
        if visible and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("compiling", total=total, completed=start)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, scalars: Scalars | None = None) -> None:
        """Move to `step`; with scalars, show the loss and the speed."""
        if self._bar is None:
            return
        if scalars is None:
            self._bar.update(self._task, completed=step)
        else:
            shown = [f"{name} {value:.4g}" for name, value in scalars.items() if name.split("/")[-1] == "loss"]
            speed = scalars.get("images_per_second")
            text = "  ".join([*shown, *([f"{speed:.1f} images/s"] if speed else [])])
            self._bar.update(self._task, completed=step, description=text)
