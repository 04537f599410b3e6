"""Logs of scalars, images and texts: the writer protocol, its implementations, and the progress bar."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import numpy as np
from clu import parameter_overview

from framer_jax.knobs import changed_repr, check_knobs, knob
from framer_jax.paths import AnyPath, as_path, write_whole

Scalars = Mapping[str, float]
Images = Mapping[str, np.ndarray]
"""Name to [H, W, 3] float in [0, 1]."""


@dataclass(frozen=True)
class LoggingSettings:
    """The `logging` section of a configuration; `metrics.jsonl` and `images/` are always written.

    Raises:
      ValueError: an illegal value, in one line that starts with the name of the setting.
    """

    tensorboard: bool = knob(False, "Also write TensorBoard event files to tensorboard/ (extra `tensorboard`).")
    wandb: str = knob(
        "",
        "Also log to Weights & Biases, in the project of this name (extra `wandb`); with WANDB_MODE=offline only to "
        "wandb/ of the work directory. Empty: not.",
        empty=True,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


class Writer(Protocol):
    """Writes what the training loop reports; a writer ignores what its format cannot hold."""

    def resume(self, step: int) -> None:
        """The run continues after `step`: drop later entries."""
        ...

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Write the scalars of a step."""
        ...

    def write_images(self, step: int, images: Images) -> None:
        """Write the images of a step."""
        ...

    def write_text(self, step: int, name: str, text: str) -> None:
        """Write a named text."""
        ...

    def close(self) -> None:
        """Flush and release files."""
        ...


LONG_TEXT = 20
"""Lines of a text above which the console shows the last one only, see `ConsoleWriter`."""


