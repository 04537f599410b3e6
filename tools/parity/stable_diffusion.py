"""Fixtures of Stable Diffusion's autoencoders."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import kl_arguments
from tools.parity.ported import apply_and_capture
from tools.parity.porting import port_model


def kl_autoencoder_family(case: Case, options: Options) -> Outputs:
    """The Gaussian of an image, the image of a latent with its gradient, and the blocks of encoder and decoder."""
    params, model = port_model(case, "model", "kl_autoencoder", kl_arguments(case.config))
    latent, inner = apply_and_capture(model, params, channels_last(case.arrays["in/x"]), method="encode")
    yield "out/mean", channels_first(latent.mean)
    yield "out/logvar", channels_first(latent.log_variance)
    yield "out/std", channels_first(latent.standard_deviation)
    yield from _blocks(inner["encoder"], "enc", "down", "to_coarse")
    z = channels_last(case.arrays["in/z"])
    image, inner = apply_and_capture(model, params, z, method="decode")
    yield "out/decode", channels_first(image)
    yield from _blocks(inner["decoder"], "dec", "up", "to_fine")

    def loss(z: jax.Array) -> jax.Array:
        return jnp.square(cast(Any, model.apply({"params": params}, z, method="decode"))).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    yield "grad/loss", value
    yield "grad/z", channels_first(gradient)


def _blocks(inner: dict[str, Any], half: str, direction: str, resampling: str) -> Outputs:
    """The middle, and every level with its resampling."""
    yield f"hid/{half}_mid", channels_first(inner["middle"]["__call__"][0])
    for level in range(len(inner)):
        if names := [name for name in inner if name.startswith(f"{direction}_{level}_")]:
            last = max(names, key=lambda name: (name.endswith(resampling), name))
            yield f"hid/{half}_{direction}_{level}", channels_first(inner[last]["__call__"][0])
