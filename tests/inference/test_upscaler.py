"""The upscaler with toy recipes: results do not depend on the tile size, memory does, and files are safe."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from framer_jax.diffusion.noise import noise_window
from framer_jax.images.decode import read_image
from framer_jax.images.image_data import ImageData
from framer_jax.inference.folder import upscale_files
from framer_jax.inference.result_files import sidecar_path
from framer_jax.inference.upscaler import UpscaleSettings, make_upscaler, upscale, upscale_image
from framer_jax.recipes.base import Recipe, StepwiseSampler, Update

SCALE = 2
PARAMS = {"denoiser": {"gain": np.float32(0.5)}}
RNG = np.random.default_rng(0)
SMALL = UpscaleSettings(tile=16, overlap=8, tile_batch=3)


def nearest(lr):
    return jnp.repeat(jnp.repeat(lr, SCALE, 1), SCALE, 2)


def pixelwise(params, frozen, lr, noise):
    """Each output pixel from its own input pixel and its own noise."""
    _, height, width, _ = lr.shape
    drawn = nearest(noise_window(noise, 0, (height, width, 3)) + noise_window(noise, 1, (height, width, 3)))
    return nearest(lr) * params["denoiser"]["gain"] + 0.05 * drawn + frozen["offset"]


def convolved(params, frozen, lr, noise):
    """A 9x9 mean, wrong within four pixels of a tile's border (zero padding)."""
    del noise, params, frozen
    kernel = jnp.full((9, 9, 1, 1), 1 / 81, jnp.float32)
    flat = nearest(lr).transpose(0, 3, 1, 2).reshape(-1, lr.shape[1] * SCALE, lr.shape[2] * SCALE, 1)
    out = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out.reshape(lr.shape[0], 3, *out.shape[1:3]).transpose(0, 2, 3, 1)


def toy(sample=pixelwise, **changes):
    update = Update("all", ("denoiser",), lambda *arguments: None)
    values = {"lr_multiple": 4, "frozen": {"offset": np.float32(0.25)}} | changes
    return Recipe("toy", SCALE, lambda key, batch: PARAMS, (update,), sample, **values)


def photo(height, width):
    return RNG.random((height, width, 3), np.float32)


@pytest.mark.parametrize("size", [(37, 50), (16, 16), (5, 61)])
def test_tile_size_and_batch_do_not_change_a_result(size):
    image = photo(*size)
    expected = upscale(toy(), PARAMS, image, UpscaleSettings(tile=64, overlap=0, seed=3))
    assert expected.shape == (size[0] * SCALE, size[1] * SCALE, 3)
    assert expected.dtype == np.float32
    assert expected.std() > 0.05
    for tile, overlap, batch in [(16, 4, 1), (16, 12, 4), (24, 5, 2), (32, 0, 3)]:
        settings = UpscaleSettings(tile=tile, overlap=overlap, tile_batch=batch, seed=3)
        np.testing.assert_allclose(upscale(toy(), PARAMS, image, settings), expected, atol=2e-6)
    again = upscale(toy(), PARAMS, image, UpscaleSettings(tile=64, overlap=0, seed=3))
    np.testing.assert_array_equal(again, expected)
    assert np.abs(upscale(toy(), PARAMS, image, UpscaleSettings(tile=64, overlap=0, seed=4)) - expected).max() > 0.05


def test_there_are_no_seams():
    image = np.full((40, 40, 3), 0.6, np.float32)  # any structure in the middle is a seam
    recipe = toy(convolved)

    def middle(settings):
        return upscale(recipe, PARAMS, image, settings)[8:-8, 8:-8]

    np.testing.assert_allclose(middle(SMALL), 0.6, atol=1e-3)
    assert np.abs(middle(replace(SMALL, overlap=0)) - 0.6).max() > 0.1  # the test detects seams
    steps = np.abs(np.diff(upscale(recipe, PARAMS, photo(40, 40), SMALL), axis=0)).mean((1, 2))
    borders = np.array([15, 31, 47, 63])  # differences across the first and the last row of a tile
    elsewhere = np.delete(np.arange(len(steps)), borders)[8:-8]
    assert steps[borders].mean() < 1.2 * steps[elsewhere].mean()


