"""Multiply-accumulates of a traced program, by the flax module that asks for them. Nothing is computed.

Convolutions and matrix products are counted, as the tools that publications cite do (ptflops, fvcore, THOP); products
with a place outside the picture count too, also as there. One MAC is two FLOPs. Additions of biases, norms, activations
and softmax are no MACs: XLA's own count of FLOPs has them (framer_jax.evaluation.cost).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

KINDS = ("convolution", "matrix", "batched matrix")
"""Products counted. A batched one multiplies as many matrices as there are windows or heads: attention."""

NAME = re.compile(r"([A-Za-z_]\w*)(\.\w+)?")
"""A flax module in a stack of names, perhaps with the method that was called; formulas of einsum are none."""


class Product(NamedTuple):
    """What one equation multiplies.

    Attributes:
      module: path of the flax module, 'SwinIR/group_0/conv'; '' outside of all.
      kind: one of `KINDS`.
      macs: multiply-accumulates, for the whole batch and all rounds of the loops around it.
      bounded: False in a loop whose number of rounds is only known at run time: counted as one round.
    """

    module: str
    kind: str
    macs: int
    bounded: bool = True


def products(jaxpr: ClosedJaxpr | Jaxpr, module: str = "", rounds: int = 1) -> Iterator[Product]:
    """Every product of a program.

    Args:
      jaxpr: of jax.make_jaxpr, or of jax.jit(…).trace(…).
      module: the path around it.
      rounds: how often it runs.

    Yields:
      in order of the program; of the branches of a condition only those of the costliest.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    for equation in inner.eqns:
        yield from _of_equation(equation, _joined(module, str(equation.source_info.name_stack)), rounds)


def _joined(module: str, stack: str) -> str:
    """The path around a program and the stack of names in it, such as 'SwinIR/SwinIR._groups/group_0/ij,jk->ik'."""
    path = module.split("/") if module else []
    for part in re.sub(r"\w+\(|\)", "", stack).split("/"):  # vmap(…) and the like stand around names
        found = NAME.fullmatch(part)
        if found and not (found[2] and path and path[-1] == found[1]):  # a module's other method is no further module
            path.append(found[1])
    return "/".join(path)


def _of_equation(equation: JaxprEqn, path: str, rounds: int) -> Iterator[Product]:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        batched = bool(parameters["dimension_numbers"][1][0])
        yield Product(path, KINDS[2] if batched else KINDS[1], rounds * _matrix_macs(equation))
    elif name == "conv_general_dilated":
        yield Product(path, KINDS[0], rounds * _convolution_macs(equation))
    elif name == "scan":
        yield from products(parameters["jaxpr"], path, rounds * parameters["length"])
    elif name == "while":
        for part in ("cond_jaxpr", "body_jaxpr"):
            yield from (found._replace(bounded=False) for found in products(parameters[part], path, rounds))
    elif name == "cond":
        branches = [list(products(branch, path, rounds)) for branch in parameters["branches"]]
        yield from max(branches, key=lambda found: sum(product.macs for product in found))
    else:  # jit, custom derivatives, checkpoints: whatever holds a program, runs it once
        for program in _programs(parameters.values()):
            yield from products(program, path, rounds)


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
    # The zeros that a transposed convolution puts between its inputs are not multiplied.
    return math.prod(_shape(equation.outvars[0])) * taps // math.prod(equation.params["lhs_dilation"])


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def by_kind(found: Iterable[Product]) -> dict[str, int]:
    """Kind → MACs, all of `KINDS`."""
    totals = dict.fromkeys(KINDS, 0)
    for product in found:
        totals[product.kind] += product.macs
    return totals


def by_module(found: Iterable[Product]) -> dict[str, int]:
    """Module → MACs, in order of the program."""
    totals: dict[str, int] = {}
    for product in found:
        totals[product.module] = totals.get(product.module, 0) + product.macs
    return totals
