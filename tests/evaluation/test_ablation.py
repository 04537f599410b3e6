"""Ablations as data, arms that several of them share, and the table with the verdicts on the claims."""

import json
import math
from dataclasses import replace

import pytest

from framer_jax.evaluation.ablation import Ablation, Overlay, merged, with_arms
from framer_jax.evaluation.ablation_table import (
    FAILS,
    HOLDS,
    UNDECIDED,
    ablation_json,
    ablation_markdown,
    ablation_result,
)
from framer_jax.evaluation.comparison import read_scores
from tests.evaluation.test_comparison import scores

ARMS = {"none": Overlay(("a=1",)), "half": Overlay(("a=2",)), "full": Overlay()}

ABLATION = Ablation(
    title="A table",
    source="A paper, Table 1",
    base="starter",
    arms=ARMS,
    reference="none",
    expected=(("full", "none"), ("full", "half")),
    published="The whole is best.",
    published_rows={"NIQE": {"none": 5.0, "full": 4.5}},
)


def measured(folder, values):
    """Arm → seed → score file; values: arm → one mapping of metric → scores of images per seed."""
    files = {}
    for arm, of_seeds in values.items():
        for seed, metrics in enumerate(of_seeds):
            images = {name: dict(zip("wxyz", numbers, strict=False)) for name, numbers in metrics.items()}
            files.setdefault(arm, {})[seed] = read_scores(scores(folder / f"{arm}-s{seed}.json", images))
    return files


def test_verdicts_follow_the_interval_and_the_direction_of_the_metric(tmp_path):
    files = measured(
        tmp_path,
        {
            "none": [{"psnr-y": (20, 21, 22, 23), "niqe": (5, 5, 5, 5)}],
            "half": [{"psnr-y": (20, 22, 21, 23), "niqe": (3, 3, 3, 3)}],
            "full": [{"psnr-y": (21, 22, 23, 24), "niqe": (4, 4, 4, 4)}],
        },
    )
    result = ablation_result(ABLATION, files)
    verdicts = {(claim.worse, claim.difference.metric): claim.verdict for claim in result.claims}
    assert verdicts == {
        ("none", "psnr-y"): HOLDS,
        ("none", "niqe"): HOLDS,
        ("half", "psnr-y"): HOLDS,
        ("half", "niqe"): FAILS,
    }
    swapped = ablation_result(replace(ABLATION, expected=(("half", "none"), ("none", "full"))), files)
    verdicts = {(claim.better, claim.difference.metric): claim.verdict for claim in swapped.claims}
    assert verdicts[("half", "psnr-y")] == UNDECIDED and verdicts[("none", "psnr-y")] == FAILS
    differences = {arm: {entry.metric: entry.mean for entry in entries} for arm, entries in result.differences.items()}
    assert differences == {"half": {"psnr-y": 0, "niqe": -2}, "full": {"psnr-y": 1, "niqe": -1}}


def test_one_image_decides_nothing(tmp_path):
    files = measured(tmp_path, {"none": [{"psnr-y": (20,)}], "full": [{"psnr-y": (25,)}]})
    (claim,) = ablation_result(ABLATION, files).claims  # `half` has no scores
    assert claim.verdict == UNDECIDED and math.isnan(claim.difference.low)
    assert claim.difference.mean == 5


def test_arms_are_compared_by_the_seeds_that_both_have(tmp_path):
    files = measured(
        tmp_path,
        {
            "none": [{"psnr-y": (20, 22)}, {"psnr-y": (30, 32)}],
            "half": [{"psnr-y": (21, 23)}],
            "full": [{"psnr-y": (21, 23)}, {"psnr-y": (33, 35)}],
        },
    )
    result = ablation_result(ABLATION, files)
    assert [entry.mean for entry in result.differences["half"]] == [1]
    assert [entry.runs for entry in result.differences["full"]] == [(1, 3)]
    assert result.means["none"]["psnr-y"] == {0: 21, 1: 31}


