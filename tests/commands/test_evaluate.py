"""evaluate and fit-niqe through the command line."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from framer_jax import cli
from tests.support.commands import fails
from tests.support.tiny import photo


@pytest.fixture
def folders(tmp_path):
    """Two folders of two 16 x 16 images of the same names."""
    for folder, shift in (("sr", 4), ("gt", 0)):
        (tmp_path / folder).mkdir()
        for index in range(2):
            pixels = np.clip(photo(16, 16, index).astype(int) + shift, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    return str(tmp_path / "sr"), str(tmp_path / "gt")


def test_evaluate_writes_csv_and_json(folders, tmp_path, capsys):
    sr, gt = folders
    table, record = tmp_path / "scores.csv", tmp_path / "scores.json"
    words = [
        "evaluate",
        sr,
        "--reference",
        gt,
        "--metrics",
        "psnr-y, ssim-y",
        "--csv",
        str(table),
        "--json",
        str(record),
    ]
    assert cli.main(words) == 0
    assert "psnr-y" in capsys.readouterr().out
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows] == ["0", "1"]
    assert 30 < float(rows[0]["psnr-y"]) < 40
    scores = json.loads(record.read_text())
    assert scores["summary"]["psnr-y"]["mean"] == pytest.approx(np.mean([float(row["psnr-y"]) for row in rows]), 1e-5)
    assert set(scores["metadata"]["metrics"]) == {"psnr-y", "ssim-y"}
    fails(capsys, cli.main(words), r"scores\.csv exists: choose another name")
    assert cli.main([*words, "--overwrite"]) == 0


def test_bad_evaluations_are_one_line(folders, tmp_path, capsys):
    sr, gt = folders
    fails(capsys, cli.main(["evaluate", sr, "--reference", gt, "--metrics", "psnr"]), "psnr-rgb", "psnr-y")
    fails(capsys, cli.main(["evaluate", sr, "--metrics", "psnr-y"]), "reference")
    fails(capsys, cli.main(["evaluate", sr, "--metrics", "niqe"]), "niqe")
    fails(capsys, cli.main(["evaluate", sr, "--metrics", ""]), "metric")
    fails(capsys, cli.main(["evaluate", str(tmp_path / "none"), "--metrics", "niqe-framer"]), "none: no such folder")
    words = ["evaluate", str(tmp_path), "--reference", str(tmp_path / "none"), "--metrics", "niqe-framer"]
    fails(capsys, cli.main(words), "none: no such folder")  # no metric needs the references
    (tmp_path / "gt" / "1.png").unlink()
    capsys.readouterr()
    assert cli.main(["evaluate", sr, "--reference", gt, "--metrics", "psnr-y"]) == 1
    assert "there is no reference of this name" in capsys.readouterr().out
    assert cli.main(["evaluate", sr, "--reference", gt, "--metrics", "psnr-y", "--allow-unmatched"]) == 0
    assert "1 without a partner skipped: 1" in capsys.readouterr().out
    fails(
        capsys,
        cli.main(["evaluate", sr, "--reference", gt, "--suffix", "_x4", "--pattern", "(.+)_x4"]),
        "--suffix and --pattern exclude each other",
    )


def test_bad_niqe_fits_are_one_line(folders, tmp_path, capsys):
    sr, _ = folders
    out = tmp_path / "model.npz"
    fails(capsys, cli.main(["fit-niqe", sr, str(tmp_path / "model.txt")]), r"\.npz")
    fails(capsys, cli.main(["fit-niqe", str(tmp_path / "none"), str(out)]), "none: no such folder")
    fails(capsys, cli.main(["fit-niqe", sr, str(out)]), "more than 36 sharp blocks; these photos give 0: add photos")
    fails(capsys, cli.main(["fit-niqe", sr, str(out), "--threshold", "1"]), "threshold is 1.0: it must lie in")
    out.write_text("")
    fails(capsys, cli.main(["fit-niqe", sr, str(out)]), r"model\.npz exists")


def test_metrics_by_frequency_and_seams_are_scored_and_compared(folders, tmp_path, capsys):
    sr, gt = folders
    ids = ["ssim-rgb", "psnr-low", "psnr-high", "error-low", "error-high", "spectrum-distance", "seam"]
    files = [str(tmp_path / f"{name}.json") for name in ("first", "second", "third")]
    for file, lines in zip(files, ("8", "8", "12:4"), strict=True):
        words = ["--metrics", ",".join(ids), "--tile-lines", lines, "--json", file]
        assert cli.main(["evaluate", sr, "--reference", gt, *words]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ids)
    content = json.loads((tmp_path / "third.json").read_text())
    assert content["metadata"]["metrics"]["seam"]["tile_lines"] == {"size": 12, "overlap": 4}
    assert set(content["summary"]) == set(ids)
    assert cli.main(["compare", *files[:2]]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ids)
    fails(capsys, cli.main(["compare", *files[1:]]), "have other variants or weights of seam: evaluate both alike")


def test_what_is_undefined_for_an_image_is_missing_there(folders, tmp_path, capsys):
    sr, gt = folders
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "gt" / "1.png")
    report = tmp_path / "scores.json"
    words = ["--metrics", "error-high,error-low", "--json", str(report)]
    assert cli.main(["evaluate", sr, "--reference", gt, *words]) == 1
    printed = capsys.readouterr().out
    assert "1: error-high – [1], error-low" in printed
    assert "error-high is undefined: the reference has no frequencies above 0.2 Nyquist" in printed
    first, second = json.loads(report.read_text())["images"]
    assert second["error-high"] is None and second["error-low"] > 0 and first["error-high"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seam"], "the metric seam needs to know where tiles meet: .* --tile-lines 512:64"),
        (["seam", "--tile-lines", "x"], "--tile-lines 'x': give the side of a tile"),
        (["seam", "--tile-lines", "8:8"], "--tile-lines 8:8: tiles must start at least 8 pixels apart"),
        (["seam", "--tile-lines", "16"], r"no line of --tile-lines crosses the image \(2 images, none has a score\)"),
        (["ms-ssim-y"], r"2 image\(s\) too small for ms-ssim-y \(it needs 161x161 pixels\): 0, 1: score larger images"),
        (["ms-ssim-y", "--crop-border", "4"], r"score larger images, or set a smaller --crop-border than 4"),
        (
            ["psnr-y,niqe-framer,ssim-y"],
            "too small for niqe-framer .*: score the others with --metrics psnr-y,ssim-y$",
        ),
    ],
)
def test_bad_options_of_metrics_are_one_line(folders, capsys, words, message):
    sr, gt = folders
    fails(capsys, cli.main(["evaluate", sr, "--reference", gt, "--metrics", *words]), message)


def test_the_default_metrics_of_small_images_name_the_remedy(folders, capsys):
    sr, gt = folders
    words = ["evaluate", sr, "--reference", gt]
    line = fails(capsys, cli.main(words), "2 image.* too small for niqe-framer")
    remedy = line.rpartition("score the others with ")[2].split()
    assert remedy == ["--metrics", "psnr-y,ssim-y"]
    assert cli.main([*words, *remedy]) == 0
