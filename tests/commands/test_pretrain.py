"""`framer-jax pretrain`: learns, resumes bit for bit, and gives an extractor that HF-Diff reads; bad input is named."""

import shutil

import numpy as np
import pytest
from PIL import Image

from framer_jax.cli import main
from framer_jax.commands.port import port_to_jax, port_to_torch
from framer_jax.commands.pretrain import pretrain, pretraining_config
from framer_jax.config import ConfigError
from framer_jax.porting.weights import load_weights
from framer_jax.trees import flatten_names
from tests.support.logs import read_json_lines

TINY = (
    *("extractor.channels=4", "extractor.modules=1", "extractor.classifier_layers=1", "data.crop=8"),
    *("data.threads=0", "training.global_batch=8", "training.mesh.data=1", "training.log_every=1"),
    *("training.learning_rate=0.01", "training.checkpoint_every=4", "training.validate_every=8"),
)


CHECKED = "training.validate_every=4"
"""With a best metric, every checkpoint is validated."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes, dark and bright, of eight images each."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for name, level in (("bright", 180), ("dark", 60)):
        (root / name).mkdir()
        for index in range(8):
            pixels = np.clip(level + 20 * rng.standard_normal((10, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """A work directory of 4 epochs, 8 steps, by the command."""
    workdir = tmp_path_factory.mktemp("run") / "extractor"
    overrides = [word for override in TINY for word in ("--set", override)]
    arguments = ["--classes", str(images), "--validation", str(images), "--workdir", str(workdir), "--epochs", "4"]
    assert main(["pretrain", *arguments, *overrides]) == 0
    return workdir


def test_it_learns_to_tell_the_classes_apart(run):
    lines = read_json_lines(run / "metrics.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    (scores,) = [line for line in lines if "validation/top-1" in line]
    assert min(losses[-3:]) < losses[0] and scores["validation/top-1"] > 0.9
    assert "validation/top-5" not in scores  # of two classes
    card = (run / "card.md").read_text()
    assert "16 images of 2 classes" in card and "8 of 8 steps" in card


def test_it_resumes_bit_for_bit(run, images, tmp_path):
    shutil.copytree(run / "checkpoints" / "4", tmp_path / "resumed" / "checkpoints" / "4")
    result = pretrain(pretraining_config(str(images), "", TINY), tmp_path / "resumed", epochs=4)
    assert result.step == 8
    first, second = (
        flatten_names(load_weights(folder / "weights.safetensors")[0])[0] for folder in (run, tmp_path / "resumed")
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_its_weights_are_a_ported_network(run, tmp_path):
    params, metadata = load_weights(run / "weights.safetensors")
    assert metadata["model"] == "hf_extractor" and metadata["arguments"]["classes"] == 2
    port_to_torch("hf_extractor", [run / "weights.safetensors"], tmp_path / "torch.safetensors")
    port_to_jax("hf_extractor", [tmp_path / "torch.safetensors"], tmp_path / "again.safetensors")
    again = flatten_names(load_weights(tmp_path / "again.safetensors")[0])[0]
    for name, leaf in flatten_names(params)[0].items():
        np.testing.assert_array_equal(again[name], leaf)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("extractor.classes=3", "extractor.classes cannot be set: it follows from --classes"),
        ("training.steps=3", "training.steps cannot be set: it follows from"),
        ("extractor.modulus=3", "unknown knob 'extractor.modulus'.*extractor.modules"),
        ("extractor.channels=3", "channels is 3: it must be even"),
        ("extractor.image_channels=4", "image_channels=3"),
        ("data.crop=0", "data.crop is 0: it must be"),
    ],
)
def test_bad_overrides_are_named(images, tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        pretrain(pretraining_config(str(images), "", (*TINY, override)), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("place", [".", "run"])
def test_a_work_directory_among_the_images_is_refused(images, place):
    with pytest.raises(ConfigError, match=r"lies in the folder of --classes: name a folder outside of the images"):
        pretrain(pretraining_config(str(images), "", TINY), images / place)
    assert not (images / "run").exists()


def test_a_best_metric_is_one_of_validation(images, tmp_path):
    config = pretraining_config(str(images), str(images), (*TINY, CHECKED, "training.best_metric=validation/top-1"))
    with pytest.raises(ConfigError, match=r"'validation/top-1': validation gives top-1, cross_entropy"):
        pretrain(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="there is no validation: add --validation"):
        pretrain(pretraining_config(str(images), "", (*TINY, CHECKED, "training.best_metric=top-1")), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is a file: name a folder"):
        pretrain(pretraining_config(str(images), "", TINY), tmp_path / "file" / "run")


def test_an_extractor_upscales_nothing(run, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--weights", str(run)]
    assert main(["upscale", *words]) == 2
    assert "holds weights of hf_extractor, which upscales nothing" in capsys.readouterr().err


def test_too_few_images_are_named(images, tmp_path):
    with pytest.raises(ConfigError, match=r"1 epoch\(s\) of 16 images are less than one batch of 32: use more"):
        pretrain(pretraining_config(str(images)), tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="--epochs is 0: it must be at least 1"):
        pretrain(pretraining_config(str(images)), tmp_path / "run", epochs=0)


def test_the_defaults_are_those_of_algorithm_2():
    config = pretraining_config("folder")
    training = config["training"]
    assert (training["global_batch"], training["learning_rate"]) == (32, 5e-4)
    assert (training["schedule"], training["decay_factor"], training["decay_every"]) == ("staircase", 0.95, 5000)
    assert config["extractor"]["channels"] == 128
