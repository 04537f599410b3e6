"""What `framer-jax train` adds to the loop: what a run is, what it says at its end, and several hosts."""

import shutil

import numpy as np
import pytest

from framer_jax import cli
from framer_jax.commands import train as command
from framer_jax.commands.train import train_from_config
from framer_jax.commands.training_data import open_source
from framer_jax.config import load_config, to_dict
from framer_jax.data.image_index import INDEX
from framer_jax.data.photos import HELD_OUT
from framer_jax.inference.model import LAST
from framer_jax.porting.files import sha256_of
from framer_jax.porting.weights import load_weights
from tests.support.hosts import train_on_hosts
from tests.support.logs import read_json_lines
from tests.support.paths import CONFIGS
from tests.support.tiny import config, overrides, photos, weights


def settings(data, *changes):
    return config(f"data.train={data}", f"data.validation={data}", *changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data") / "photos")


def test_weights_to_start_from_are_a_part_of_the_run(data, tmp_path):
    first, other = (weights(tmp_path / f"{fill}.safetensors", fill=fill) for fill in (0.01, 0.02))
    run, part = tmp_path / "run", settings(data, "training.stop_after=1")
    train_from_config(part, run, init=str(first))
    assert load_weights(run / LAST)[1]["init"] == sha256_of(first)
    for init in (None, str(other)):
        with pytest.raises(ValueError, match=f"another configuration: init '{sha256_of(first)}' then, .* now: restore"):
            train_from_config(part, run, init=init)
    nowhere = settings(tmp_path / "no_photographs")  # not read before the weights are looked for
    with pytest.raises(FileNotFoundError, match=r"--init startr: no such file, .*: did you mean 'starter'\?"):
        train_from_config(nowhere, tmp_path / "new", init="startr")
    with pytest.raises(FileNotFoundError, match=r"--init realesr-general-x4v3: .*: name the file of that model"):
        train_from_config(nowhere, tmp_path / "new", init="realesr-general-x4v3")
    assert not (tmp_path / "new").exists()
    moved = first.rename(tmp_path / "moved.safetensors")
    result = train_from_config(settings(data), run, init=str(moved))
    assert (result.step, result.stopped) == (2, False)


def test_the_end_of_a_run(data, tmp_path, monkeypatch):
    """Optimiser fields of an update, TensorBoard, damaged images counted, the loader closed."""
    pytest.importorskip("tensorboardX")
    folder = photos(tmp_path / "photos", 3)
    (folder / "photo_1.png").write_bytes((folder / "photo_1.png").read_bytes()[:1000])
    closed = []
    make_batches = command.make_batches

    def watched(*arguments, **named):
        batches = make_batches(*arguments, **named)
        close = batches.close
        batches.close = lambda: (closed.append(True), close())
        return batches

    monkeypatch.setattr(command, "make_batches", watched)
    changes = (
        "logging.tensorboard=True",
        "training.updates={'denoiser': {'learning_rate': 0.25}}",
        "training.sharding_rules=[('conv_in/kernel', (None,))]",
        "training.best_metric=None",
        "training.stop_after=1",
    )
    result = train_from_config(settings(folder, *changes, f"data.validation={data}"), tmp_path / "run")
    assert result.message.endswith("; 1 of 3 images are damaged and were skipped: photo_1.png")
    assert result.scalars["learning_rate"] == 0.25
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.*"))) == 1
    assert closed == [True]


def test_builtin_photographs_are_no_folder(tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", 1)
    photos(tmp_path / "builtin", 1)
    assert open_source("photos", HELD_OUT, 1).names == ["photo_0.png"]
    assert open_source("builtin", HELD_OUT, 1).names == list(HELD_OUT)
    assert open_source("./builtin", HELD_OUT, 1).names == ["photo_0.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "2", "--process", "0"], "--process, --processes without --distributed: add it"),
        (["--distributed", "--processes", "2"], "--distributed also needs --coordinator, --process (or none"),
        (["--distributed", "--coordinator=a:1", "--processes=2", "--process=2"], "--process 2 must lie in 0 to 1"),
    ],
)
def test_hosts_that_do_not_go_together(words, message, tmp_path, capsys):
    assert cli.main(["train", "--config", str(CONFIGS / "default.py"), "--workdir", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def logged(workdir):
    """Name → value of what each line of a run's log says of a step, without speeds and scores of validation."""
    names = ("step", "loss", "learning_rate", "param_norm", "grad_norm")
    lines = [
        {name: line[name] for name in names if name in line} for line in read_json_lines(workdir / "metrics.jsonl")
    ]
    return [line for line in lines if "loss" in line]


def assert_equal_to_reduction_order(workdir, expected):
    lines = logged(workdir)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=2e-5)


@pytest.mark.slow
def test_a_run_is_the_same_on_any_number_of_devices_and_hosts(data, tmp_path):
    """1 device, 8 devices, 2 processes; and what 2 processes have begun goes on in 1 and in 4."""
    changes = ("training.steps=4", "training.best_metric=None", "training.keep_last=1")
    place = (f"data.train={data}", f"data.validation={data}")
    train_from_config(settings(data, *changes), tmp_path / "alone")
    expected = logged(tmp_path / "alone")
    assert [line["step"] for line in expected] == [1, 2, 3, 4]
    train_from_config(settings(data, *changes, "training.mesh.data=4", "training.mesh.fsdp=2"), tmp_path / "devices")
    assert_equal_to_reduction_order(tmp_path / "devices", expected)

    run, words = tmp_path / "2", overrides("training.mesh.data=-1", *place, *changes)
    hosts = train_on_hosts(2, run, (*words, "training.stop_after=2"))
    assert [host[0] for host in hosts] == [0, 0], hosts
    assert hosts[0][1][-1].startswith("stopped at step 2 of 4, saved in ")
    assert hosts[1][1] == []  # only the first process speaks
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["2"]
    (data / INDEX).unlink()
    assert_equal_to_reduction_order(run, expected[:2])

    shutil.copytree(run, tmp_path / "1")
    shutil.copytree(run, tmp_path / "4")
    assert train_from_config(settings(data, *changes), tmp_path / "1").step == 4
    assert_equal_to_reduction_order(tmp_path / "1", expected)
    hosts = train_on_hosts(4, tmp_path / "4", words)
    assert [host[0] for host in hosts] == [0] * 4, hosts
    assert hosts[0][1][-1].startswith("complete: 4 steps")
    assert_equal_to_reduction_order(tmp_path / "4", expected)
    kernel = load_weights(tmp_path / "4" / LAST)[0]["denoiser"]["conv_in"]["kernel"]
    assert np.isfinite(kernel).all()


def test_the_log_names_a_kernel_of_another_backend():
    knob = "recipe.denoiser.dit4sr_transformer.attention"

    def info(*changes):
        return command.attention_info(to_dict(load_config("dit4sr_taesd3_small", changes))).get("attention", "")

    assert info() == ""
    cudnn = info("recipe.dtype=bfloat16", f"{knob}=cudnn")
    assert cudnn == f"{knob} is cudnn, a kernel for GPUs; on this CPU it is computed as xla"
    assert "TPU" in info(f"{knob}=splash")
