"""ResShift's protocol next to the default one."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from framer_jax.cli import main
from framer_jax.inference.model import load_model, settings_for
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.tiler import plan_strided_tiles, uniform_blend_weights
from framer_jax.inference.upscaler import UpscaleSettings, check_settings, reduced_settings, upscale
from framer_jax.recipes.table import upscale_protocols
from tests.inference.test_upscaler import PARAMS, SCALE, photo, toy
from tests.support.tiny import config, photos, ported


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 6), st.data())
def test_starts_are_those_of_the_released_code(length, quarter, data):
    tile = 4 * quarter
    stride = data.draw(st.integers(1, tile))
    plan = plan_strided_tiles(length, 3, tile, tile - stride, 4)
    grid = plan.grid
    if length <= tile:
        assert (grid.rows, grid.tile[0], grid.shape[0]) == (
            (0,),
            -(-length // 4) * 4,
            -(-length // 4) * 4,
        )
    else:
        expected = sorted({min(start, length - tile) for start in range(0, length, stride)})
        assert (list(grid.rows), grid.tile[0], grid.shape[0]) == (expected, tile, length)
    total = np.zeros(grid.shape[0] * 2)
    for start, profile in zip(grid.rows, uniform_blend_weights(plan, 2).rows, strict=True):
        total[2 * start : 2 * start + len(profile)] += profile
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)


def test_the_published_settings():
    model = load_model()
    for tile, stride in ((512, 448), (256, 224), (64, 48)):
        upscale_settings = settings_for(model, protocol="resshift", tile=tile)
        assert (upscale_settings.tile, upscale_settings.overlap) == (tile, tile - stride)
    assert settings_for(model, protocol="resshift").tile == 512
    assert settings_for(model).protocol == "framer_jax"
    assert PROTOCOLS["resshift"].tile(2) == 1024  # the original's sides are of ×4


def without_noise(params, frozen, lr, noise):
    return np.float32(1.5) * lr.repeat(SCALE, 1).repeat(SCALE, 2) - np.float32(0.25)


def test_tiles_are_clipped_and_averaged():
    image = photo(21, 11)
    upscaled = upscale(toy(without_noise), PARAMS, image, UpscaleSettings(tile=8, overlap=3, protocol="resshift"))
    expected = np.clip(1.5 * image - 0.25, 0, 1).repeat(SCALE, 0).repeat(SCALE, 1)
    np.testing.assert_allclose(upscaled, expected, atol=1e-6)


def test_each_tile_has_noise_of_its_own():
    key, numbers, origins = jax.random.key(0), np.arange(3), np.array([[0, 0], [0, 4], [4, 0]], np.int32)
    keys, places = PROTOCOLS["resshift"].noise(key, numbers, origins)
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 3
    assert not places.any()
    keys, places = PROTOCOLS["framer_jax"].noise(key, numbers, origins)
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 1
    np.testing.assert_array_equal(places, origins)


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match=r"protocol.*stablesr.*framer_jax, resshift"):
        UpscaleSettings(protocol="stablesr")
    with pytest.raises(ValueError, match="protocol 'resshift' has no"):
        UpscaleSettings(protocol="resshift", color_fix="wavelet")
    with pytest.raises(ValueError, match="tile 30 is no multiple of the recipe's lr_multiple 4"):
        check_settings(toy(), UpscaleSettings(tile=30, overlap=2, protocol="resshift"))
    strided = UpscaleSettings(tile=64, overlap=16, tile_batch=2, protocol="resshift")
    assert reduced_settings(toy(), strided).tile_batch == 1
    assert reduced_settings(toy(), reduced_settings(toy(), strided)) is None  # another tile would be another protocol


def test_published_weights_on_the_command_line(tmp_path, capsys):
    """A denoiser and an autoencoder as `framer-jax port` writes them, by the names of their files alone."""
    small = photos(tmp_path / "photos", count=1, size=(10, 12))
    model = ported(tmp_path / "denoiser.safetensors", "resshift_unet", "resshift_realsrx4_s2_v1.pth")
    ported(tmp_path / "vq.safetensors", "vq_f4")
    recipe = tmp_path / "configs" / "small.py"
    recipe.parent.mkdir()
    changed = config("recipe.denoiser.name=resshift_unet", "recipe.space.name=vq_f4", "recipe.resshift.residual=False")
    recipe.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    config = ConfigDict({changed!r})\n    return config\n"
    )
    command = ["upscale", str(small), str(tmp_path / "out"), "--weights", str(model), "--tile", "8"]
    assert main(command) != 0
    assert "name one with --recipe" in capsys.readouterr().err
    assert main([*command, "--set", "recipe.space.checkpoint=x"]) != 0
    assert "give --recipe too" in capsys.readouterr().err
    assert main([*command, "--recipe", str(recipe)]) != 0
    assert "recipe.space.checkpoint is empty" in capsys.readouterr().err
    autoencoder = f"recipe.space.checkpoint={tmp_path / 'vq.safetensors'}"
    assert main([*command, "--recipe", str(recipe), "--set", autoencoder, "--protocol", "resshift"]) == 0
    with Image.open(tmp_path / "out" / "photo_0.png") as upscaled:
        assert upscaled.size == (48, 40)


@pytest.mark.parametrize("name", ["dit4sr", "tsd_sr", "osediff"])
def test_autoencoders_take_the_tiles_that_the_released_scripts_name(name):
    assert upscale_protocols()[name].autoencoder_tiles == (1024, 1792)
