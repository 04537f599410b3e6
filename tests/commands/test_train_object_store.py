"""Runs whose work directory, photographs and weights are in an object store (an emulator on this machine)."""

import os
import shutil

import numpy as np
import pytest
from etils import epath

from framer_jax import cli
from framer_jax.commands.train import train_from_config
from framer_jax.data.files import list_images
from framer_jax.data.image_index import INDEX
from framer_jax.data.sources import folder_source
from framer_jax.inference.model import LAST
from framer_jax.paths import local_copy, remote_files
from framer_jax.porting.weights import load_weights
from tests.support import training_toys as toys
from tests.support.logs import read_json_lines
from tests.support.paths import CONFIGS
from tests.support.store import object_store, put
from tests.support.tiny import config, overrides, photos

pytestmark = [
    pytest.mark.slow,
    # gcsfs asks for credentials before it goes on without; sockets of the store are closed at the end of the process.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with object_store(monkeypatch) as address:
        yield address


def test_photographs_of_a_store_are_those_of_a_folder(store, tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 3)
    (folder / "deep").mkdir()
    shutil.copy(folder / "photo_0.png", folder / "deep" / "a.png")
    (folder / "text.txt").write_text("no image")
    (folder / "photo.heic").write_bytes(b"HEIF")
    put(f"{store}/data/photos", folder)
    assert [item.path.name for item in list_images(f"{store}/data/photos").left_out] == ["photo.heic"]
    local, remote = (folder_source(each, keep_index=True) for each in (folder, f"{store}/data/photos"))
    assert remote.names == local.names
    assert remote.digests() == local.digests()
    for number in range(4):
        np.testing.assert_array_equal(remote[number].image, local[number].image)
    assert (epath.Path(store) / "data/photos" / INDEX).exists()
    opened = []
    monkeypatch.setattr("framer_jax.data.image_index.image_size", lambda path: opened.append(path.name) or (1, 1))
    folder_source(f"{store}/data/photos", keep_index=True)
    assert opened == []
    put(f"{store}/data/photos", photos(tmp_path / "changed", 1, (64, 56)))
    folder_source(f"{store}/data/photos", keep_index=True)
    assert opened == ["photo_0.png"]


def test_a_run_in_a_store_is_that_in_a_folder(store, tmp_path):
    """Stopped, resumed past an unfinished checkpoint, started from; nothing is written to a local folder."""
    folder = photos(tmp_path / "photos")
    put(f"{store}/photos", folder)
    changes = ("training.steps=3", "training.best_metric=None", "data.validation_count=1")
    local = config(f"data.train={folder}", f"data.validation={folder}", *changes)
    train_from_config(local, tmp_path / "local")
    remote = config(f"data.train={store}/photos", f"data.validation={store}/photos", *changes)
    os.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    run = f"{store}/runs/a"
    stopped = train_from_config({**remote, "training": {**remote["training"], "stop_after": 2}}, run)
    assert stopped.message.startswith(f"stopped at step 2 of 3, saved in {run}/checkpoints/2")
    (epath.Path(run) / "checkpoints/2/commit_success.txt").unlink()  # as if the run had been killed while it saved
    result = train_from_config(remote, run)
    assert (result.step, result.stopped) == (3, False)
    assert toys.same(load_weights(local_copy(f"{run}/{LAST}"))[0], load_weights(tmp_path / "local" / LAST)[0])
    log = tmp_path / "log.jsonl"
    log.write_bytes((epath.Path(run) / "metrics.jsonl").read_bytes())
    steps = [
        [{name: line[name] for name in ("step", "loss")} for line in read_json_lines(path) if "loss" in line]
        for path in (log, tmp_path / "local" / "metrics.jsonl")
    ]
    assert steps[0] == steps[1]
    written = remote_files(epath.Path(run))
    assert {LAST, "card.md", "metrics.jsonl"} <= written.keys()
    assert ".lock" not in written
    assert any(name.startswith("images/") for name in written)
    again = train_from_config(config(f"data.train={store}/photos", "data.validation_count=0"), tmp_path / "again",
                              init=f"{run}/{LAST}")  # fmt: skip
    assert again.step == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "again", "cache", "log.jsonl"])


def test_a_damaged_checkpoint_of_a_store_is_set_aside(store, tmp_path):
    folder = photos(tmp_path / "photos")
    changes = (f"data.train={folder}", f"data.validation={folder}", "training.best_metric=None", "training.steps=3")
    run = f"{store}/runs/b"
    train_from_config(config(*changes, "training.stop_after=2"), run)
    damaged = epath.Path(run) / "checkpoints/2/state/_METADATA"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b" ")
    result = train_from_config(config(*changes), run)
    assert result.step == 3
    assert (epath.Path(run) / "checkpoints/2.damaged/about").exists()


def test_a_bucket_that_is_not_there_is_named_before_any_step(store, tmp_path, capsys):
    folder = photos(tmp_path / "photos")
    sets = [f"--set={each}" for each in overrides(f"data.train={folder}", f"data.validation={folder}")]
    words = ["train", "--config", str(CONFIGS / "default.py"), *sets, "--workdir"]
    assert cli.main([*words, "gs://missing-bucket/run"]) == 2
    error = capsys.readouterr().err
    assert "gs://missing-bucket/run" in error.splitlines()[-1]
    assert "check the bucket and your permission" in error.splitlines()[-1]
    assert "step 1 " not in error
