"""Exact sizes, textures whose edges meet, and transparency by the network."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import uniform_filter

import framer_jax
from framer_jax.diffusion.noise import noise_window
from framer_jax.images.image_data import ImageData
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.inference.result_image import MARGIN
from framer_jax.inference.result_settings import FileSettings, ResultSettings
from framer_jax.inference.upscaler import make_upscaler, upscale_image
from tests.inference.test_upscaler import PARAMS, RNG, SCALE, SMALL, convolved, nearest, toy


def repeated(params, frozen, lr, noise):
    return nearest(lr)


def drawing(params, frozen, lr, noise):
    """Detail of its own at every place."""
    _, height, width, _ = lr.shape
    return jnp.clip(nearest(lr) + 0.2 * nearest(noise_window(noise, 0, (height, width, 3))), 0, 1)


def run(sample, image, **settings):
    recipe = toy(sample)
    upscaler = make_upscaler(recipe, SMALL)
    return upscale_image(upscaler, SCALE, PARAMS, image, result=ResultSettings(**settings)).image


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"outscale": 1.5}, (30, 45)),
        ({"outscale": 0.5}, (10, 15)),
        ({"width": 40}, (27, 40)),
        ({"height": 33}, (33, 50)),
        ({"width": 17, "height": 31}, (31, 17)),
        ({"outscale": 3}, (60, 90)),
        ({}, (40, 60)),
        ({"outscale": 0.01}, (1, 1)),
    ],
)
def test_results_have_the_size_that_was_asked_for(settings, size):
    pixels = RNG.random((20, 30, 3), np.float32)
    result = run(repeated, ImageData(pixels, np.float32(RNG.random((20, 30))), "RGBA"), **settings)
    assert result.shape[:2] == result.alpha.shape == size
    assert ResultSettings(**settings).size(20, 30, SCALE) == size


def test_a_reduction_is_antialiased():
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, ::2] = 1
    reduced = run(repeated, ImageData(stripes), outscale=0.4)
    np.testing.assert_allclose(reduced.pixels[:, 2:-2], 0.5, atol=0.1)


def test_colors_of_transparent_pixels_do_not_bleed_into_a_reduction():
    pixels, alpha = np.zeros((16, 16, 3), np.float32), np.zeros((16, 16), np.float32)
    pixels[:, :8, 0], pixels[:, 8:, 1], alpha[:, :8] = 1, 1, 1
    result = run(repeated, ImageData(pixels, alpha, "RGBA"), outscale=0.75, alpha="network")
    visible = result.alpha > 0.02
    assert result.pixels[visible][:, 1].max() < 0.01
    assert result.pixels[visible][:, 0].min() > 0.99


@pytest.mark.parametrize("size", [(40, 56), (5, 9)])
def test_a_texture_is_filtered_as_if_it_went_on(size):
    pixels = RNG.random((*size, 3), np.float32)
    expected = uniform_filter(pixels.repeat(SCALE, 0).repeat(SCALE, 1), (9, 9, 1), mode="wrap")
    upscaler_settings = {"wrap": True}
    np.testing.assert_allclose(run(convolved, ImageData(pixels), **upscaler_settings).pixels, expected, atol=0.08)
    inner = np.abs(run(convolved, ImageData(pixels)).pixels - expected).max()
    assert inner > 0.2  # without, the edges see zeros


@pytest.mark.parametrize("further", [{}, {"outscale": 1.25}])
def test_edges_of_a_texture_meet_where_the_network_draws(further):
    pixels = np.full((48, 48, 3), 0.5, np.float32)
    smooth = uniform_filter(RNG.random((48, 48, 3), np.float32), (9, 9, 1), mode="wrap")

    def seam(image):
        return np.abs(image[0] - image[-1]).mean() / np.abs(np.diff(image, axis=0)).mean()

    for image in (pixels, smooth):
        result = run(drawing, ImageData(image), wrap=True, **further).pixels
        assert seam(result) < 2.0
        assert seam(result.swapaxes(0, 1)) < 2.0
    assert MARGIN % 32 == 0  # whole windows and latents of all recipes


def test_alpha_goes_through_the_network_on_demand():
    pixels, alpha = RNG.random((12, 12, 3), np.float32), np.float32(RNG.random((12, 12)))
    image = ImageData(pixels, alpha, "RGBA")
    result = run(repeated, image, alpha="network")
    np.testing.assert_allclose(result.alpha, alpha.repeat(SCALE, 0).repeat(SCALE, 1), atol=1e-6)
    assert np.abs(run(repeated, image).alpha - result.alpha).max() > 0.1
    opaque = run(repeated, image._replace(alpha=np.ones_like(alpha)), alpha="network", outscale=1.5)
    np.testing.assert_array_equal(opaque.alpha, np.ones((18, 18)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"outscale": 0}, "outscale 0 must be a number above 0"),
        ({"outscale": float("nan")}, "outscale nan"),
        ({"outscale": 2, "width": 3}, "exclude each other"),
        ({"width": 0}, "width 0 must be a whole number"),
        ({"height": 2.5}, "height 2.5 must be a whole number"),
        ({"alpha": "nearest"}, "unknown alpha 'nearest'"),
        ({"wrap": "yes"}, "wrap 'yes'"),
        ({"strength": 1.5}, "strength 1.5 must be a number from 0"),
        ({"strength": True}, "strength True"),
    ],
)
def test_sizes_that_are_none_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ResultSettings(**settings)


def test_strength_is_the_share_of_the_model():
    pixels = RNG.random((12, 18, 3), np.float32)
    model, smooth = (run(repeated, ImageData(pixels), strength=strength).pixels for strength in (1.0, 0.0))
    assert np.array_equal(model, run(repeated, ImageData(pixels)).pixels)
    np.testing.assert_array_equal(smooth, np.clip(upsample_bicubic(pixels, SCALE), 0, 1))
    half = run(repeated, ImageData(pixels), strength=0.25).pixels
    expected = np.clip(0.25 * model + 0.75 * upsample_bicubic(pixels, SCALE), 0, 1)
    np.testing.assert_allclose(half, expected, atol=1e-6)
    wrapped = run(repeated, ImageData(pixels), strength=0.5, wrap=True, outscale=1.5)
    assert wrapped.pixels.shape == (18, 27, 3)


def test_results_that_are_too_large_are_refused():
    with pytest.raises(ValueError, match="more than 1048576 pixels"):
        ResultSettings(outscale=1e6).size(20, 30, 4)
    with pytest.raises(ValueError, match="quality 101 must be a whole number from 1 to 100"):
        FileSettings(quality=101)


def test_notes_on_sizes():
    assert ResultSettings(outscale=2.5).note(20, 30, 4) == ""
    assert "enlarged by interpolation" in ResultSettings(width=200).note(20, 30, 4)
    assert "aspect ratio was changed, from 30:20 to 10:10" in ResultSettings(width=10, height=10).note(20, 30, 4)


def test_the_python_api_takes_sizes(tmp_path):
    Image.fromarray(np.uint8(RNG.integers(0, 255, (12, 16, 3)))).save(tmp_path / "a.png", dpi=(300, 300))
    image = framer_jax.upscale(tmp_path / "a.png", outscale=np.float32(2.5), mode="mean", tile=32)
    assert image.shape == (30, 40, 3)
    framer_jax.write_image(tmp_path / "b.webp", image, quality=40)
    framer_jax.write_image(tmp_path / "c.webp", image, quality=90, strip_metadata=True)
    assert (tmp_path / "b.webp").stat().st_size < (tmp_path / "c.webp").stat().st_size
    np.testing.assert_allclose(framer_jax.read_image(tmp_path / "b.webp").metadata.dpi, 300, atol=0.02)
    assert framer_jax.read_image(tmp_path / "c.webp").metadata.dpi is None
    with pytest.raises(ValueError, match="PNG has no quality"):
        framer_jax.write_image(tmp_path / "d.png", image, quality=90)
    with pytest.raises(TypeError, match="'outscal'"):
        framer_jax.upscale(tmp_path / "a.png", outscal=2)
