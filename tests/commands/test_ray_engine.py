"""`--engine ray` on a cluster of two workers of this machine, of which one is killed midway."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from framer_jax.data.records import RecordFiles
from tests.support.tiny import DEFAULT, overrides, photos, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * 1500),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install 'framer_jax[ray]'"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc"),
]

COUNT = 60

RUNNING = b"ray::Map"
"""Title of a worker that computes a task; others wait as ray::IDLE."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ray")
    photos(root / "in", COUNT, (40, 48))
    return root


def start(folder, *words):
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiled in half the time
    command = [sys.executable, *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=1400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    return out, err


def framer_jax(folder, *words):
    return finish(start(folder, "-m", "framer_jax", *words))


def descendants(process):
    """The process ids below a process of ours."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    below = {process.pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - {process.pid})


def running_workers(process):
    def title(pid):
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    return [pid for pid in descendants(process) if title(pid).startswith(RUNNING)]


def states(output):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.rglob("[!.]*.png")}


def run_and_kill_a_worker(folder, output, *words):
    """Run until a few results are there, kill a worker that computes, and wait for the end: (out, err)."""
    process = start(folder, "-m", "framer_jax", *words, "--engine", "ray")
    while len(before := states(folder / output)) < 5 and process.poll() is None:
        time.sleep(0.01)
    workers = running_workers(process)
    if workers:
        os.kill(workers[0], signal.SIGKILL)
    at_kill = len(states(folder / output))
    out, err = finish(process)
    assert len(workers) == 2
    assert 5 <= at_kill < COUNT
    assert "2 tasks at a time with 1 CPU each" in err
    assert "begun again, since their worker died: shards" in err
    assert before.items() <= states(folder / output).items()  # what was there was not computed again
    return out, err


def images(output):
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("[!.]*.png")}


def test_upscale_loses_nothing_and_does_nothing_twice(folder):
    slow = ("--model", "starter")  # slow enough for both workers to be at work when one is killed
    out, _ = run_and_kill_a_worker(folder, "ray", "upscale", "in", "ray", "--json", *slow)
    expected, _ = framer_jax(folder, "upscale", "in", "local", "--json", *slow)
    assert images(folder / "ray") == images(folder / "local")
    assert len(images(folder / "ray")) == COUNT
    summary = json.loads(out)
    assert summary == json.loads(expected.replace("local/", "ray/"))
    for name in images(folder / "ray"):
        assert json.loads((folder / "ray" / f"{name}.json").read_text())["input"]


def test_degrade_loses_nothing_and_does_nothing_twice(folder):
    words = ("degrade", "in", "pairs", "--preset", "light_one_stage", "--pairs")
    out, _ = run_and_kill_a_worker(folder, "pairs", *words, "--json")
    framer_jax(folder, *words[:2], "alone", *words[3:])
    assert images(folder / "pairs") == images(folder / "alone")
    assert len(json.loads(out)["degraded"]) == COUNT
    manifests = [(folder / name / "manifest.jsonl").read_text() for name in ("pairs", "alone")]
    assert manifests[0] == manifests[1]
    assert not list((folder / "pairs").glob("manifest-*"))


def test_evaluate_as_in_one_process(folder):
    photos(folder / "few", 6, (40, 48))
    words = ("evaluate", "few", "--reference", "few", "--metrics", "psnr-y,ssim-y")
    out, _ = framer_jax(folder, *words, "--json", "ray.json", "--engine", "ray")
    expected, _ = framer_jax(folder, *words, "--json", "local.json")
    assert "6 images" in out
    assert out == expected
    scores = [json.loads((folder / name).read_text())["images"] for name in ("ray.json", "local.json")]
    assert scores[0] == scores[1]
    assert not list(folder.glob("ray-*.json"))


def test_precompute(folder):
    photos(folder / "few", 6, (40, 48))
    weights(folder / "teacher.safetensors", "recipe.denoiser.name=resshift_unet")
    knobs = overrides(
        "recipe.name=sinsr",
        "training.best_metric=sample/psnr-y",
        "recipe.denoiser.name=resshift_unet",
        "recipe.sinsr.teacher_checkpoint=teacher.safetensors",
        "data.train=few",
    )
    words = ("precompute", "teacher", "--config", str(DEFAULT), *(word for knob in knobs for word in ("--set", knob)))
    out, _ = framer_jax(folder, *words, "--samples=10", "--per-file=4", "--output=records", "--engine=ray")
    assert out.startswith("3 files of records written, 0 were there")
    assert len(RecordFiles(folder / "records")) == 10


LETHAL = """
import os
from framer_jax.commands.ray_engine import open_ray
from framer_jax.commands.shard_tasks import Task
with open_ray(None, 1) as engine:
    outcomes = dict(engine.outcomes([Task(os._exit, 9, os.getcwd()), Task(str, 5, os.getcwd())]))
print(outcomes[0].attempt, outcomes[0].error)
print(outcomes[1].attempt, outcomes[1].result)
"""


def test_a_task_whose_worker_always_dies_ends_and_does_not_end_the_others(folder):
    out, _ = finish(start(folder, "-c", LETHAL))
    first, second = out.splitlines()
    assert first.startswith("4 its worker died 3 times")
    assert second == f"1 {pickle.dumps('5')!r}"
