"""Scores of two folders of images as a table, CSV and JSON; the bootstrap; and errors for bad input."""

import csv
import hashlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from framer_jax.evaluation.files import image_size
from framer_jax.evaluation.metrics import score
from framer_jax.evaluation.pairs import pair_files
from framer_jax.evaluation.provenance import upscale_settings
from framer_jax.evaluation.report import summarise
from framer_jax.evaluation.statistics import bootstrap_interval
from framer_jax.evaluation.table import evaluate
from framer_jax.version import __version__
from tests.support.image_folders import result_folders, save

IDS = ["psnr-y", "ssim-y"]


@pytest.fixture
def folders(tmp_path):
    return result_folders(tmp_path)


def test_end_to_end(folders, tmp_path):
    sr, gt = folders
    out = io.StringIO()
    result = evaluate(
        sr,
        gt,
        [*IDS, "psnr-y"],
        csv_path=tmp_path / "t" / "scores.csv",
        json_path=tmp_path / "t" / "scores.json",
        console=Console(file=out, width=120),
    )
    assert [pair.name for pair in result.pairs] == ["a", "b", "c"]
    for index, (name, other) in enumerate([("a", "a"), ("b", "b"), ("sub/c", "sub/c")]):
        first, second = (
            np.asarray(Image.open(path))[None] / np.float32(255) for path in (sr / f"{name}.png", gt / f"{other}.bmp")
        )
        for metric, value in score(first, second, IDS).items():
            assert result.values[metric][index] == pytest.approx(value[0], rel=1e-6)
    rows = list(csv.DictReader((tmp_path / "t" / "scores.csv").read_text().splitlines()))
    assert [list(row) for row in rows] == [["image", *IDS]] * 3
    np.testing.assert_allclose([float(row["ssim-y"]) for row in rows], result.values["ssim-y"], atol=1e-6)
    saved = json.loads((tmp_path / "t" / "scores.json").read_text())
    assert saved["metadata"]["framer_jax"] == __version__
    assert saved["metadata"]["metrics"]["psnr-y"]["variant"].startswith("PSNR on BT.601")
    assert saved["metadata"]["crop_border"] == 0
    assert saved["images"][2]["reference"].endswith("c.bmp")
    assert saved["summary"]["psnr-y"]["mean"] == pytest.approx(result.values["psnr-y"].mean())
    assert "psnr-y" in out.getvalue()
    assert "3 images" in out.getvalue()


