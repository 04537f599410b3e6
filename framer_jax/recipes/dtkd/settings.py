"""The knobs of DTKD."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, knob
from framer_jax.losses.wavelet_kd import WaveletKdSettings
from framer_jax.losses.weight_schedule import SHAPES, WeightSchedule


@dataclass(frozen=True)
class DtkdSettings(WaveletKdSettings):
    """The section `recipe.dtkd`: the wavelet distance to the teacher, and the schedule of its weight lambda."""

    weight: float = knob(1.0, "Final value of lambda; 0 trains without a teacher.", at_least=0, at_most=MAX_WEIGHT)
    schedule: str = knob("linear", "How lambda grows from 0, or constant.", choices=SHAPES)
    ramp_steps: int | None = knob(
        None, "Steps over which lambda grows; None: training.steps.", at_least=1, unit="steps", follows="training.steps"
    )

    @property
    def weight_schedule(self) -> WeightSchedule:
        """Lambda as a function of the step."""
        return WeightSchedule(self.weight, self.schedule, ramp_steps=self.ramp_steps or 1)
