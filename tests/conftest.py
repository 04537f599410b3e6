"""A strict session: eight fake CPU devices, no implicit promotion, warnings are errors (pyproject.toml)."""

import os
import sys
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs that run once on tiny shapes need no optimised machine code: compiling them takes half the time, and with
# XLA's older emitter of fused loops less than half of that (jaxlib 0.12 ends the process at this flag; 0.11 was not
# tried). Not with `-m slow`: published scores are met to the last digit by users' emitter, which rounds otherwise. What
# the caller's XLA_FLAGS say comes last and wins, e.g. --xla_backend_optimization_level=3.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        f"--xla_cpu_use_fusion_emitters={str('slow' in sys.argv).lower()}"
        * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)),
        os.environ.get("XLA_FLAGS", ""),
    ]
)

from pathlib import Path

import hypothesis
import jax
import pytest

from tests.support.paths import FIXTURES, ROOT, SHARED

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is most of the suite's time; a second run takes it from here. Each process of pytest-xdist has its own: one
# that reads what another is writing would warn.
CACHE = ROOT / ".pytest_cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# The same examples in every run: what fails on one machine fails on all. `-m slow` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
if "slow" not in sys.argv:
    hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The parity fixtures that the repository carries."""
    return FIXTURES


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder beside the project; tests that need it are skipped (and marked slow) where it is not."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared folder beside the project")
    return SHARED