def test_outputs_are_only_overwritten_on_request(folders, tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"scores\.csv"):
        evaluate(*folders, IDS, csv_path=tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == "mine"
    evaluate(*folders, IDS, csv_path=tmp_path / "scores.csv", overwrite=True)
    assert (tmp_path / "scores.csv").read_text().startswith("image,psnr-y")


def test_without_a_reference_and_with_one_image(tmp_path, fixtures):
    with np.load(fixtures / "niqe.npz") as case:
        image = case["in/image"]
    (tmp_path / "one").mkdir()
    Image.fromarray(image).save(tmp_path / "one" / "photo.png")
    out = io.StringIO()
    result = evaluate(
        tmp_path / "one",
        None,
        ["niqe-framer"],
        crop_border=4,
        json_path=tmp_path / "one.json",
        console=Console(file=out, width=120),
    )
    assert np.isnan(result.summary["niqe-framer"].low)
    assert len(result.metadata["metrics"]["niqe-framer"]["niqe_model_sha256"]) == 64
    assert result.metadata["crop_border"] == 4
    assert json.loads((tmp_path / "one.json").read_text())["summary"]["niqe-framer"]["low"] is None
    assert "1 image" in out.getvalue()


def test_pairs_by_stem_or_by_path_if_stems_repeat(folders, tmp_path):
    sr, gt = folders
    pairs, left_out, *_ = pair_files(sr, gt)
    assert [pair.name for pair in pairs] == ["a", "b", "c"]
    assert left_out == ()
    for folder in (sr, gt):
        save(folder / "sub" / "a.png", 7)
    assert [pair.name for pair in pair_files(sr, gt)[0]] == ["a", "b", "sub/a", "sub/c"]
    save(sr / "a.bmp", 8)
    with pytest.raises(ValueError, match="have the same name"):
        pair_files(sr, gt)


def test_images_without_a_partner_are_a_row_without_scores(folders, tmp_path):
    sr, gt = folders
    clean = evaluate(sr, gt, IDS)
    save(sr / "lonely.png", 1)
    save(gt / "missing.png", 1)
    out = io.StringIO()
    result = evaluate(sr, gt, IDS, json_path=tmp_path / "s.json", console=Console(file=out, width=200))
    assert [pair.name for pair in result.pairs] == ["a", "b", "c", "lonely", "missing"]
    assert {failure.image: failure.reason for failure in result.failures} == {
        "lonely": "there is no reference of this name",
        "missing": f"{sr} holds no image of this name",
    }
    assert result.summary["psnr-y"].mean == clean.summary["psnr-y"].mean
    assert "2 of 5 images lack scores" in out.getvalue()
    saved = json.loads((tmp_path / "s.json").read_text())["images"]
    assert [(entry["file"] is None, entry["reference"] is None) for entry in saved[3:]] == [
        (False, True),
        (True, False),
    ]
    without = evaluate(sr, gt, IDS, allow_unmatched=True)
    assert len(without.pairs) == 3
    assert without.failures == ()
    assert without.metadata["left_out"] == ["lonely", "missing"]


def test_bad_input_is_named(folders, tmp_path):
    sr, gt = folders
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate(tmp_path / "nowhere", gt, IDS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        evaluate(sr, tmp_path / "empty", IDS)
    with pytest.raises(ValueError, match="choose from"):
        evaluate(sr, gt, ["psnr"])
    with pytest.raises(ValueError, match="--reference"):
        evaluate(sr, None, IDS)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        evaluate(sr, None, ["niqe"], niqe_model=tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"3 image\(s\) too small for niqe-framer .*: a, b, c"):
        evaluate(sr, None, ["niqe-framer"])
    Image.new("RGB", (192, 192)).save(tmp_path / "empty" / "black.png")
    with pytest.raises(ValueError, match=r"black\.png: NIQE needs at least two blocks"):
        evaluate(tmp_path / "empty", None, ["niqe-framer"])
    save(tmp_path / "other" / "x.png", 1)
    with pytest.raises(ValueError, match="of the same name"):
        evaluate(sr, tmp_path / "other", IDS)
    for path in (gt / "a.bmp", gt / "b.bmp", gt / "sub" / "c.bmp"):
        save(path, 1, 12, 20)
    with pytest.raises(ValueError, match=r"3 image\(s\) differ in size .* b 20x24 against 20x12"):
        evaluate(sr, gt, IDS)


def test_what_has_no_score_is_a_dash_with_a_note(folders, tmp_path):
    sr, gt = folders
    clean = evaluate(sr, gt, IDS)
    (sr / "b.png").write_bytes((sr / "b.png").read_bytes()[:200])  # its header is intact
    (gt / "sub" / "c.bmp").write_text("not an image")
    out = io.StringIO()
    paths = {"csv_path": tmp_path / "scores.csv", "json_path": tmp_path / "scores.json"}
    result = evaluate(sr, gt, IDS, **paths, console=Console(file=out, width=200))
    for name in IDS:
        np.testing.assert_array_equal(np.isnan(result.values[name]), [False, True, True])
        assert result.values[name][0] == clean.values[name][0]
        assert result.summary[name].mean == pytest.approx(clean.values[name][0])
        assert (result.summary[name].images, clean.summary[name].images) == (1, 3)
    assert [(failure.image, failure.metrics) for failure in result.failures] == [("b", tuple(IDS)), ("c", tuple(IDS))]
    printed = out.getvalue()
    assert "2 of 3 images lack scores, which the means leave out" in printed
    assert "b: psnr-y – [1], ssim-y – [1]" in printed
    assert f"[1] {sr / 'b.png'}: cannot be read" in printed
    assert f"[2] {gt / 'sub' / 'c.bmp'}: " in printed
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert rows[2:] == ["b,,", "c,,"]
    saved = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert saved["images"][1]["psnr-y"] is None
    assert [entry["image"] for entry in saved["without_score"]] == ["b", "c"]
    (sr / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png: the file is empty .*3 images, none has a score"):
        evaluate(sr, gt, IDS)


def test_a_metric_that_is_undefined_for_one_image_is_kept_for_the_others(tmp_path, fixtures):
    with np.load(fixtures / "niqe.npz") as case:
        image = case["in/image"]
    (tmp_path / "sr").mkdir()
    Image.fromarray(image).save(tmp_path / "sr" / "photo.png")
    Image.new("RGB", image.shape[1::-1], (9, 9, 9)).save(tmp_path / "sr" / "flat.png")
    Image.fromarray(image[:100, :100]).save(tmp_path / "sr" / "tiny.png")
    result = evaluate(tmp_path / "sr", tmp_path / "sr", ["niqe-framer", "psnr-y"])
    np.testing.assert_array_equal(np.isnan(result.values["niqe-framer"]), [True, False, True])
    np.testing.assert_allclose(result.values["psnr-y"], 80, rtol=1e-6)
    (tmp_path / "sr" / "flat.png").rename(tmp_path / "flat.png")
    clean = evaluate(tmp_path / "sr", None, ["niqe-framer"])
    np.testing.assert_allclose(result.values["niqe-framer"][1], clean.values["niqe-framer"][0], rtol=1e-6)
    assert [(failure.image, failure.metrics) for failure in result.failures] == [
        ("flat", ("niqe-framer",)),
        ("tiny", ("niqe-framer",)),
    ]


def test_a_reference_of_another_size_costs_one_row(folders):
    sr, gt = folders
    clean = evaluate(sr, gt, IDS)
    save(gt / "b.bmp", 1, 27, 22)
    result = evaluate(sr, gt, IDS)
    np.testing.assert_array_equal(np.isnan(result.values["psnr-y"]), [False, True, False])
    assert result.values["psnr-y"][0] == clean.values["psnr-y"][0]
    (failure,) = result.failures
    assert failure.reason == (
        "differs in size (width x height) from its reference: b 20x24 against 22x27: the references are larger by less "
        "than a scale of 4: crop the references at the right and the bottom, or add --mod-crop 4"
    )


def test_references_that_are_larger_by_less_than_the_scale(tmp_path):
    for index, name in enumerate("ab"):
        pixels = save(tmp_path / "gt" / f"{name}.png", index, 27, 22 + index)
        (tmp_path / "sr").mkdir(exist_ok=True)
        Image.fromarray(pixels[:24, :20]).save(tmp_path / "sr" / f"{name}.png")
    with pytest.raises(ValueError, match=r"a 20x24 against 22x27.*larger by less than a scale of 4.* add --mod-crop 4"):
        evaluate(tmp_path / "sr", tmp_path / "gt", IDS)
    result = evaluate(tmp_path / "sr", tmp_path / "gt", IDS, mod_crop=4)
    np.testing.assert_allclose(result.values["psnr-y"], 80, rtol=1e-6)
    assert result.metadata["mod_crop"] == 4
    with pytest.raises(ValueError, match=r"a\.png is 20x24, smaller than --mod-crop 64 \(2 images, none has a score\)"):
        evaluate(tmp_path / "sr", tmp_path / "gt", IDS, mod_crop=64)


def test_size_of_a_rotated_image(tmp_path):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "rotated.jpg", exif=exif)
    assert image_size(tmp_path / "rotated.jpg") == (30, 20)


@settings(deadline=None, max_examples=20)
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=20), seed=st.integers(0, 1000))
def test_bootstrap_interval_lies_within_the_values_and_is_reproducible(values, seed):
    low, high = bootstrap_interval(values, seed, resamples=200)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap_interval(np.array(values), seed, resamples=200)
    shifted = bootstrap_interval(np.array(values) + 5.0, seed, resamples=200)
    np.testing.assert_allclose(shifted, (low + 5.0, high + 5.0), atol=1e-9)


