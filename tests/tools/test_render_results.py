"""The tables of docs/results come from their JSON files."""

import json

import pytest

from framer_jax import cli
from tools import render_results
from tools.render_runs import runs_json


def test_pages_are_up_to_date(capsys):
    """No number of a rendered table is typed by hand; `python tools/render_results.py` mends a failure."""
    assert render_results.main(["--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def compared(tmp_path, capsys):
    """The JSON file and the Markdown of `framer-jax compare`."""
    for name, shift in (("base", 0.0), ("framer", 0.5)):
        metrics = {"psnr-y": {"variant": "v", "higher_is_better": True}}
        images = [{"image": str(index), "psnr-y": 20.0 + index + shift * index} for index in range(4)]
        content = {"metadata": {"metrics": metrics, "crop_border": 0, "mod_crop": 1}, "images": images}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "data").mkdir()
    files = [f"{name}={tmp_path / name}.json" for name in ("base", "framer")]
    assert cli.main(["compare", *files, "--markdown", "--json", str(tmp_path / "data" / "c.json")]) == 0
    return tmp_path, capsys.readouterr().out


def test_a_table_is_that_of_compare(compared):
    folder, printed = compared
    page = "# Title\n\n<!-- compare: c.json label=framer -->\nold\n<!-- end -->\n\nText.\n"
    rendered = render_results.render(page, folder / "data")
    table = printed.split("\n\n", 1)[1].strip()
    assert rendered == page.replace("old", table)
    assert "| psnr-y ↑ | 21.5000 | 22.2500 | +0.7500 |" in rendered
    assert render_results.render(rendered, folder / "data") == rendered


def test_stale_pages_are_named_and_written(compared, capsys):
    folder, _ = compared
    page = folder / "page.md"
    page.write_text("<!-- compare: c.json label=framer -->\n<!-- end -->\n")
    assert render_results.main([str(page), "--check"]) == 1
    assert "page.md: not up to date: run tools/render_results.py" in capsys.readouterr().out
    assert "psnr-y" not in page.read_text()
    assert render_results.main([str(page)]) == 0
    assert render_results.main([str(page), "--check"]) == 0
    with pytest.raises(ValueError, match=r"c\.json label=other: c\.json has no 'other'"):
        render_results.render("<!-- compare: c.json label=other -->\n<!-- end -->", folder / "data")


def test_a_table_of_quality(tmp_path):
    (tmp_path / "data").mkdir()
    entry = {"mean": 27.114, "low": 26.5, "high": 27.74, "images": 100}
    content = {"seconds": {"bicubic": 0.05}, "data_sets": {"RealSR": {"bicubic": {"psnr-y": entry}}}}
    (tmp_path / "data" / "q.json").write_text(json.dumps(content))
    page = "<!-- quality: q.json set=RealSR seconds=yes -->\n<!-- end -->"
    assert "| bicubic | 100 | 27.11 (26.50 .. 27.74) | 0.05 |" in render_results.render(page, tmp_path / "data")


def test_a_metric_that_a_row_lacks_is_marked(tmp_path):
    entry = {"mean": 0.25, "low": 0.2, "high": 0.3, "images": 100}
    rows = {"first": {"lpips-alex": entry, "niqe-pyiqa": entry}, "second": {"dists": entry, "niqe-pyiqa": entry}}
    (tmp_path / "q.json").write_text(json.dumps({"seconds": {}, "data_sets": {"RealSR": rows}}))
    rendered = render_results.render("<!-- quality: q.json set=RealSR -->\n<!-- end -->", tmp_path)
    assert "| images | LPIPS ↓ | DISTS ↓ | NIQE ↓ |" in rendered
    assert "| second | 100 | – | 0.250 (0.200 .. 0.300) | 0.25 (0.20 .. 0.30) |" in rendered


def test_a_table_of_plans(tmp_path):
    (tmp_path / "data").mkdir()
    plan = {"topology": "v5e:4x4", "chips": 16, "global_batch": 16, "arguments": 2**30, "temporaries": 2**31}
    plan |= {"flops": 1e12, "traced_flops": 2e12, "collectives": {"all-reduce": [3, 2**20]}}
    plans = [{**plan, "reading": "none", "peak": 2**32}, {**plan, "reading": "paper", "peak": 1.01 * 2**32}]
    (tmp_path / "data" / "p.json").write_text(json.dumps({"plans": plans}))
    rendered = render_results.render("<!-- plans: p.json -->\n<!-- end -->", tmp_path / "data")
    assert "| 16 of v5e:4x4 | 16 | none | 1024 | 2048 | 4096 | 1e+12 | 2e+12 | all-reduce 3 (1) |" in rendered
    assert "|  |  | paper | 1024 | 2048 | 4137 (+1.00%) | 1e+12 |" in rendered


def test_tables_of_an_ablation(tmp_path):
    (tmp_path / "data").mkdir()
    fields = {"higher_is_better": True, "images": 4, "first": 20.0, "second": 20.5, "mean": 0.5, "low": 0.25}
    fields |= {"high": 0.75, "better": 3, "worse": 1, "p_value": 0.625, "runs": [0.25, 0.75]}
    claim = {"claim": "full better than none", "metric": "psnr-y", "verdict": "holds", "difference": fields}
    table = {"reference": "none", "differences": {"full": {"psnr-y": fields}}, "claims": [claim]}
    (tmp_path / "data" / "t.json").write_text(json.dumps({"ablations": [table]}))
    cells = "+0.5000 | +0.2500 .. +0.7500 | 3 of 4 | 0.62 | +0.2500, +0.7500 |"
    for options, row in (
        ("table=0 arm=full", f"| psnr-y ↑ | 20.0000 | 20.5000 | {cells}"),
        ("table=0 claims=all", f"| full better than none | psnr-y ↑ | {cells} holds |"),
    ):
        page = f"<!-- ablation: t.json {options} -->\n<!-- end -->"
        assert row in render_results.render(page, tmp_path / "data")


def test_a_table_of_runs(tmp_path):
    scores = {"bicubic": [{"psnr-y": 24.0}], "base": [{"psnr-y": 25.0}, {"psnr-y": 26.0, "to teacher": 30.0}]}
    (tmp_path / "r.json").write_text(json.dumps(runs_json(scores)))
    rendered = render_results.render("<!-- runs: r.json -->\n<!-- end -->", tmp_path)
    assert "| | runs | psnr-y | to teacher |" in rendered
    assert "| bicubic |  | 24.000 |  |" in rendered
    assert "| base | 2 | 25.500 ± 0.707 | 30.000 |" in rendered
