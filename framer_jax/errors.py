"""Errors under another message: what was given is named where it is known."""

from __future__ import annotations

KINDS = (FileNotFoundError, ImportError, ValueError)
"""Kinds of errors that bad input raises."""


def with_message(error: Exception, message: str) -> Exception:
    """An error of the same kind of `KINDS` with another message.

    Subclasses, such as json.JSONDecodeError, become the kind itself: their constructors take other arguments.
    """
    return next((kind for kind in KINDS if isinstance(error, kind)), type(error))(message)
