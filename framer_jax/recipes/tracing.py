"""The arguments that the results of a function depend on, by tracing it: nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Var


def leaves_read(function: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    """Which leaves of its arguments a function's results depend on.

    Args:
      function: as for jax.jit.
      arguments: trees of arrays, or of their shapes (jax.ShapeDtypeStruct).

    Returns:
      a tree of bools for each argument. A leaf that enters an inner program (the body of a loop) counts as read.
    """
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    needed = {value for value in program.outvars if isinstance(value, Var)}
    for equation in reversed(program.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            needed.update(value for value in equation.invars if isinstance(value, Var))
    read: tuple[Any, ...] = jax.tree.unflatten(
        jax.tree.structure(arguments), [value in needed for value in program.invars]
    )
    return read
