"""Fixtures of distillation losses, with the outputs of the networks given."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.losses.target_score import Velocities, directions, tsd_error
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
        both = directions(z, z_hr, noise, sigmas, networks, weights[:count])
    direction = both.combined(_vsd_weight(case))
    yield "out/grad_vsd", channels_first(both.variational)
    yield "out/grad_tsm", channels_first(both.matching)
    yield "out/direction", channels_first(direction)
    yield "out/loss", tsd_error(z, direction).mean()
    for number, inputs in enumerate(seen):
        for name, value in zip(("student", "hr"), inputs, strict=True):
            yield f"out/noisy_{name}_{number}", channels_first(value)

    def loss(z: jax.Array) -> Any:
        return tsd_error(z, direction).mean()

    yield "grad/z", channels_first(jax.grad(loss)(z))


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
