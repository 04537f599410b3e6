"""A network of one pass as an ONNX file, for onnxruntime, OpenVINO and whatever else reads it.

The operators come from jax2onnx, which reads the traced program: tracing it before keeps its substitutes for Flax's
layers out, which do not know all of their settings.
"""

from __future__ import annotations

import importlib.util
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from framer_jax.inference.export import (
    Sizes,
    check_weights,
    draws_noise,
    find_sizes,
    image_shape,
    needed_equations,
    seedless_program,
)
from framer_jax.recipes.base import Params, Recipe

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Version of the operators: the oldest that the networks need."""

INPUT, OUTPUT = "image", "result"

BLOCKS = "blocks"
"""The image as [1, H / m, m, W / m, m, 3]: jax2onnx takes symbolic sizes h, but no multiples m h."""


class OnnxModel(NamedTuple):
    """An ONNX model and the sizes of its images; its input and output are `INPUT` and `OUTPUT`."""

    model: onnx.ModelProto
    sizes: Sizes


def export_onnx(recipe: Recipe, params: Params, mode: str = "sample", size: tuple[int, int] | None = None) -> OnnxModel:
    """Export a network of one pass: [1, H, W, 3] float32 in [0, 1] → [1, sH, sW, 3] float32 in [0, 1].

    Args:
      recipe: the recipe.
      params: its exported groups.
      mode: 'sample' or 'mean'.
      size: (height, width) of the only images, LR pixels; None for all sizes that are multiples of what the networks
        need.

    Raises:
      ImportError: jax2onnx is not installed.
      ValueError: a recipe that draws noise or has an operator that jax2onnx does not know, a size that it cannot
        compute, or weights that do not fit into a file.
    """
    check_weights(recipe, params)
    sizes = find_sizes(recipe, params, mode, size)
    if draws_noise(recipe, params, mode, sizes):
        raise ValueError(
            f"recipe {recipe.name!r} draws noise, and ONNX has no random numbers that agree with JAX's: use --format "
            "stablehlo, or a network of one pass (SwinIR, SRVGG, RRDBNet)"
        )
    for package in ("jax2onnx", "onnx"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"ONNX files need {package}: pip install 'framer_jax[onnx]'")
    run, image = seedless_program(recipe, params, mode), image_shape(sizes, batch=1)
    is_blocked = sizes.fixed is None and sizes.multiple > 1
    if is_blocked:
        _, rows, columns, _ = image_shape(Sizes(1), batch=1).shape
        image = jax.ShapeDtypeStruct((1, rows, sizes.multiple, columns, sizes.multiple, 3), jnp.float32)

    def run_blocks(x: jax.Array) -> jax.Array:
        return run(x.reshape(1, x.shape[1] * sizes.multiple, x.shape[3] * sizes.multiple, 3))

    if not is_blocked:
        return OnnxModel(_convert(recipe, run, image, INPUT), sizes)
    model = _convert(recipe, run_blocks, image, BLOCKS)
    _join_blocks(model, sizes.multiple)
    return OnnxModel(model, sizes)


def _convert(recipe: Recipe, run: Any, image: jax.ShapeDtypeStruct, name: str) -> onnx.ModelProto:
    program = jax.make_jaxpr(run)(image)
    try:
        with _quiet():
            import jax2onnx

            model: onnx.ModelProto = jax2onnx.to_onnx(
                lambda x: _evaluate(program, x)[0],
                [image],
                model_name=recipe.name,
                opset=OPSET,
                input_names=[name],
                output_names=[OUTPUT],
            )
    except (NotImplementedError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"jax2onnx cannot convert recipe {recipe.name!r} ({reason}): use --format stablehlo"
        ) from error
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what jax2onnx prints: debugging, and its plugins for packages that are of no concern here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _evaluate(program: ClosedJaxpr, *arguments: Any) -> list[Any]:
    """Run what the results of a traced program need, with a scan as its steps one after the other.

    Stacks of weights become weights, and slices of them too: jax2onnx knows neither `stack` nor this kind of scan.
    """
    jaxpr = program.jaxpr
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *arguments), strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in needed_equations(jaxpr):
        operands, name = [read(variable) for variable in equation.invars], equation.primitive.name
        if name == "stack" and not any(isinstance(value, jax.core.Tracer) for value in operands):
            results = [np.stack(operands, axis=equation.params["axis"])]
        elif name == "scan" and not equation.params["reverse"]:
            results = _unrolled(equation, operands)
        else:
            results = _single(jaxpr, equation)(*operands)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _single(jaxpr: Jaxpr, equation: JaxprEqn) -> Callable[..., list[Any]]:
    """One operation of a program as a function of its operands."""
    variables: list[Any] = [Var(variable.aval) for variable in equation.invars]
    operation = equation.replace(invars=variables)
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[operation])
    run: Callable[..., list[Any]] = jaxpr_as_fun(ClosedJaxpr(alone, []))
    return run


def _unrolled(equation: JaxprEqn, operands: list[Any]) -> list[Any]:
    """The results of a scan, step by step; None for the stacked outputs of the steps, which no network needs."""
    counts, step = (equation.params["num_consts"], equation.params["num_carry"]), equation.params["jaxpr"]
    constants, state, inputs = operands[: counts[0]], operands[counts[0] : sum(counts)], operands[sum(counts) :]
    for index in range(equation.params["length"]):
        state = _evaluate(step, *constants, *state, *(leaf[index] for leaf in inputs))[: counts[1]]
    return [*state, *[None] * (len(equation.outvars) - counts[1])]


def _join_blocks(model: onnx.ModelProto, multiple: int) -> None:
    """Give a model of `BLOCKS` the input [1, height, width, 3], in place: it is reshaped in front of the model."""
    from onnx import TensorProto, helper

    graph = model.graph

    def constant(name: str, values: list[int]) -> str:
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(operator, inputs, [output], name=f"join_{output}", **attributes)

    side, one, channels = constant("side", [multiple]), constant("one_image", [1]), constant("channels", [3])
    nodes = [node("Shape", [INPUT], "height", start=1, end=2), node("Shape", [INPUT], "width", start=2, end=3)]
    nodes += [node("Div", ["height", side], "rows"), node("Div", ["width", side], "columns")]
    nodes += [node("Concat", [one, "rows", side, "columns", side, channels], "blocks_shape", axis=0)]
    nodes += [node("Reshape", [INPUT, "blocks_shape"], BLOCKS)]
    rest = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *rest])
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, "image_height", "image_width", 3]))
