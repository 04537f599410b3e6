"""Worker processes that load batches: what they need of the calling program, and how they end."""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

import grain

GUARD = (
    'put the call below `if __name__ == "__main__":` in a script file, because worker processes import the main module '
    "once more, or set data.workers=0"
)
"""The remedy for programs whose main module cannot be imported by worker processes."""

DIED = "Worker process was terminated unexpectedly"
"""How Grain's error for a worker that has ended begins."""


class WorkerError(ValueError):
    """Worker processes cannot be started, or one has ended."""


class WorkerBatches:
    """A Grain iterator with worker processes, whose end becomes one line.

    Args:
      batches: the iterator.
    """

    def __init__(self, batches: grain.DatasetIterator) -> None:
        self._batches = batches

    def __iter__(self) -> WorkerBatches:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._batches)
        except RuntimeError as error:
            if not str(error).startswith(DIED):
                raise
            code = str(error).removeprefix(f"{DIED} with exit code ").split(".")[0]
            raise WorkerError(f"a process that loads data (data.workers) has ended {_reason(code)}") from error

    def get_state(self) -> Any:
        """The position."""
        return self._batches.get_state()

    def set_state(self, state: Any) -> None:
        """Continue from a position."""
        self._batches.set_state(state)

    def close(self) -> None:
        """End the worker processes."""
        self._batches.close()


def start_worker(index: int, count: int) -> None:
    """Grain calls this in each worker process: signals are the business of the main process, which ends its workers.

    A batch system sends SIGTERM, and a terminal Ctrl-C, to all processes of a run. A worker that dies of it would take
    the batches that the main process still waits for before it saves. A worker whose main process was killed ends
    itself.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def start_quiet_tracker() -> None:
    """Start Python's process that removes the shared memory of workers, without its warnings where one was killed."""
    quiet = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(quiet)  # it is started with these
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


def check_main_module(workers: int) -> None:
    """Refuse to start worker processes from a program that they cannot import.

    A worker process imports the main module, so a call at its top level would be made once more in each of them.

    Args:
      workers: number of worker processes; nothing is checked for 0.

    Raises:
      WorkerError: the main module comes from standard input, or the call is at its top level without a guard.
    """
    if not workers:
        return
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    module = getattr(getattr(main, "__spec__", None), "name", "")
    if file is None or module.rpartition(".")[2] == "__main__":
        return  # an interactive session, `python -c` or `python -m package`: they are not imported again
    if not os.path.isfile(file):
        raise WorkerError(f"data.workers={workers} in a program from standard input ({file}): {GUARD}")
    line = _line_in_main(file)
    if line is not None and not _is_guarded(Path(file), line):
        raise WorkerError(f"data.workers={workers} in {file}, line {line}, without a main guard: {GUARD}")


def _line_in_main(file: str) -> int | None:
    """The line of the main module's top level that is being executed; None if the call comes from elsewhere."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        name = frame.f_globals.get("__name__")
        is_main = name in ("__main__", "__mp_main__") and os.path.abspath(code.co_filename) == os.path.abspath(file)
        if is_main and code.co_name == "<module>":
            return frame.f_lineno
        frame = frame.f_back
    return None


def _is_guarded(file: Path, line: int) -> bool:
    """Whether the top-level statement at a line is an `if` that asks for `__name__`, or follows one that does."""
    try:
        statements = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return True  # not Python's source: nothing is known
    tests = [node.test for node in statements if isinstance(node, ast.If) and node.lineno <= line]
    names = {node.id for test in tests for node in ast.walk(test) if isinstance(node, ast.Name)}
    return "__name__" in names


def _reason(code: str) -> str:
    try:
        number = int(code)
        name = signal.Signals(-number).name if number < 0 else ""
    except ValueError:
        name = ""
    if name == "SIGKILL":
        return "(SIGKILL; the system may have run out of memory)"
    return f"({name or f'exit code {code}'})"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
