import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.training.checkpoint import CheckpointMetadata, Checkpoints
from framer_jax.training.data_identity import data_identity
from framer_jax.training.digests import DamagedCheckpointError
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.sharding import make_mesh
from framer_jax.training.state import abstract_train_state
from tests.support import training_toys as toys
from tests.support.paths import ROOT
from tests.training.test_step import setup

RECIPE = toys.recipe(init_state=lambda: {"count": jnp.float32(2.5)})
CONFIG = {"model": {"width": 8}, "training": {"steps": 6, "mesh": {"data": 1}}}
METADATA = CheckpointMetadata(CONFIG, data_identity(toys.names()), {"loss": (0.1, 3)}, {"step": 2, "value": 0.5})


def abstract(settings, recipe=RECIPE):
    shapes = jax.eval_shape(toys.prepare, toys.batch())
    return abstract_train_state(recipe, make_optimizers(recipe, settings), settings, make_mesh(settings), shapes)


def saved(folder, settings=None, steps=1, best=None, metadata=METADATA):
    """Train and save after each step, with the best step so far after each; returns the last state and next batch."""
    settings = settings or toys.settings(ema_decay=0.9)
    iterator = toys.batches()
    state, step, frozen, batch = setup(RECIPE, settings)
    checkpoints = Checkpoints(folder, settings)
    for index in range(steps):
        next(iterator)
        state, _ = step(state, frozen, batch)
        jax.block_until_ready(state)
        if best:
            metadata = metadata._replace(best={"step": best[index], "value": 0.5})
        checkpoints.save(state, iterator, metadata)
    checkpoints.close()
    return state, next(iterator)


def restored(folder, settings=None, config=CONFIG, data=None, step=1, iterator=None, like=None, **options):
    settings = settings or toys.settings(ema_decay=0.9)
    checkpoints = Checkpoints(folder, settings, **options)
    iterator = iterator or toys.batches()
    try:
        back = checkpoints.restore(
            step, like or abstract(settings), iterator, config, data or data_identity(toys.names())
        )
    finally:
        checkpoints.close()
    return back.state, back.metadata, iterator


def test_everything_comes_back(tmp_path):
    state, following = saved(tmp_path)
    back, metadata, iterator = restored(tmp_path)
    assert toys.same(state, back)
    assert jax.tree.structure(state) == jax.tree.structure(back)
    assert jnp.issubdtype(back.key.dtype, jax.dtypes.prng_key)
    assert float(back.mutable["count"]) == 3.5
    assert metadata == METADATA
    assert toys.same(following, next(iterator))


def test_onto_another_topology(tmp_path):
    settings = toys.settings(ema_decay=0.9, mesh={"data": 2, "fsdp": 4})
    state, _ = saved(tmp_path, settings)
    other = toys.settings(ema_decay=0.9, mesh={"data": 1, "fsdp": 2})
    back, *_ = restored(tmp_path, other)
    assert toys.same(state, back)
    assert back.params["denoiser"]["out"]["kernel"].addressable_shards[0].data.shape == (4, 3)


def test_a_save_is_independent_of_later_steps(tmp_path):
    """Later steps reuse the donated buffers of the state while its files are written."""
    settings = toys.settings()
    state, step, frozen, batch = setup(RECIPE, settings)
    iterator, checkpoints = toys.batches(), Checkpoints(tmp_path, settings)
    state, _ = step(state, frozen, batch)
    expected = jax.tree.map(np.array, state.params)
    checkpoints.save(state, iterator, METADATA)
    for _ in range(20):
        state, _ = step(state, frozen, batch)
    checkpoints.close()
    back, *_ = restored(tmp_path, settings)
    assert toys.same(expected, back.params)


def test_last_and_best_are_kept(tmp_path):
    settings = toys.settings(ema_decay=0.9, keep_last=2, best_metric="psnr-y")
    saved(tmp_path, settings, steps=5, best=[1, 2, 2, 2, 2])
    checkpoints = Checkpoints(tmp_path, settings)
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.latest() == 5
    checkpoints.close()
    settings = toys.settings(ema_decay=0.9, keep_last=1)
    saved(tmp_path / "without", settings, steps=4, best=[1, 2, 2, 2])
    checkpoints = Checkpoints(tmp_path / "without", settings)
    assert checkpoints.steps() == [4]
    checkpoints.close()


