"""The knobs of ResShift."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.diffusion.resshift import first_sqrt_eta
from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob


@dataclass(frozen=True)
class ResShiftSettings:
    """The section `recipe.resshift`: the diffusion chain and the objective.

    The defaults are those of the small models that ship; configs/resshift_v1.py has the paper's 15-step chain.
    """

    steps: int = knob(4, "Length T of the chain.", at_least=2, at_most=10_000, unit="steps")
    kappa: float = knob(
        1.0, "Noise level of the chain.", above=0, at_most=1000, unit="standard deviations of the latent"
    )
    min_noise_level: float = knob(
        0.2, "Noise level of the first index.", above=0, at_most=1000, unit="standard deviations of the latent"
    )
    etas_end: float = knob(0.99, "Square root of eta at the last index.", above=0, at_most=1)
    sqrt_eta_cap: float | None = knob(
        None,
        "Largest square root of eta at the first index; SinSR's code has 0.0316, which matters where min_noise_level "
        "is larger. None: no cap, as in ResShift's code.",
        above=0,
        at_most=1,
    )
    power: float = knob(0.3, "Exponent of the schedule's time warp.", above=0, at_most=10)
    sampling_steps: int | None = knob(
        None, "Respaced steps of the sampler; None: all of them.", at_least=2, at_most=10_000, unit="steps"
    )
    mean_share: float = knob(
        0.0,
        "Share of the one-step mean in the sampler's image, for less texture and more fidelity: 0 is the published "
        "sampler, 1 the mean. Above 0 it takes one more network call.",
        at_least=0,
        at_most=1,
    )
    residual: bool = knob(
        True, "Run the chain on z_hr - z_lr, so that small networks need not learn to copy the LR image."
    )
    last_step_probability: float = knob(
        0.5,
        "Fraction of training examples at index T-1, which decides the one-step mean; the others are uniform.",
        at_least=0,
        at_most=1,
    )
    centred_probability: float = knob(
        0.0,
        "Fraction of the examples at index T-1 that start from the prior's mean, x_T = y, as the one-step mean does.",
        at_least=0,
        at_most=1,
    )
    centred_mean: bool = knob(
        True, "The one-step mean starts from the prior's mean and so does not depend on the seed."
    )
    channel_weight_power: float = knob(
        1.0,
        "Squared errors of latent channel c are weighted by channel_scale[c] to this power: 0 is the paper's latent "
        "MSE, 2 the pixel MSE of an orthonormal codec.",
        at_least=-8,
        at_most=8,
    )
    perceptual_weight: float = knob(
        0.0,
        "Weight of LPIPS between the decoded estimate and the HR image (journal version: 1).",
        at_least=0,
        at_most=MAX_WEIGHT,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.sampling_steps is not None and self.sampling_steps > self.steps:
            raise ValueError(
                f"sampling_steps is {self.sampling_steps}: it must be from 2 to the chain's steps ({self.steps})"
            )
        first = first_sqrt_eta(self.kappa, self.min_noise_level, self.sqrt_eta_cap)
        if first >= self.etas_end:
            raise ValueError(
                f"min_noise_level is {self.min_noise_level}: with kappa {self.kappa} and sqrt_eta_cap "
                f"{self.sqrt_eta_cap} the chain would start at {first:g}, which must be below etas_end "
                f"({self.etas_end}): lower min_noise_level or sqrt_eta_cap"
            )
