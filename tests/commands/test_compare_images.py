"""`framer-jax compare` with folders of images: page, figure, table, and arguments that mean nothing."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from framer_jax.cli import main
from tests.support.commands import fails
from tests.support.results import result_folders, write


@pytest.fixture
def folders(tmp_path):
    return {name: str(path) for name, path in result_folders(tmp_path).items()}


def words(folders, *more):
    return ["compare", folders["bad"], f"near={folders['good']}", "--reference", folders["gt"], *more]


def data_of(page):
    return json.loads(re.search(r'id="page-data">(.*?)</script>', page.read_text(encoding="utf-8")).group(1))


def test_a_page_and_a_figure_are_written(folders, tmp_path, capsys):
    page, grid, record = tmp_path / "page.html", tmp_path / "grid.png", tmp_path / "differences.json"
    command = words(folders, "--lr", folders["lr"], "--html", str(page), "--grid", str(grid), "--json", str(record))
    assert main([*command, "--title", "Two & more", "--images", "c,a", "--crop", "auto,16"]) == 0
    printed = capsys.readouterr().out
    assert "the page will have about" in printed and "3 images of 2 methods" in printed and "300 dpi" in printed
    assert "near minus bad, 3 images" in printed and "3 of 3" in printed
    data = data_of(page)
    assert data["title"] == "Two & more" and data["sources"] == ["bad", "near", "reference", "LR, nearest"]
    assert [metric["id"] for metric in data["metrics"]] == ["psnr-y", "ssim-y"]
    differences = json.loads(record.read_text())["differences"]["near"]
    assert (
        data["differences"][0][0]["mean"] == pytest.approx(differences["psnr-y"]["mean"])
        and differences["psnr-y"]["better"] == 3
    )
    with Image.open(grid) as image:
        assert image.height > 2 * 320
    fails(capsys, main(command), r"page\.html exists|grid\.png exists|differences\.json exists")
    assert main([*command, "--overwrite", "--markdown"]) == 0
    assert "| metric | bad | near |" in capsys.readouterr().out


def test_a_folder_for_the_page_gets_its_index(folders, tmp_path, capsys):
    assert main(words(folders, "--html", f"{tmp_path}/out/", "--metrics", "none", "--limit", "1")) == 0
    assert len(data_of(tmp_path / "out" / "index.html")["images"]) == 1
    assert "metric" not in capsys.readouterr().out
    fails(capsys, main(words(folders, "--html", folders["lr"])), "is a folder of images: name the page before")


def test_without_outputs_the_table_is_printed(folders, capsys):
    assert main(words(folders, "--metrics", "psnr-rgb", "--markdown")) == 0
    assert "| psnr-rgb ↑ |" in capsys.readouterr().out


def test_recorded_scores_are_taken(folders, tmp_path, capsys):
    files = {}
    for name in ("good", "bad"):
        files[name] = str(tmp_path / f"{name}.json")
        evaluation = ["evaluate", folders[name], "--reference", folders["gt"], "--metrics", "psnr-y,psnr-rgb"]
        assert main([*evaluation, "--json", files[name], "--crop-border", "2"]) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    command = words(folders, "--html", str(page), "--scores", f"near={files['good']}", f"bad={files['bad']}")
    assert main(command) == 0
    data = data_of(page)
    assert [metric["id"] for metric in data["metrics"]] == ["psnr-y", "psnr-rgb"]
    assert dict(data["facts"])["Crop"] == "images whole, 2 pixels on every side ignored"
    recorded = json.loads((tmp_path / "good.json").read_text())["images"][0]["psnr-y"]
    assert data["images"][0]["scores"][0][1] == pytest.approx(recorded)
    more = [*command, "--overwrite"]
    fails(
        capsys, main([*more, "--metrics", "ssim-y"]), "do not all have the metric 'ssim-y': they have psnr-y, psnr-rgb"
    )
    fails(capsys, main([*more, "--crop-border", "2"]), "--crop-border has no effect on the scores of --scores")
    fails(capsys, main(words(folders, "--scores", f"x={files['good']}", f"bad={files['bad']}")), "no file of 'near'")


def test_an_undefined_score_is_named_and_the_page_is_written(folders, tmp_path, capsys):
    for name, flat in (("a", True), ("b", False), ("c", False)):
        for folder in ("good", "bad"):
            pixels = np.random.default_rng(0).integers(0, 256, (96, 192, 3)).astype(np.uint8)
            write(tmp_path / folder, name, pixels * (not flat))
    page = tmp_path / "page.html"
    assert main(["compare", folders["good"], folders["bad"], "--html", str(page)]) == 1
    assert "good: a has no niqe-framer" in " ".join(capsys.readouterr().out.split())
    data = data_of(page)
    assert data["metrics"][0]["id"] == "niqe-framer" and data["images"][0]["scores"] == [[None, None]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{good}", "--html", "x.html"], "needs two models or more: name the folders"),
        (["a={good}", "a={bad}", "--html", "x.html"], "two models are called 'a': write LABEL=FOLDER"),
        (["{good}", "{scores}"], "is a folder of images and .*scores.json is a file: name folders only"),
        (["{scores}", "{scores}", "--html", "x.html"], "--html belongs to folders of images"),
        (["{good}", "nowhere", "--html", "{out}/x.html"], "nowhere: no such folder"),
        (["{good}", "{empty}"], "empty holds no images"),
        (["{good}", "{bad}", "--html", "nowhere/x.html"], "there is no folder nowhere: make it first"),
        (["{good}", "{bad}", "--grid", "x.jpg"], "the figure is a PNG file"),
        (["{good}", "{bad}", "--html", "{out}/x.png", "--grid", "{out}/x.png"], "would both be written"),
        (["{good}", "{bad}", "--limit", "0"], "--limit is 0: it must be at least 1"),
        (["{good}", "{bad}", "--max-megabytes", "0"], "--max-megabytes is 0.0: it must be more than 0"),
        (["{good}", "{bad}", "--metrics", "psnr-y"], "compares with a reference: give one"),
        (["{good}", "{bad}", "--metrics", "psnr"], "there is no metric 'psnr'"),
        (["{good}", "{bad}", "--metrics", "none"], "nothing to do with --metrics none"),
        (["{good}", "{bad}", "--metrics", "none", "--json", "x.json"], "--json has nothing to hold"),
        (["{good}", "{bad}", "--crop", "1,2", "--grid", "x.png"], "--crop is '1,2': write auto"),
        (["{good}", "{bad}", "--images", "a"], "--images chooses the rows of a figure"),
        (["{good}", "{bad}", "--suffix", "x=_x4"], "no folder is called 'x'"),
        (
            ["{good}", "{bad}", "--metrics", "none", "--html", "{out}/x.html", "--max-megabytes", "0.001"],
            "about .* MB for 3",
        ),
    ],
)
def test_bad_arguments_are_one_line(folders, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "scores.json").write_text("{}")
    names = {**folders, "scores": tmp_path / "scores.json", "empty": tmp_path / "empty", "out": tmp_path}
    fails(capsys, main(["compare", *(text.format(**names) for text in arguments)]), message)
    assert not list(tmp_path.glob("x.*"))


def test_the_help_names_both_kinds_of_input(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    printed = capsys.readouterr().out
    assert "--html" in printed and "[LABEL=]FOLDER" in printed and "--scores" in printed
