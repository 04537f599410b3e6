"""Presets by name, mixtures of presets, and presets with other kernel sizes."""

from __future__ import annotations

import math
import re
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

MIXTURE_EXAMPLE = "framer_released:0.4,camera:0.6"
"""How a mixture is written in place of a preset's name: NAME:SHARE,NAME:SHARE."""

LEAST_SHARE = 1e-6
"""Least share of one part of a mixture, of presets or of folders, as a part of all shares."""

LONGEST_SHOWN = 80
"""Characters of a name or a mixture in messages."""

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?")

Filter = TypeVar("Filter", BlurPreset, LowPassPreset)


def preset_by_name(
    name: str, scale: int = 4, geometry: str = "released", sharpen_target: bool | None = None
) -> DegradationPreset:
    """Look up a preset, or make a mixture of presets.

    Args:
      name: key in `PRESETS`, or a mixture written as `MIXTURE_EXAMPLE`: each record is degraded by one of its presets,
        which is drawn with the probability of its share. Shares are relative to their sum.
      scale: HR pixels per LR pixel, one of `SCALES`; all other numbers of the preset are unchanged.
      geometry: one of `GEOMETRIES`.
      sharpen_target: whether HR images are sharpened; None for what the preset says.

    Returns:
      The preset; the name of a mixture has the shares as parts of 1.

    Raises:
      ValueError: an unknown name, geometry or scale; the message lists the choices. A mixture that is not written as
        `MIXTURE_EXAMPLE`, that has a preset without two stages with JPEG, or whose presets differ in `sharpen_target`
        while this argument is None.
    """
    if scale not in SCALES:
        raise ValueError(f"degradation scale {scale} is not supported: choose one of {', '.join(map(str, SCALES))}")
    if geometry not in GEOMETRIES:
        raise ValueError(f"unknown degradation geometry {geometry!r}: choose one of {', '.join(GEOMETRIES)}")
    is_mixture = ":" in name or "," in name
    preset = _mixture(_parse_mixture(name), sharpen_target) if is_mixture else _entry(name)
    sharpens = preset.sharpen_target if sharpen_target is None else sharpen_target
    return replace(preset, scale=scale, geometry=geometry, sharpen_target=sharpens)


def _quoted(text: str) -> str:
    """A text as a message shows it, on one line and shortened."""
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…")


def _entry(name: str) -> DegradationPreset:
    if name not in PRESETS:
        raise ValueError(
            f"unknown degradation preset {_quoted(name)}: choose one of {', '.join(sorted(PRESETS))}, or a mixture "
            f"such as {MIXTURE_EXAMPLE}"
        )
    return PRESETS[name]


def _parse_mixture(text: str) -> tuple[tuple[DegradationPreset, float], ...]:
    """The presets with their shares, which sum to 1."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition(":")
        if not _NUMBER.fullmatch(share) or not 0.0 < float(share) < math.inf:
            raise ValueError(
                f"the mixture {_quoted(text)} has {_quoted(part)}, which is not NAME:SHARE with a finite share above "
                f"0: write it as {MIXTURE_EXAMPLE}"
            )
        if name in shares:
            raise ValueError(f"the mixture {_quoted(text)} names {_quoted(name)} twice: give it one share")
        shares[name] = float(share)
    if len(shares) < 2:
        raise ValueError(f"the mixture {_quoted(text)} has one preset only: leave out its share, or add another one")
    total = sum(shares.values())
    if not total < math.inf or min(shares.values()) < LEAST_SHARE * total:
        raise ValueError(
            f"the mixture {_quoted(text)} has a share below {LEAST_SHARE:g} of their sum: give a larger one"
        )
    return tuple((_entry(name), share / total) for name, share in shares.items())


def _mixture(parts: Sequence[tuple[DegradationPreset, float]], sharpen_target: bool | None = None) -> DegradationPreset:
    """A preset that degrades each record by one of several presets."""
    presets = [preset for preset, _ in parts]
    for preset in presets:
        if not _can_be_mixed(preset):
            possible = ", ".join(sorted(name for name, entry in PRESETS.items() if _can_be_mixed(entry)))
            raise ValueError(
                f"the degradation {preset.name} cannot be part of a mixture, because it does not have two stages with "
                f"JPEG: choose from {possible}"
            )
    sharpening = [preset.name for preset in presets if preset.sharpen_target]
    if sharpen_target is None and 0 < len(sharpening) < len(presets):
        raise ValueError(
            f"the degradation {sharpening[0]} sharpens the HR images, and others of the mixture do not: leave it out, "
            "or set sharpen_target for all of them"
        )
    return replace(
        presets[0],
        name=",".join(f"{preset.name}:{share:.12g}" for preset, share in parts),
        source="a mixture of presets",
        first=_union_of_stages([preset.first for preset in presets if preset.first is not None]),
        second=_union_of_stages([preset.second for preset in presets if preset.second is not None]),
        second_probability=_common_probability([preset.second_probability for preset in presets]),
        low_pass=_union_of_filters([preset.low_pass for preset in presets]),
        parts=tuple(parts),
    )


def _can_be_mixed(preset: DegradationPreset) -> bool:
    """Whether what the preset omits can be skipped at run time: a blur, noise and the final filter, but no JPEG."""
    stages = (preset.first, preset.second)
    return all(stage is not None and stage.jpeg_quality is not None for stage in stages)


def _union_of_stages(stages: Sequence[StagePreset]) -> StagePreset:
    """A stage with the kernel sizes and the resizing range of all, for which the program is compiled.

    Nothing is drawn from it: its other numbers are those of one of the stages.
    """
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
    probability = _common_probability([0.0 if preset is None else preset.probability for preset in filters])
    return replace(given[0], sizes=sizes, probability=probability)


def _common_probability(probabilities: Sequence[float]) -> float:
    """The probability if it is the same for all; otherwise 1/2, so that the program has both branches."""
    return probabilities[0] if len(set(probabilities)) == 1 else 0.5


def with_second_kernel_sizes(preset: DegradationPreset, smallest: int, largest: int) -> DegradationPreset:
    """The preset with other sizes of the second stage's blur kernels; those of its final filter stay.

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
        raise ValueError(f"{preset.name} is a mixture of presets, each with its own kernel sizes: use a single preset")
    if preset.first is None or preset.second is None or preset.second.blur is None:
        raise ValueError(f"the degradation {preset.name} has no second blur: use a preset whose second stage blurs")
    blur = replace(preset.second.blur, sizes=odd_sizes(smallest, largest))
    return replace(preset, second=replace(preset.second, blur=blur))
