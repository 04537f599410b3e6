"""Arguments under their former names, for one version."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed_arguments(**renamed: str) -> Callable[[Function], Function]:
    """Decorator: accept old keyword arguments (old name = new name) for one version, with a DeprecationWarning."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            moved = {}
            for old in renamed.keys() & keywords.keys():
                message = f"argument {old!r} of framer_jax.{function.__name__} is deprecated: use {renamed[old]!r}"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                moved[renamed[old]] = keywords.pop(old)
            return function(*arguments, **keywords, **moved)

        return call  # type: ignore[return-value]

    return decorate
