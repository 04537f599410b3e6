import pytest

from tools import benchmark_one_pass as tool


def test_ratios_compare_calls_of_the_same_round_and_what_is_left_out_is_said():
    seconds = {"framer_jax": [1.0, 2.0, 4.0], "eager": [2.0, 4.0, 8.0]}
    programs = {
        name: {"seconds": values, "first_seconds": 1.5, "relative_error": 1e-6} for name, values in seconds.items()
    }
    case = {"network": "srvgg-general", "size": 16, "programs": programs, "notes": ["openvino: openvino not installed"]}
    report = {"threads": 2, "clock": "wall", "others_load": None, "versions": {"jax": "1"}, "cases": [case]}
    *_, first, second, _, title, note = tool.markdown(report).splitlines()
    assert first.startswith("| srvgg-general | 16 | framer_jax | 2000.0 (1500.0 to 3000.0) | 1.00 x | 1.5 s |")
    assert second.startswith("| srvgg-general | 16 | eager | 4000.0 (3000.0 to 6000.0) | 2.00 x |")
    assert (title, note) == ("Left out:", "- srvgg-general: openvino: openvino not installed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--networks", "edsr"], "'edsr' is none of srvgg-general"),
        (["--programs", "eager"], "framer_jax, which must be among them"),
        (["--sizes", "128,x"], "give sides in pixels"),
        (["--rounds", "1"], "--rounds must be at least 3"),
        (["--clock", "processor", "--threads", "2"], "add --threads 1"),
    ],
)
def test_wrong_options_are_named(words, message, capsys):
    with pytest.raises(SystemExit):
        tool.parse(words)
    assert message in capsys.readouterr().err


def test_rounds_fit_into_the_time(monkeypatch):
    moments = iter([0.0, 10.0])
    monkeypatch.setattr(tool.time, "perf_counter", lambda: next(moments))
    programs = {"framer_jax": tool.Program(lambda: None, lambda: None, 0.0)}
    assert tool._rounds(programs, tool.parse(["--seconds", "100"])) == 8
    moments = iter([0.0, 1000.0])
    assert tool._rounds(programs, tool.parse([])) == tool.FEWEST_ROUNDS
