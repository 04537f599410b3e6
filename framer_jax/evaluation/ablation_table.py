"""The table of an ablation: scores of its arms, paired differences from the reference arm, verdicts on the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from framer_jax.evaluation.ablation import Ablation
from framer_jax.evaluation.comparison import (
    DIFFERENCE_HEADINGS,
    Arm,
    Difference,
    ScoreFile,
    check_comparable,
    common_images,
    difference,
    difference_cells,
    difference_json,
)
from framer_jax.evaluation.report import MISSING, metric_heading

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
"""Verdicts on a claim by one metric: the 95 % interval of the paired difference lies on the side that the claim says,
on the other side, or contains 0 (or there is none)."""

ArmScores = Mapping[int, ScoreFile]
"""Seed → the scores of an arm's run."""


class Claim(NamedTuple):
    """A claim of the paper, held against one metric.

    Attributes:
      better, worse: the arms, as the paper claims.
      difference: of the better arm's scores minus the worse one's.
      verdict: one of `HOLDS`, `FAILS`, `UNDECIDED`.
    """

    better: str
    worse: str
    difference: Difference
    verdict: str


class AblationResult(NamedTuple):
    """The measured side of an ablation.

    Attributes:
      ablation: what was asked.
      metrics: metric → whether higher scores are better.
      means: arm → metric → seed → mean over the images that have a score.
      differences: arm → its differences from the reference arm, one per metric.
      claims: the claims, held against every metric.
    """

    ablation: Ablation
    metrics: Mapping[str, bool]
    means: Mapping[str, Mapping[str, Mapping[int, float]]]
    differences: Mapping[str, Sequence[Difference]]
    claims: Sequence[Claim]


def verdict(entry: Difference) -> str:
    """What the interval of a paired difference says about the claim that the second arm is better than the first."""
    low, high = (entry.low, entry.high) if entry.higher_is_better else (-entry.high, -entry.low)
    if low > 0:
        return HOLDS
    return FAILS if high < 0 else UNDECIDED  # NaN, for one image, is undecided too


def ablation_result(ablation: Ablation, scores: Mapping[str, ArmScores], seed: int = 0) -> AblationResult:
    """Compare the arms of an ablation that have scores; two arms are compared by the seeds that both have.

    A metric that no image has in both of two arms is left out of their differences.

    Args:
      ablation: the ablation.
      scores: arm → seed → scores; arms and seeds may be missing.
      seed: seed of the bootstrap over images.

    Raises:
      ValueError: the scores cannot be compared (framer_jax.evaluation.comparison.check_comparable).
    """
    present = {arm: scores[arm] for arm in ablation.arms if scores.get(arm)}
    files = [file for of_arm in present.values() for file in of_arm.values()]
    metrics = check_comparable(files) if files else ()
    higher = {name: bool(files[0].metadata["metrics"][name]["higher_is_better"]) for name in metrics}

    def compared(first: str, second: str) -> list[Difference]:
        """Differences of the second arm minus the first."""
        seeds = [number for number in present.get(first, {}) if number in present.get(second, {})]
        if not seeds:
            return []
        one, two = (Arm(arm, tuple(present[arm][number] for number in seeds)) for arm in (first, second))
        return [difference(metric, one, two, seed) for metric in metrics if common_images(metric, one, two)]

    return AblationResult(
        ablation,
        higher,
        {arm: {name: _means(of_arm, name) for name in metrics} for arm, of_arm in present.items()},
        {arm: compared(ablation.reference, arm) for arm in present if arm != ablation.reference},
        [
            Claim(better, worse, entry, verdict(entry))
            for better, worse in ablation.expected
            for entry in compared(worse, better)
        ],
    )


def _means(of_arm: ArmScores, metric: str) -> dict[int, float]:
    values = {number: list(file.scores[metric].values()) for number, file in sorted(of_arm.items())}
    return {number: float(np.mean(of_seed)) for number, of_seed in values.items() if of_seed}


def ablation_markdown(result: AblationResult) -> str:
    """The tables of an ablation for a page."""
    ablation = result.ablation
    parts = [f"## {ablation.title}", f"{ablation.source}. Differences are from the arm `{ablation.reference}`."]
    parts.append(_means_table(result))
    if any(result.differences.values()):
        parts.append(_differences_table(result))
    if result.claims:
        headings = ("claim", "metric", *DIFFERENCE_HEADINGS, "verdict")
        parts += ["### Claims of the paper", _markdown(headings, [_claim_row(claim) for claim in result.claims])]
    if ablation.published or ablation.published_rows:
        parts += ["### Published", *filter(None, [ablation.published, _published_table(ablation)])]
    return "\n\n".join(parts) + "\n"


def _means_table(result: AblationResult) -> str:
    headings = ["arm", "changes", "runs", *(metric_heading(name, higher) for name, higher in result.metrics.items())]
    rows = []
    for arm, overlay in result.ablation.arms.items():
        means = result.means.get(arm, {})
        runs = max((len(of_seed) for of_seed in means.values()), default=0)
        changes = ", ".join(f"`{change}`" for change in filter(None, (overlay.config, *overlay.overrides)))
        rows.append([f"`{arm}`", changes, str(runs), *(_mean_cell(means.get(name, {})) for name in result.metrics)])
    return _markdown(headings, rows)


def _mean_cell(of_seed: Mapping[int, float]) -> str:
    """Mean and standard deviation over the seeds."""
    values = list(of_seed.values())
    if not values:
        return MISSING
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def _differences_table(result: AblationResult) -> str:
    rows = [
        [f"`{arm}`", metric_heading(entry.metric, entry.higher_is_better), *difference_cells(entry)]
        for arm, entries in result.differences.items()
        for entry in entries
    ]
    return _markdown(("arm", "metric", *DIFFERENCE_HEADINGS), rows)


def _claim_row(claim: Claim) -> list[str]:
    entry = claim.difference
    heading = metric_heading(entry.metric, entry.higher_is_better)
    return [f"`{claim.better}` better than `{claim.worse}`", heading, *difference_cells(entry), claim.verdict]


def _published_table(ablation: Ablation) -> str:
    columns = ablation.published_rows
    if not columns:
        return ""
    arms = [arm for arm in ablation.arms if any(arm in values for values in columns.values())]
    rows = [
        [f"`{arm}`", *(str(values[arm]) if arm in values else MISSING for values in columns.values())] for arm in arms
    ]
    return _markdown(("arm", *columns), rows)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def ablation_json(result: AblationResult) -> dict[str, Any]:
    """The same as plain JSON."""
    ablation, columns = result.ablation, result.ablation.published_rows
    return {
        "title": ablation.title,
        "source": ablation.source,
        "reference": ablation.reference,
        "means": {
            arm: {name: {str(number): mean for number, mean in of_seed.items()} for name, of_seed in of_arm.items()}
            for arm, of_arm in result.means.items()
        },
        "differences": {
            arm: {entry.metric: difference_json(entry) for entry in entries}
            for arm, entries in result.differences.items()
        },
        "claims": [
            {
                "claim": f"{claim.better} better than {claim.worse}",
                "metric": claim.difference.metric,
                "verdict": claim.verdict,
                "difference": difference_json(claim.difference),
            }
            for claim in result.claims
        ],
        "published": {"text": ablation.published, "columns": {name: dict(of) for name, of in columns.items()}},
    }
