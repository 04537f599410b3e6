"""What `framer-jax train` adds to the loop: what a run is, what it says at its end, and several hosts."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from framer_jax import cli
from framer_jax.commands import train as command
from framer_jax.commands.train import train_from_config
from framer_jax.commands.training_data import open_source
from framer_jax.data.photos import HELD_OUT
from framer_jax.inference.model import LAST
from framer_jax.porting.files import sha256_of
from framer_jax.porting.weights import load_weights
from tests.support.logs import read_json_lines
from tests.support.paths import CONFIGS, ROOT
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


@pytest.mark.slow
def test_two_processes_are_one_run(data, tmp_path):
    """One device each: more of them on CPU can hang (jax 0.10). They end like a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    changes = (
        *overrides(),
        "training.mesh.data=-1",
        f"data.train={data}",
        f"data.validation={data}",
        "training.keep_last=1",
    )
    run = tmp_path / "run"
    words = ["train", "--config", str(CONFIGS / "default.py"), "--workdir", str(run), "--distributed"]
    words += ["--coordinator", coordinator, "--processes", "2", *(f"--set={change}" for change in changes)]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-m", "framer_jax.cli", *words, "--process", str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [host.communicate(timeout=600) for host in hosts]
    finally:
        for host in hosts:
            host.kill()  # jax.distributed catches SIGTERM
            host.wait()
            host.stdout.close()
            host.stderr.close()
    assert [host.returncode for host in hosts] == [0, 0], said
    lines_of_hosts = [[line for line in out.splitlines() if not line.startswith("[Gloo]")] for out, _ in said]
    assert lines_of_hosts[0][-1].startswith("complete: 2 steps, saved in ")
    assert lines_of_hosts[1] == []
    alone = train_from_config(settings(data, "training.mesh.data=1"), tmp_path / "alone")
    assert alone.step == 2
    lines, expected = (read_json_lines(folder / "metrics.jsonl") for folder in (run, tmp_path / "alone"))
    assert [sorted(line) for line in lines] == [sorted(line) for line in expected]
    for line, other in zip(lines, expected, strict=True):
        # The batches are the same, but hosts part them in turns: an example's place in the global batch, and so its
        # noise, depends on their number.
        for name, tolerance in {"learning_rate": 1e-6, "param_norm": 1e-2, "loss": 0.2}.items():
            if name in other:
                assert line[name] == pytest.approx(other[name], rel=tolerance), name
    kernel = load_weights(run / LAST)[0]["denoiser"]["conv_in"]["kernel"]
    assert np.isfinite(kernel).all()
