"""The weight of a loss term as a function of the training step."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob

SHAPES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class WeightSchedule:
    """λ(t): 0 before `start_step`, then up to `weight` within `ramp_steps` steps, and constant from there on.

    Raises:
      ValueError: a value outside its choices or its range.
    """

    weight: float = knob(1.0, "Final weight λ of the term.", at_least=0, at_most=MAX_WEIGHT)
    shape: str = knob(
        "linear",
        "How the weight rises from 0: linear, cosine (half a wave), or constant (the final weight at once).",
        choices=SHAPES,
    )
    start_step: int = knob(0, "First step at which the term can have a weight.", unit="steps", at_least=0)
    ramp_steps: int = knob(0, "Steps of the rise; 0 for the final weight at once.", unit="steps", at_least=0)

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


def weight_at(schedule: WeightSchedule, step: jax.Array | int) -> jax.Array:
    """λ(t) = weight · s((t - start_step) / ramp_steps), a float32 scalar.

    s clips its argument u to [0, 1]; it is u for the shape 'linear' and (1 - cos(π u)) / 2 for 'cosine'. With the
    shape 'constant', and wherever `ramp_steps` is 0, λ is 0 before `start_step` and `weight` from there on.

    Args:
      schedule: see `WeightSchedule`.
      step: number of training steps already made; may be traced.
    """
    elapsed = jnp.asarray(step, jnp.int32) - schedule.start_step
    if schedule.shape == "constant" or schedule.ramp_steps == 0:
        fraction = (elapsed >= 0).astype(jnp.float32)
    else:
        fraction = jnp.clip(elapsed.astype(jnp.float32) / schedule.ramp_steps, 0.0, 1.0)
        if schedule.shape == "cosine":
            fraction = 0.5 - 0.5 * jnp.cos(jnp.pi * fraction)
    return fraction * jnp.float32(schedule.weight)
