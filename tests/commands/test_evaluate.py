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
