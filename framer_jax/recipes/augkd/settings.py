"""The knobs of AugKD."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob

TRANSFORMS = ("invert", "flip", "mirror", "transpose")
"""Color inversion, vertical flip, horizontal flip, transposition; rotations are products of the last three."""

VIEWS = ("plain", "zoom_in", "zoom_out")
"""The LR images of the training pairs, crops of the HR images, and LR images downsampled once more."""


@dataclass(frozen=True)
class AugKdSettings:
    """The section `recipe.augkd`: the objective."""

    weight: float = knob(
        1.0, "Weight of |S(x) - T(x)|_1 on the LR images of the pairs.", at_least=0, at_most=MAX_WEIGHT
    )
    auxiliary_weight: float = knob(
        1.0,
        "Weight of |F^-1 S(F x') - T(x')|_1 on each kind of auxiliary image x'.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    zoom_in: bool = knob(True, "Use crops of the HR image, as large as the LR image, as auxiliary images.")
    zoom_out: bool = knob(True, "Use bicubically downsampled LR images as auxiliary images.")
    transforms: tuple[str, ...] = knob(
        TRANSFORMS,
        "Names of transforms; F is the product of those that are drawn for an example.",
        choices=TRANSFORMS,
        empty=True,
    )
    probability: float = knob(0.5, "Probability of each transform.", at_least=0, at_most=1)
    augment_pairs: bool = knob(False, "Draw an F for the LR images of the pairs too.")

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)

    def weight_of(self, view: str) -> float:
        """The weight of a view's term; 0 where it is left out."""
        return self.weight if view == "plain" else self.auxiliary_weight * getattr(self, view)
