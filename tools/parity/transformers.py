"""Fixtures of Stable Diffusion 3's transformer and of DiT4SR's."""

from __future__ import annotations

import re
from typing import Any, cast

import jax
import jax.numpy as jnp

from framer_jax.models.denoiser import LR_LATENT, POOLED_TEXT, TEXT
from framer_jax.models.joint_blocks import modulated
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import transformer_arguments
from tools.parity.ported import apply_and_capture
from tools.parity.porting import port_state

POSITIONS = "pos_embed.pos_embed"
"""The table of positions in a state dict."""


def port_transformer(case: Case, name: str, **stated: Any) -> tuple[dict[str, Any], Any]:
    """Convert the fixture's model and its table of positions, if it has one: (params, module)."""
    tables = {POSITIONS: case.arrays[f"buf/{POSITIONS}"]} if f"buf/{POSITIONS}" in case.arrays else {}
    return port_state(case.weights["model"] | tables, case.family, name, transformer_arguments(case.config) | stated)


def network_inputs(case: Case, call: str = "") -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Noisy latents, timesteps and condition of a call, such as '' or '_a'."""
    t, text, pooled = (jnp.asarray(case.arrays[f"in/{name}{call}"]) for name in ("t", "e", "p"))
    condition = {TEXT: text, POOLED_TEXT: pooled}
    if f"in/lr{call}" in case.arrays:
        condition[LR_LATENT] = channels_last(case.arrays[f"in/lr{call}"])
    return channels_last(case.arrays[f"in/x{call}"]), t, condition


def mmdit_family(case: Case, options: Options) -> Outputs:
    """The predictions of all calls, every block of the first one, and gradients of its mean square."""
    params, model = port_transformer(case, "mmdit")
    calls = sorted(name.removeprefix("in/x") for name in case.arrays if name.startswith("in/x"))
    for call in calls:
        inputs = network_inputs(case, call)
        (prediction, _), inner = apply_and_capture(model, params, *inputs)
        yield f"out/{call[1:]}", channels_first(prediction)
        if call == calls[0]:
            yield from _blocks(inner, model.depth)
            yield from _gradients("mmdit", model, params, *inputs)


def dit4sr_family(case: Case, options: Options) -> Outputs:
    """The prediction, its taps, the layers of every block, and gradients of the mean square of the prediction."""
    scale = re.search(r"factor (\d+(?:\.\d+)?)", case.notes)  # of the convolution, which no tensor shows
    stated = {"control_scale": float(scale[1])} if scale else {}
    params, model = port_transformer(case, "dit4sr_transformer", variant="released", **stated)
    model = model.clone(taps="prediction")
    inputs = network_inputs(case)
    (prediction, taps), inner = apply_and_capture(model, params, *inputs)
    yield "out/v", channels_first(prediction)
    for index, tap in enumerate((*taps, prediction)):
        yield f"out/decoded_{index}", channels_first(tap)
    for index in range(model.depth):
        block = inner[f"block_{index}"]
        yield f"hid/block{index}_attn_image", block["attention"]["__call__"][0][0]
        yield f"hid/block{index}_ff", block["mlp"]["__call__"][0]
    yield from _blocks(inner, model.depth)
    yield from _gradients("dit4sr_transformer", model, params, *inputs)


def _blocks(inner: dict[str, Any], depth: int) -> Outputs:
    condition = inner["condition"]["__call__"][0]
    tokens = inner["tokens"]["__call__"][0]
    streams = len(tokens) // len(condition)  # latents per example; of two, the second is the LR image's
    yield "hid/pos_embed", tokens[streams - 1 :: streams]
    yield "hid/time_text_embed", condition
    yield "hid/context_embedder", inner["context"]["__call__"][0]
    for index in range(depth):
        image, text = inner[f"block_{index}"]["__call__"][0]
        yield f"hid/block{index}_image", image
        if index < depth - 1:
            yield f"hid/block{index}_text", text
    scale, shift = jnp.split(inner["head"]["modulation"]["__call__"][0][:, None, :], 2, axis=-1)
    yield "hid/norm_out", modulated(image, scale, shift)


def _gradients(name: str, model: Any, params: dict[str, Any], *inputs: Any) -> Outputs:
    def loss(params: dict[str, Any], latent: jax.Array) -> jax.Array:
        prediction, _ = cast(Any, model.apply({"params": params}, latent, *inputs[1:]))
        return jnp.square(prediction).mean()

    value, (params_gradient, latent_gradient) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, inputs[0])
    yield "grad/loss", value
    yield "grad/x", channels_first(latent_gradient)
    yield from ((f"grad/{key}", leaf) for key, leaf in to_torch(MAPS[name], params_gradient, "gradient").items())
