"""Fixtures of hostile inputs."""

import pytest

from framer_jax.commands import upscale
from framer_jax.inference.model import Model
from tests.inference.test_upscaler import PARAMS
from tests.support.tiny import config
from tests.support.toy_command import RECIPE


@pytest.fixture
def toy_model(monkeypatch, tmp_path):
    """The model that the upscale command uses whatever its arguments say."""
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    model = Model(RECIPE, PARAMS, {"config": config()}, tmp_path / "w.safetensors")
    monkeypatch.setattr(upscale, "open_model", lambda *arguments, **options: model)
    return model