def test_bootstrap_of_a_normal_sample_is_the_textbook_interval():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(values, 1, resamples=4000)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)
    assert summarise(values).mean == pytest.approx(values.mean())


def test_bootstrap_refuses_invalid_arguments():
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            bootstrap_interval(values)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([1.0, 2.0], resamples=10)


def test_settings_of_the_upscaling_are_summarised(tmp_path):
    settings_ = {"protocol": "dit4sr", "mode": "sample", "color_fix": "adain", "tile": 128}
    record = {"settings": settings_, "recipe": "dit4sr", "changes": {"recipe.dit4sr.guidance": 4.0}, "checkpoint": None}
    (tmp_path / "a.png.json").write_text(json.dumps(record))
    older = {"settings": {**settings_, "protocol": "framer_jax"}, "recipe": "dit4sr", "checkpoint": {"sha256": "12"}}
    (tmp_path / "b.png.json").write_text(json.dumps(older))
    (tmp_path / "c.png.json").write_text("[]")
    assert upscale_settings([tmp_path / f"{name}.png" for name in "abcd"]) == {
        "recorded": 2,
        "protocol": ["dit4sr", "framer_jax"],
        "mode": ["sample"],
        "color_fix": ["adain"],
        "recipe": ["dit4sr"],
        "changes": [{"recipe.dit4sr.guidance": 4.0}, {}],
        "checkpoint": [None, "12"],
    }
    assert upscale_settings([]) == {"recorded": 0}


def test_values_that_are_not_finite_are_one_row(folders):
    sr, gt = folders
    values = np.full((24, 20), 0.5, np.float32)
    values[3, 4] = np.nan
    (sr / "b.png").unlink()
    Image.fromarray(values).save(sr / "b.tif")
    result = evaluate(sr, gt, IDS)
    np.testing.assert_array_equal(np.isnan(result.values["psnr-y"]), [False, True, False])
    assert "b.tif" in result.failures[0].reason
    assert "NaN or infinite: replace them first" in result.failures[0].reason


def test_the_json_file_names_versions_machine_and_digests(folders, tmp_path):
    sr, gt = folders
    evaluate(sr, gt, IDS, json_path=tmp_path / "scores.json")
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert {"jax", "numpy", "pillow"} <= saved["metadata"]["versions"].keys()
    assert saved["metadata"]["machine"]["backend"] == "cpu"
    assert saved["images"][0]["image_sha256"] == hashlib.sha256((sr / "a.png").read_bytes()).hexdigest()
    assert saved["images"][0]["reference_sha256"] == hashlib.sha256((gt / "a.bmp").read_bytes()).hexdigest()
