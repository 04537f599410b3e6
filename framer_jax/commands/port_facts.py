"""`framer-jax port`: the facts about what it wrote, as values, and as the lines that it prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.porting.files import sha256_of

Facts = dict[str, Any]
"""Name → value: numbers, texts, and lists and dicts of them."""


def written_facts(output: Path, model: str, parameters: int) -> Facts:
    """What was written: file, checksum, model and number of parameters."""
    return {"written": output, "sha256": sha256_of(output), "model": model, "parameters": parameters}


def source_facts(source: Mapping[str, Any], notes: Sequence[str] = ()) -> Facts:
    """Source files with their checksums, the parts that were left out, what was assumed, and notes; nothing empty.

    Args:
      source: as of framer_jax.porting.table.Ported.
      notes: further notes, after those of the source.
    """
    facts = {"sources": list(source["files"]), "removed": list(source.get("removed", ()))}
    facts |= {"dropped": source.get("dropped", 0), "notes": [*source.get("notes", ()), *notes]}
    return {name: value for name, value in facts.items() if value}


def as_lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and text of every line that is printed."""
    for name, value in facts.items():
        if name == "sources":
            for number, file in enumerate(value, 1):
                yield f"source {number}", f"{file['file']}  {file['sha256']}"
        elif name == "notes":
            for number, note in enumerate(value, 1):
                yield f"note {number}", note
        elif name != "assumed":  # a note says it
            yield name.replace("_", " "), TEXTS.get(name, str)(value)


def count_parameters(leaves: dict[str, Any]) -> int:
    """Numbers in all arrays."""
    return sum(int(np.size(leaf)) for leaf in leaves.values())


def _checked(value: Mapping[str, Any]) -> str:
    return (
        f"{value['layers']} layers, relative differences up to {value['largest']:.1e} ({value['layer']}); "
        f"output {value['output']:.1e}"
    )


TEXTS: Mapping[str, Callable[[Any], str]] = {
    "parameters": "{:,}".format,
    "arguments": json.dumps,
    "checked": _checked,
    "stated": lambda values: ", ".join(f"{name} {value!r}" for name, value in values.items()),
    "removed": ", ".join,
    "dropped": lambda count: f"{count} constants that the model computes itself",
}
"""Fact → its text, where that is not `str`."""
