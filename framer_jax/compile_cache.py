"""JAX's persistent compilation cache, so that a program is compiled once and not in every process."""

from __future__ import annotations

import logging
import os
from pathlib import Path


def keep_compiled_programs() -> None:
    """Enable the cache, unless the user or the calling program has configured it; warns if it has no place.

    Programs that take half a second or more to compile are kept in $XDG_CACHE_HOME/framer_jax/compiled, or
    ~/.cache/framer_jax/compiled. JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false
    turns it off.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    cache = _cache_folder()
    if cache is None:
        logging.getLogger(__name__).warning(
            "there is no home folder to keep compiled programs in, so each run compiles its own: set HOME or "
            "JAX_COMPILATION_CACHE_DIR to a folder that can be written"
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _cache_folder() -> Path | None:
    """Where compiled programs are kept; None without a place that can be written."""
    base = cache_base()
    if base is None:
        return None
    existing = next((folder for folder in (base, *base.parents) if folder.exists()), base)
    return base / "framer_jax" / "compiled" if existing.is_dir() and os.access(existing, os.W_OK) else None


def cache_base() -> Path | None:
    """The user's folder for caches; None for a user without a home folder, as in some containers and batch jobs."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # not set, or to be ignored, as its specification says
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # neither HOME nor an entry of this user
            return None
    return base if base.is_absolute() else None  # it is not if HOME is empty
