"""Shards of a command as tasks of an engine, and how their results become those of the command."""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.commands.engine_option import ShardedCommand
from framer_jax.commands.pixel_limit import pillow_settings
from framer_jax.compile_cache import keep_compiled_programs
from framer_jax.console import message_console
from framer_jax.errors import is_correctable, one_line
from framer_jax.progress import track

Function = Callable[[argparse.Namespace], Any]


class Task(NamedTuple):
    """A call of a function with the arguments of a command.

    Attributes:
      function: a function of a module, or a partial one.
      arguments: the parsed arguments.
      folder: the working directory, from which paths in the arguments are relative.
    """

    function: Function
    arguments: argparse.Namespace
    folder: str


class Outcome(NamedTuple):
    """What became of a task.

    Attributes:
      result: what the function returned, pickled; empty after an error.
      error: the error in one line, or with its traceback if it is a bug; '' for none.
      is_bug: whether nothing that was given explains the error.
      attempt: how often the task was begun; its worker died before each further time.
    """

    result: bytes = b""
    error: str = ""
    is_bug: bool = False
    attempt: int = 1


class Engine(NamedTuple):
    """What computes tasks.

    Attributes:
      description: one line about it.
      slots: number of tasks that are computed at a time.
      outcomes: tasks → (number of the task, outcome), as they end.
    """

    description: str
    slots: int
    outcomes: Callable[[Sequence[Task]], Iterator[tuple[int, Outcome]]]


class Joined(NamedTuple):
    """What the shards computed.

    Attributes:
      results: the joined result; empty if every shard ended with an error.
      is_complete: whether none did.
    """

    results: tuple[Any, ...]
    is_complete: bool


def run_task(task: Task) -> Outcome:
    """Call the function of a task in its working directory; errors become an outcome."""
    arguments = task.arguments
    try:
        if not Path(task.folder).is_dir():
            raise FileNotFoundError(
                f"{task.folder} does not exist on {socket.gethostname()}: start the command in a folder that all "
                "machines of the cluster share"
            )
        keep_compiled_programs()
        with chdir(task.folder), pillow_settings(getattr(arguments, "max_pixels", None)):
            return Outcome(pickle.dumps(task.function(arguments)))
    except Exception as error:
        if is_correctable(error):
            return Outcome(error=one_line(error))
        return Outcome(error=traceback.format_exc(), is_bug=True)


def run_shards(arguments: argparse.Namespace, command: ShardedCommand[Any, Any], engine: Engine) -> Joined:
    """Compute a command in shards: check, then all shards, then merge, as tasks of the engine.

    An error in one shard does not end the others; it is printed.

    Raises:
      ValueError: what the check refuses.
      RuntimeError: an error of the check that is a bug.
    """
    console = message_console(arguments.quiet)
    here = argparse.Namespace(**{**vars(arguments), "quiet": True})
    plan = _value_of(engine, Task(command.check, here, os.getcwd()))
    count = max(1, min(arguments.ray_shards or engine.slots, plan.parts))
    shards = [argparse.Namespace(**{**vars(here), "shard": f"{number}/{count}"}) for number in range(count)]
    console.print(f"{engine.description}; {plan.parts} images or files in {count} shards", soft_wrap=True)
    tasks = [Task(command.compute, shard, os.getcwd()) for shard in shards]
    outcomes = dict(track(engine.outcomes(tasks), "shards", console, total=count))
    lost = Outcome(error="it has no result: its worker was lost")
    in_order = [outcomes.get(number, lost) for number in range(count)]
    for text in dict.fromkeys(outcome.error for outcome in in_order if outcome.error):
        numbers = [str(number) for number, outcome in enumerate(in_order) if outcome.error == text]
        shard = f"{'shard' if len(numbers) == 1 else 'shards'} {', '.join(numbers)} of {count}"
        print(f"framer-jax {arguments.command}: {shard}: {text}", file=sys.stderr)
    if repeated := [str(number) for number, outcome in enumerate(in_order) if outcome.attempt > 1]:
        console.print(f"begun again, since their worker died: shards {', '.join(repeated)}", soft_wrap=True)
    results = [pickle.loads(outcome.result) for outcome in in_order if not outcome.error]
    if not results:
        return Joined((), False)
    merge = partial(_merge, command.merge, plan.facts, results)
    return Joined((_value_of(engine, Task(merge, here, os.getcwd())),), len(results) == count)


def _merge(merge: Callable[..., Any], facts: Any, results: Sequence[Any], arguments: argparse.Namespace) -> Any:
    return merge(arguments, facts, results)


def _value_of(engine: Engine, task: Task) -> Any:
    """The result of a task; its error is raised."""
    outcomes = dict(engine.outcomes([task]))
    outcome = outcomes.get(0, Outcome(error="the worker of the cluster was lost"))
    if outcome.is_bug:
        raise RuntimeError(outcome.error)
    if outcome.error:
        raise ValueError(outcome.error)
    return pickle.loads(outcome.result)
