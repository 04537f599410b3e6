"""`framer-jax port --to published`: a run as the single file that its method's authors publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framer_jax.checkpoints.merge import published_content
from framer_jax.commands.port_facts import source_facts, written_facts
from framer_jax.porting.files import sha256_of
from framer_jax.porting.torch_files import write_pickle


def port_to_published(
    model: str,
    paths: Sequence[Path],
    output: Path,
    original: str | None = None,
    variant: str = "",
    alpha: float | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a run as the single file that its method's authors publish; returns the facts to print.

    Args:
      model: name of the weight map of the network that the file's LoRAs lie on.
      paths: the run's weights file.
      output: the file to write, *.pkl.
      original: as of `port_to_jax`, as are the others: none of them may be given.
      variant: see there.
      alpha: see there.
      values: see there.

    Raises:
      ValueError, FileNotFoundError, ImportError: an argument that this form does not take, a run without such a file,
        or PyTorch is not installed.
    """
    for option, value in {"check": original, "variant": variant, "alpha": alpha, "set": values}.items():
        if value:
            raise ValueError(f"--to published writes a run as it is: omit --{option}")
    if len(paths) != 1:
        raise ValueError("--to published takes one file of a run of framer_jax")
    content = published_content(paths[0], model)
    write_pickle(output, content)
    tensors = [value for state in content.values() if isinstance(state, dict) for value in state.values()]
    facts = written_facts(output, f"LoRAs of {model}", sum(value.size for value in tensors))
    source = {"file": paths[0].name, "sha256": sha256_of(paths[0])}
    return facts | {"tensors": len(tensors)} | source_facts({"files": [source]})
