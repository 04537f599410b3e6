"""JAX's persistent compilation cache, so that a program is compiled once and not in every process."""

from __future__ import annotations

import os
from pathlib import Path


def keep_compiled_programs() -> None:
    """Enable the cache, unless the user or the calling program has configured it, or there is no home folder.

    Programs that take half a second or more to compile are kept in $XDG_CACHE_HOME/framer_jax/compiled, or
    ~/.cache/framer_jax/compiled. JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false
    turns it off.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framer_jax" / "compiled"
    except RuntimeError:  # no HOME, and no entry for the user
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
