"""Real signals to real runs with worker processes, as a batch system, a terminal and a full memory send them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import CONFIGS, ROOT
from tests.support.tiny import overrides, photo, photos

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the worker processes in /proc"),
]

WORKERS = 2


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A run that spends its time waiting for large JPEGs, and saves nothing of its own accord."""
    folder = tmp_path_factory.mktemp("large")
    large = photo(1500, 1500)
    for index in range(24):
        Image.fromarray(np.roll(large, 13 * index, axis=0)).save(folder / f"{index:02d}.jpg", quality=95)
    changes = overrides(
        *("training.steps=100000", "training.checkpoint_every=5000", "training.validate_every=5000"),
        *("training.log_every=5", f"data.workers={WORKERS}", f"data.train={folder}"),
        f"data.validation={photos(tmp_path_factory.mktemp('held_out'), 1)}",
    )
    return [sys.executable, "-m", "framer_jax.cli", "train", "--config", str(CONFIGS / "default.py")] + [
        f"--set={change}" for change in changes
    ]


def started(command, workdir):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--workdir", str(workdir)], env=environment, start_new_session=True, **pipes)


def children(process):
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    every = {
        pid for task in Path(f"/proc/{process.pid}/task").iterdir() for pid in (task / "children").read_text().split()
    }
    return [int(pid) for pid in {*pids, *every} if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def ended(process, send):
    """(status, standard output, lines of standard error after the signal) of a run that gets a signal at step 10."""
    try:
        for line in process.stderr:
            if line.startswith("step 10 "):
                send()
                break
        rest, out = process.stderr.read(), process.stdout.read()
        return process.wait(timeout=120), out, [line for line in rest.splitlines() if not line.startswith("step ")]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_saves_and_stops(command, tmp_path, number):
    process = started(command, tmp_path / "run")
    status, out, lines = ended(process, lambda: os.killpg(process.pid, number))
    assert status == 0, lines
    assert out.startswith("stopped at step ")
    assert len(lines) == 3, lines  # that it stops, where its time went, and where it is saved
    (step,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert int(step.name) >= 10
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_killed_worker_saves_and_is_one_line(command, tmp_path):
    process = started(command, tmp_path / "run")
    status, _, lines = ended(process, lambda: os.kill(children(process)[0], signal.SIGKILL))
    (step,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert status == 2
    (line,) = lines
    assert "a process that loads data (data.workers) has ended (SIGKILL; the system may have run out of memory)" in line
    assert line.endswith(f"; step {step.name} is saved in {step}: run again to resume")
    assert int(step.name) >= 10


def test_workers_of_a_killed_run_end_and_its_lock_blocks_nobody(command, tmp_path):
    process = started(command, tmp_path / "run")
    workers = []

    def kill():
        workers.extend(children(process))
        process.kill()

    ended(process, kill)
    assert len(workers) == WORKERS
    # their standard error is closed by now, which `ended` waited for: all processes of the run are gone
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    process = started(command, tmp_path / "run")
    status, _, lines = ended(process, lambda: os.killpg(process.pid, signal.SIGTERM))
    assert status == 0, lines
