"""Files that `framer-jax port` wrote, also with the names of older versions."""

import numpy as np
import pytest

from framer_jax.models.dit4sr_transformer import DiT4SRTransformer
from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.swinir import SwinIR
from framer_jax.porting.table import MAPS, RENAMED_ARGUMENTS, RENAMED_MODELS, arguments_in, map_named, read_ported
from framer_jax.porting.weights import save_weights

PARAMS = {"layer": {"kernel": np.ones((2, 3), np.float32)}}
MODULES = {"dit4sr_transformer": DiT4SRTransformer, "resshift_unet": SwinUNet, "swinir": SwinIR}


def test_names_of_older_versions_become_present_ones(tmp_path):
    path = tmp_path / "old.safetensors"
    arguments = {"depth": 3, "compatibility": "released", "reading": "joint", "strength": 1.0}
    save_weights(path, PARAMS, {"model": "dit4sr", "arguments": arguments, "source": {"files": []}})
    for name in ("dit4sr", "dit4sr_transformer"):
        ported = read_ported(name, path)
        assert ported.arguments == {"depth": 3, "variant": "released", "lr_attention": "joint", "control_scale": 1.0}
    with pytest.raises(ValueError, match="holds dit4sr_transformer, not mmdit"):
        read_ported("mmdit", path)
    assert map_named("dit4sr") is MAPS["dit4sr_transformer"]


def test_present_names_and_lists(tmp_path):
    metadata = {"model": "swinir", "arguments": {"depths": [2, 1], "image_channels": 1}}
    assert arguments_in(metadata) == {"depths": (2, 1), "image_channels": 1}
    old = {"model": "swinir", "arguments": {"depths": [2, 1], "colours": 1}}
    assert arguments_in(old) == arguments_in(metadata)


def test_a_trained_recipe_is_not_a_ported_file(tmp_path):
    save_weights(tmp_path / "run.safetensors", PARAMS, {"config": {}})
    with pytest.raises(ValueError, match="holds a trained recipe, not swinir"):
        read_ported("swinir", tmp_path / "run.safetensors")


@pytest.mark.parametrize("name", RENAMED_ARGUMENTS)
def test_present_names_are_those_of_the_modules(name):
    fields = MODULES[name].__dataclass_fields__
    assert set(RENAMED_ARGUMENTS[name].values()) <= fields.keys()
    assert not set(RENAMED_ARGUMENTS[name]) & fields.keys()
    assert set(RENAMED_MODELS.values()) <= MAPS.keys()
