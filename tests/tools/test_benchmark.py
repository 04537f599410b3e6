import argparse
import json

import pytest

from tools import benchmark as tool
from tools import render_results
from tools.benchmarks import primitives


def program(*seconds, first=2.0, temporaries=2**21):
    return {
        "median_seconds": sorted(seconds)[len(seconds) // 2],
        "seconds": list(seconds),
        "first_seconds": first,
        "temporaries": temporaries,
        "relative_error": None,
    }


CASE = {"programs": {"framer_jax": program(0.1, 0.2, 0.4), "eager": program(0.2, 0.3, 0.8)}, "notes": []}


@pytest.fixture
def cases(monkeypatch):
    """Stand-ins for two cases, and the names of those that were measured."""
    measured = []

    def one(arguments: argparse.Namespace):
        measured.append("vq-encode")
        return CASE

    def missing(arguments: argparse.Namespace):
        raise ImportError("sinsr-1 needs PyTorch")

    monkeypatch.setattr(tool, "CASES", {"vq-encode": one, "sinsr-1": missing})
    monkeypatch.setattr(tool, "limit_threads", lambda arguments: None)
    return measured


def test_cases_are_kept_and_those_that_cannot_run_are_named(cases, tmp_path, capsys):
    output = tmp_path / "b.json"
    words = [str(output), "--cases", "sinsr-1", "vq-encode"]
    assert tool.main(words) == 1
    assert "benchmark: sinsr-1: sinsr-1 needs PyTorch" in capsys.readouterr().err
    report = json.loads(output.read_text())
    assert report["cases"]["vq-encode"]["programs"] == CASE["programs"]
    assert report["cases"]["vq-encode"]["what"] == tool.WHAT["vq-encode"]
    assert tool.main([str(output), "--cases", "vq-encode"]) == 0
    assert cases == ["vq-encode"]  # once


def test_figures_of_other_options_are_not_mixed(cases, tmp_path, capsys):
    output = tmp_path / "b.json"
    assert tool.main([str(output), "--cases", "vq-encode"]) == 0
    other = [str(output), "--cases", "vq-encode", "--threads", "1", "--clock", "processor"]
    assert tool.main(other) == 2
    assert (
        "b.json was measured with threads None, not 1: choose another file, or --overwrite" in capsys.readouterr().err
    )
    assert tool.main([*other, "--overwrite"]) == 0
    assert json.loads(output.read_text())["clock"] == "processor"
    output.write_text("{}")
    assert tool.main(other) == 2
    assert "is no file of this tool" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--programs", "framer_jax,tensorflow"], "'tensorflow' is none of framer_jax"),
        (["--rounds", "1"], "--rounds must be at least 3"),
        (["--clock", "processor"], "add --threads 1"),
        (["--cases", "edsr"], "invalid choice: 'edsr'"),
    ],
)
def test_wrong_options_are_named(words, message, capsys):
    with pytest.raises(SystemExit):
        tool.parse(["b.json", *words])
    assert message in capsys.readouterr().err


def test_every_case_is_described():
    assert tool.CASES.keys() == tool.WHAT.keys()


def test_tables_of_the_page(tmp_path):
    step = {"programs": {"none": program(1.0, 1.0, 2.0), "paper": program(1.1, 1.2, 2.2)}, "images": 16, "notes": []}
    run = {"programs": {"steps": program(0.5)}, "shares": {"data": 0.004, "degradation": 0.2}, "notes": ["40 steps"]}
    cases = {"vq-encode": {"what": "encode", **CASE}, "step": {"what": "U-Net", **step}, "run": {"what": "R", **run}}
    (tmp_path / "b.json").write_text(json.dumps({"cases": cases}))
    page = "".join(
        f"<!-- {kind}: b.json cases={name} -->\n<!-- end -->\n"
        for kind, name in (("peers", "vq-encode"), ("steps", "step"), ("shares", "run"))
    )
    rendered = render_results.render(page, tmp_path)
    assert "| encode | 200 (100 to 400) | 2.00× | 2.0 | 2 |" in rendered  # the range of three calls
    assert "| U-Net | 1000 (1000 to 2000) | 16.0 | 1.10× | 1.00× | 2.0, 2.0 |" in rendered
    assert "| R | 40 steps | 500 | 0.4% | 20.0% |" in rendered


def test_batches_of_different_work_are_compared_by_their_means(tmp_path):
    case = {**CASE, "what": "batches", "statistic": "mean"}
    (tmp_path / "b.json").write_text(json.dumps({"cases": {"d": case}}))
    rendered = render_results.render("<!-- peers: b.json cases=d -->\n<!-- end -->", tmp_path)
    assert "| batches | 233 (100 to 400) | 1.86× | 2.0 | 2 |" in rendered


@pytest.mark.parametrize("name", primitives.CASES)
def test_primitives_without_their_peers_are_measured_and_said(name, monkeypatch):
    monkeypatch.setattr(primitives, "SIDE", 32)
    monkeypatch.setattr(primitives, "NEEDS", {"kornia": ("no_such_package",)})
    arguments = argparse.Namespace(programs=["framer_jax", "kornia"], rounds=3, seconds=1.0, threads=1, clock="wall")
    case = tool.CASES[name](arguments)
    assert list(case["programs"]) == ["framer_jax"]
    assert len(case["programs"]["framer_jax"]["seconds"]) == 3
    assert case["notes"] == ["kornia: no_such_package not installed"]


@pytest.mark.slow
def test_what_needs_no_peer_is_measured(tmp_path):
    output = tmp_path / "b.json"
    cases = ["srvgg-general", "degradation-1", "run"]
    words = ["--cases", *cases, "--programs", "framer_jax", "--rounds", "3", "--seconds", "5"]
    assert tool.main([str(output), *words]) == 0
    report = json.loads(output.read_text())["cases"]
    assert list(report) == cases
    for case in report.values():
        assert all(value > 0 for value in next(iter(case["programs"].values()))["seconds"])
    assert 0 <= report["run"]["shares"]["data"] < 1
