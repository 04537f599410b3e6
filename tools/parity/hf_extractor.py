"""Fixture of CDDFuse's detail branch, the variant 'released' of HF-Diff's extractor."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import hf_extractor_arguments
from tools.parity.ported import apply_and_capture
from tools.parity.porting import port_model

NAME = "hf_extractor"


def inn_family(case: Case, options: Options) -> Outputs:
    """The detail features, both halves after every module, and gradients of its mean square."""
    params, model = port_model(case, "model", NAME, hf_extractor_arguments(case.config))
    x = channels_last(case.arrays["in/x"])
    (_, detail), inner = apply_and_capture(model, params, x)
    yield "out/y", channels_first(detail)
    for index in range(case.config["num_layers"]):
        halves = np.split(channels_first(inner[f"module_{index}"]["__call__"][0]), 2, axis=1)
        for number, half in enumerate(halves, start=1):
            yield f"hid/node{index}_z{number}", half

    def loss(params: dict[str, Any], x: jax.Array) -> jax.Array:
        return jnp.square(cast(Any, model.apply({"params": params}, x))[1]).mean()

    value, (gradient, of_input) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)
    yield "grad/loss", value
    yield "grad/x", channels_first(of_input)
    yield "grad/shffle", to_torch(MAPS[NAME], gradient, "gradient")["net.0.shffleconv.weight"]
