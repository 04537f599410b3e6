"""Fill the tables of docs/results, docs/benchmarks.md and the model cards from the JSON files that commands wrote.

    python tools/render_results.py [--check] [PAGE …]

A table stands between two comments, of which the first names its kind, its file and its options. The files are in
docs/results/data, or in a folder `data` next to the page:

    <!-- ablation: framer_u_multistep.json table=0 arm=full -->
    <!-- compare: framer_u_full_contrastive.json label=full -->
    <!-- quality: quality.json set=RealSR-crops -->
    <!-- peers: benchmarks.json cases=vq-encode,vq-decode -->
    <!-- end -->

`ablation` is the table.json of `framer-jax ablate`, with the number of one of its tables, and one arm or `claims=all`;
`compare` is a file of `framer-jax compare --json`, with the label of one model; `quality` is the summary.json of
tools/quality_table.py, with one set of photographs; `peers`, `steps` and `shares` are the file of tools/benchmark.py,
with some of its cases; `plans` is one of tools/compile_for_topology.py; `runs` is one of tools/compare_runs.py.
`--check` writes nothing, and fails if one is stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from framer_jax.commands.compare import differences_markdown
from framer_jax.evaluation.comparison import DIFFERENCE_HEADINGS, Difference, difference_cells
from framer_jax.evaluation.report import Summary, metric_heading
from framer_jax.porting.files import atomic_write
from tools.quality_scores import summary_markdown
from tools.render_benchmarks import peers_table, shares_table, steps_table
from tools.render_plans import plans_table
from tools.render_runs import runs_table

ROOT = Path(__file__).resolve().parents[1]
DOCS, CARDS = ROOT / "docs", ROOT / "framer_jax" / "weights"
DATA = DOCS / "results" / "data"


def main(command_line: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fill the tables of the documentation and of the model cards.")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="Markdown files; default: all of them")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    arguments = parser.parse_args(command_line)
    stale = []
    for page in arguments.pages or [*sorted(DOCS.rglob("*.md")), *sorted(CARDS.glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        folders = (page.parent / "data", DATA)
        rendered = render(text, next(folder for folder in folders if folder.is_dir()))
        if rendered == text:
            continue
        stale.append(page)
        if not arguments.check:
            with atomic_write(page) as temporary:
                temporary.write_text(rendered, encoding="utf-8")
    for page in stale:
        print(f"{page.name}: {'not up to date: run tools/render_results.py' if arguments.check else 'written'}")
    return int(bool(stale) and arguments.check)


def render(text: str, data: Path) -> str:
    """A page with its tables filled.

    Args:
      text: the page.
      data: folder of the JSON files.

    Raises:
      ValueError: a block of another form, or one that names what its file does not have.
    """

    def filled(block: re.Match[str]) -> str:
        file, *options = block["words"].split()
        named = dict(option.partition("=")[::2] for option in options)
        content = json.loads((data / file).read_text(encoding="utf-8"))
        try:
            table = TABLES[block["kind"]](content, named)
        except KeyError as error:
            raise ValueError(f"{block['words']}: {file} has no {error}") from error
        return f"<!-- {block['kind']}: {block['words']} -->\n{table.strip()}\n<!-- end -->"

    return BLOCK.sub(filled, text)


def compare_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """The differences of one model from the reference."""
    label = options["label"]
    return _differences(content["reference"]["label"], label, content["differences"][label])


def _differences(first: str, second: str, of_metric: Mapping[str, Mapping[str, Any]]) -> str:
    return differences_markdown(first, second, [_difference(metric, fields) for metric, fields in of_metric.items()])


def _difference(metric: str, fields: Mapping[str, Any]) -> Difference:
    return Difference(metric=metric, **{**_numbers(fields), "runs": tuple(fields["runs"])})


def ablation_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """The differences of one arm from the reference arm, or all claims with their verdicts."""
    ablation = content["ablations"][int(options["table"])]
    if "arm" in options:
        return _differences(ablation["reference"], options["arm"], ablation["differences"][options["arm"]])
    rows = []
    for claim in ablation["claims"]:
        entry = _difference(claim["metric"], claim["difference"])
        heading = metric_heading(entry.metric, entry.higher_is_better)
        rows.append([claim["claim"], heading, *difference_cells(entry), claim["verdict"]])
    lines = [["claim", "metric", *DIFFERENCE_HEADINGS, "verdict"], ["---"] * (3 + len(DIFFERENCE_HEADINGS)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def quality_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """The means of all models on one set of photographs."""
    rows = {
        label: {metric: Summary(**_numbers(entry)) for metric, entry in summary.items()}
        for label, summary in content["data_sets"][options["set"]].items()
    }
    return summary_markdown(rows, content["seconds"] if "seconds" in options else {})


def _numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a JSON file, whose null is NaN."""
    return {name: float("nan") if value is None else value for name, value in entry.items()}


TABLES: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], str]] = {
    "ablation": ablation_table,
    "compare": compare_table,
    "quality": quality_table,
    "peers": peers_table,
    "steps": steps_table,
    "shares": shares_table,
    "plans": plans_table,
    "runs": runs_table,
}
"""Kind of a block → (content of its file, its options) → the table as Markdown."""

BLOCK = re.compile(
    rf"<!-- (?P<kind>{'|'.join(TABLES)}): (?P<words>[^\n]+?) -->\n.*?<!-- end -->",
    re.DOTALL,
)


if __name__ == "__main__":
    sys.exit(main())
