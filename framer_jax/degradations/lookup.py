"""Presets by name, mixtures of several, and presets with other kernel sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from framer_jax.degradations.presets import (
    GEOMETRIES,
    PRESETS,
    BlurPreset,
    DegradationPreset,
    LowPassPreset,
    StagePreset,
    odd_sizes,
)

SCALES = (2, 3, 4, 8)
"""The supported scales; the published numbers are for scale 4."""

Filter = TypeVar("Filter", BlurPreset, LowPassPreset)

MIXTURE_FORM = "NAME:SHARE,NAME:SHARE, such as real_esrgan:0.3,framer_released:0.7"
"""How a mixture is written in the place of a preset's name."""


def preset_by_name(
    name: str, scale: int = 4, geometry: str = "released", sharpen_target: bool | None = None
) -> DegradationPreset:
    """Look up a preset, or make a mixture of presets.

    Args:
      name: key in `PRESETS`, or a mixture in `MIXTURE_FORM`; each record is degraded by one of its presets.
      scale: HR pixels per LR pixel, one of `SCALES`; all other numbers of the preset are unchanged.
      geometry: one of `GEOMETRIES`.
      sharpen_target: whether HR images are sharpened, whatever the preset says; None for what it says.

    Raises:
      ValueError: an unknown name, geometry or scale; the message lists the choices. A mixture that is not written as
        `MIXTURE_FORM` says, or whose presets do not fit together, see `mixture`.
    """
    if scale not in SCALES:
        raise ValueError(f"degradation scale {scale} is not supported: choose one of {', '.join(map(str, SCALES))}")
    if geometry not in GEOMETRIES:
        raise ValueError(f"unknown degradation geometry {geometry!r}: choose one of {', '.join(GEOMETRIES)}")
    is_mixture = ":" in name or "," in name
    preset = mixture(*_parse_mixture(name), sharpen_target) if is_mixture else _entry(name)
    if sharpen_target is not None:
        preset = replace(preset, sharpen_target=sharpen_target)
    return replace(preset, name=name, scale=scale, geometry=geometry)


def _entry(name: str) -> DegradationPreset:
    if name not in PRESETS:
        raise ValueError(
            f"unknown degradation preset {name!r}: choose one of {', '.join(sorted(PRESETS))}, or a mixture of them, "
            f"{MIXTURE_FORM}"
        )
    return PRESETS[name]


def _parse_mixture(text: str) -> tuple[list[DegradationPreset], list[float]]:
    names, shares = [], []
    for part in text.split(","):
        name, _, share = part.partition(":")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not 0.0 < value < math.inf:
            raise ValueError(
                f"the mixture of degradations {text!r} has {part!r}, which is no preset with a share above 0: write "
                f"{MIXTURE_FORM}"
            )
        names.append(name.strip())
        shares.append(value)
    if len(set(names)) < len(names):
        raise ValueError(f"the mixture of degradations {text!r} has a preset twice: add up its shares")
    return [_entry(name) for name in names], shares


def mixture(
    presets: Sequence[DegradationPreset], shares: Sequence[float], sharpen_target: bool | None = None
) -> DegradationPreset:
    """A preset whose records are degraded by one of several presets each.

    Args:
      presets: presets of two stages with JPEG, of one scale and one geometry.
      shares: the probability of each, up to a common factor; above 0.
      sharpen_target: whether HR images are sharpened; None if the presets agree in it.

    Raises:
      ValueError: a preset without one of them, or None for presets that differ in `sharpen_target`.
    """
    for preset in presets:
        if not _can_be_mixed(preset):
            possible = ", ".join(sorted(name for name, entry in PRESETS.items() if _can_be_mixed(entry)))
            raise ValueError(
                f"the degradation {preset.name} cannot be part of a mixture, because it has not two stages with JPEG: "
                f"mix those of {possible}"
            )
    sharpening = [preset.name for preset in presets if preset.sharpen_target]
    if sharpen_target is None and 0 < len(sharpening) < len(presets):
        raise ValueError(
            f"the degradation {sharpening[0]} sharpens the HR images, and others of the mixture do not: say what all "
            "of them do, with data.sharpen_target=True or False"
        )
    parts = tuple((preset, share / sum(shares)) for preset, share in zip(presets, shares, strict=True))
    return replace(
        presets[0],
        name=",".join(f"{preset.name}:{share:g}" for preset, share in parts),
        source="a mixture of presets",
        first=_union_of_stages([preset.first for preset in presets if preset.first is not None]),
        second=_union_of_stages([preset.second for preset in presets if preset.second is not None]),
        second_probability=_certain_or_not([preset.second_probability for preset in presets]),
        low_pass=_union_of_filters([preset.low_pass for preset in presets]),
        sharpen_target=bool(sharpening) if sharpen_target is None else sharpen_target,
        parts=parts,
    )


def _can_be_mixed(preset: DegradationPreset) -> bool:
    """Whether what the preset omits can be skipped at run time: a blur, noise and the final filter, but no JPEG."""
    stages = (preset.first, preset.second)
    return all(stage is not None and stage.jpeg_quality is not None for stage in stages)


def _union_of_stages(stages: Sequence[StagePreset]) -> StagePreset:
    """A stage with the bounds of all; the program is compiled for these, and nothing is drawn from them."""
    lows, highs = zip(*(stage.resize.range for stage in stages), strict=True)
    return replace(
        stages[0],
        blur=_union_of_filters([stage.blur for stage in stages]),
        resize=replace(stages[0].resize, range=(min(lows), max(highs))),
        noise=next((stage.noise for stage in stages if stage.noise is not None), None),
    )


def _union_of_filters(filters: Sequence[Filter | None]) -> Filter | None:
    given = [preset for preset in filters if preset is not None]
    if not given:
        return None
    sizes = tuple(sorted({size for preset in given for size in preset.sizes}))
    probability = _certain_or_not([0.0 if preset is None else preset.probability for preset in filters])
    return replace(given[0], sizes=sizes, probability=probability)


def _certain_or_not(probabilities: Sequence[float]) -> float:
    """The common probability, or one that is neither 0 nor 1: both branches must be in the program."""
    return probabilities[0] if len(set(probabilities)) == 1 else 0.5


def with_second_kernel_sizes(preset: DegradationPreset, smallest: int, largest: int) -> DegradationPreset:
    """The preset with other sizes of the second stage's blur kernels; its final low-pass filter keeps its own.

    Args:
      preset: a preset whose second stage blurs.
      smallest: the smallest kernel size, odd.
      largest: the largest one, odd, at most 21.

    Raises:
      ValueError: even or descending sizes, a mixture, or a preset without a second blur.
    """
    if not 3 <= smallest <= largest <= 21 or smallest % 2 == 0 or largest % 2 == 0:
        raise ValueError("kernel sizes must be two odd numbers from 3 to 21, the smallest and the largest")
    if preset.parts:
        raise ValueError(f"the degradation {preset.name} is a mixture, whose presets have sizes of their own: use one")
    if preset.first is None or preset.second is None or preset.second.blur is None:
        raise ValueError(f"the degradation {preset.name} has no second blur: use a preset of two stages")
    blur = replace(preset.second.blur, sizes=odd_sizes(smallest, largest))
    return replace(preset, second=replace(preset.second, blur=blur))
