import numpy as np
import pytest
from PIL import Image

import framer_jax
from framer_jax.inference import model as models
from framer_jax.inference.images import Picture
from tests.support.tiny import photo, weights

SETTINGS = {"mode": "mean", "tile": 16, "overlap": 4, "tile_batch": 2}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def model(path):
    return framer_jax.load_model(path)


def test_a_path_an_array_and_a_picture_give_the_same(model, tmp_path):
    pixels = photo(12, 14)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    floats = pixels.astype(np.float32) / np.float32(255)
    inputs = [tmp_path / "small.png", str(tmp_path / "small.png"), pixels, floats, Picture(floats)]
    results = [framer_jax.upscale(picture, model, **SETTINGS) for picture in inputs]
    for result in results:
        assert isinstance(result, Picture)
        assert result.pixels.shape == (48, 56, 3)
        assert result.pixels.dtype == np.float32
        assert 0 <= result.pixels.min() < result.pixels.max() <= 1
        np.testing.assert_array_equal(result.pixels, results[0].pixels)


def test_settings_are_passed_on(model):
    settings = {**SETTINGS, "mode": "sample"}
    first, second = (framer_jax.upscale(photo(12, 14), model, seed=seed, **settings).pixels for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-3
    with pytest.raises(ValueError, match="unknown mode 'best'"):
        framer_jax.upscale(photo(12, 14), model, mode="best")
    with pytest.raises(TypeError, match="colour"):
        framer_jax.upscale(photo(12, 14), model, colour="none")


def test_what_is_beside_the_colours_is_kept(model, tmp_path):
    rgba = np.dstack([photo(12, 14), np.full((12, 14), 128, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "glass.png")
    large = framer_jax.upscale(tmp_path / "glass.png", model, **SETTINGS)
    framer_jax.write_picture(tmp_path / "large.png", large)
    assert framer_jax.read_picture(tmp_path / "large.png").mode == "RGBA"
    with pytest.raises(FileExistsError):
        framer_jax.write_picture(tmp_path / "large.png", large)
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (56, 48)
        assert image.getpixel((20, 20))[3] == 128


def test_the_starter_is_the_default(path, model, monkeypatch):
    monkeypatch.setattr(models, "STARTER", path)
    default = framer_jax.upscale(photo(12, 14), **SETTINGS).pixels
    np.testing.assert_array_equal(default, framer_jax.upscale(photo(12, 14), model, **SETTINGS).pixels)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((12, 14), np.float32), r"image of shape \(12, 14\): give \[height, width, 3\]"),
        (np.zeros((12, 14, 4), np.uint8), r"image of shape \(12, 14, 4\)"),
        (np.full((12, 14, 3), 255.0), r"image values from 255 to 255: give float32 in \[0, 1\]"),
        (np.full((12, 14, 3), 200, np.int64), "image values from 200 to 200"),
        (np.full((12, 14, 3), np.nan, np.float32), "image values from nan to nan"),
    ],
)
def test_bad_arrays(array, message, model):
    with pytest.raises(ValueError, match=message):
        framer_jax.upscale(array, model, **SETTINGS)


def test_bad_paths(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: no such image"):
        framer_jax.upscale(tmp_path / "nothing.png", model)
    with pytest.raises(ValueError, match="is a folder"):
        framer_jax.upscale(str(tmp_path), model)
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        framer_jax.load_model(tmp_path / "nothing.safetensors")
