"""The knobs of a run's training and validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from framer_jax.degradations.kernels import CANVAS
from framer_jax.degradations.lookup import LEAST_SHARE, MIXTURE_EXAMPLE, preset_by_name, with_second_kernel_sizes
from framer_jax.degradations.presets import GEOMETRIES, PRESETS, DegradationPreset
from framer_jax.knobs import changed_repr, check_knobs, knob, shown

CROP_MODES = ("crop", "square")
"""What becomes a training crop: a random window of a photograph, or its largest square, reduced to the crop size."""


UNSHARPENED = "hr_unsharpened"
"""The batch entry of a recipe that needs the HR images as they are, also where 'hr' is sharpened."""


@dataclass(frozen=True)
class DataSettings:
    """The `data` section of a configuration.

    Raises:
      ValueError: a value outside its range; the message starts with the knob's name.
    """

    train: str = knob(
        "builtin",
        "builtin (photographs of scikit-image and scikit-learn), a folder of images, searched recursively, or a folder "
        "of records from `framer-jax precompute`.",
    )
    pairs: tuple[str, str] | None = knob(
        None,
        "Folders of LR and of HR photographs with the same names, such as those of RealSR, to train on in place of "
        "data.train; the LR images are used as they are, without a degradation.",
    )
    mixture: tuple[tuple[str, float], ...] = knob(
        (),
        "Folders of photographs, each with its share of the examples, such as [('a/', 0.7), ('b/', 0.3)], in place of "
        "data.train.",
        empty=True,
    )
    embeddings: str = knob(
        "",
        "Folder from `framer-jax precompute embeddings --captions`, for recipes that train with captions; '': the one "
        "that is stored with the latents of data.train.",
        empty=True,
    )
    caption_dropout: float = knob(
        0.2,
        "Probability that an example has the empty text instead of its caption.",
        at_least=0,
        at_most=1,
    )
    validation: str = knob("builtin", "builtin (the held-out photographs) or a folder of images.")
    validation_pairs: tuple[str, str] | None = knob(
        None, "Folders of LR and of HR images to validate on, as they are, in place of data.validation."
    )
    validation_count: int = knob(3, "Largest number of validation images.", at_least=0, at_most=1_000_000)
    validation_preview: str = knob(
        "",
        "For runs in the latent space kl: path of a TAESD or TAESD3 (its folder, or one file) whose decoder, many "
        "times faster, decodes validation images in place of the autoencoder's; scores are then of previews. '': none.",
        empty=True,
    )
    crop: int = knob(128, "Side of a training crop.", unit="HR pixels", at_least=1, at_most=16_384)
    small_share: float = knob(
        0.05,
        "Largest share of the training photographs that may be smaller than the crop; they are left out and counted. "
        "One photograph always may, unless this is 0.",
        unit="fraction",
        at_least=0,
        at_most=1,
        execution=True,
    )
    crop_mode: str = knob(
        "crop",
        "crop (random pixels of a photograph) or square (its largest square, reduced to the crop's side).",
        choices=CROP_MODES,
    )
    flip_and_rotate: bool = knob(
        False,
        "Also flip crops vertically and transpose them, each with probability 1/2; horizontal flips are always on.",
    )
    threads: int = knob(2, "Decoding threads of this process.", at_least=0, at_most=1024, execution=True)
    workers: int = knob(
        0,
        "Decoding processes; a checkpoint resumes only with the same number.",
        at_least=0,
        at_most=1024,
        execution=True,
    )
    degradation: str = knob(
        "light_one_stage",
        f"Degradation preset ({', '.join(sorted(PRESETS))}), see framer_jax.degradations.presets, or a mixture of "
        f"presets with two stages, such as {MIXTURE_EXAMPLE}. Presets with two stages reduce images to as little as "
        "0.15 of their size and need crops of at least 64 pixels.",
    )
    degradation_geometry: str = knob(
        "released",
        "released: the LR image is stretched by less than one pixel, as in the published pipelines; aligned: it lies "
        "where the HR image does. See framer_jax.degradations.presets.GEOMETRIES.",
        choices=GEOMETRIES,
    )
    sharpen_target: bool | None = knob(
        None,
        "Whether HR images are sharpened (USM) before they are degraded and compared with, as in the data preparation "
        "of DiT4SR and SeeSR; None: what the preset says (real_esrgan alone sharpens); a mixture of real_esrgan with "
        "others needs True or False.",
    )
    second_kernel_sizes: tuple[int, int] | None = knob(
        None,
        "Smallest and largest size of the second stage's blur kernels, odd; None: the preset's. The code that DiT4SR "
        "and FRAMER released draws 7 to 21 where FRAMER's Table 6 states 11.",
        unit="pixels",
        at_least=3,
        at_most=CANVAS,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        for name in ("train", "validation"):
            pairs = "pairs" if name == "train" else "validation_pairs"
            folder, default = getattr(self, name), getattr(DataSettings, name)
            if getattr(self, pairs) is not None and folder != default:
                raise ValueError(
                    f"{pairs} is {getattr(self, pairs)} and {name} {folder!r}, which are two data sets: leave {name} "
                    f"at its default {default!r}"
                )
        self._check_mixture()
        if self.pairs is not None and self.crop_mode != "crop":
            raise ValueError(
                f"crop_mode is {self.crop_mode!r}: crops of pairs are not reduced, because their LR images are given: "
                "use crop, or no pairs"
            )
        try:  # an error that names sharpen_target means the knob of this section
            preset = preset_by_name(self.degradation, sharpen_target=self.sharpen_target)
        except ValueError as error:
            raise ValueError(f"degradation is {shown(self.degradation)}: {error}") from error
        if self.second_kernel_sizes is not None:
            try:
                with_second_kernel_sizes(preset, *self.second_kernel_sizes)
            except ValueError as error:
                raise ValueError(f"second_kernel_sizes is {self.second_kernel_sizes}: {error}") from error

    def _check_mixture(self) -> None:
        for part in self.mixture:
            is_pair = isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[0], str) and part[0]
            share = part[1] if is_pair else None
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
                raise ValueError(f"mixture has {part!r}: give a folder and its share above 0, such as ('photos/', 0.7)")
        shares = [float(share) for _, share in self.mixture]
        if shares and not min(shares) >= LEAST_SHARE * sum(shares):
            raise ValueError(
                f"mixture has shares from {min(shares):g} to {max(shares):g}: each must be at least {LEAST_SHARE:g} of "
                "their sum"
            )
        others = {"pairs": self.pairs, "train": self.train if self.train != DataSettings.train else None}
        if self.mixture and (given := [name for name, value in others.items() if value is not None]):
            raise ValueError(f"mixture and {given[0]} are two data sets: leave one of them at its default")


def degradation_preset(data: Mapping[str, Any], scale: int) -> DegradationPreset:
    """The degradation that a configuration's `data` section names.

    Args:
      data: the section, possibly stored by a version without the knobs of `DEGRADATION_OPTIONS`.
      scale: HR pixels per LR pixel.

    Raises:
      ValueError: an unknown preset or geometry, an unsupported scale, or kernel sizes that the preset does not take.
    """
    options = {name: data.get(name, default) for name, default in DEGRADATION_OPTIONS.items()}
    preset = preset_by_name(
        data["degradation"], scale, options["degradation_geometry"], sharpen_target=options["sharpen_target"]
    )
    if options["second_kernel_sizes"] is not None:
        preset = with_second_kernel_sizes(preset, *options["second_kernel_sizes"])
    return preset


DEGRADATION_OPTIONS: Mapping[str, Any] = {
    name: getattr(DataSettings, name) for name in ("degradation_geometry", "sharpen_target", "second_kernel_sizes")
}
"""The knobs that change a preset, which configurations and manifests of earlier versions lack → their defaults."""


def describe_degradation(data: Mapping[str, Any]) -> str:
    """The degradation of a `data` section in words, such as '`bicubic` (released geometry)'."""
    words = [f"{data.get('degradation_geometry', DEGRADATION_OPTIONS['degradation_geometry'])} geometry"]
    if (sharpen := data.get("sharpen_target")) is not None:
        words.append("sharpened HR images" if sharpen else "HR images not sharpened")
    if sizes := data.get("second_kernel_sizes"):
        words.append(f"second kernels of {sizes[0]} to {sizes[1]} pixels")
    return f"`{data['degradation']}` ({', '.join(words)})"
