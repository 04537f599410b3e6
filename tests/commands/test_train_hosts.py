"""Several processes as one run when something goes wrong: all of them end, soon, with one line that helps."""

import signal
import time

import pytest

from framer_jax.training.checkpoint import saved_steps
from tests.support.hosts import train_processes
from tests.support.paths import CONFIGS
from tests.support.tiny import overrides, photos

pytestmark = pytest.mark.slow

BASE = CONFIGS / "swinir_small.py"
LIMIT = 60
"""Seconds within which the others end after one process has ended."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data") / "photos")


def words(data, run, *changes):
    sections = (f"data.train={data}", "data.validation_count=0", "training.best_metric=None", "training.mesh.data=-1")
    settings = (*overrides(*sections, base=BASE), *changes)
    return ["--config", str(BASE), "--workdir", str(run), *(f"--set={change}" for change in settings)]


def last_lines(processes, timeout=240):
    """(exit status, last line of standard error) of each process."""
    messages = [process.communicate(timeout=timeout)[1] for process in processes]
    return [
        (process.returncode, (text.strip().splitlines() or [""])[-1])
        for process, text in zip(processes, messages, strict=True)
    ]


def wait_for_save(run, processes):
    deadline = time.monotonic() + 240
    while not saved_steps(run / "checkpoints") and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), last_lines(processes)
        time.sleep(0.2)
    time.sleep(1)  # a few more steps


@pytest.mark.parametrize("killed", [0, 1])
def test_the_others_end_soon_when_one_is_killed(killed, data, tmp_path):
    run = tmp_path / "run"
    long = words(data, run, "training.steps=1000000", "training.checkpoint_every=5", "training.log_every=1")
    with train_processes(long, long) as processes:
        wait_for_save(run, processes)
        processes[killed].send_signal(signal.SIGKILL)
        began = time.monotonic()
        processes[1 - killed].wait(timeout=2 * LIMIT)
        assert time.monotonic() - began < LIMIT
        ends = last_lines(processes)
    assert ends[killed][0] == -signal.SIGKILL
    assert f"process {killed} of 2 was killed, or ended by JAX" in ends[killed][1]
    assert ends[1 - killed][0] != 0
    for _, line in ends:
        assert str(run / "checkpoints") in line
        assert "start the same command on all hosts to resume" in line


def test_time_limit_saves_on_all_hosts(data, tmp_path):
    run = tmp_path / "run"
    long = words(data, run, "training.steps=1000000", "training.log_every=10")
    long += ["--stop-after-minutes", "0.3"]
    with train_processes(long, long) as processes:
        output = processes[0].communicate(timeout=240)[0]
        assert [status for status, _ in last_lines(processes)] == [0, 0]
    step = saved_steps(run / "checkpoints")[-1]
    assert f"stopped at step {step} of 1000000, saved in {run / 'checkpoints' / str(step)}" in output


@pytest.mark.parametrize("fault", ["configuration", "data"])
def test_processes_that_do_not_fit_together_end_before_the_first_step(fault, data, tmp_path):
    run = tmp_path / "run"
    first = words(data, run)
    other = words(data, run, "training.learning_rate=0.5")
    if fault == "data":
        other = words(tmp_path / "missing", run)
    with train_processes(first, other) as processes:
        ends = last_lines(processes)
    assert [status for status, _ in ends] == [2, 2], ends
    if fault == "configuration":
        message = "framer-jax train: process 1 was started with another configuration, other weights or data"
        assert all(line.startswith(message) for _, line in ends), ends
    else:
        assert "not every host can read the data of this run (as process 1 reports)" in ends[0][1]
        assert str(tmp_path / "missing") in ends[1][1]
    assert not saved_steps(run / "checkpoints")
