"""Saves and stops by the clock, the wall time by kind of work, exports in the background, and traces."""

import dataclasses
import json
import threading
import time

import jax
import numpy as np
import pytest

from framer_jax.training import run as running
from framer_jax.training.exports import BackgroundExport
from framer_jax.training.profile import Profile
from framer_jax.training.utilization import peak_teraflops, step_teraflops, utilization
from framer_jax.training.wall_time import SAVING, TRAINING, WallTime, share
from tests.support import training_toys as toys
from tests.training.test_loop import losses, run


class Clock:
    """time.perf_counter() that also goes on by itself: `seconds` more at each reading."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def perf_counter(self):
        self.now += self.seconds
        return self.now


def texts(workdir, name):
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [entry["value"] for entry in entries if entry.get("text") == name]


def test_stop_after_minutes_is_an_exact_interruption(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", toys.settings())
    with monkeypatch.context() as patch:
        patch.setattr(WallTime, "elapsed", lambda self: 61.0)
        part = run(tmp_path / "parts", toys.settings(stop_after_minutes=1.0))
    assert (part.stopped, part.step) == (True, 1)
    assert "stopped at step 1 of 6, saved in" in part.message
    rest = run(tmp_path / "parts", toys.settings(stop_after_minutes=1.0))
    assert (rest.stopped, rest.step) == (False, 6)
    assert toys.same(whole.state, rest.state)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.parametrize(("minutes", "steps"), [(None, [6]), (1.0, [4, 6]), (100.0, [6])])
def test_saves_by_minutes_come_with_log_entries(minutes, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "time", Clock(10.0))
    saved = []
    save = running.Checkpoints.save
    monkeypatch.setattr(
        running.Checkpoints,
        "save",
        lambda self, state, *rest: (saved.append(int(state.step)), save(self, state, *rest)),
    )
    run(tmp_path, toys.settings(log_every=4, checkpoint_minutes=minutes))
    assert saved == steps


def test_wall_time_of_a_run(tmp_path):
    run(tmp_path, toys.settings(checkpoint_every=2))
    (line,) = [text for text in texts(tmp_path, "run") if text.startswith("wall time ")]
    for kind in ("start", "compilation", "training", "waiting for data", "saving", "end", "other"):
        assert f" {kind} " in line
    assert "validation" not in line
    assert "(longest " in line


def test_shares_of_the_wall_time():
    spent = WallTime(time.perf_counter() - 100)
    spent.add(TRAINING, 50)
    spent.add(SAVING, 4)
    spent.add(SAVING, 2)
    with pytest.raises(KeyError), spent.during("validation"):
        raise KeyError
    assert spent.summary() == (
        "wall time 100 s: training 50 %, saving 6.0 % (longest 4.00 s), validation 0.0 %, other 44 %"
    )
    assert share(0.0999) == "10.0 %"


class SlowExport:
    """Writes when it is told to."""

    def __init__(self, error=None):
        self.go, self.written, self.error = threading.Event(), [], error

    def digest(self, params, step):
        return str(step)

    def write(self, params, step, kinds):
        assert self.go.wait(10)
        if self.error:
            raise self.error
        self.written.append(step)

    def outdated(self, kind, step, digest):
        return ""


def test_exports_are_written_in_the_background_in_order():
    export = SlowExport()
    background = BackgroundExport(export)
    background.write({}, 1, ("latest",))
    assert export.written == []
    threading.Timer(0.1, export.go.set).start()
    background.write({}, 2, ("latest",))  # waits for the first
    assert export.written[:1] == [1]
    background.wait()
    assert export.written == [1, 2]
    background.wait()


def test_an_export_that_cannot_be_written_ends_the_run_after_its_save(tmp_path):
    export = SlowExport(OSError("no space left: weights.safetensors"))
    export.go.set()
    with pytest.raises(OSError, match="no space left"):
        run(tmp_path, toys.settings(checkpoint_every=2), export=export)
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_trace_of_some_steps(tmp_path):
    run(tmp_path, toys.settings(profile_step=2, profile_steps=2))
    assert texts(tmp_path, "profile") == [f"steps 2 to 3 are traced in {tmp_path / 'profile'}"]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert texts(tmp_path, "note") == []


def test_a_trace_that_no_step_reaches_is_said(tmp_path):
    run(tmp_path, toys.settings(steps=3, profile_step=4))
    assert texts(tmp_path, "note") == ["training.profile_step 4 is none of the steps 1 to 3: nothing is traced"]
    assert not (tmp_path / "profile").exists()


def test_no_trace_without_the_knob(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.profiler, "start_trace", None)
    profile = Profile(tmp_path, None, 3)
    for step in range(1, 5):
        profile.before(step)
        assert profile.after(step, None) == ""
    profile.close()


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", None),
        ("cpu", None),
    ],
)
def test_peak_of_a_device(kind, peak):
    assert peak_teraflops(kind) == peak


def test_flops_of_a_step():
    program = jax.jit(lambda a, b: a @ b)
    assert step_teraflops(program, (np.ones((4, 8), np.float32), np.ones((8, 16), np.float32))) == pytest.approx(
        2 * 4 * 8 * 16 * 1e-12
    )
    assert utilization(teraflops=50, seconds=0.5, devices=4, peak=100) == 0.25


def test_utilization_is_logged_where_the_peak_is_known(tmp_path, monkeypatch):
    run(tmp_path / "without", toys.settings())
    assert "mfu" not in losses(tmp_path / "without")[-1]
    monkeypatch.setattr(running, "peak_of_mesh", lambda mesh: 1e-6)
    result = run(tmp_path / "with", toys.settings())
    assert 0 < result.scalars["mfu"] < 1000


def test_first_moment_in_bfloat16_trains_like_float32(tmp_path):
    results = {
        dtype: run(tmp_path / dtype, toys.settings(first_moment_dtype=dtype)) for dtype in ("float32", "bfloat16")
    }
    moments = {dtype: result.state.opt_state["main"][0] for dtype, result in results.items()}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(moments["bfloat16"].mu)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(moments["bfloat16"].nu)} == {"float32"}
    losses_of = {dtype: result.scalars["loss"] for dtype, result in results.items()}
    assert losses_of["bfloat16"] == pytest.approx(losses_of["float32"], rel=1e-2)
    assert not toys.same(results["float32"].state.params, results["bfloat16"].state.params)


def test_settings_by_update_include_the_dtype_of_the_moments():
    settings = toys.settings(updates={"main": {"first_moment_dtype": "bfloat16"}})
    assert dataclasses.replace(settings).for_update("main").first_moment_dtype == "bfloat16"


def test_compiled_programs_next_to_the_run(tmp_path):
    name = "jax_persistent_cache_min_compile_time_secs"
    before = {option: getattr(jax.config, option) for option in (name, "jax_compilation_cache_dir")}
    jax.config.update(name, 0)
    try:
        for stop in (3, None):
            run(tmp_path, toys.settings(keep_compiled=True, stop_after=stop))
            jax.clear_caches()
    finally:
        jax.config.update(name, before[name])
    first, second = (text for text in texts(tmp_path, "run") if text.startswith("first step"))
    assert first.startswith("first step, with compilation, took")
    assert second.startswith(f"first step, with programs from {tmp_path / 'compiled'}, took")
    assert {option: getattr(jax.config, option) for option in before} == before
