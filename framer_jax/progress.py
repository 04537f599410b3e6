"""Progress of what takes long: a bar with the remaining time on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")

LINE_EVERY = 60.0
"""Seconds between two lines in a log."""


class Report(Progress):
    """Progress of one or more tasks.

    On a terminal, a bar for each task. Where messages go to a file or a pipe, no bars, but a line about all of them
    every minute. Nothing without a console, or with a quiet one.
    """

    def __init__(self, console: Console | None, transient: bool = False):
        silent = console is None or console.quiet
        self._lines = not silent and console is not None and not console.is_terminal
        self._last_line = time.monotonic()
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=transient,
            disable=silent or self._lines,
            auto_refresh=not silent and not self._lines,
        )

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count on, see rich.progress.Progress."""
        super().advance(task_id, advance)
        self._write_line()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task, see rich.progress.Progress."""
        super().update(task_id, **changes)
        self._write_line()

    def _write_line(self) -> None:
        now = time.monotonic()
        if not self._lines or now - self._last_line < LINE_EVERY or not self.tasks:
            return
        self._last_line = now
        self.console.print("; ".join(map(_state, self.tasks)), soft_wrap=True)


def _state(task: Task) -> str:
    total = "" if task.total is None else f" of {task.total:,.0f}"
    text = f"{task.description}: {task.completed:,.0f}{total}, {duration(task.elapsed or 0)} so far"
    if task.time_remaining is not None and task.completed:
        text += f", about {duration(task.time_remaining)} left"
    return text


def track(
    items: Iterable[Item], description: str, console: Console | None, total: int | None = None, transient: bool = False
) -> Iterator[Item]:
    """Iterate, and report how far it is; arguments as of `Report`."""
    with Report(console, transient) as report:
        yield from report.track(items, total=total, description=description)


def duration(seconds: float) -> str:
    """A duration in words, such as '45 s', '12 min' or '3 h 20 min'."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
