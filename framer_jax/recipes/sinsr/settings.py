"""The knobs of SinSR."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import changed_repr, check_knobs, knob


@dataclass(frozen=True)
class SinSRSettings:
    """The section `recipe.sinsr`: the distillation of the chain that `recipe.resshift` describes into one step."""

    teacher_checkpoint: str = knob("", "Path of the trained ResShift denoiser, needed for training only.")
    distillation_weight: float = knob(
        1.0, "Weight of |S(x_T, T-1) - x0_T|^2, x0_T the end of the teacher's trajectory from x_T.", at_least=0
    )
    inverse_weight: float = knob(1.0, "Weight of |S(x0_T, 0) - x_T|^2.", at_least=0)
    consistency_weight: float = knob(
        1.0, "Weight of |S(S(z_hr, 0), T-1) - z_hr|^2, without a gradient through the inner S.", at_least=0
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def weights(self) -> tuple[float, float, float]:
        """The weights of the three terms, in their order in the loss."""
        return self.distillation_weight, self.inverse_weight, self.consistency_weight
