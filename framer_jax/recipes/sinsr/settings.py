"""The knobs of SinSR."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob

CONSISTENCY_GRADIENTS = ("outer", "both")


@dataclass(frozen=True)
class SinSRSettings:
    """The section `recipe.sinsr`: the distillation of the chain that `recipe.resshift` describes into one step."""

    teacher_checkpoint: str = knob("", "Path of the trained ResShift denoiser, needed for training only.", empty=True)
    distillation_weight: float = knob(
        1.0,
        "Weight of |S(x_T, T-1) - x0_T|^2, x0_T the end of the teacher's trajectory from x_T.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    inverse_weight: float = knob(1.0, "Weight of |S(x0_T, 0) - x_T|^2.", at_least=0, at_most=MAX_WEIGHT)
    consistency_weight: float = knob(1.0, "Weight of |S(S(z_hr, 0), T-1) - z_hr|^2.", at_least=0, at_most=MAX_WEIGHT)
    consistency_gradient: str = knob(
        "outer",
        "What the gradient of the consistency term passes: outer, the outer S alone, as in SinSR's released code; "
        "both, the inner S too, as HF-Diff prints the term (its Eq. 8 marks no stopped gradient).",
        choices=CONSISTENCY_GRADIENTS,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        if not any(self.weights):
            raise ValueError("distillation_weight is 0, and so are the other two weights: at least one must be above 0")

    @property
    def weights(self) -> tuple[float, float, float]:
        """The weights of the three terms, in their order in the loss."""
        return self.distillation_weight, self.inverse_weight, self.consistency_weight
