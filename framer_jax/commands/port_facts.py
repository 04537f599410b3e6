"""`framer-jax port`: the facts that it prints about what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.porting.files import sha256_of


def written_facts(output: Path, model: str, parameters: int) -> dict[str, Any]:
    """What was written: file, checksum, model and number of parameters."""
    return {"written": output, "sha256": sha256_of(output), "model": model, "parameters": f"{parameters:,}"}


def described_source(source: dict[str, Any]) -> dict[str, Any]:
    """Source files with their checksums, what was chosen and assumed, and the parts that were left out."""
    lines = {f"source {number}": f"{file['file']}  {file['sha256']}" for number, file in enumerate(source["files"], 1)}
    if source.get("removed"):
        lines["removed"] = ", ".join(source["removed"])
    if source.get("dropped"):
        lines["dropped"] = f"{source['dropped']} constants that the model computes itself"
    # Other notes have the key 'note'; keys must differ, and those of files are numbered too.
    lines |= {f"note {number}": note for number, note in enumerate(source.get("notes", ()), 1)}
    return lines


def count_parameters(leaves: dict[str, Any]) -> int:
    """Numbers in all arrays."""
    return sum(int(np.size(leaf)) for leaf in leaves.values())
