"""Color fixes against the reference, and bicubic upsampling against jax.image."""

import json

import jax
import numpy as np
import pytest

from framer_jax.diffusion.tiles import gaussian_profile
from framer_jax.inference.color_fix import adain, fix_color, low_pass, wavelet
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.inference.tiler import tile_weights


@pytest.fixture(scope="module")
def case(fixtures):
    with np.load(fixtures / "color_fix.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def tolerance(case, name):
    return json.loads(str(case["meta"]))["float32_vs_float64"][name]["atol"]


@pytest.mark.parametrize(("name", "function"), [("out/adain", adain), ("out/wavelet", wavelet)])
def test_equals_the_reference(case, name, function):
    for channel in range(3):
        result = function(case["in/output"][0, channel], case["in/source"][0, channel])
        assert result.dtype == np.float32
        assert np.abs(result - case[name][0, channel]).max() <= tolerance(case, name)


def test_low_and_high_bands_equal_the_reference(case):
    for channel in range(3):
        output = case["in/output"][0, channel]
        low = low_pass(output)
        assert np.abs(output - low - case["out/high"][0, channel]).max() <= tolerance(case, "out/high")
        assert np.abs(low - case["out/low"][0, channel]).max() <= tolerance(case, "out/low")


@pytest.mark.parametrize("size", [64, 32])
def test_reference_tile_weights_up_to_a_factor(case, size):
    name = f"out/tile_weights_{size}x{size}"
    weights = tile_weights(size, size, reference_midpoint=True)
    factor = case[name].max() / weights.max()
    assert np.abs(weights * factor - case[name]).max() <= tolerance(case, name)
    symmetric = tile_weights(size, size)
    np.testing.assert_allclose(symmetric, symmetric[::-1, ::-1], rtol=1e-12)
    np.testing.assert_allclose(symmetric, symmetric.T, rtol=1e-12)
    assert gaussian_profile(5)[2] == 1


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bicubic_equals_jax(scale):
    image = np.random.default_rng(0).random((7, 5, 3), np.float32)
    expected = jax.image.resize(image, (7 * scale, 5 * scale, 3), "cubic-pytorch", antialias=False)
    np.testing.assert_allclose(upsample_bicubic(image, scale), expected, atol=2e-6)
    np.testing.assert_array_equal(upsample_bicubic(image[:, :, 0], scale), upsample_bicubic(image, scale)[:, :, 0])
    assert upsample_bicubic(np.ones((1, 1), np.float32), scale) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_a_constant_color_is_restored(method):
    rng = np.random.default_rng(1)
    low = np.broadcast_to(np.float32([0.2, 0.5, 0.9]), (6, 8, 3))
    output = np.float32(0.4) + rng.normal(0, 0.001, (24, 32, 3)).astype(np.float32)
    fixed = fix_color(output, low, method, 4)
    np.testing.assert_allclose(fixed.mean((0, 1)), [0.2, 0.5, 0.9], atol=1 / 255)


def test_strength_and_out():
    rng = np.random.default_rng(2)
    low, output = rng.random((4, 5, 3), np.float32), rng.random((16, 20, 3), np.float32)
    fixed = fix_color(output, low, "adain", 4)
    np.testing.assert_allclose(fix_color(output, low, "adain", 4, 0.5), (fixed + output) / 2, atol=1e-6)
    np.testing.assert_array_equal(fix_color(output, low, "adain", 4, 0.0), output)
    np.testing.assert_array_equal(fix_color(output, low, "none", 4), output)
    other = np.empty_like(output)
    np.testing.assert_array_equal(fix_color(output, low, "none", 4, out=other), output)
    copy = output.copy()
    assert fix_color(copy, low, "adain", 4, out=copy) is copy
    np.testing.assert_array_equal(copy, fixed)


def test_bad_input():
    low, output = np.zeros((4, 5, 3), np.float32), np.zeros((16, 20, 3), np.float32)
    with pytest.raises(ValueError, match="none, adain, wavelet"):
        fix_color(output, low, "lab", 4)
    with pytest.raises(ValueError, match="2 times"):
        fix_color(output, low, "adain", 2)
    assert np.isfinite(adain(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))).all()
