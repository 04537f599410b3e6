import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.inference import model as models
from framer_jax.inference.model import BEST, LAST, load_model, save_model, settings_for
from framer_jax.inference.upscaler import UpscaleSettings
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.base import expected_params
from framer_jax.version import __version__
from tests.support.tiny import config, weights


@pytest.fixture
def path(tmp_path):
    return weights(tmp_path / LAST)


def test_a_model_comes_back(path):
    model = load_model(path)
    stored, _ = load_weights(path)
    assert model.recipe.name == "resshift"
    assert model.metadata == {"config": config(), "step": 0, "framer_jax_version": __version__}
    assert model.path == path
    np.testing.assert_array_equal(model.params["denoiser"]["conv_in"]["bias"], stored["denoiser"]["conv_in"]["bias"])


def test_only_what_sampling_needs_is_written(path):
    model = load_model(path)
    params = {**model.params, "framer_heads": {"head_0": {"kernel": np.zeros((2, 2), np.float32)}}}
    save_model(path, model.recipe, params, model.metadata)
    assert set(load_model(path).params) == {"denoiser"}


def test_a_training_directory_gives_its_newest_weights(path, tmp_path):
    weights(tmp_path / BEST)
    assert load_model(tmp_path).path == path
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no weights\.safetensors: give a weights file or the dir"):
        load_model(tmp_path / "empty")


def test_no_path_is_the_default_model(path, tmp_path, monkeypatch):
    monkeypatch.setitem(models.SHIPPED, models.DEFAULT, path)
    assert load_model().path == path
    monkeypatch.setitem(models.SHIPPED, models.DEFAULT, tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors: no such weight file"):
        load_model()


def test_weights_without_a_configuration(tmp_path):
    save_weights(tmp_path / LAST, {"denoiser": {"bias": np.zeros(3, np.float32)}}, {})
    with pytest.raises(ValueError, match=r"weights\.safetensors: the weights carry no configuration"):
        load_model(tmp_path)


@pytest.mark.parametrize("broken", [{}, {"recipe": {"space": {}}}, {"recipe": None}, None])
def test_weights_with_a_configuration_of_another_version(path, broken):
    params, metadata = load_weights(path)
    save_weights(path, params, {**metadata, "config": broken})
    with pytest.raises(ValueError, match=r"configuration is of another version or damaged .* framer_jax \d"):
        load_model(path)


def test_weights_of_another_model(path):
    params, metadata = load_weights(path)
    wider = config("recipe.denoiser.unet.channels=(8, 16)")
    save_weights(path, params, {**metadata, "config": wider})
    with pytest.raises(ValueError, match=r"weights\.safetensors does not fit this model; .*of another shape .*middle"):
        load_model(path)


def test_expected_params_are_those_of_init(path):
    recipe = build_recipe(config()["recipe"])
    assert set(expected_params(recipe)) == set(recipe.exported)
    shapes = {leaf.shape for leaf in expected_params(recipe)["denoiser"]["conv_in"].values()}
    assert shapes == {(3, 3, 48, 8), (8,)}


def test_settings_suit_the_model(path, tmp_path):
    local = load_model(path)
    multiple = local.recipe.lr_multiple
    assert settings_for(local) == UpscaleSettings()
    assert settings_for(local, tile=16, overlap=None, seed=3) == UpscaleSettings(
        tile=16, overlap=min(8, 16 - multiple), seed=3
    )
    widespread = load_model(weights(tmp_path / "dit.safetensors", "recipe.denoiser.name=dit", "data.crop=128"))
    assert settings_for(widespread) == UpscaleSettings(tile=32, overlap=16)
    assert settings_for(widespread, tile=64, overlap=4) == UpscaleSettings(tile=64, overlap=4)
    with pytest.raises(ValueError, match="tile 'large' must be a whole number"):
        settings_for(local, tile="large")