class SilentWriter:
    """Writes nothing; the base class of the other writers, which override what they support."""

    def resume(self, step: int) -> None:
        """Do nothing."""

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Do nothing."""

    def write_images(self, step: int, images: Images) -> None:
        """Do nothing."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class ConsoleWriter(SilentWriter):
    """Writes one line per log entry to standard error, or to `stream`.

    Args:
      stream: where it writes.
      long_texts: name of the file that has texts of more than `LONG_TEXT` lines, of which only the last line, such as
        the total of a table, is printed; '' to print them whole.
    """

    def __init__(self, stream: TextIO | None = None, long_texts: str = "") -> None:
        self._stream = stream
        self._long_texts = long_texts

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Print `step 100  loss 0.1234  ...` without scalars per layer (names that end in '/3'), which files hold."""
        shown = {name: value for name, value in scalars.items() if not name.rpartition("/")[2].isdigit()}
        self._print("  ".join([f"step {step}", *(f"{name} {value:.4g}" for name, value in shown.items())]))

    def write_text(self, step: int, name: str, text: str) -> None:
        """Print the text after its name, without the step."""
        lines = text.splitlines()
        if self._long_texts and len(lines) > LONG_TEXT:
            text = f"{lines[-1]} (all {len(lines)} lines: {self._long_texts})"
        self._print(f"{name}: {text}" if "\n" not in text else f"{name}:\n{text}")

    def _print(self, line: str) -> None:
        # sys.stderr is looked up at each call, because the progress bar replaces it while it runs.
        if (stream := self._stream or sys.stderr) is not None:  # it is None where standard error is closed
            print(line, file=stream, flush=True)


class JsonLinesWriter(SilentWriter):
    """Writes one JSON object per line: {'step': ..., name: value, ...}, and texts as {'step', 'text', 'value'}.

    NaN and infinity, which JSON does not have, are written as null.
    """

    def __init__(self, path: str | AnyPath) -> None:
        self._path = as_path(path)
        self._lines: list[str] | None = None  # of a file in an object store, where nothing can be appended

    def resume(self, step: int) -> None:
        """Drop lines after `step`, and an incomplete last line of a killed run."""
        if not self._path.exists():
            return
        lines = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        self._write([line + "\n" for line in lines])

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Append one line with the scalars."""
        numbers = {name: float(value) for name, value in scalars.items()}
        self._append({"step": step, **{name: value if np.isfinite(value) else None for name, value in numbers.items()}})

    def write_text(self, step: int, name: str, text: str) -> None:
        """Append one line with the text."""
        self._append({"step": step, "text": name, "value": text})

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, allow_nan=False) + "\n"
        if isinstance(self._path, Path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
            return
        if self._lines is None:
            self._lines = (
                self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
            )
        self._write([*self._lines, line])

    def _write(self, lines: list[str]) -> None:
        self._lines = None if isinstance(self._path, Path) else lines
        write_whole(self._path, "".join(lines).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class PngWriter(SilentWriter):
    """Writes images to `<folder>/<name>_<step>.png`."""

    def __init__(self, folder: str | AnyPath) -> None:
        self._folder = as_path(folder)

    def write_images(self, step: int, images: Images) -> None:
        """Round the images to 8 bits and save them."""
        from PIL import Image

        for name, image in images.items():
            file_name = f"{_short_name(name.replace('/', '_'))}_{step:07d}.png"
            content = io.BytesIO()
            Image.fromarray(to_uint8(image)).save(content, format="png")
            write_whole(self._folder / file_name, content.getvalue())


def _short_name(name: str, longest: int = 200) -> str:
    """A name that fits into a file name with a suffix, and into UTF-8; names that differ still do."""
    text = name.encode(errors="backslashreplace").decode()
    if len(text.encode()) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text.encode()[: longest - 13].decode(errors='ignore')}-{digest}"


class TensorBoardWriter(SilentWriter):
    """Writes TensorBoard event files with tensorboardX (extra `tensorboard`)."""

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
        """Let TensorBoard hide older events after `step`."""
        self._purge = step + 1

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Write one event per scalar."""
        for name, value in scalars.items():
            self._writer().add_scalar(name, value, step)

    def write_images(self, step: int, images: Images) -> None:
        """Write one event per image."""
        for name, image in images.items():
            self._writer().add_image(_short_name(name), to_uint8(image), step, dataformats="HWC")

    def write_text(self, step: int, name: str, text: str) -> None:
        """Write one event, with the text as a code block."""
        self._writer().add_text(name, "\n".join("    " + line for line in text.splitlines()), step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._file is not None:
            self._file.close()


class WandbWriter(SilentWriter):
    """Writes to Weights & Biases (extra `wandb`); a resumed run goes on in its old record.

    Args:
      folder: work directory of the run, which gets `wandb/` with the files and the id of the record.
      project: name of the project.
    """

    def __init__(self, folder: str | Path, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("logs in Weights & Biases need wandb: pip install 'framer_jax[wandb]'") from error
        self._wandb: Any = wandb
        self._folder, self._project = Path(folder), project
        self._record: Any = None

    def _open(self) -> Any:
        """The record, opened at the first entry, when the run is known to be able to start."""
        if self._record is None:
            (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
            id_file = self._folder / "wandb" / "id.txt"
            if not id_file.exists():
                id_file.write_text(uuid.uuid4().hex, encoding="utf-8")
            try:
                self._record = self._wandb.init(
                    project=self._project,
                    name=self._folder.name,
                    dir=str(self._folder),
                    id=id_file.read_text(encoding="utf-8").strip(),
                    resume="allow",
                )
            except self._wandb.errors.Error as error:
                raise ValueError(
                    f"logging.wandb={self._project!r}: {' '.join(str(error).split())}; set WANDB_API_KEY, or "
                    "WANDB_MODE=offline to keep the log in the work directory"
                ) from error
        return self._record

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Log the scalars of a step; those of steps that the record has already are dropped by wandb."""
        self._open().log({name: float(value) for name, value in scalars.items()}, step=step)

    def write_images(self, step: int, images: Images) -> None:
        """Log images."""
        pictures = {name: self._wandb.Image(to_uint8(image)) for name, image in images.items()}
        self._open().log(pictures, step=step)

    def write_text(self, step: int, name: str, text: str) -> None:
        """Keep the newest text of a name in the summary of the record."""
        self._open().summary[f"text/{name}"] = text

    def close(self) -> None:
        """Finish the record."""
        if self._record is not None:
            self._record.finish()
            self._record = None


class MultiWriter:
    """Passes everything on to several writers."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = tuple(writers)

    def resume(self, step: int) -> None:
        """Resume all writers."""
        for writer in self._writers:
            writer.resume(step)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Write the scalars with all writers."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Images) -> None:
        """Write the images with all writers."""
        for writer in self._writers:
            writer.write_images(step, images)

    def write_text(self, step: int, name: str, text: str) -> None:
        """Write the text with all writers."""
        for writer in self._writers:
            writer.write_text(step, name, text)

    def close(self) -> None:
        """Close all writers."""
        for writer in self._writers:
            writer.close()


def default_writer(workdir: str | AnyPath, settings: LoggingSettings | None = None, quiet: bool = False) -> Writer:
    """A writer to `metrics.jsonl` and `images/` in a folder, as the settings say, and unless `quiet` to the console."""
    folder = as_path(workdir)
    writers: list[Writer] = [] if quiet else [ConsoleWriter(long_texts="metrics.jsonl")]
    writers += [JsonLinesWriter(folder / "metrics.jsonl"), PngWriter(folder / "images")]
    if settings is not None and settings.tensorboard:
        writers.append(TensorBoardWriter(folder / "tensorboard"))
    if settings is not None and settings.wandb:
        writers.append(WandbWriter(folder, settings.wandb))
    return MultiWriter(writers)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert an image [H, W, 3], float in [0, 1], to uint8; values outside the range are clipped, NaN is black."""
    return np.round(np.clip(np.nan_to_num(np.asarray(image, np.float32)), 0, 1) * 255).astype(np.uint8)


def overview(params: Any) -> str:
    """A table of all parameters with name, shape, dtype, size and mesh axes, and their total."""
    return parameter_overview.get_parameter_overview(params, include_stats="sharding")


class Progress:
    """A progress bar with loss, speed and remaining time, if `visible` and standard error is a terminal."""

    def __init__(self, start: int, total: int, visible: bool = True) -> None:
        self._bar: Any = None
        if visible and sys.stderr is not None and sys.stderr.isatty():
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
        """Move to `step`; with scalars, also show the loss and the speed."""
        if self._bar is None:
            return
        if scalars is None:
            self._bar.update(self._task, completed=step)
        else:
            parts = [f"{name} {value:.4g}" for name, value in scalars.items() if name.split("/")[-1] == "loss"]
            if speed := scalars.get("images_per_second"):
                parts.append(f"{speed:.1f} images/s")
            text = "  ".join(parts)
            self._bar.update(self._task, completed=step, description=text)
