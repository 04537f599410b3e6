"""Ablations: what a paper's table varies, and the claims that it supports.

An ablation is a Python file whose `get_ablation()` returns an `Ablation`. `framer-jax ablate` trains its arms with
several seeds and holds the paired differences against the claims (framer_jax.evaluation.ablation_table).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

PROTOCOL_METRICS = ("psnr-y", "ssim-y", "lpips-alex", "dists", "niqe-pyiqa")
"""Metrics of the measured experiments in docs/results."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Overlay:
    """How an arm differs from the base configuration.

    Attributes:
      overrides: `KEY=VALUE` overrides, as `framer-jax train --set` takes them; they come after all others.
      config: '' for the base; ':VARIANT' for that variant of the base, whichever base is used; or the name or path of
        another configuration, with which a replaced base does not interfere.
    """

    overrides: tuple[str, ...] = ()
    config: str = ""


@dataclass(frozen=True)
class Ablation:
    """One table of a paper.

    Attributes:
      title: what is varied, in a few words.
      source: paper and table.
      base: configuration that the arms change, by name or path; of the published size where there is one.
      arms: name → overlay, in the paper's order; names become names of folders.
      reference: the arm that differences are taken from.
      expected: the paper's claims, pairs (better arm, worse arm).
      published: what the paper reports, in words.
      published_rows: what it reports in numbers: column → arm → value.
      seeds: seeds of the trainings.
      metrics: ids of framer_jax.evaluation.metrics.METRICS.
      steps: number of sampling steps; None for the configuration's.

    Raises:
      ValueError: a name that is no name of a folder, a name that is no arm, or nothing to compare.
    """

    title: str
    source: str
    base: str
    arms: Mapping[str, Overlay]
    reference: str
    expected: tuple[tuple[str, str], ...] = ()
    published: str = ""
    published_rows: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = PROTOCOL_METRICS
    steps: int | None = None

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise ValueError(f"the ablation {self.title!r} has {len(self.arms)} arms: it needs two or more")
        for name in self.arms:
            if not _NAME.fullmatch(name):
                raise ValueError(f"the arm {name!r} must have a name of letters, digits, '_', '-' and '.'")
        if len({_content(overlay) for overlay in self.arms.values()}) < len(self.arms):
            raise ValueError(f"the ablation {self.title!r} has two arms with the same overlay: remove one")
        check_seeds(self.seeds)
        claimed = [arm for pair in self.expected for arm in pair]
        reported = [arm for column in self.published_rows.values() for arm in column]
        for arm in (self.reference, *claimed, *reported):
            if arm not in self.arms:
                raise ValueError(f"the ablation {self.title!r} has no arm {arm!r}: choose from {', '.join(self.arms)}")
        if repeated := [pair for pair in self.expected if pair[0] == pair[1]]:
            raise ValueError(f"the ablation {self.title!r} expects {repeated[0][0]!r} to be better than itself")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are negative or repeated, or none.

    Raises:
      ValueError: the message names the seed.
    """
    if not seeds:
        raise ValueError("there is no seed: give one or more, such as 0,1,2")
    for seed in seeds:
        if seed < 0 or seeds.count(seed) > 1:
            raise ValueError(f"the seed {seed} is {'negative' if seed < 0 else 'given twice'}: give each once, from 0")


def merged(ablations: Sequence[Ablation]) -> tuple[tuple[Ablation, ...], dict[str, Overlay]]:
    """Several ablations that share their runs: arms with equal overlays get one name, that of the first.

    Args:
      ablations: in their order.

    Returns:
      The ablations with the shared names, and name → overlay of all their arms.

    Raises:
      ValueError: two different arms have the same name.
    """
    arms: dict[str, Overlay] = {}
    names: dict[tuple[str, frozenset[str]], str] = {}
    renamed = []
    for ablation in ablations:
        for name, overlay in ablation.arms.items():
            if _content(overlay) in names:
                continue
            if name in arms:
                raise ValueError(f"two ablations have different arms of the name {name!r}: give each its own --output")
            names[_content(overlay)], arms[name] = name, overlay
        shared = {name: names[_content(overlay)] for name, overlay in ablation.arms.items()}
        renamed.append(_renamed(ablation, shared))
    return tuple(renamed), arms


def _content(overlay: Overlay) -> tuple[str, frozenset[str]]:
    """What decides an overlay: the order of its overrides does not."""
    return overlay.config, frozenset(overlay.overrides)


def _renamed(ablation: Ablation, names: Mapping[str, str]) -> Ablation:
    return replace(
        ablation,
        arms={names[name]: overlay for name, overlay in ablation.arms.items()},
        reference=names[ablation.reference],
        expected=tuple((names[better], names[worse]) for better, worse in ablation.expected),
        published_rows={
            column: {names[arm]: value for arm, value in values.items()}
            for column, values in ablation.published_rows.items()
        },
    )


def with_arms(ablation: Ablation, arms: Collection[str]) -> Ablation:
    """An ablation with some of its arms, and the claims and published numbers about them.

    Raises:
      ValueError: the reference arm is not among them, or no other one.
    """
    kept = {name: overlay for name, overlay in ablation.arms.items() if name in arms}
    if ablation.reference not in kept or len(kept) < 2:
        raise ValueError(
            f"the ablation {ablation.title!r} compares with the arm {ablation.reference!r}: give it and another one of "
            f"{', '.join(ablation.arms)}"
        )
    rows = {
        column: {arm: value for arm, value in values.items() if arm in kept}
        for column, values in ablation.published_rows.items()
    }
    return replace(
        ablation,
        arms=kept,
        expected=tuple(pair for pair in ablation.expected if set(pair) <= kept.keys()),
        published_rows={column: values for column, values in rows.items() if values},
    )
