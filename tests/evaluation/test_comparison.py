"""Paired comparisons: differences, intervals and the sign test, and files that cannot be compared."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framer_jax.evaluation.comparison import (
    Arm,
    check_comparable,
    common_images,
    difference,
    read_scores,
    sign_test,
)

METRICS = {"psnr-y": True, "niqe": False}


def scores(path, values, **changes):
    """A file as `framer-jax evaluate --json` writes it: metric → image → score or None."""
    images = sorted({image for of_metric in values.values() for image in of_metric})
    metrics = {
        name: {"variant": "v", "higher_is_better": METRICS[name], "weights": [{"file": path.name, "sha256": "1"}]}
        for name in values
    }
    metadata = {"crop_border": 0, "mod_crop": 1, "metrics": metrics, **changes}
    rows = [{"image": image} | {name: of_metric.get(image) for name, of_metric in values.items()} for image in images]
    path.write_text(json.dumps({"metadata": metadata, "images": rows}))
    return path


def test_differences_are_paired_and_know_what_is_better(tmp_path):
    first = scores(tmp_path / "a.json", {"psnr-y": {"x": 20, "y": 22, "z": 30}, "niqe": {"x": 5, "y": 6, "z": None}})
    second = scores(tmp_path / "b.json", {"psnr-y": {"x": 21, "y": 24, "w": 1}, "niqe": {"x": 4, "y": 6.5, "w": 3}})
    arms = [Arm(path.stem, (read_scores(path),)) for path in (first, second)]
    assert check_comparable([file for arm in arms for file in arm.files]) == ("psnr-y", "niqe")
    psnr, niqe = (difference(name, *arms) for name in ("psnr-y", "niqe"))
    assert (psnr.images, psnr.first, psnr.second, psnr.mean) == (2, 21, 22.5, 1.5)
    assert 1 <= psnr.low <= 1.5 <= psnr.high <= 2
    assert (psnr.better, psnr.worse, niqe.better, niqe.worse) == (2, 0, 1, 1)
    assert niqe.mean == pytest.approx(-0.25) and niqe.images == 2


def test_images_in_common_are_those_of_one_metric(tmp_path):
    first = scores(tmp_path / "a.json", {"psnr-y": {"x": 20, "y": 22}, "niqe": {"x": None, "y": 6}})
    second = scores(tmp_path / "b.json", {"psnr-y": {"x": 21, "y": 24}, "niqe": {"x": 4, "y": None}})
    one, two = (Arm(path.stem, (read_scores(path),)) for path in (first, second))
    assert (common_images("psnr-y", one, two), common_images("niqe", one, two)) == (["x", "y"], [])
    with pytest.raises(ValueError, match="a and b have no image in common that has a niqe"):
        difference("niqe", one, two)


def test_runs_of_an_arm_are_averaged_for_each_image(tmp_path):
    files = [
        read_scores(scores(tmp_path / f"{number}.json", {"psnr-y": {"x": 20 + number, "y": 30}})) for number in range(4)
    ]
    entry = difference("psnr-y", Arm("a", (files[0], files[1])), Arm("b", (files[2], files[3])))
    assert (entry.first, entry.second, entry.mean) == (25.25, 26.25, 1.0)
    assert entry.runs == (1.0, 1.0)
    assert (entry.better, entry.worse) == (1, 0)  # equal scores are neither
    assert difference("psnr-y", Arm("a", (files[0],)), Arm("b", (files[2], files[3]))).runs == ()


@pytest.mark.parametrize(
    ("better", "worse", "p"), [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (0, 5, 2 / 32), (4, 1, 12 / 32), (3, 3, 1)]
)
def test_sign_test(better, worse, p):
    assert sign_test(better, worse) == pytest.approx(p)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_symmetric_and_a_probability(better, worse):
    assert sign_test(better, worse) == sign_test(worse, better)
    assert 0 < sign_test(better, worse) <= 1


def test_a_gain_and_its_loss_are_opposite(tmp_path):
    rng = np.random.default_rng(0)
    values = [{f"{index}": float(value) for index, value in enumerate(rng.normal(size=30))} for _ in range(2)]
    arms = [Arm(str(n), (read_scores(scores(tmp_path / f"{n}.json", {"niqe": v})),)) for n, v in enumerate(values)]
    one, other = difference("niqe", *arms), difference("niqe", *arms[::-1])
    assert one.mean == pytest.approx(-other.mean) and one.low == pytest.approx(-other.high)
    assert (one.better, one.p_value) == (other.worse, other.p_value)


def test_what_cannot_be_compared_is_named(tmp_path):
    first = read_scores(scores(tmp_path / "a.json", {"psnr-y": {"x": 1}}))
    bordered = read_scores(scores(tmp_path / "b.json", {"psnr-y": {"x": 1}}, crop_border=4))
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json were scored with crop_border 0 and 4"):
        check_comparable([first, bordered])
    other = read_scores(scores(tmp_path / "c.json", {"niqe": {"x": 1}}))
    with pytest.raises(ValueError, match=r"have no metric in common"):
        check_comparable([first, other])
    text = (tmp_path / "a.json").read_text().replace('"sha256": "1"', '"sha256": "2"')
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ValueError, match=r"other variants or weights of psnr-y"):
        check_comparable([first, read_scores(tmp_path / "d.json")])
    elsewhere = read_scores(scores(tmp_path / "e.json", {"psnr-y": {"other": 1}}))
    with pytest.raises(ValueError, match="a and e have no image in common"):
        difference("psnr-y", Arm("a", (first,)), Arm("e", (elsewhere,)))
    with pytest.raises(FileNotFoundError, match=r"nothing\.json: no such file"):
        read_scores(tmp_path / "nothing.json")
    damaged = json.loads((tmp_path / "a.json").read_text())
    for value, message in ((float("nan"), "the psnr-y of x is nan"), (1e300, "is 1e.300"), ("1", "not a file")):
        damaged["images"][0]["psnr-y"] = value
        (tmp_path / "f.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=message):
            read_scores(tmp_path / "f.json")
    damaged["metadata"]["metrics"]["psnr-y"]["weights"] = "text"
    twice = {**json.loads((tmp_path / "a.json").read_text())}
    twice["images"] *= 2
    for content in (
        "[" * 100_000,
        json.dumps(damaged),
        json.dumps(twice),
        "{",
        "[]",
        '{"metadata": {}}',
        '{"metadata": {"metrics": {"a": {}}}, "images": []}',
    ):
        (tmp_path / "f.json").write_text(content)
        with pytest.raises(ValueError, match=r"not a file of `framer-jax evaluate --json`"):
            read_scores(tmp_path / "f.json")


def test_images_of_one_name_and_other_references_are_refused(tmp_path):
    files = []
    for name, digest in (("a", "1"), ("b", "2")):
        path = scores(tmp_path / f"{name}.json", {"psnr-y": {"x": 20, "y": 30}})
        content = json.loads(path.read_text())
        for image in content["images"]:
            image |= {"image_sha256": name, "reference_sha256": digest if image["image"] == "x" else "0"}
        path.write_text(json.dumps(content))
        files.append(read_scores(path))
    assert files[0].images == {"x": "a", "y": "a"}
    with pytest.raises(
        ValueError, match=r"a\.json and .*b\.json were scored with other references of x: images of one"
    ):
        check_comparable(files)
    without = read_scores(scores(tmp_path / "c.json", {"psnr-y": {"x": 20}}))  # of an older version
    assert check_comparable([files[0], without]) == ("psnr-y",)
