"""Paths in object stores: never the names of local folders; fsspec's memory file system stands for the store.

tests/commands/test_train_object_store.py uses an emulator of a real store.
"""

import importlib
import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from framer_jax import cli, paths
from framer_jax.data.files import list_images
from framer_jax.data.image_index import INDEX
from framer_jax.data.photo_pairs import pair_source
from framer_jax.data.records import is_records, write_manifest
from framer_jax.data.sources import folder_source
from framer_jax.paths import as_path, check_local, is_remote, local_copy, remote_files
from framer_jax.porting.files import atomic_write
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.training.digests import damage, write_digests
from framer_jax.training.logging import JsonLinesWriter, PngWriter
from framer_jax.training.workdir import LOCK, check_name, check_unlocked, locked
from tests.support.pairs import pairs
from tests.support.paths import CONFIGS
from tests.support.tiny import photos


class Memory(MemoryFileSystem):
    """Objects of this process, at gs:// addresses."""

    protocol = ("gcs", "gs")
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(os.fspath(path).replace("gs://", "memory://"))


registered = importlib.import_module("fsspec.registry")  # `fsspec.registry` is its table


@pytest.fixture
def store(monkeypatch, tmp_path):
    """An empty store in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(paths.STORES, "gs", ("fsspec", "framer_jax[gcs]"))
    monkeypatch.setitem(registered._registry, "gcs", Memory)
    monkeypatch.setattr(Memory, "store", {})
    monkeypatch.setattr(Memory, "pseudo_dirs", [""])
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    yield "gs://bucket"
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()


def put(address, folder):
    for path in folder.rglob("*"):
        if path.is_file():
            (epath.Path(address) / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


@pytest.mark.parametrize("text", ["gs://b/run", "gs:/b/run", "s3://b", "http://host/a", "hdfs://x", "file:///a"])
def test_addresses_are_no_local_paths(text):
    assert is_remote(text)
    assert is_remote(Path(text)) or "//" in text
    with pytest.raises(ValueError, match=r"--x: .* is an address, and only local files can be used: copy it"):
        check_local(text, "--x")


@pytest.mark.parametrize("text", ["runs/a", "/a/gs/b", "C:/photos", "C:\\photos", "a:b", "x", "", "run://"[:3]])
def test_local_paths_stay_local(text):
    assert not is_remote(text)
    assert as_path(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("http://host/a", ValueError, "of a kind that is not read: give a path on this machine, or one that begins with gs://"),
        ("gs://", ValueError, "names no bucket: write gs://BUCKET/PATH"),
        ("gs://bucket/run", ImportError, r"needs not_installed: pip install 'framer_jax\[gcs\]'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text, kind, message, monkeypatch):
    monkeypatch.setitem(paths.STORES, "gs", ("not_installed", "framer_jax[gcs]"))
    with pytest.raises(kind, match=message):
        as_path(text)


@pytest.mark.parametrize(
    "words",
    [
        ["upscale", "gs://b/in", "out"],
        ["upscale", "in", "gs://b/out"],
        ["degrade", "in", "gs:/b/out", "--preset", "bicubic"],
        ["evaluate", "gs://b/sr"],
        ["pretrain", "--classes", "c", "--workdir", "gs://b/run"],
        ["train", "--config", "gs://b/c.py", "--workdir", "run"],
        ["train", "--config", str(CONFIGS / "default.py"), "--workdir", "s3:/b/run"],
        ["train", "--config", str(CONFIGS / "default.py"), "--workdir", "http://b/run"],
    ],
)
def test_no_command_makes_a_local_folder_of_an_address(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(paths.STORES, "s3", ("fsspec", "s3fs"))
    assert cli.main(words) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert ":/" in error
    assert list(tmp_path.iterdir()) == []


def test_images_weights_and_copies(store, tmp_path, monkeypatch):
    monkeypatch.setattr("framer_jax.images.plugins.missing", lambda suffix: "no plug-in" * (suffix == ".heic"))
    folder = photos(tmp_path / "photos", 2)
    put(f"{store}/photos", folder)
    (epath.Path(store) / "photos/.hidden/a.png").write_bytes(b"")
    (epath.Path(store) / "photos/deep/b.exr").write_bytes(b"")
    (epath.Path(store) / "photos/deep/c.heic").write_bytes(b"")
    listing = list_images(f"{store}/photos")
    assert [os.fspath(path) for path in listing.paths] == [f"{store}/photos/photo_{i}.png" for i in range(2)]
    assert [item.path.name for item in listing.left_out] == ["b.exr", "c.heic"]
    (epath.Path(store) / "photos/deep/c.heic").unlink()
    source, local = folder_source(f"{store}/photos", keep_index=True), folder_source(folder)
    assert source.digests() == local.digests()
    np.testing.assert_array_equal(source[1].image, local[1].image)
    assert (epath.Path(store) / "photos" / INDEX).exists()
    with pytest.raises(FileNotFoundError, match="there is no folder gs://bucket/none"):
        folder_source(f"{store}/none")
    save_weights(f"{store}/w.safetensors", {"a": np.ones(3, np.float32)}, {"x": 1})
    copy = local_copy(f"{store}/w.safetensors")
    assert load_weights(copy)[1] == {"x": 1}
    assert local_copy(f"{store}/w.safetensors") == copy
    save_weights(f"{store}/w.safetensors", {"a": np.ones(3, np.float32)}, {"x": 2})
    assert load_weights(local_copy(f"{store}/w.safetensors"))[1] == {"x": 2}
    assert sorted(path.name for path in Path(local_copy(f"{store}/photos")).rglob("*.png")) == [
        "a.png", "photo_0.png", "photo_1.png"
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        local_copy(f"{store}/none")


def test_pairs(store, tmp_path):
    lr, hr = pairs(tmp_path, 2)
    put(f"{store}/pairs", tmp_path)
    sources = [pair_source(lr, hr, 4), pair_source(f"{store}/pairs/lr", f"{store}/pairs/hr", 4)]
    assert sources[0].digests() == sources[1].digests()
    np.testing.assert_array_equal(sources[0][1].lr, sources[1][1].lr)


def test_records_are_refused_with_the_remedy(store, tmp_path):
    write_manifest(tmp_path / "records", {"samples": 1, "per_file": 1})
    put(f"{store}/records", tmp_path / "records")
    assert not is_records(f"{store}/photos")
    with pytest.raises(ValueError, match=r"precomputed records: gs://bucket/records is an address, .* copy it"):
        is_records(f"{store}/records")
    with pytest.raises(ValueError, match="only local files can be used"):
        write_manifest(f"{store}/more", {"samples": 1, "per_file": 1})


def test_files_appear_complete_or_not_at_all(store):
    def fails():
        with atomic_write(f"{store}/a") as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert remote_files(epath.Path(store)) == {}


def test_logs_and_digests(store):
    run = epath.Path(store) / "run"
    for step in (1, 2, 3):
        JsonLinesWriter(run / "metrics.jsonl").write_scalars(step, {"loss": step})
    writer = JsonLinesWriter(run / "metrics.jsonl")
    writer.resume(2)
    writer.write_text(2, "note", "again")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2]
    PngWriter(run / "images").write_images(2, {"a": np.zeros((4, 4, 3))})
    assert "images/a_0000002.png" in remote_files(run)
    write_digests(run, ("images",))
    assert damage(run) == ""
    (run / "images" / "a_0000002.png").write_bytes(b"")
    assert "has 0 bytes instead of" in damage(run)


def test_the_work_directory(store, caplog):
    run = as_path(f"{store}/run")
    check_name(run)
    check_unlocked(run)
    with locked(run), locked(run):  # a second one is warned, since stores have no locks
        assert LOCK in remote_files(run)
    assert "began a run in this work directory" in caplog.text
    assert remote_files(run) == {}
    with pytest.raises(ValueError, match="is in a store that checkpoints are not written to"):
        check_name(epath.Path("s3://bucket/run"))
    with pytest.raises(ValueError, match=r"contains \[, with which checkpoints cannot be read"):
        check_name(as_path(f"{store}/run[1]"))