def test_the_tables_have_every_arm_claim_and_published_number(tmp_path):
    files = measured(tmp_path, {"none": [{"psnr-y": (20, 21)}] * 2, "full": [{"psnr-y": (21, 22)}] * 2})
    result = ablation_result(ABLATION, files)
    text = ablation_markdown(result)
    lines = text.splitlines()
    assert lines[0] == "## A table"
    assert "| arm | changes | runs | psnr-y ↑ |" in lines
    assert "| `none` | `a=1` | 2 | 20.5000 ± 0.0000 |" in lines
    assert "| `half` | `a=2` | 0 | – |" in lines
    cells = "psnr-y ↑ | +1.0000 | +1.0000 .. +1.0000 | 2 of 2 | 0.5 | +1.0000, +1.0000"
    assert f"| `full` | {cells} |" in lines
    assert f"| `full` better than `none` | {cells} | holds |" in lines
    assert not any("better than `half`" in line for line in lines)
    assert "The whole is best." in lines and "| `full` | 4.5 |" in lines
    for line in lines:
        assert not line.startswith("|") or line.endswith("|")
    content = json.loads(json.dumps(ablation_json(result), allow_nan=False))
    assert content["means"]["full"] == {"psnr-y": {"0": 21.5, "1": 21.5}}
    assert content["differences"]["full"]["psnr-y"]["better"] == 2
    assert content["claims"][0]["verdict"] == HOLDS and content["claims"][0]["claim"] == "full better than none"
    assert content["published"]["columns"] == {"NIQE": {"none": 5.0, "full": 4.5}}


def test_nothing_measured_is_an_empty_table():
    text = ablation_markdown(ablation_result(ABLATION, {}))
    assert "| `full` |  | 0 |" in text and "Claims" not in text


def test_arms_with_equal_overlays_train_once():
    other = Ablation(
        title="Another",
        source="Table 2",
        base="starter",
        arms={"all": Overlay(), "two": Overlay(("a=2", "b=1")), "swapped": Overlay(("c=1", "b=1"))},
        reference="all",
        expected=(("all", "two"),),
        published_rows={"x": {"all": 1.0}},
    )
    arms = {"both": Overlay(("b=1", "a=2")), "full": Overlay()}
    third = replace(other, arms=arms, reference="full", expected=(), published_rows={})
    (first, second, last), arms = merged([ABLATION, other, third])
    assert first == ABLATION
    assert list(arms) == ["none", "half", "full", "two", "swapped"]
    assert list(second.arms) == ["full", "two", "swapped"]
    assert (second.reference, second.expected) == ("full", (("full", "two"),))
    assert second.published_rows == {"x": {"full": 1.0}}
    assert list(last.arms) == ["two", "full"]  # the order of overrides makes no difference
    with pytest.raises(ValueError, match="two ablations have different arms of the name 'half'"):
        merged([ABLATION, replace(ABLATION, arms={**ARMS, "half": Overlay(("a=3",))})])


def test_some_arms_keep_the_claims_about_them():
    some = with_arms(ABLATION, ["full", "none"])
    assert list(some.arms) == ["none", "full"] and some.expected == (("full", "none"),)
    with pytest.raises(ValueError, match="compares with the arm 'none': give it and another one of none, half, full"):
        with_arms(ABLATION, ["half", "full"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"none": Overlay()}}, "has 1 arms: it needs two or more"),
        ({"arms": {**ARMS, "a/b": Overlay(("b=1",))}}, "the arm 'a/b' must have a name of letters"),
        ({"arms": {**ARMS, "same": Overlay()}}, "two arms with the same overlay"),
        ({"reference": "nothing"}, "has no arm 'nothing': choose from none, half, full"),
        ({"expected": (("full", "nothing"),)}, "has no arm 'nothing'"),
        ({"expected": (("full", "full"),)}, "expects 'full' to be better than itself"),
        ({"published_rows": {"x": {"nothing": 1.0}}}, "has no arm 'nothing'"),
        ({"seeds": ()}, "there is no seed"),
        ({"seeds": (1, 1)}, "the seed 1 is given twice"),
        ({"seeds": (-1,)}, "the seed -1 is negative"),
    ],
)
def test_an_ablation_that_means_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ABLATION, **changes)


def test_a_metric_without_a_common_image_has_no_row(tmp_path):
    files = measured(
        tmp_path,
        {"none": [{"psnr-y": (20, 21), "niqe": (None, 5)}], "full": [{"psnr-y": (21, 22), "niqe": (4, None)}]},
    )
    result = ablation_result(ABLATION, files)
    assert [entry.metric for entry in result.differences["full"]] == ["psnr-y"]
    assert "niqe" in ablation_markdown(result)  # its means
