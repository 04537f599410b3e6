"""Fixtures of Stable Diffusion 2's U-Net, alone, with two LoRAs, and with its ControlNet."""

from __future__ import annotations

import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.controlnet import scale_residuals
from framer_jax.models.denoiser import IMAGE, TEXT
from framer_jax.models.lora import apply_adapters, make_lora, with_adapters
from framer_jax.porting.lora import read_layers
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import controlnet_arguments, sd_unet_arguments
from tools.parity.ported import apply_and_capture
from tools.parity.porting import port_model


def network_inputs(case: Case, call: str = "") -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Noisy latents, timesteps and condition of a call, such as '' or '_a'."""
    t, text = (jnp.asarray(case.arrays[f"in/{name}{call}"]) for name in ("t", "e"))
    condition = {TEXT: text}
    if f"in/c{call}" in case.arrays:  # in [0, 1], and ours in [-1, 1]
        condition[IMAGE] = 2 * channels_last(case.arrays[f"in/c{call}"]) - 1
    return channels_last(case.arrays[f"in/x{call}"]), t, condition


def unet_family(case: Case, options: Options) -> Outputs:
    """The predictions of all calls with the outputs of the blocks, and gradients of the last one's mean square."""
    params, model = port_model(case, "model", "sd_unet", sd_unet_arguments(case.config["unet"]))
    for call in case.config["calls"]:
        inputs = network_inputs(case, f"_{call}")
        (prediction, taps), inner = apply_and_capture(model, params, *inputs)
        yield f"out/{call}", channels_first(prediction)
        yield from _blocks(f"hid/{call}", taps, inner)

    def loss(params: dict[str, Any], latent: jax.Array) -> jax.Array:
        prediction, _ = cast(Any, model.apply({"params": params}, latent, *inputs[1:]))
        return jnp.square(prediction).mean()

    value, (gradient, latent_gradient) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, inputs[0])
    yield "grad/loss", value
    yield "grad/x", channels_first(latent_gradient)
    yield from _named_gradients("sd_unet", gradient)


def unet_lora_family(case: Case, options: Options) -> Outputs:
    """The predictions without, with one and with both LoRAs of PiSA-SR, computed next to the weights."""
    params, model = port_model(case, "base", "sd_unet", sd_unet_arguments(case.config["unet"]))
    layers = read_layers(
        MAPS["sd_unet"],
        params,
        case.weights["lora"],
        case.family,
        alpha=float(re.search(r"lora_alpha/r = (\d+)/r", case.notes)[1]),  # type: ignore[index]
        adapter_name=lambda name: name.rpartition("_")[2],
    )
    adapters = {name: make_lora(each.factors, each.alphas) for name, each in layers.items()}
    for name, active in {"base": (), "pix": ("pix",), "sem": ("sem",), "pixsem": ("pix", "sem")}.items():
        variables = with_adapters(params, {each: adapters[each] for each in active})

        @jax.jit
        def run(variables: dict[str, Any], *inputs: Any) -> Any:
            with apply_adapters():
                return model.apply(variables, *inputs, capture_intermediates=True)

        (prediction, taps), state = run(variables, *network_inputs(case))
        yield f"out/{name}", channels_first(prediction)
        yield from _blocks(f"hid/{name}", taps, state["intermediates"])


def controlnet_family(case: Case, options: Options) -> Outputs:
    """The residuals of all calls, the U-Net with them, and gradients of the first call's mean squares."""
    params, model = port_model(case, "model", "controlnet", controlnet_arguments(case.config["controlnet"]))
    unet_params, unet = port_model(case, "unet", "sd_unet", sd_unet_arguments(case.config["unet"]))
    predict = jax.jit(lambda *inputs: unet.apply({"params": unet_params}, *inputs)[0])
    for number, (call, settings) in enumerate(case.config["calls"].items()):
        inputs = network_inputs(case, f"_{call}")
        residuals, inner = apply_and_capture(model, params, *inputs)
        if number == 0:
            first = inputs
            yield from _control_blocks(inner, len(model.channels), model.blocks)
            yield f"out/{call}/unet_alone", channels_first(predict(*inputs))
        residuals = scale_residuals(residuals, settings["conditioning_scale"], settings["guess_mode"])
        for index, residual in enumerate(residuals.down):
            yield f"out/{call}/down_{index}", channels_first(residual)
        yield f"out/{call}/mid", channels_first(residuals.middle)
        yield f"out/{call}/unet", channels_first(predict(*inputs, residuals))

    def loss(params: dict[str, Any], latent: jax.Array, image: jax.Array) -> jax.Array:
        condition = {**first[2], IMAGE: 2 * image - 1}
        residuals = cast(Any, model.apply({"params": params}, latent, first[1], condition))
        return sum((jnp.square(leaf).mean() for leaf in jax.tree.leaves(residuals)), start=jnp.zeros(()))

    image = 0.5 * first[2][IMAGE] + 0.5
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, first[0], image)
    yield "grad/loss", value
    yield "grad/x", channels_first(gradients[1])
    yield "grad/c_every4", channels_first(gradients[2])[:, :, ::4, ::4]
    yield from _named_gradients("controlnet", gradients[0])


def _blocks(prefix: str, taps: Any, inner: dict[str, Any]) -> Outputs:
    """The first and last layers, and the taps by the names of diffusers' blocks."""
    yield f"{prefix}/time_embedding", inner["time"]["__call__"][0]
    yield f"{prefix}/conv_in", channels_first(inner["conv_in"]["__call__"][0])
    levels = len(taps) // 2
    names = [*(f"down_{level}" for level in range(levels)), "mid", *(f"up_{level}" for level in range(levels))]
    for name, tap in zip(names, taps, strict=True):
        yield f"{prefix}/{name}", channels_first(tap)
    # diffusers' norm, like ours, is followed by an activation that is no part of it.
    yield f"{prefix}/conv_norm_out", channels_first(inner["norm_out"]["__call__"][0])


def _control_blocks(inner: dict[str, Any], levels: int, blocks: int) -> Outputs:
    """The embeddings and the outputs of the blocks within a ControlNet."""

    def output(name: str) -> np.ndarray:
        return channels_first(inner[name]["__call__"][0])

    yield "hid/time_embedding", inner["time"]["__call__"][0]
    yield "hid/cond", output("image")
    for level in range(levels):
        last = [f"down_{level}_downsample", f"down_{level}_attention_{blocks - 1}", f"down_{level}_block_{blocks - 1}"]
        yield f"hid/down_blocks.{level}", output(next(name for name in last if name in inner))
    yield "hid/mid_block", output("middle_block_1")


def _named_gradients(name: str, gradient: dict[str, Any]) -> Outputs:
    yield from ((f"grad/{key}", leaf) for key, leaf in to_torch(MAPS[name], gradient, "gradient").items())
