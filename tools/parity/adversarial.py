"""Fixtures of adversarial training: the discriminator with spectral norm, and the losses on given logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.losses.adversarial import ADVERSARIAL_LOSSES, discriminator_loss, generator_loss
from framer_jax.models.unet_discriminator import SPECTRAL, UNetDiscriminator
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import require
from tools.parity.porting import port_state

NAME = "unet_discriminator_sn"

ADVERSARIAL_WEIGHT = 0.1
"""Weight of the generator's loss in the fixture of the discriminator."""


def discriminator_family(case: Case, options: Options) -> Outputs:
    """An evaluation, then the three calls of a training step, each with its step of power iteration."""
    require(case.config, {"num_in_ch": (3,)})
    given = {key.removeprefix("in/sn/"): value for key, value in case.arrays.items() if key.startswith("in/sn/")}
    params, _ = port_state({**case.weights["model"], **given}, NAME, NAME, {"channels": case.config["num_feat"]})
    module = UNetDiscriminator(case.config["num_feat"], skips=case.config.get("skip_connection", True))
    network, vectors = params["network"], params["spectral"]
    real, fake = (channels_last(case.arrays[f"in/{name}"]) for name in ("real", "fake"))

    def call(network: Any, vectors: Any, image: jax.Array) -> tuple[jax.Array, Any]:
        logits, state = module.apply({"params": network, SPECTRAL: vectors}, image, True, mutable=[SPECTRAL])
        return logits, state[SPECTRAL]

    def generator(image: jax.Array) -> Any:
        logits, after = call(network, vectors, image)
        return ADVERSARIAL_WEIGHT * generator_loss(logits).mean(), (logits, after)

    def discriminator(network: Any, vectors: Any) -> Any:
        on_real, second = call(network, vectors, real)
        on_fake, third = call(network, second, fake)
        losses = tuple(loss.mean() for loss in discriminator_loss(on_real, on_fake))
        return sum(losses), (losses, on_real, on_fake, second, third)

    logits, captured = jax.jit(
        lambda image: module.apply({"params": network, SPECTRAL: vectors}, image, capture_intermediates=True)
    )(real)
    yield "out/eval", channels_first(logits)
    for name, output in captured["intermediates"].items():
        if name.startswith("conv_"):
            yield f"hid/{name.replace('_', '')}", channels_first(output["__call__"][0])
    yield from _vectors(0, network, vectors)
    (loss, (logits, first)), gradient = jax.jit(jax.value_and_grad(generator, has_aux=True))(fake)
    yield "out/pred_generator", channels_first(logits)
    yield "out/loss_generator", loss
    yield "grad/fake", channels_first(gradient)
    (_, step), gradients = jax.jit(jax.value_and_grad(discriminator, has_aux=True))(network, first)
    losses, on_real, on_fake, second, third = step
    yield "out/pred_real", channels_first(on_real)
    yield "out/pred_fake", channels_first(on_fake)
    yield from zip(("out/loss_real", "out/loss_fake"), losses, strict=True)
    for number, after in enumerate((first, second, third), start=1):
        yield from _vectors(number, network, after)
    state = to_torch(MAPS[NAME], {"network": gradients, "spectral": third}, "gradient")
    yield from ((f"grad/{key}", value) for key, value in state.items())


def _vectors(number: int, network: Any, vectors: Any) -> Outputs:
    """The vectors of spectral norm after a call, and the norms that they estimate."""
    for name, pair in vectors.items():
        layer = name.replace("_", "")
        matrix = np.asarray(network[name]["kernel"]).transpose(3, 2, 0, 1).reshape(pair["u"].size, -1)
        yield f"out/sigma{number}/{layer}", np.asarray(pair["u"]) @ matrix @ np.asarray(pair["v"])
        for vector in "uv":
            yield f"out/after{number}/{layer}.weight_{vector}", pair[vector]


def gan_losses_family(case: Case, options: Options) -> Outputs:
    """Every kind of adversarial loss, on one scale of logits and as the mean over two."""
    labels = case.config["real_label_val"], case.config["fake_label_val"]
    weight = case.config["loss_weight"]
    scales = [jnp.asarray(case.arrays[f"in/{name}"]) for name in ("pred", "pred_low")]
    for kind in ADVERSARIAL_LOSSES:

        def generator(logits: jax.Array, kind: str = kind) -> jax.Array:
            return weight * generator_loss(logits, kind, labels[0]).mean()

        def real(logits: jax.Array, kind: str = kind) -> jax.Array:
            return discriminator_loss(logits, logits, kind, *labels)[0].mean()

        def fake(logits: jax.Array, kind: str = kind) -> jax.Array:
            return discriminator_loss(logits, logits, kind, *labels)[1].mean()

        for name, loss in (("generator", generator), ("real", real), ("fake", fake)):
            value, gradient = jax.value_and_grad(loss)(scales[0])
            yield f"out/{kind}/{name}", value
            yield f"grad/{kind}/{name}", gradient
            yield f"out/{kind}/multiscale_{name}", (value + loss(scales[1])) / 2
