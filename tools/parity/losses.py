"""Fixtures of distillation losses, with the outputs of the networks given."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.diffusion import ddpm
from framer_jax.losses.score_distillation import (
    TSD_SCALE,
    TeacherOutputs,
    Velocities,
    csd_direction,
    distillation_error,
    tsd_directions,
    vsd_direction,
)
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import UnsupportedError

DIRECTION = re.compile(r"direction = ([\d.]+) \*? ?grad_vsd \+ ([\d.]+) \*? ?grad_tsm")
"""How the notes say what the two gradients weigh."""


def tsd_loss_family(case: Case, options: Options) -> Outputs:
    """TSD-SR's directions, its loss, and the inputs of the networks at every sub-step, for any number of sub-steps."""
    count, weights = case.config["substeps"], tuple(case.config["weights"])
    if len(weights) < count:
        raise UnsupportedError(f"weights {list(weights)} are not supported with substeps {count}: each needs one")
    seen: list[tuple[jax.Array, jax.Array]] = []

    def networks(x: jax.Array, x_hr: jax.Array, sigma: jax.Array) -> Velocities:
        names = [f"in/{name}_{len(seen)}" for name in ("v_teacher", "v_teacher_hr", "v_reg")]
        seen.append((x, x_hr))
        return Velocities(*(channels_last(case.arrays[name]) for name in names))

    z, z_hr, noise = (channels_last(case.arrays[f"in/{name}"]) for name in ("z", "z_hr", "noise"))
    sigmas = jnp.asarray(case.arrays["in/sigmas"])[:, : count + 1]
    with jax.disable_jit():  # the networks are called once per sub-step, in their order
        both = tsd_directions(z, z_hr, noise, sigmas, networks, weights[:count])
    direction = both.combined(_vsd_weight(case))
    yield "out/grad_vsd", channels_first(both.variational)
    yield "out/grad_tsm", channels_first(both.matching)
    yield "out/direction", channels_first(direction)
    yield "out/loss", distillation_error(z, direction, TSD_SCALE).mean()
    for number, inputs in enumerate(seen):
        for name, value in zip(("student", "hr"), inputs, strict=True):
            yield f"out/noisy_{name}_{number}", channels_first(value)

    def loss(z: jax.Array) -> Any:
        return distillation_error(z, direction, TSD_SCALE).mean()

    yield "grad/z", channels_first(jax.grad(loss)(z))


def csd_loss_family(case: Case, options: Options) -> Outputs:
    """PiSA-SR's loss and its gradient, with the schedule of Stable Diffusion 2.1."""
    yield from _distillation(case, regulariser=False)


def vsd_loss_family(case: Case, options: Options) -> Outputs:
    """OSEDiff's loss and its gradient, with the schedule of Stable Diffusion 2.1."""
    yield from _distillation(case, regulariser=True)


def _distillation(case: Case, regulariser: bool) -> Outputs:
    """CSD, or with a regularizer VSD: the noisy latent, the loss, and its gradient."""
    schedule, guidance = ddpm.scaled_linear_schedule(), case.config["cfg_scale"]
    z, noise, negative, positive = (
        channels_last(case.arrays[f"in/{name}"]) for name in ("z", "noise", "eps_uncond", "eps_cond")
    )
    t, teacher = jnp.asarray(case.arrays["in/t"], jnp.int32), TeacherOutputs(negative, positive)

    def loss(z: jax.Array) -> Any:
        x = ddpm.forward(schedule, z, t, noise)
        if regulariser:
            follower = channels_last(case.arrays["in/eps_update"])
            direction = vsd_direction(schedule, z, x, t, teacher, follower, guidance)
        else:
            direction = csd_direction(schedule, z, x, t, teacher, guidance)
        return distillation_error(z, direction, 1.0).mean(), x

    (value, noisy), gradient = jax.value_and_grad(loss, has_aux=True)(z)
    yield "out/loss", value
    yield "out/noisy", channels_first(noisy)
    yield "grad/z", channels_first(gradient)


def _vsd_weight(case: Case) -> float:
    """λ, of the configuration or the notes; the released code's where neither says it.

    Raises:
      UnsupportedError: the two gradients do not weigh λ and 1 − λ.
    """
    if (stated := case.config.get("lambda_tsd", case.config.get("vsd_weight"))) is not None:
        return float(stated)
    if not (written := DIRECTION.search(case.notes)):
        return 0.7
    if abs(float(written[1]) + float(written[2]) - 1) > 1e-6:
        raise UnsupportedError(f"{written[0]!r} is not supported, only weights whose sum is 1")
    return float(written[1])
