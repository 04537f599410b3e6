"""Damaged checkpoints, work directories of any name, and work directories that are in use."""

import errno
import json
import os
import random
import shutil
import socket
from functools import lru_cache
from pathlib import Path

import pytest

from framer_jax.training.checkpoint import Checkpoints
from framer_jax.training.data_identity import data_identity
from framer_jax.training.digests import DamagedCheckpointError
from framer_jax.training.workdir import LOCK, check_name, check_unlocked, locked
from tests.support import training_toys as toys
from tests.support.hostile import cases, contents, refused, run
from tests.support.paths import CONFIGS
from tests.training.test_checkpoint import CONFIG, abstract, saved

SETTINGS = toys.settings(ema_decay=0.9, keep_last=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The checkpoints of steps 1 and 2, and the states that they hold."""
    folder = tmp_path_factory.mktemp("finished") / "checkpoints"
    saved(folder, SETTINGS, steps=2)
    return folder, {step: restore(folder, step).state for step in (1, 2)}


@lru_cache
def shapes():
    return abstract(SETTINGS)


def restore(folder, step=None):
    checkpoints = Checkpoints(folder, SETTINGS)
    arguments = shapes(), toys.batches(), CONFIG, data_identity(toys.names())
    try:
        return checkpoints.restore_newest(*arguments) if step is None else checkpoints.restore(step, *arguments)
    finally:
        checkpoints.close()


def flip(rng: random.Random, file: Path) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def cut(rng: random.Random, file: Path) -> None:
    os.truncate(file, rng.randrange(max(file.stat().st_size, 1)))


def zeros(rng: random.Random, file: Path) -> None:
    """A block that a file system lost in a crash."""
    data = bytearray(file.read_bytes())
    start = rng.randrange(max(len(data), 1))
    data[start : start + 64] = bytes(len(data[start : start + 64]))
    file.write_bytes(data)


def remove(rng: random.Random, file: Path) -> None:
    file.unlink()


def remove_folder(rng: random.Random, file: Path) -> None:
    shutil.rmtree(file.parent)


DAMAGE = (flip, flip, flip, cut, zeros, remove, remove_folder)
"""What happens to a file; single bits more often, because nothing else notices them."""


def damaged(folder: Path, step: int, seed: int) -> str:
    """Damage one file of a checkpoint; returns what was done."""
    rng = random.Random(seed)
    files = sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())
    file, damage = rng.choice(files), rng.choice(DAMAGE)
    damage(rng, file)
    return f"{damage.__name__} {file.relative_to(folder)}"


@pytest.mark.parametrize("seed", cases(lambda rng: rng.randrange(10**6), fast=30, slow=300))
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(finished, tmp_path, seed):
    original, states = finished
    folder = shutil.copytree(original, tmp_path / "checkpoints")
    what = damaged(folder, 2, seed)
    if not any((folder / "2").rglob("*")) or not (folder / "2").is_dir():  # all of it is gone
        assert restore(folder).step == 1, what
        return
    before = contents(folder / "2")
    back = restore(folder)
    assert toys.same(back.state, states[back.step]), what
    if back.step == 2:  # files that hold nothing of the state, such as Orbax's own marks
        assert what.split("/")[-1] in ("_CHECKPOINT_METADATA", "commit_success.txt"), what
        assert not back.notes
        return
    (note,) = back.notes
    assert str(folder / "2") in note, what
    assert "resuming from step 1 instead" in note
    assert "\n" not in note
    assert contents(folder / "2.damaged") == before
    assert restore(folder).notes == ()  # once said


@pytest.mark.parametrize("seed", cases(lambda rng: rng.randrange(10**6), fast=4, slow=40, seed=1))
def test_if_all_checkpoints_are_damaged_nothing_is_touched(finished, tmp_path, seed):
    folder = shutil.copytree(finished[0], tmp_path / "checkpoints")
    for step in (1, 2):
        for name in ("state/_METADATA", f"data/process_0-of-1.json#{seed}"):
            path = folder / str(step) / name.partition("#")[0]
            flip(random.Random(seed + step), path)
    before = contents(folder)
    with pytest.raises(DamagedCheckpointError, match=r"no other checkpoint is left, .*: bring back") as caught:
        restore(folder)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_second_damaged_checkpoint_of_the_same_step_is_kept_too(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "checkpoints")
    for name in ("2.damaged", "2.damaged-2"):
        shutil.copytree(folder / "1", tmp_path / "again", dirs_exist_ok=True)
        (folder / "2" / "digests.json").unlink()
        assert restore(folder).step == 1
        assert (folder / name).is_dir()
        (tmp_path / "again").rename(folder / "2")


NAMES = (
    *(
        "plain",
        "a b",
        " lead",
        "trail ",
        "nl\nx",
        "tab\tx",
        "q?x",
        "st*r",
        "run[1]",
        "b]1",
        "{a,b}",
        "$HOME",
        "~",
        "-x",
    ),
    *(
        "#1",
        "%20",
        "a%2Fb",
        "é",
        "e\u0301",
        "😀",
        "a:b",
        "gs:",
        "configs:",
        "s3:",
        "file:",
        "C:\\x",
        "'q'",
        '"d"',
        "a|b",
    ),
    *(
        "<x>",
        "!",
        "a@3",
        "^",
        "`x`",
        "(x)",
        ",",
        "=",
        "x.",
        "..x",
        "...",
        "5",
        "1.orbax-checkpoint-tmp",
        "\x01",
        "\x7f",
    ),
    *("ocdbt.process_0", "zarr.json", "n" * 255, os.fsdecode(b"bad\xff"), "\u202e", "checkpoints", "metrics", "nul"),
)
"""Names that Linux file systems take."""


REFUSED = ("q?x", "st*r", "run[1]", "gs:", "configs:", "C:\\x", os.fsdecode(b"bad\xff"))
"""Those that Orbax or TensorStore misreads."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_checkpoints_cannot_have_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"work directory .*: name another one") as caught:
        check_name(tmp_path / name / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("nl\nx", "a%2Fb", "b]1") else pytest.mark.slow)
        for name in NAMES
        if name not in REFUSED
    ],
)
def test_a_run_of_any_other_name_can_be_resumed(name, tmp_path):
    check_name(tmp_path / name)
    state, _ = saved(tmp_path / name, SETTINGS)
    assert toys.same(restore(tmp_path / name).state, state)


