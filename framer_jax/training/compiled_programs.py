"""Compiled programs next to the run, for machines whose other folders do not outlive them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

FOLDER = "compiled"
"""Folder of the compiled programs in a work directory."""


@contextmanager
def programs_kept_in(folder: Path | None) -> Iterator[None]:
    """Within the block, JAX's compilation cache is in `folder`; None: it stays where it is.

    JAX's key covers the program, its version and XLA's, the devices and the options: what does not match is compiled.
    On several hosts, the first one writes.
    """
    if folder is None:
        yield
        return
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    _use(str(folder))
    try:
        yield
    finally:
        _use(before)


def _use(folder: str | None) -> None:
    compilation_cache.reset_cache()  # or JAX keeps using the one that it opened first
    jax.config.update("jax_compilation_cache_dir", folder)


def number_of_programs(folder: Path | None, function: str) -> int:
    """How many programs of a jitted function a folder has; 0 if there is none."""
    return sum(1 for _ in folder.glob(f"jit_{function}-*-cache")) if folder is not None and folder.is_dir() else 0
