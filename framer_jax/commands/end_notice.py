"""How a process of a distributed run ends: with a line that says what is saved, and without waiting for the others."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from framer_jax.errors import is_correctable, one_line
from framer_jax.paths import AnyPath

WATCHER = """
import os, sys
name, folder, remedy = sys.argv[1:]
for line in sys.stdin.buffer:
    if line == b"ended\\n":
        sys.exit()
steps = [int(entry) for entry in os.listdir(folder) if entry.isdecimal()] if os.path.isdir(folder) else []
saved = f"step {max(steps)} is saved in {os.path.join(folder, str(max(steps)))}" if steps else "no step is saved"
saved = f"saved steps are in {folder}" if "://" in folder else saved
print(f"framer-jax train: {name} was killed, or ended by JAX because another process ended; {saved}: {remedy}",
      file=sys.stderr, flush=True)
"""
"""Program of the process that notices the end: its standard input ends with the watched process, however that ends.
It imports nothing of ours, and takes 9 MB."""


@contextmanager
def notice_of_sudden_end(name: str, checkpoints: AnyPath, remedy: str) -> Iterator[None]:
    """Within the block, a sudden end of this process leaves a line on standard error, with the newest checkpoint.

    JAX ends all processes of a distributed run from within its C++ code when one of them does not answer, and the
    system kills a process that needs too much memory: neither can be caught in Python.

    Args:
      name: this process, such as 'process 1 of 4'.
      checkpoints: folder of the run's checkpoints.
      remedy: what to do.
    """
    command = [sys.executable, "-I", "-S", "-c", WATCHER, name, str(checkpoints), remedy]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        try:
            yield
        finally:
            watcher.communicate(b"ended\n")


def end_at_once(error: Exception) -> None:
    """End this process with the message of an error: an orderly end would wait minutes for processes that are gone."""
    if os.environ.get("FRAMER_JAX_TRACEBACK") or not is_correctable(error):
        traceback.print_exception(error)
    else:
        print(f"framer-jax train: {one_line(error)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
