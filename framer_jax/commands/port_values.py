"""`framer-jax port`: arguments that tensors do not determine, from `--set` and in the files that are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framer_jax.overrides import literal
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import StateDict, WeightMap
from framer_jax.porting.stated import (
    Statement,
    assumption,
    config_entries,
    header_of,
    sidecar_of,
    statement_of,
    write_sidecar,
)
from framer_jax.porting.torch_files import PICKLES, write_state


def read_values(texts: Sequence[str]) -> dict[str, Any]:
    """Values of arguments from NAME=VALUE texts, the values Python literals or plain strings.

    Raises:
      ValueError: a text without '=', or a name that is given twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise ValueError(f"cannot read --set {text!r}: write NAME=VALUE, such as head_width=64")
        if name in values:
            raise ValueError(f"--set {name} is given twice: give it once")
        values[name] = literal(value)
    return values


def option_statements(values: Mapping[str, Any] | None) -> list[Statement]:
    """What the option states."""
    return [Statement("--set", values, strict=True)] if values else []


def write_torch(
    weights: WeightMap, arguments: Mapping[str, Any], state: StateDict, output: Path, form: str
) -> dict[str, Any]:
    """Write a file, or a folder, in PyTorch's names; returns what it states besides its tensors."""
    statement = statement_of(weights, state, arguments)
    if form == "diffusers" and weights.make_config:
        config = weights.make_config(arguments) | config_entries(statement)
        write_folder(output, config, weights.folder_tensors(state), overwrite=True, stem=weights.folder_stem)
        return statement
    write_state(output, state, header_of(statement))
    if output.suffix in PICKLES:
        write_sidecar(output, statement)
    return statement


def statement_facts(
    output: Path, statement: Mapping[str, Any], assumed: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """What a file in PyTorch's names states besides its tensors, where, and which of it was assumed; and notes."""
    if not statement:
        return {}, []
    stated = statement["arguments"]
    facts: dict[str, Any] = {"stated": dict(stated)}
    if output.suffix in PICKLES:
        facts["stated_in"] = sidecar_of(output)
    if not (names := [name for name in assumed if name in stated]):
        return facts, []
    return {**facts, "assumed": {name: stated[name] for name in names}}, [assumption(stated, names)]
