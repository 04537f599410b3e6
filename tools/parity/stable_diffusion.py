"""Families of fixtures of Stable Diffusion's parts."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.porting.kl_autoencoder import arguments_of_config
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.ported import captured, carried_over


def kl_autoencoder_family(case: Case, options: Options) -> Outputs:
    """The Gaussian of an image, the picture of a latent with its gradient, and the blocks of both halves."""
    params, _ = carried_over(case, "model", "kl_autoencoder")
    model = KLAutoencoder(**arguments_of_config(case.config, case.family))
    latent, inner = captured(model, params, channels_last(case.arrays["in/x"]), method="encode")
    yield "out/mean", channels_first(latent.mean)
    yield "out/logvar", channels_first(latent.log_variance)
    yield "out/std", channels_first(latent.standard_deviation)
    yield from _blocks(inner["encoder"], "enc", "down", "to_coarse")
    z = channels_last(case.arrays["in/z"])
    image, inner = captured(model, params, z, method="decode")
    yield "out/decode", channels_first(image)
    yield from _blocks(inner["decoder"], "dec", "up", "to_fine")

    def loss(z: jax.Array) -> jax.Array:
        return jnp.square(cast(Any, model.apply({"params": params}, z, method="decode"))).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    yield "grad/loss", value
    yield "grad/z", channels_first(gradient)


def _blocks(inner: dict[str, Any], side: str, way: str, step: str) -> Outputs:
    """Levels with their change of size, and the middle."""
    yield f"hid/{side}_mid", channels_first(inner["middle"]["__call__"][0])
    for level in range(len(inner)):
        if names := [name for name in inner if name.startswith(f"{way}_{level}_")]:
            last = max(names, key=lambda name: (name.endswith(step), name))
            yield f"hid/{side}_{way}_{level}", channels_first(inner[last]["__call__"][0])