def test_one_compilation_for_many_images_and_the_estimate(caplog):
    traced = []

    def counted(params, frozen, lr, noise):
        traced.append(lr.shape)
        return pixelwise(params, frozen, lr, noise)

    upscaler = make_upscaler(toy(counted), SMALL)
    small, large = upscaler.estimate(PARAMS, 40, 40), upscaler.estimate(PARAMS, 400, 400)
    assert small.device == large.device > 0  # depends on the tile, not on the image
    assert large.host == 100 * small.host
    assert (large.batch, large.tile) == (3, (16, 16))
    assert "3 at a time" in str(large)
    upscaler = make_upscaler(toy(lambda *arguments: counted(*arguments)), SMALL)  # another sampler
    with jax.log_compiles(), caplog.at_level("WARNING"):
        upscaler.estimate(PARAMS, 40, 40)
        for size in [(40, 40), (50, 33), (17, 80)]:
            upscaler.run(PARAMS, photo(*size))
    assert traced == [(3, 16, 16, 3)] * 2  # one for each sampler
    # what the estimate compiled is what runs
    assert len([record for record in caplog.records if "Compiling jit(run)" in record.getMessage()]) == 1


def test_progress_counts_tiles():
    calls = []
    upscale(toy(), PARAMS, photo(20, 20), SMALL, lambda done, total: calls.append((done, total)))
    assert calls == [(0, 4), (3, 4), (4, 4)]


def test_mean_mode_and_color_fix():
    recipe = toy(mean=lambda params, frozen, lr, noise: nearest(lr) * 0.5)
    image = photo(10, 12)
    mean = upscale(recipe, PARAMS, image, replace(SMALL, mode="mean"))
    np.testing.assert_allclose(mean, image.repeat(2, 0).repeat(2, 1) * 0.5, atol=1e-6)
    fixed = upscale(recipe, PARAMS, image, replace(SMALL, mode="mean", color_fix="adain"))
    assert np.abs(fixed.mean((0, 1)) - image.mean((0, 1))).max() < 0.01
    assert fixed.min() >= 0
    assert fixed.max() <= 1
    with pytest.raises(ValueError, match="no one-step mean"):
        make_upscaler(toy(), replace(SMALL, mode="mean"))


def exhausted_above(batch, tile):
    def sample(params, frozen, lr, noise):
        if lr.shape[0] > batch or lr.shape[1] > tile:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return pixelwise(params, frozen, lr, noise)

    return toy(sample)


def test_out_of_memory_reduces_the_batch_and_then_the_tile(caplog):
    image = photo(50, 50)
    settings = UpscaleSettings(tile=32, overlap=4, tile_batch=4)
    upscaler = make_upscaler(exhausted_above(1, 16), settings)
    assert upscaler.estimate(PARAMS, 50, 50).device is None
    result = upscaler.run(PARAMS, image)
    assert result.settings == replace(settings, tile=16, tile_batch=1)
    np.testing.assert_allclose(result.pixels, upscale(toy(), PARAMS, image, settings), atol=2e-6)
    assert "tile 32 and tile_batch 1: starting this image again with 16 and 1" in caplog.text
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        upscale(exhausted_above(1, 2), PARAMS, image, settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "fast"}, "'sample' or 'mean'"),
        ({"color_fix": "lab"}, "none, adain, wavelet"),
        ({"tile": 0}, "tile 0"),
        ({"tile": 2.5}, r"tile 2\.5"),
        ({"tile_batch": True}, "tile_batch True"),
        ({"overlap": 128}, "0 to tile - 1 = 127"),
        ({"seed": -1}, "seed -1"),
        ({"color_strength": 2.0}, "between 0 and 1"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        UpscaleSettings(**changes)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.float32), r"shape \(4, 4\)"),
        (np.zeros((4, 0, 3), np.float32), "shape"),
        (np.zeros((4, 4, 3), np.uint8), "dtype uint8"),
        (np.full((4, 4, 3), 200, np.float32), "200 to 200"),
        (np.full((4, 4, 3), np.nan, np.float32), "nan"),
    ],
)
def test_bad_images_are_named(image, message):
    with pytest.raises(ValueError, match=message):
        upscale(toy(), PARAMS, image, SMALL)


