"""Errors under another message: what was given is named where it is known; and which errors a user can correct."""

from __future__ import annotations

import sys

KINDS = (FileNotFoundError, ImportError, ValueError)
"""Kinds of errors that bad input raises."""


def with_message(error: Exception, message: str) -> Exception:
    """An error of the same kind of `KINDS` with another message.

    Subclasses, such as json.JSONDecodeError, become the kind itself: their constructors take other arguments.
    """
    return next((kind for kind in KINDS if isinstance(error, kind)), type(error))(message)


def is_correctable(error: BaseException) -> bool:
    """Whether an error is of the input, of the system or of the device, rather than a bug."""
    if isinstance(error, ValueError | OSError | ArithmeticError | ImportError | MemoryError):
        return True
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error stands for Ctrl-C: where it comes while code in C calls Python, another error may replace it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def one_line(error: BaseException) -> str:
    """The message of an error in one line (those of libraries may have more), or else its kind."""
    message = " ".join(line.strip() for line in str(error).splitlines()) or type(error).__name__
    if isinstance(error, ZeroDivisionError | OverflowError):  # 'division by zero': no message of ours is one
        message += ": a number among the options or the knobs is out of range; FRAMER_JAX_TRACEBACK=1 shows where"
    return message
