"""The table of real photographs, end to end on tiny images and weights."""

import json

import numpy as np
import pytest
from PIL import Image

from framer_jax.evaluation.pairs import Pair
from framer_jax.evaluation.sheets import GAP, LABEL, comparison_sheet
from framer_jax.images.decode import read_image
from framer_jax.inference.resample import resize_pillow
from framer_jax.porting.files import sha256_of
from tests.support.tiny import photo, weights
from tools import quality_scores, quality_table
from tools.quality_images import DataSet, bicubic, image_folder
from tools.quality_scores import Row, common_images, table

PRISTINE = quality_table.framer_jax.__path__[0] + "/weights/niqe_framer.npz"
LR, HR = (24, 48), (96, 192)  # two blocks of NIQE


def write_images(folder, names, size, seed=0):
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        Image.fromarray(photo(*size, seed + index)).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for seed, (name, size) in enumerate({"LR": LR, "HR": HR, "osediff": HR}.items()):
        write_images(root / "crops" / name, ("a", "b", "c"), size, 10 * seed)
    write_images(root / "real", ("x", "y"), LR, 50)
    weights(root / "tiny.safetensors")
    return root


@pytest.fixture
def words(photographs, tmp_path, monkeypatch):
    """Arguments of a small run; no published weights are in reach."""
    monkeypatch.setenv("FRAMER_JAX_WEIGHTS", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {
        "output": tmp_path / "out",
        "crops": photographs / "crops",
        "realset65": photographs / "real",
        "niqe-model": PRISTINE,
        "metrics": "psnr-y,niqe-pyiqa",
        "rounds": 1,
        "sheet-rows": 2,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def models(photographs, *names):
    return ["--models", "bicubic", f"tiny={photographs / 'tiny.safetensors'}", *names]


def modified(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_one_command_from_photographs_to_table(photographs, words, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = [*words, *models(photographs, "osediff", "realesr-general-x4v3")]
    assert quality_table.main(arguments) == 1, "a model is missing"
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "missing" in line]
    assert "realesr-general-x4v3" in line and str(tmp_path / "nothing") in line
    text = (out / quality_table.TABLE).read_text(encoding="utf-8")
    assert text.strip() in printed.out
    labels = ["bicubic", "tiny, mean", "tiny, sample"]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    first, second = (index for index, row in enumerate(rows) if row[0] == "| " + "")
    assert [row[0][2:] for row in rows[first + 1 : second]] == [*labels, "OSEDiff, published images"]
    assert [row[0][2:] for row in rows[second + 1 :]] == labels
    assert all(row[1] == "3" for row in rows[first + 1 : second]) and all(row[1] == "2" for row in rows[second + 1 :])
    numbers = json.loads((out / quality_table.NUMBERS).read_text(encoding="utf-8"))
    entry = numbers["data_sets"]["RealSR-crops"]["bicubic"]
    assert set(numbers["seconds"]) == set(labels) and min(numbers["seconds"].values()) > 0
    lr, hr = (read_image(photographs / "crops" / part / "a.png").pixels for part in ("LR", "HR"))
    expected = np.rint(np.clip(resize_pillow(lr, HR), 0, 1) * 255).astype(np.float32) / 255
    values = quality_scores.score_pairs(
        [Pair("a", *[photographs / "crops" / part / "a.png" for part in ("osediff", "HR")])],
        quality_scores.pair_sizes([Pair("a", *[photographs / "crops/HR/a.png"] * 2)]),
        quality_scores.ScoreSettings(("psnr-y",)),
        lambda count: None,
    )[0]["psnr-y"]
    published = numbers["data_sets"]["RealSR-crops"]["OSEDiff, published images"]
    assert published["images"]["a"]["psnr-y"] == pytest.approx(float(values[0]))
    np.testing.assert_array_equal(read_image(entry["files"]["a"]).pixels, expected)
    assert hr.shape == expected.shape
    with Image.open(out / "RealSR-crops.jpg") as sheet:
        assert sheet.size == (5 * (256 + GAP) - GAP, 2 * (256 + LABEL + GAP) - GAP)

    before = modified(out)
    assert quality_table.main(arguments) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert modified(out) == before
    monkeypatch.setattr(quality_scores, "score_pairs", lambda *arguments: pytest.fail("scored again"))
    assert quality_table.main([*arguments, "--overwrite"]) == 1
    after = modified(out)
    replaced = {path for path in before if after[path] != before[path]}
    assert {path.rsplit("/", 1)[1] for path in replaced} <= {
        "table.md",
        "scores.json",
        "summary.json",
        "RealSR-crops.jpg",
        "RealSet65.jpg",
    }
    assert (out / quality_table.TABLE).read_text(encoding="utf-8") == text


def test_it_goes_on_where_it_stopped(photographs, words, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*words, "--models", "bicubic", "--rounds", "0", "--overwrite"]
    assert quality_table.main([*arguments, "--limit", "2"]) == 0
    made = modified(out / "images")
    assert len(made) == 2 * (2 + 2), "images and their records"
    assert quality_table.main([*arguments, "--minutes", "0"]) == 1
    assert "RealSR-crops, bicubic: 2 of 3 images" in capsys.readouterr().err
    assert quality_table.main(arguments) == 0
    assert made.items() <= modified(out / "images").items() and len(modified(out / "images")) == 2 * (3 + 2)


def test_what_cannot_be_used_is_one_line(photographs, words, tmp_path, capsys):
    out = tmp_path / "out"
    for arguments, message in (
        ([*words, "--models", "bicubik"], "no model 'bicubik'"),
        ([*words, "--models", "bicubic", "bicubic"], "names a model twice"),
        ([*words, "--metrics", "psnr"], "'psnr' is none of"),
        ([*words, "--limit", "0"], "--limit is 0"),
        ([*words, "--crops", str(tmp_path / "none")], "no such folder"),
        (["--output", str(out)], "no photographs"),
        ([*words, "--output", str(photographs / "real")], "would replace"),
    ):
        assert quality_table.main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert not out.exists()


def test_metrics_without_weights_are_left_out(monkeypatch):
    monkeypatch.setattr(quality_scores, "is_installed", lambda name: False)
    settings, lines = quality_scores.usable_metrics(list(quality_scores.COLUMNS), None, (), ())
    assert settings.ids == ("psnr-y", "ssim-y")
    assert [line.split()[2] for line in lines] == ["lpips-alex", "dists", "niqe-pyiqa"]


def test_a_folder_of_images_is_of_one_model_and_one_set_of_photographs(photographs, tmp_path):
    data_set, way = DataSet("set", photographs / "real"), bicubic()
    folder = image_folder(tmp_path, data_set, way)
    assert folder == image_folder(tmp_path, data_set, bicubic())
    assert folder != image_folder(tmp_path, data_set, way._replace(identity={"checkpoint": sha256_of(PRISTINE)}))
    assert folder != image_folder(tmp_path, data_set._replace(lr=photographs / "crops" / "LR"), way)


def test_incomplete_rows_are_compared_on_common_images():
    whole = Row("whole", (), {name: {"psnr-y": float(score)} for score, name in enumerate("abc")})
    part = Row("part", (), {name: {"psnr-y": 7.0} for name in "cb"})
    assert common_images([whole, part]) == ["b", "c"]
    lines = table([whole, part], ["psnr-y"], {"part": 0.125}, ["b", "c"]).splitlines()
    assert lines[0] == "|  | images | PSNR-Y ↑ | seconds |"
    assert lines[2] == "| whole | 2 | 1.50 (1.00 .. 2.00) | – |"
    assert lines[3] == "| part | 2 | 7.00 (7.00 .. 7.00) | 0.125 |"


def test_a_sheet_has_center_crops_above_their_labels():
    image = np.zeros((40, 60, 3), np.float32)
    image[19:21, 29:31] = 1
    sheet = np.asarray(comparison_sheet([{"first": image, "second": image}], size=10))
    assert sheet.shape == (10 + LABEL, 2 * 10 + GAP, 3)
    assert (sheet[4:6, 4:6] == 255).all() and sheet[3, 4].max() == 0
