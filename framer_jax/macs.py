"""Multiply-accumulates (MACs) of a traced program by flax module, counted without running it.

Convolutions and matrix products are counted as in the tools that publications cite (ptflops, fvcore, THOP), including
products with the zero padding of convolutions. One MAC is two FLOPs. Additions of biases, norms, activations and
softmax are not MACs; XLA's own count of FLOPs includes them (framer_jax.evaluation.cost).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

KINDS = ("convolution", "matrix", "batched matrix")
"""Kinds of products. Batched matrix products are those of attention, over windows and heads."""

NAME = re.compile(r"([A-Za-z_]\w*)(\.\w+)?")
"""A flax module in a name stack, optionally with the called method; does not match the formulas of einsum."""


class Product(NamedTuple):
    """The products of one equation of a program.

    Attributes:
      module: path of the flax module, such as 'SwinIR/group_0/conv'; '' outside of modules.
      kind: one of `KINDS`.
      macs: multiply-accumulates of the whole batch over all iterations of the enclosing loops.
      bounded: False in a loop whose number of iterations is only known at run time; it is counted as one iteration.
    """

    module: str
    kind: str
    macs: int
    bounded: bool = True


def products(jaxpr: ClosedJaxpr | Jaxpr, module: str = "", iterations: int = 1) -> Iterator[Product]:
    """List the products of a program.

    Args:
      jaxpr: the program, from jax.make_jaxpr or jax.jit(…).trace(…).
      module: path of the enclosing module.
      iterations: how often the program runs.

    Yields:
      the products in program order; for a condition only those of the branch with the most MACs, and for a choice
        between platforms those of the default.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    for equation in inner.eqns:
        yield from _equation_products(equation, _join_path(module, str(equation.source_info.name_stack)), iterations)


def _join_path(module: str, stack: str) -> str:
    """Join a module path and a name stack within it, such as 'SwinIR/SwinIR._groups/group_0/ij,jk->ik'."""
    path = module.split("/") if module else []
    for part in re.sub(r"\w+\(|\)", "", stack).split("/"):  # names may be wrapped in vmap(…) and the like
        match = NAME.fullmatch(part)
        if match and not (match[2] and path and path[-1] == match[1]):  # another method of the same module
            path.append(match[1])
    return "/".join(path)


def _equation_products(equation: JaxprEqn, path: str, iterations: int) -> Iterator[Product]:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        batched = bool(parameters["dimension_numbers"][1][0])
        yield Product(path, KINDS[2] if batched else KINDS[1], iterations * _matrix_macs(equation))
    elif name == "conv_general_dilated":
        yield Product(path, KINDS[0], iterations * _convolution_macs(equation))
    elif name == "scan":
        yield from products(parameters["jaxpr"], path, iterations * parameters["length"])
    elif name == "while":
        for part in ("cond_jaxpr", "body_jaxpr"):
            for product in products(parameters[part], path, iterations):
                yield product._replace(bounded=False)
    elif name == "cond":
        branches = [list(products(branch, path, iterations)) for branch in _counted_branches(parameters)]
        yield from max(branches, key=lambda branch: sum(product.macs for product in branch))
    else:  # jit, custom derivatives, checkpoint: other equations run the programs in their parameters once
        for program in _programs(parameters.values()):
            yield from products(program, path, iterations)


def _counted_branches(parameters: dict[str, Any]) -> list[ClosedJaxpr]:
    """The branches of a condition; of a choice between platforms, which compute the same, the default alone.

    The programs of kernels for one platform compute one block each and say nothing of the number of blocks.
    """
    branches, platforms = parameters["branches"], parameters.get("branches_platforms")
    return [branch for index, branch in enumerate(branches) if not platforms or platforms[index] is None]


def _programs(values: Iterable[Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _programs(value)


def _matrix_macs(equation: JaxprEqn) -> int:
    contracted = equation.params["dimension_numbers"][0][0]
    left = _shape(equation.invars[0])
    return math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution_macs(equation: JaxprEqn) -> int:
    kernel, layout = _shape(equation.invars[1]), equation.params["dimension_numbers"]
    taps = math.prod(kernel) // kernel[layout.rhs_spec[0]]
    # The zeros that a transposed convolution inserts between its inputs are not counted.
    return math.prod(_shape(equation.outvars[0])) * taps // math.prod(equation.params["lhs_dilation"])


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def macs_by_kind(counted: Iterable[Product]) -> dict[str, int]:
    """Kind → MACs, for all `KINDS`."""
    totals = dict.fromkeys(KINDS, 0)
    for product in counted:
        totals[product.kind] += product.macs
    return totals


def macs_by_module(counted: Iterable[Product]) -> dict[str, int]:
    """Module → MACs, in program order."""
    totals: dict[str, int] = {}
    for product in counted:
        totals[product.module] = totals.get(product.module, 0) + product.macs
    return totals
