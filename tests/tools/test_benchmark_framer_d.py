"""The benchmark of FRAMER_D's step with a tiny model."""

import json

import jax
import pytest

from tools import benchmark_framer_d as tool
from tools.timing import time_alternately


def test_programs_alternate_and_every_round_starts_with_the_next_one():
    calls = []
    times = time_alternately({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=1, warm_up=2)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys("abc", 1)


@pytest.mark.slow  # compiles the step of every variant
def test_all_variants_take_steps_on_one_state(tmp_path, capsys):
    options = ["--tiny", "--set", "training.mesh.data=1", "--batch", "2", "--steps", "3", "--warm-up", "1"]
    assert tool.main([*options, "--readings", "none", "released", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["batch"], report["tiny"], len(report["devices"])) == (2, True, jax.device_count())
    none, released = report["readings"]["none"], report["readings"]["released"]
    for measurement in (none, released):
        assert len(measurement["seconds"]) == 3 and min(measurement["seconds"]) > 0
        assert measurement["compile_seconds"] > 0
        assert measurement["peak"] is None  # a CPU does not report it
    assert released["plan"] > none["plan"] > 2 * 2 * 8 * 8 * 16 * 4  # more than the latents
    printed = capsys.readouterr().out
    assert "framer_d_sd35 (tiny), batch 2" in printed and "released" in printed


def test_refused_options(capsys):
    assert tool.main(["--tiny", "--batch", "3"]) == 2
    assert "benchmark_framer_d: training.global_batch 3 is not divisible by 8 devices" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["--tiny", "--steps", "0"])
