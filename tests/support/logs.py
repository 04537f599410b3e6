"""Reading the logs of training runs."""

import json
from pathlib import Path


def read_json_lines(path):
    """The entries of a log of JsonLinesWriter, without texts."""
    entries = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if "text" not in entry]