def test_bad_recipes_are_named():
    with pytest.raises(ValueError, match="use 16 or 20"):
        make_upscaler(toy(), replace(SMALL, tile=18))
    with pytest.raises(ValueError, match="not finite"):
        upscale(toy(), {"denoiser": {"gain": np.float32("nan")}}, photo(8, 8), SMALL)
    with pytest.raises(ValueError, match=r"gave .* expected"):
        upscale(toy(lambda params, frozen, lr, noise: lr), PARAMS, photo(8, 8), SMALL)


def test_properties_of_an_image_are_kept():
    upscaler = make_upscaler(toy(convolved), SMALL)
    pixels = photo(12, 10)
    plain, _, _ = upscale_image(upscaler, SCALE, PARAMS, ImageData(pixels))
    opaque = ImageData(pixels, np.ones((12, 10), np.float32), "RGBA", b"profile", 16)
    sr, used, _ = upscale_image(upscaler, SCALE, PARAMS, opaque)
    np.testing.assert_array_equal(sr.pixels, plain.pixels)
    assert (sr.alpha.shape, sr.mode, sr.icc, sr.bits, used) == ((24, 20), "RGBA", b"profile", 16, SMALL)


def stepwise(params, frozen, lr, noise, every):
    """A sampler of five steps, whose estimate after k of them is k fifths of the result."""
    sr = convolved(params, frozen, lr, noise)
    return jnp.concatenate([sr, *(sr * (step / 5) for step in range(every, 5, every))], axis=-1)


STEPWISE = StepwiseSampler(5, stepwise)


def test_previews_are_tiled_as_the_result():
    image = photo(37, 30)
    plain = upscale(toy(convolved), PARAMS, image, SMALL)
    result = make_upscaler(toy(convolved, stepwise=STEPWISE), replace(SMALL, preview=2)).run(PARAMS, image)
    np.testing.assert_array_equal(result.pixels, plain)
    assert list(result.previews) == [2, 4]
    for step, pixels in result.previews.items():
        np.testing.assert_allclose(pixels, plain * (step / 5), atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (toy(), {"preview": 1}, "samples in one step"),
        (toy(stepwise=STEPWISE), {"preview": 5}, "must be less than the 5 steps"),
        (toy(stepwise=STEPWISE, mean=pixelwise), {"preview": 1, "mode": "mean"}, "this is mode 'mean'"),
    ],
)
def test_previews_that_there_cannot_be(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        make_upscaler(recipe, replace(SMALL, **changes))
    with pytest.raises(ValueError, match="preview -1 must be"):
        replace(SMALL, preview=-1)


def test_files_of_previews(tmp_path):
    """Next to the result, with records, so that a second run takes none of them for an input and overwrites nothing."""
    Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    recipe, settings = toy(convolved, stepwise=STEPWISE), replace(SMALL, preview=3)

    def run(output="a_large.png", **options):
        return upscale_files(tmp_path / "a.png", tmp_path / output, recipe, PARAMS, settings, **options)

    assert run().written == (tmp_path / "a_large.png",)
    preview = tmp_path / "a_large_step_3.png"
    assert json.loads(sidecar_path(preview).read_text())["preview_after_steps"] == 3
    assert read_image(preview).pixels.shape == read_image(tmp_path / "a_large.png").pixels.shape == (18, 14, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"a_large\.png"):
        run()
    assert run(skip_existing=True).skipped == (tmp_path / "a_large.png",)
    for path in (tmp_path / "a_large.png", sidecar_path(tmp_path / "a_large.png")):
        path.unlink()  # as if a run had ended between its previews and its result
    with pytest.raises(FileExistsError, match=r"a_large_step_3\.png"):
        run()
    assert len(run(skip_existing=True).written) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "a_step_3.png").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(ValueError, match=r"a_step_3\.png would (replace an input|be a result and a preview)"):
        upscale_files(tmp_path, tmp_path / "out", recipe, PARAMS, settings)
    assert not (tmp_path / "out").exists()


def test_a_second_upscaler_of_a_recipe_compiles_nothing():
    traced = []

    def counting(params, frozen, lr, noise):
        traced.append(lr.shape)
        return pixelwise(params, frozen, lr, noise)

    recipe, image = toy(counting), RNG.random((12, 12, 3), np.float32)
    first = upscale(recipe, PARAMS, image, SMALL)
    second = upscale(recipe, PARAMS, image, replace(SMALL, seed=1))
    assert len(traced) == 1
    assert not np.array_equal(first, second)
