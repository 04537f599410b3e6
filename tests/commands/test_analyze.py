"""`framer-jax analyze` through the command line."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from framer_jax import cli
from framer_jax.commands.analyze import RECORD
from framer_jax.commands.train import train_from_config
from framer_jax.porting.files import sha256_of
from framer_jax.porting.weights import load_weights, save_weights
from tests.support.commands import fails
from tests.support.tiny import config, photo, photos, ported, weights

pytest.importorskip("matplotlib")

LAYERS = ("similarity", "factors", "densities", "matrices")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three photographs of 64 x 128 pixels."""
    return photos(tmp_path_factory.mktemp("photos"), 3, (64, 128))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def other(model):
    """Weights of the same network, each half of `model`'s, at another step."""
    params, metadata = load_weights(model)
    halved = {"denoiser": scaled(params["denoiser"], 0.5)}
    path = model.with_name("other.safetensors")
    save_weights(path, halved, {**metadata, "step": 5})
    return path


def scaled(tree, factor):
    return {
        name: scaled(leaf, factor) if isinstance(leaf, dict) else (leaf * factor).astype(np.float32)
        for name, leaf in tree.items()
    }


def analyze(output, *words):
    return cli.main(["analyze", *map(str, words), "--output", str(output)])


def rows(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_two_runs_are_drawn_in_the_same_axes(model, other, folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = [f"base={model}", "--compare", f"half={other}", "--photos", folder, "--timesteps", "0,1", "--count", 2]
    assert analyze(out, *words) == 0
    printed, error = capsys.readouterr()
    assert not error
    assert "images: 2 photographs of" in printed and "degraded with light_one_stage" in printed
    assert re.search(r"timesteps: 0, 1 of the forward process \(the nearest ones of \d+\)", printed)
    assert re.search("not made: teacher needs a teacher: add --teacher WEIGHTS\n", printed)
    assert re.search("not made: extractor needs .*add --extractor WEIGHTS\n", printed)
    assert re.search("not made: training needs 2 training runs with checkpoints of two steps", printed)
    numbers = {"similarity": "csv", "factors": "csv", "densities": "npz", "matrices": "npz"}
    assert {path.name for path in out.iterdir()} == {
        RECORD,
        *(f"{name}.{suffix}" for name in LAYERS for suffix in ("png", "svg", numbers[name])),
    }
    table = rows(out / "similarity.csv")
    layers = max(int(row["layer"]) for row in table)
    assert len(table) == 2 * 2 * 2 * layers  # runs, times, bands
    assert {row["run"] for row in table} == {"base", "half"} and {row["time"] for row in table} == {"0.0", "1.0"}
    assert all(-1 <= float(row["cosine"]) <= 1 for row in table)
    assert all(0 <= float(row["weight"]) <= 1 for row in rows(out / "factors.csv"))
    with np.load(out / "matrices.npz") as arrays:
        assert arrays["run_1_low"].shape == (2, layers + 1, 2, 2)
        assert list(arrays["images"]) == ["photo_0.png", "photo_1.png"]
    record = json.loads((out / RECORD).read_text())
    assert record["models"]["half"]["sha256"] == sha256_of(other) and record["models"]["half"]["step"] == 5
    assert record["settings"] == {"timesteps": [0, 1], "radius": 0.2, "seed": 0}
    entry = record["figures"]["similarity"]
    assert "dashed lines: half" in entry["caption"] and "Figs. 3 and 7" in entry["caption"]
    assert len(entry["numbers"]) == len(table)
    svg = (out / "similarity.svg").read_text(encoding="utf-8")
    assert "cosine to the last layer</text>" in svg and ">half</text>" in svg


def test_figures_are_chosen_and_not_replaced(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = [model, "--photos", folder, "--count", 1, "--figures", "similarity", "--timesteps", "0.5"]
    assert analyze(out, *words) == 0
    assert {path.name for path in out.iterdir()} == {RECORD, *(f"similarity.{end}" for end in ("png", "svg", "csv"))}
    assert "not made" not in capsys.readouterr().out
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    message = r"out has analysis\.json, similarity\.png, similarity\.svg, similarity\.csv: .*add --overwrite"
    fails(capsys, analyze(out, *words), message)
    assert analyze(out, *words, "--overwrite") == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    magnitudes = ["densities" if word == "similarity" else word for word in words]
    assert analyze(out, *magnitudes, "--overwrite") == 0
    assert list(json.loads((out / RECORD).read_text())["figures"]) == ["similarity", "densities"]
    capsys.readouterr()
    assert analyze(out, *magnitudes, "--seed", 1, "--overwrite") == 0
    assert "no longer describes similarity, which earlier calls made from other" in capsys.readouterr().out
    assert list(json.loads((out / RECORD).read_text())["figures"]) == ["densities"]
    fails(capsys, analyze(tmp_path / "a", *words[:5], "--figures", "matrices"), "matrices: .* two photographs or more")


def test_a_student_is_compared_with_its_teacher(tmp_path, folder, capsys):
    teacher = weights(tmp_path / "teacher.safetensors")
    student = weights(tmp_path / "student.safetensors", "recipe.name=dtkd", f"recipe.teacher.checkpoint={teacher}")
    out = tmp_path / "out"
    words = [student, "--photos", folder, "--count", 2]
    assert analyze(out, *words, "--figures", "teacher,similarity") == 0
    assert "called at one time, so that --timesteps has no effect" in capsys.readouterr().out
    assert {row["time"] for row in rows(out / "similarity.csv")} == {""}
    table = rows(out / "teacher.csv")
    assert {row["measure"] for row in table} == {"wavelet discrepancy", "Fourier discrepancy", "power"}
    assert {row["run"] for row in table if row["measure"] == "power"} == {"student", "teacher", "HR"}
    assert all(float(row["mean"]) >= 0 for row in table)
    assert json.loads((out / RECORD).read_text())["teacher"]["sha256"] == sha256_of(teacher)
    named = tmp_path / "named"
    assert analyze(named, *words, "--figures", "teacher", "--teacher", student) == 0
    same = [float(row["mean"]) for row in rows(named / "teacher.csv") if "discrepancy" in row["measure"]]
    np.testing.assert_array_equal(same, 0)
    teacher.unlink()
    capsys.readouterr()
    line = fails(capsys, analyze(tmp_path / "b", *words, "--figures", "teacher"), "the teacher teacher.safetensors of")
    assert line.endswith("which is missing: add --teacher WEIGHTS")


def test_the_maps_of_an_extractor(tmp_path, model, folder, capsys):
    extractor, out = ported(tmp_path / "extractor.safetensors", "hf_extractor"), tmp_path / "out"
    words = [model, "--photos", folder, "--count", 2, "--figures", "extractor"]
    assert analyze(out, *words, "--extractor", extractor) == 0
    with np.load(out / "extractor.npz") as arrays:
        assert arrays["photographs"].shape == (2, 64, 64, 3)
        assert arrays["channels"].shape == (2, 2, 4, 64, 64)
    dinov2 = ported(tmp_path / "dinov2.safetensors", "dinov2")
    capsys.readouterr()
    fails(capsys, analyze(tmp_path / "a", *words, "--extractor", dinov2), "dinov2")
    latents = ported(tmp_path / "latents.safetensors", "hf_extractor", image_channels=4)
    fails(capsys, analyze(tmp_path / "a", *words, "--extractor", latents), "takes 4 channels, not a photograph")


def test_the_checkpoints_of_a_run(tmp_path, folder, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    changes = (f"data.train={folder}", f"data.validation={folder}", "data.validation_count=0")
    train_from_config(config(*changes, "training.best_metric=None"), run)
    words = ["--photos", folder, "--count", 1, "--figures", "training"]
    assert analyze(out, run, *words) == 0
    with np.load(out / "training.npz") as arrays:
        assert list(arrays["steps"]) == [1, 2]
        images = arrays["run_0"]
    assert images.shape == (2, 1, 64, 64, 3)
    assert (images[0] != images[1]).any()
    assert "run after 1, 2 steps" in json.loads((out / RECORD).read_text())["figures"]["training"]["caption"]
    # The newest checkpoint gives what the run's weights file gives.
    params, metadata = load_weights(run / "weights.safetensors")
    copies = [tmp_path / f"{step}.safetensors" for step in (1, 2)]
    for step, copy in zip((1, 2), copies, strict=True):
        save_weights(copy, params, {**metadata, "step": step})
    files = tmp_path / "files"
    assert analyze(files, run, *words, "--checkpoints", *copies) == 0
    with np.load(files / "training.npz") as arrays:
        np.testing.assert_array_equal(arrays["run_0"][1], images[1])
    capsys.readouterr()
    fails(capsys, analyze(run, run, *words), "--output .*run would replace the run run")
    fails(capsys, analyze(tmp_path / "a", run, *words, "--checkpoints", copies[0]), "two steps or more")
    digests = run / "checkpoints" / "1" / "digests.json"
    digests.write_text("{}")
    fails(capsys, analyze(tmp_path / "a", run, *words), "checkpoint .*1 is damaged or incomplete")


def test_pairs_of_folders(tmp_path, model):
    for name, scale in (("lr", 1), ("hr", 4)):
        (tmp_path / name).mkdir()
        pixels = photo(16, 32).repeat(scale, 0).repeat(scale, 1)
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    words = [model, "--lr", tmp_path / "lr", "--hr", tmp_path / "hr", "--figures", "similarity", "--timesteps", "1"]
    assert analyze(tmp_path / "out", *words) == 0
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["images"] == {"source": "1 pairs of lr and hr", "names": ["a"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--figures", "similarities"], "no figure 'similarities': did you mean 'similarity'"),
        (["--figures", ","], "--figures names none: choose from similarity"),
        (["--timesteps", "0.1,x"], "--timesteps is '0.1,x': give fractions with commas"),
        (["--timesteps", "2"], "fractions of the forward process lie in 0 to 1"),
        (["--count", "0"], "--count is 0: it must be at least 1"),
        (["--radius", "1"], "--radius is 1.0: it must lie between 0 and 1"),
        (["--seed", "-1"], "--seed is -1: it must be at least 0"),
        (["--lr", "{photos}"], "--lr needs --hr too"),
        (["--lr", "{photos}", "--hr", "{photos}", "--photos", "{photos}"], "give one or the other"),
        (["--photos", "{photos}/none"], "there is no folder"),
        (["--compare", "{model}"], "two runs are called 'tiny': write LABEL=WEIGHTS"),
        (["--compare", "=x"], "'=x' lacks a label or weights"),
        (["--set", "recipe.scale=2"], "give --recipe too"),
        (["--teacher-recipe", "resshift_v1"], "give --teacher too"),
        (["--compare-recipe", "resshift_v1"], "give --compare too"),
        (["--checkpoints", "a", "b", "--compare", "a"], "--checkpoints are of one run"),
        (["--figures", "teacher", "--photos", "{photos}"], "--figures teacher: this figure needs a teacher"),
        (["--figures", "extractor", "--photos", "{photos}"], "HF-Diff's feature extractor"),
        (["--figures", "training", "--photos", "{photos}"], "a training run with checkpoints of two steps"),
    ],
)
def test_bad_arguments_are_one_line(words, message, model, folder, tmp_path, capsys):
    filled = [word.format(photos=folder, model=model) for word in words]
    fails(capsys, analyze(tmp_path / "out", model, *filled), re.escape(message))
    assert not (tmp_path / "out").exists()


def test_other_networks_are_not_drawn_in_the_same_axes(model, folder, tmp_path, capsys):
    wider = weights(tmp_path / "wider.safetensors", "recipe.denoiser.unet.channels=(16, 16)")
    words = [model, "--compare", wider, "--photos", folder, "--count", 2]
    fails(capsys, analyze(tmp_path / "out", *words), "tiny and wider are networks of other layers", "choose --figures")
