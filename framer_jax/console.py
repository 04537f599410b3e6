"""Standard streams: text on consoles that do not know every character, and streams that are closed."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN = {"↑": "^", "↓": "v", "→": "->", "±": "+-", "×": "x", "…": "...", "–": "-", "≤": "<=", "≥": ">="}
"""Characters of our own output → what stands for them where they cannot be printed."""

HANDLER = "framer_jax.plain"

PIPE_WIDTH = 160
"""Width of tables that are not printed on a terminal."""


LOG_WIDTH = 4096
"""Width at which messages are wrapped that are not printed on a terminal."""


def table_width() -> int | None:
    """The width for rich's console: that of the terminal (None), or `PIPE_WIDTH` where there is none."""
    return None if sys.stdout.isatty() else PIPE_WIDTH


def message_console(quiet: bool = False) -> Console:
    """The console for messages and progress, standard error.

    On a terminal, lines are wrapped between words; in a file or a pipe they are not wrapped, so that a name or a number
    can be searched for.

    Args:
      quiet: whether it prints nothing.
    """
    from rich.console import Console

    width = None if sys.stderr.isatty() else LOG_WIDTH
    return Console(stderr=True, quiet=quiet, width=width, highlight=False)


def encode_plainly(error: UnicodeError) -> tuple[str, int]:
    r"""Error handler of codecs: plain characters for those of `PLAIN`, escapes such as \u4e2d for others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(PLAIN.get(character) or ascii(character)[1:-1] for character in text)
    return plain, error.end


STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""Standard stream → how it is opened, in the order of their descriptors, 0 to 2."""


@contextmanager
def open_streams() -> Iterator[None]:
    """Let standard streams that are closed (as by the shell's `>&-`) be the null device within the block.

    Python has None for them, whose methods are missing and for which `print` takes standard output. The null device
    also takes their descriptors, the lowest free ones: otherwise the next file that is opened has them, and what a
    library in C prints is written into it.
    """
    with ExitStack() as opened:
        for name, mode in STREAMS.items():
            if getattr(sys, name) is None:
                stream = opened.enter_context(open(os.devnull, mode, encoding="utf-8"))
                if stream.fileno() < len(STREAMS):
                    os.set_inheritable(stream.fileno(), True)  # as a standard stream, for processes that are started
                setattr(sys, name, stream)
                opened.callback(setattr, sys, name, None)
        yield


@contextmanager
def printable_streams() -> Iterator[None]:
    """Let standard output and error print any text: names that are no text, and consoles such as cp1252 or ASCII."""
    codecs.register_error(HANDLER, encode_plainly)
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors != HANDLER:
            changed.append((stream, stream.errors))
            stream.reconfigure(errors=HANDLER)
    try:
        yield
    finally:
        for stream, errors in changed:
            if not stream.closed:
                stream.reconfigure(errors=errors)