@pytest.mark.skipif(os.sep != "/", reason="paths of another system")
def test_addresses_of_buckets_and_paths_that_are_too_long():
    with pytest.raises(ValueError, match="the address of a bucket"):
        check_name(Path("/gs/bucket/run"))
    with pytest.raises(ValueError, match="which is too long"):
        check_name(Path("/" + "/".join(["p" * 100] * 40)))


def train(capsys, workdir, *changes):
    changes = ("data.train=nowhere", *changes)
    return run(
        capsys, "train", "--config", CONFIGS / "default.py", "--workdir", workdir, *(f"--set={c}" for c in changes)
    )


@pytest.mark.parametrize("name", ["run[1]", "a\\b"])
def test_the_command_refuses_a_name_before_it_looks_at_anything(name, tmp_path, capsys):
    line = refused(train(capsys, tmp_path / name), f"the work directory {tmp_path / name}", "name another one")
    assert "nowhere" not in line
    assert not (tmp_path / name).exists()


def test_a_work_directory_in_use_is_refused(tmp_path, capsys):
    workdir = tmp_path / "run"
    with locked(workdir):
        (workdir / "card.md").write_text("of the other training")
        before = contents(workdir)
        holder = f"(process {os.getpid()} on {socket.gethostname()}, since "
        refused(train(capsys, workdir), str(workdir), "is in use by a training", holder, "wait for its end")
        with pytest.raises(ValueError, match="is in use by a training"), locked(workdir):
            pass
        assert contents(workdir) == before
    assert sorted(path.name for path in workdir.iterdir()) == ["card.md"]
    check_unlocked(workdir)


@pytest.mark.parametrize("text", ["", "{", json.dumps({"process": 1, "host": "h", "since": "s"})])
def test_the_lock_of_a_killed_training_blocks_nobody(text, tmp_path):
    (tmp_path / LOCK).write_text(text)
    check_unlocked(tmp_path)
    with locked(tmp_path):
        assert (tmp_path / LOCK).is_file()
    assert not list(tmp_path.iterdir())


def test_a_work_directory_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    message = r"run cannot be written \(Read-only file system\): name another --workdir"
    with pytest.raises(OSError, match=message), locked(tmp_path / "run"):
        pass


def test_a_lock_leaves_no_folder_of_a_refused_run(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a" / "run"):
        raise KeyError
    assert not (tmp_path / "a" / "run").exists()
