"""The benchmark of FRAMER_D's step, on a model for a CPU."""

import json

import jax
import pytest

from tools import benchmark_framer_d as tool
from tools.timing import in_turn


def test_rounds_are_interleaved_and_begin_with_another_program_each():
    calls = []
    times = in_turn({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=1, warm_up=2)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys("abc", 1)


def test_all_readings_take_steps_on_one_state(tmp_path, capsys):
    words = ["--tiny", "--set", "training.mesh.data=1", "--batch", "2", "--steps", "3", "--warm-up", "1"]
    assert tool.main([*words, "--readings", "none", "released", "--json", str(tmp_path / "facts.json")]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["batch"], facts["tiny"], len(facts["devices"])) == (2, True, jax.device_count())
    none, released = facts["readings"]["none"], facts["readings"]["released"]
    for one in (none, released):
        assert len(one["seconds"]) == 3 and min(one["seconds"]) > 0 and one["compile_seconds"] > 0
        assert one["peak"] is None  # a CPU does not tell
    assert released["plan"] > none["plan"] > 2 * 2 * 8 * 8 * 16 * 4  # more than the latents
    said = capsys.readouterr().out
    assert "framer_d_sd35.py (tiny), batch 2" in said and "released" in said


def test_what_cannot_be_measured(capsys):
    assert tool.main(["--tiny", "--batch", "3"]) == 2
    assert "benchmark_framer_d: global_batch 3 is not divisible by 8 devices" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["--tiny", "--steps", "0"])
