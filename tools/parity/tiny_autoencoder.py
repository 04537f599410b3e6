"""Fixtures of TAESD and TAESD3 with their real weights."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from framer_jax.checkpoints.networks import build_network, read_network
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import UnsupportedError, require
from tools.parity.ported import apply_and_capture
from tools.parity.real_weights import find_weights


def taesd_family(case: Case, options: Options) -> Outputs:
    """Latents and images, every entry of both halves, and gradients of their mean squares; images in [0, 1]."""
    files = find_weights(case.real_weights, options.weights)
    try:
        ported = read_network("taesd", *files.values())
    except ValueError as error:
        raise UnsupportedError(str(error)) from error
    require(case.config, {"latent_channels": (ported.arguments["latent_channels"],)})
    model, params = build_network("taesd", ported.arguments), ported.params
    x = channels_last(case.arrays["in/x"])
    z, inner = apply_and_capture(model, params, x, method=lambda module, x: module.encoder(x))
    yield "out/latent", channels_first(z)
    yield from _entries(inner["encoder"], "encoder")
    image, inner = apply_and_capture(model, params, z, method="decode")
    yield "out/decoded", channels_first(image * 0.5 + 0.5)
    yield from _entries(inner["decoder"], "decoder")
    random, _ = apply_and_capture(model, params, channels_last(case.arrays["in/z_random"]), method="decode")
    yield "out/decoded_random", channels_first(random * 0.5 + 0.5)
    yield from _gradients(model, params, x, z)


def _entries(inner: dict[str, Any], half: str) -> Outputs:
    for name, outputs in inner.items():
        if name != "__call__":
            yield f"hid/{half}.{name.rsplit('_', 1)[1]}", channels_first(outputs["__call__"][0])


def _gradients(model: Any, params: dict[str, Any], x: jax.Array, z: jax.Array) -> Outputs:
    def of_latent(x: jax.Array) -> jax.Array:
        # Without the detour over [-1, 1], whose rounding moves activations across the kinks of ReLU.
        z = model.apply({"params": params}, x, method=lambda module, x: module.encoder(x))
        return jnp.square(cast(jax.Array, z)).mean()

    def of_image(z: jax.Array) -> jax.Array:
        image = cast(jax.Array, model.apply({"params": params}, z, method="decode"))
        return jnp.square(image * 0.5 + 0.5).mean()

    for name, variable, loss, point in (("latent", "x", of_latent, x), ("decoded", "z", of_image, z)):
        value, gradient = jax.jit(jax.value_and_grad(loss))(point)
        yield f"grad/{name}_square", value
        yield f"grad/{variable}", channels_first(gradient)
