"""`framer-jax compare`: the table, its JSON, and arguments that mean nothing."""

import json

import pytest

from framer_jax.cli import main
from tests.evaluation.test_comparison import scores


@pytest.fixture
def files(tmp_path):
    return [str(scores(tmp_path / f"{n}.json", {"psnr-y": {"x": 20 + n, "y": 30 + n}})) for n in range(3)]


def test_models_are_compared_with_the_first(files, tmp_path, capsys):
    output = tmp_path / "out.json"
    assert main(["compare", f"base={files[0]}", f"both={files[1]},{files[2]}", "--json", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "both minus base, 2 images" in printed and "+1.5000" in printed and "2 of 2" in printed
    entry = json.loads(output.read_text())["differences"]["both"]["psnr-y"]
    assert (entry["mean"], entry["better"], entry["runs"]) == (1.5, 2, [])
    assert main(["compare", files[0], files[1], "--json", str(output)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["compare", files[0], files[1], "--json", str(output), "--overwrite"]) == 0


def test_a_metric_without_a_common_image_is_noted(tmp_path, capsys):
    one = scores(tmp_path / "a.json", {"psnr-y": {"x": 20, "y": 22}, "niqe": {"x": None, "y": 6}})
    two = scores(tmp_path / "b.json", {"psnr-y": {"x": 21, "y": 24}, "niqe": {"x": 4, "y": None}})
    assert main(["compare", str(one), str(two), "--markdown"]) == 0
    printed = capsys.readouterr()
    assert "psnr-y" in printed.out and "niqe" not in printed.out
    assert printed.err == "note: no image has a niqe of both a and b: it is left out\n"


def test_markdown_has_a_table_for_each_model(files, capsys):
    assert main(["compare", *files, "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| metric | 0 |") == 2
    assert "| psnr-y ↑ | 25.0000 | 27.0000 | +2.0000 | +2.0000 .. +2.0000 | 2 of 2 | 0.5 | – |" in printed


def test_long_labels_leave_room_for_the_numbers(files, capsys):
    labels = ["a" * 90, "b|" * 45]
    words = [f"{label}={file}" for label, file in zip(labels, files, strict=False)]
    assert main(["compare", *words]) == 0
    printed = capsys.readouterr().out
    assert labels[0] in printed.replace("\n", "") and "+1.0000" in printed and "1 of" not in printed
    assert main(["compare", *words, "--markdown"]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| metric"))
    assert header.replace("\\|", "").count("|") == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}"], "needs two models or more"),
        (["a={0}", "a={1}"], "two models are called 'a': write LABEL=FILE"),
        (["{0}", "b={1},"], "names an empty file"),
        (["{0}", "nothing.json"], "nothing.json: no such file"),
        (["{0}", "{1}", "--json", "{0}"], "--json"),
        (["{0}", "{1}", "--json", "nowhere/out.json"], "there is no folder nowhere: make it first"),
        (["{0}", "{1}", "--seed", "-1"], "--seed is -1: it must be at least 0"),
    ],
)
def test_bad_arguments_are_one_line(files, capsys, arguments, message):
    assert main(["compare", *(text.format(*files) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
