"""What hosts decide together, as one host sees it."""

import re
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from framer_jax.training.checkpoint import saved_steps
from framer_jax.training.compatibility import shared_by_hosts
from framer_jax.training.hosts import HostLostError, all_or_none, check_same, is_host_lost
from tests.support import training_toys as toys
from tests.training.test_loop import run


@pytest.fixture
def two_hosts(monkeypatch):
    """This process as the first of two; `other` is what the second one contributes, or the same."""
    other = SimpleNamespace(value=None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils,
        "process_allgather",
        lambda value: np.stack([value, value if other.value is None else np.asarray(other.value, value.dtype)]),
    )
    return other


def test_a_block_that_fails_elsewhere_fails_here(two_hosts):
    with all_or_none():
        pass
    two_hosts.value = 1
    with pytest.raises(ValueError, match="another process cannot start, as process 1 reports"), all_or_none():
        pass
    two_hosts.value = 0
    with pytest.raises(FileNotFoundError, match="weights"), all_or_none():
        raise FileNotFoundError("weights")


def test_other_configurations_are_refused(two_hosts):
    check_same("a", "configuration")
    two_hosts.value = np.zeros(8, np.uint32)
    with pytest.raises(ValueError, match="process 1 was started with another configuration than process 0: start the"):
        check_same("a", "configuration")


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({"data": {"train": "/mnt/b", "crop": 64}}, True),
        ({"logging": {"tensorboard": True}}, True),
        ({"recipe": {"space": {"checkpoint": "/mnt/b/vae"}}}, True),
        ({"data": {"train": "/mnt/a", "crop": 32}}, False),
        ({"training": {"mesh": {"fsdp": 2}}}, False),
    ],
)
def test_places_of_files_may_differ_between_hosts(changes, equal):
    config = {
        "data": {"train": "/mnt/a", "crop": 64},
        "training": {"mesh": {"fsdp": 1}},
        "logging": {"tensorboard": False},
        "recipe": {"space": {"checkpoint": "/mnt/a/vae"}},
    }
    texts = [
        shared_by_hosts(each, {"sha256": "1"}, ["recipe.space.checkpoint"]) for each in (config, {**config, **changes})
    ]
    assert (texts[0] == texts[1]) is equal
    assert texts[0] != shared_by_hosts(config, {"sha256": "2"}, ["recipe.space.checkpoint"])


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:5000: Connection reset by peer", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service", True),
        ("NCCL operation ncclAllReduce() failed", True),
        ("RESOURCE_EXHAUSTED: Out of memory", False),
        ("training.best_metric 'x' is not a metric", False),
    ],
)
def test_errors_that_mean_a_lost_process(message, lost, two_hosts, monkeypatch):
    assert is_host_lost(ValueError(message)) is lost
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not is_host_lost(ValueError(message))


def test_a_lost_process_ends_the_run_with_its_newest_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("framer_jax.training.loop.is_host_lost", lambda error: "Gloo" in str(error))

    def validate(params, frozen, step):
        if step == 4:
            while not saved_steps(tmp_path / "checkpoints"):  # written in the background
                time.sleep(0.01)
            raise RuntimeError("Gloo AllReduce failed: Connection reset by peer")
        return {}, {}

    with pytest.raises(
        HostLostError, match=r"another process has ended \(Gloo .*checkpoints/2: start the same command"
    ):
        run(tmp_path, toys.settings(validate_every=2, checkpoint_every=2), validate=validate)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("os.kill(os.getpid(), 9)", "process 1 of 2 was killed, or ended by JAX .*; step 12 is saved in .*12: resume"),
        ("os.abort()", "process 1 of 2 was killed"),
        ("raise ValueError('x')", ""),
        ("pass", ""),
    ],
)
def test_a_sudden_end_is_told(ends, message, tmp_path):
    for step in (9, 12):
        (tmp_path / str(step)).mkdir()
    program = (
        "import os, pathlib\nfrom framer_jax.commands.end_notice import notice_of_sudden_end\n"
        f"with notice_of_sudden_end('process 1 of 2', pathlib.Path({str(tmp_path)!r}), 'resume'):\n    {ends}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("framer-jax train: ")]
    assert len(lines) == bool(message)
    assert re.search(message, "".join(lines))