def test_the_best_is_kept_by_a_resumed_run(tmp_path):
    settings = toys.settings(ema_decay=0.9, keep_last=1, best_metric="psnr-y")
    saved(tmp_path, settings, steps=3, best=[1, 1, 1])
    checkpoints = Checkpoints(tmp_path, settings)
    iterator = toys.batches()
    back = checkpoints.restore_newest(abstract(settings), iterator, CONFIG, data_identity(toys.names()))
    state, step, frozen, batch = back.state, *setup(RECIPE, settings)[1:]
    for _ in range(2):
        state, _ = step(state, frozen, batch)
        checkpoints.save(state, iterator, back.metadata)
    checkpoints.close()
    assert checkpoints.steps() == [1, 5]


def test_saving_twice_is_saving_once(tmp_path):
    settings = toys.settings()
    state, *_ = setup(RECIPE, settings)
    checkpoints = Checkpoints(tmp_path, settings)
    checkpoints.save(state, toys.batches(), METADATA)
    checkpoints.save(state, toys.batches(), METADATA)
    checkpoints.wait()
    assert checkpoints.steps() == [0]
    checkpoints.close()


def test_missing(tmp_path):
    saved(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*/7: the saved steps are 1"):
        restored(tmp_path, step=7)


@pytest.mark.parametrize("item", ["state", "data", "about"])
def test_half_written(tmp_path, item):
    saved(tmp_path)
    shutil.rmtree(tmp_path / "1" / item)
    with pytest.raises(DamagedCheckpointError, match=rf"/1 is damaged or incomplete \(it lacks {item}\)") as caught:
        restored(tmp_path)
    assert "\n" not in str(caught.value)


def undigested(folder):
    """Make a checkpoint one of the version before, which wrote no digests."""
    (folder / "digests.json").unlink()
    file = folder / "about" / "metadata"
    about = json.loads(file.read_text())
    del about["digests"], about["exports"]
    file.write_text(json.dumps(about))


@pytest.mark.parametrize("digests", [True, False])
def test_damaged_arrays(tmp_path, digests):
    saved(tmp_path)
    if not digests:
        undigested(tmp_path / "1")
    for file in (tmp_path / "1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    message = r"has 0 bytes instead of \d+" if digests else "cannot be read"
    with pytest.raises(DamagedCheckpointError, match=rf"checkpoint .*/1 .*{message}") as caught:
        restored(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_the_version_before(tmp_path):
    """It has no digests: it is restored, and a note says that it was not verified."""
    state, _ = saved(tmp_path)
    undigested(tmp_path / "1")
    checkpoints = Checkpoints(tmp_path, toys.settings(ema_decay=0.9))
    data = data_identity(toys.names(), dict.fromkeys(toys.names(), "0"))
    back = checkpoints.restore_newest(abstract(toys.settings(ema_decay=0.9)), toys.batches(), CONFIG, data)
    checkpoints.close()
    assert toys.same(state, back.state)
    assert [note.split(" is of ")[-1].split(" holds ")[-1] for note in back.notes] == [
        "a version without digests: that its files are intact is not checked",
        "no digests of the data: that its files are the same is not checked",
    ]


def test_other_configuration(tmp_path):
    saved(tmp_path)
    legal = {"model": {"width": 8}, "training": {"steps": 12, "mesh": {"data": 8}}}
    restored(tmp_path, config=legal)
    other = {"model": {"width": 16, "depth": 2}, "training": legal["training"]}
    with pytest.raises(ValueError, match=r"model.depth 'absent' then, 2 now; model.width 8 then, 16 now"):
        restored(tmp_path, config=other)


def test_paths_that_may_change(tmp_path):
    config = {
        "recipe": {"resshift": {"steps": 4}},
        "data": {"train": "here", "validation": "here", "validation_count": 3, "threads": 2, "workers": 0},
        "training": {"steps": 6, "stop_after": 3, "mesh": {"data": 1}, "seed": 0},
        "logging": {"tensorboard": False},
    }
    saved(tmp_path, metadata=METADATA._replace(config=config))

    def other(**sections):
        return {**config, **{name: {**config[name], **values} for name, values in sections.items()}}

    data = {"train": "there", "validation": "there", "validation_count": 1, "threads": 0}
    training = {"steps": 9, "stop_after": None, "mesh": {"data": 2, "fsdp": 4}}
    restored(tmp_path, config=other(data=data, training=training, logging={"tensorboard": True}))
    for changes, message in (
        ({"recipe": {"resshift": {"steps": 15}}}, "recipe.resshift.steps 4 then, 15 now"),
        ({"data": {"workers": 1}}, "data.workers 0 then, 1 now"),
        ({"training": {"seed": 1}}, "training.seed 0 then, 1 now"),
        ({"training": {"steps_of_warmup": 1}}, "training.steps_of_warmup 'absent' then, 1 now"),
    ):
        with pytest.raises(ValueError, match=message):
            restored(tmp_path, config=other(**changes))


def test_a_knob_that_is_off_may_be_absent(tmp_path):
    saved(tmp_path, metadata=METADATA._replace(config={**CONFIG, "old": {"off": 0, "word": "", "kept": 2}}))
    restored(tmp_path, config={**CONFIG, "old": {"kept": 2}, "new": {"off": False, "unset": None}})
    with pytest.raises(ValueError, match=r"new 'absent' then, 0\.5 now"):
        restored(tmp_path, config={**CONFIG, "old": {"kept": 2}, "new": 0.5})
    with pytest.raises(ValueError, match=r"old\.kept 2 then, 'absent' now"):
        restored(tmp_path, config=CONFIG)


def test_other_model(tmp_path):
    saved(tmp_path)
    like = abstract(toys.settings(ema_decay=0.9))
    like.params["denoiser"]["out"]["kernel"] = jax.ShapeDtypeStruct((9, 3), jnp.float32)
    like.params["denoiser"]["new"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    with pytest.raises(ValueError, match=r"missing .*/new; .*out/kernel float32\[8, 3\] instead of float32\[9, 3\]"):
        restored(tmp_path, like=like)
    with pytest.raises(ValueError, match=r"unexpected \(\d+\): ema/denoiser/conv/bias"):
        restored(tmp_path, toys.settings(), like=abstract(toys.settings()))


def test_other_records(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"other records \(24 then, 23 now"):
        restored(tmp_path, data=data_identity(toys.names(23)))


@pytest.mark.parametrize("count", [24, 600])
def test_files_of_the_same_names_and_other_contents(tmp_path, count):
    names = toys.names(count)
    digests = {name: f"{index:08x}" for index, name in enumerate(names)}
    saved(tmp_path, metadata=METADATA._replace(data=data_identity(names, digests)))
    changed = {**digests, names[7]: "ffffffff"}
    named = "photo_07.png" if count == 24 else "some of photo_07.png to photo_08.png"
    checkpoints = Checkpoints(tmp_path, toys.settings(ema_decay=0.9))
    like = abstract(toys.settings(ema_decay=0.9))
    checkpoints.restore(1, like, toys.batches(), CONFIG, data_identity(names, digests), names)
    for present, message in (
        (changed, rf"other contents \({named}\): give the same data"),
        (dict(list(digests.items())[1:]), rf"other contents \({count} files then, {count - 1} now\)"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            checkpoints.restore(1, like, toys.batches(), CONFIG, data_identity(names, present), names)
        assert "\n" not in str(caught.value)
    checkpoints.close()


class FakeWorkers:
    """An iterator whose positions look like those of Grain with worker processes."""

    def __init__(self, count):
        self.state = {"next": 0, "states": [{"next_index": 0}] * count, "future": {}}

    def __next__(self):
        return toys.batch()

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


@pytest.mark.parametrize("other", [FakeWorkers(1), FakeWorkers(3), toys.batches()])
def test_other_number_of_workers(tmp_path, other):
    settings = toys.settings()
    state, *_ = setup(RECIPE, settings)
    checkpoints = Checkpoints(tmp_path, settings)
    checkpoints.save(state, FakeWorkers(2), METADATA)
    checkpoints.close()
    restored(tmp_path, settings, step=0, iterator=FakeWorkers(2))
    with pytest.raises(ValueError, match="use the same number of worker processes"):
        restored(tmp_path, settings, step=0, iterator=other)


KILLED = """
import os, signal, sys
import tests.conftest
from orbax.checkpoint._src.path import async_path
from tests.training import test_checkpoint as here
from tests.support import training_toys as toys

folder = sys.argv[1]
rename = async_path.rename

async def die(source, target):
    if str(target) == os.path.join(folder, "2"):
        os.kill(os.getpid(), signal.SIGKILL)  # all files of the second save are written, none is committed
    return await rename(source, target)

async_path.rename = die
here.saved(folder, toys.settings(ema_decay=0.9, keep_last=1), steps=3)
"""


def test_kill_in_the_middle_of_a_save(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert len(list(tmp_path.iterdir())) == 2  # the complete one and the remains of the killed save
    settings = toys.settings(ema_decay=0.9, keep_last=1)
    checkpoints = Checkpoints(tmp_path, settings)
    assert checkpoints.steps() == [1]
    checkpoints.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]  # cleaned up
    back, _, iterator = restored(tmp_path, settings)
    state, following = saved(tmp_path / "again", settings)
    assert toys.same(state, back)
    assert toys.same(following, next(iterator))
    saved(tmp_path, settings, steps=2)  # the interrupted save again, over the remains of the killed one
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["2", "again"]


def test_metadata_are_readable(tmp_path):
    saved(tmp_path)
    about = json.loads(next((tmp_path / "1" / "about").iterdir()).read_text())
    assert about["config"] == CONFIG
    assert about["leaves"]["params/denoiser/out/kernel"] == "float32[8, 3]"


def test_frozen_weights_are_compared_by_content_and_not_by_path(tmp_path):
    begun = {"recipe": {"teacher": "a/t.safetensors"}, "weights": {"recipe.teacher": "12"}}
    moved = {"recipe": {"teacher": "b/t.safetensors"}, "weights": {"recipe.teacher": "12"}}
    saved(tmp_path, metadata=METADATA._replace(config=begun))
    restored(tmp_path, config=moved, may_change=("recipe.teacher",))
    with pytest.raises(ValueError, match=r"recipe\.teacher 'a/t.safetensors' then, 'b/t.safetensors' now"):
        restored(tmp_path, config=moved)
    with pytest.raises(ValueError, match=r"weights\.recipe\.teacher '12' then, '34' now"):
        restored(tmp_path, config={**moved, "weights": {"recipe.teacher": "34"}}, may_change=("recipe.teacher",))


def test_configuration_of_an_older_schema(tmp_path):
    saved(tmp_path)

    def migrate(config):
        return {"network": config["model"], "training": config["training"]}

    def refuse(config):
        raise ValueError("its configuration is too old: train again")

    migrated = migrate(CONFIG)
    restored(tmp_path, config=migrated, migrate=migrate)
    with pytest.raises(ValueError, match=r"network\.width 8 then, 16 now"):
        restored(tmp_path, config={**migrated, "network": {"width": 16}}, migrate=migrate)
    with pytest.raises(ValueError, match=r"checkpoint .*/1: its configuration is too old: train again"):
        restored(tmp_path, config=migrated, migrate=refuse)


def test_other_layout(tmp_path):
    saved(tmp_path)
    undigested(tmp_path / "1")
    file = next((tmp_path / "1" / "about").iterdir())
    about = json.loads(file.read_text())
    assert about["layout"] == 2
    del about["layout"]  # as the first one was written
    about["leaves"]["carry/count"] = about["leaves"].pop("mutable/count")
    file.write_text(json.dumps(about))
    message = r"checkpoint .*/1 was written by another version of framer_jax .*: use a new working folder, .* --init"
    with pytest.raises(ValueError, match=message) as caught:
        restored(tmp_path)
    assert "\n" not in str(caught.value)
