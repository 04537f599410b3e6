"""The knobs of the rectified flow."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.diffusion.flow import TIMESTEP_SAMPLINGS
from framer_jax.knobs import changed_repr, check_knobs, knob
from framer_jax.losses.flow_matching import LOSS_WEIGHTINGS


@dataclass(frozen=True)
class RectifiedFlowSettings:
    """The section `recipe.rectified_flow`: the process and the objective."""

    shift: float = knob(3.0, "Time shift of training and sampling.", above=0, at_most=1000)
    sampling_steps: int = knob(8, "Euler steps of the sampler.", at_least=1, at_most=1000, unit="steps")
    timestep_sampling: str = knob("logit_normal", "Distribution of training times.", choices=TIMESTEP_SAMPLINGS)
    weighting: str = knob("none", "Weighting of the velocity error.", choices=LOSS_WEIGHTINGS)
    residual: bool = knob(True, "The clean end of the flow is z_hr - z_lr, not z_hr.")
    start_probability: float = knob(
        0.25, "Fraction of training examples at sigma 1, which the one-step mean uses.", at_least=0, at_most=1
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
