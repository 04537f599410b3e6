"""Wavelet bands against PyWavelets and the fixture; the latent codec."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.frequency import wavelets
from framer_jax.frequency.wavelets import IMAGE_SCALE, RESIDUAL_SCALE, WaveletBands, WaveletCodec

CODECS = [WaveletCodec(), WaveletCodec(scale=RESIDUAL_SCALE), WaveletCodec(1, (2.0, 0.5, 0.25, 0.125))]


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def flat(bands):
    return [bands.low, *itertools.chain.from_iterable(bands.details)]


@given(rows=st.integers(1, 3), columns=st.integers(1, 3), levels=st.integers(1, 3), colours=st.integers(1, 3))
@settings(deadline=None, max_examples=12)
def test_haar_by_slices_equals_pywt_and_inverts(rows, columns, levels, colours):
    image = draw((2, rows * 2**levels, columns * 2**levels, colours))
    bands = wavelets.haar_decompose(image, levels)
    low, *details = pywt.wavedec2(image, "haar", "periodization", levels, axes=(1, 2))
    for mine, theirs in zip(flat(bands), flat(WaveletBands(low, tuple(details))), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)
    np.testing.assert_allclose(wavelets.haar_reconstruct(bands), image, atol=2e-6)
    energy = sum(float(np.square(band).sum()) for band in flat(bands))
    assert energy == pytest.approx(float(np.square(image).sum()), rel=1e-5)  # orthonormal


@pytest.mark.parametrize("size", [(24, 32), (21, 27)])
@pytest.mark.parametrize("mode", wavelets.BORDER_MODES)
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
def test_other_wavelets_equal_pywt_and_invert(wavelet, mode, size):
    image = draw((1, *size, 2))
    bands = wavelets.decompose(image, wavelet, 2, mode)
    low, *details = pywt.wavedec2(image, wavelet, mode, 2, axes=(1, 2))
    for mine, theirs in zip(flat(bands), flat(WaveletBands(low, tuple(details))), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    np.testing.assert_allclose(wavelets.reconstruct(bands, wavelet, size, mode), image, atol=1e-5)


@pytest.mark.parametrize("mode", wavelets.BORDER_MODES)
def test_other_wavelets_run_inside_a_program(mode):
    image = draw((2, 16, 24, 3))
    there_and_back = jax.jit(
        lambda x: wavelets.reconstruct(wavelets.decompose(x, "db2", 2, mode), "db2", (16, 24), mode)
    )
    np.testing.assert_allclose(there_and_back(image), image, atol=1e-5)


def test_fixture(fixtures):
    case = np.load(fixtures / "dwt_pywt.npz", allow_pickle=False)
    tolerance = json.loads(str(case["meta"]))["float32_vs_float64"]
    image = case["in/img"].transpose(0, 2, 3, 1)
    results = {
        "haar_periodization": wavelets.haar_decompose(image, 2),
        "haar_symmetric": wavelets.decompose(image, "haar", 2),
        "db2_symmetric": wavelets.decompose(image, "db2", 2),
    }
    for name, bands in results.items():
        expected = {"level2/LL": bands.low}
        for level, detail in zip((2, 1), bands.details, strict=True):
            expected |= {f"level{level}/{band}": value for band, value in detail._asdict().items()}
        for band, value in expected.items():
            key = f"out/{name}/{band}"
            error = np.abs(np.asarray(value).transpose(0, 3, 1, 2) - case[key]).max()
            assert error <= tolerance[key]["atol"], (key, error)


@pytest.mark.parametrize("codec", CODECS)
def test_codec_inverts_exactly(codec):
    image = draw((2, 12, 8, 3))
    latent = jax.jit(wavelets.encode, static_argnums=1)(image, codec)
    factor = 2**codec.levels
    assert latent.shape == (2, 12 // factor, 8 // factor, 3 * factor**2)
    assert latent.dtype == jnp.float32
    np.testing.assert_allclose(wavelets.decode(latent, codec), image, atol=3e-6)
    half = jnp.asarray(image, jnp.bfloat16)
    assert wavelets.decode(wavelets.encode(half, codec).astype(jnp.bfloat16), codec).dtype == jnp.float32
    np.testing.assert_allclose(wavelets.encode(wavelets.decode(latent, codec), codec), latent, atol=3e-5)


def test_codec_acts_on_the_coarsest_blocks_alone():
    image = np.zeros((1, 8, 12, 3), np.float32)
    image[0, 4:, 4:8] = draw((4, 4, 3))
    latent = np.array(wavelets.encode(image, WaveletCodec()))
    assert np.abs(latent[0, 1, 1]).min() > 0
    latent[0, 1, 1] = 0
    assert not latent.any()


def test_channels_are_the_documented_bands():
    codec = WaveletCodec()
    image = draw((1, 8, 8, 3))
    latent = np.asarray(wavelets.encode(image, codec))
    bands = flat(wavelets.haar_decompose(image, 2))
    channel_bands = wavelets.band_of_channel(codec)
    assert channel_bands.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 12 + [5] * 12 + [6] * 12
    for index, (band, scale) in enumerate(zip(bands, IMAGE_SCALE, strict=True)):
        mine = latent[..., channel_bands == index]
        side = band.shape[1] // 2
        for row, column in itertools.product(range(side), range(side)):
            start = 3 * (row * side + column)
            np.testing.assert_allclose(
                mine[..., start : start + 3], band[:, row::side, column::side] / scale, rtol=1e-5, atol=1e-6
            )


def test_measured_scale_gives_unit_variance():
    images = [draw((16, 24, 3), 1), 3 * draw((2, 9, 13, 3), 2)]
    codec = WaveletCodec(2, wavelets.measure_scale(images))
    latents = [np.asarray(wavelets.encode(image[None], codec)) for image in images[:1]]
    latents.append(np.asarray(wavelets.encode(images[1][:, :8, :12], codec)))
    channel_bands = wavelets.band_of_channel(codec)
    for band in range(7):
        values = np.concatenate([latent[..., channel_bands == band].ravel() for latent in latents])
        assert values.std() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.slow
def test_ready_scales_fit_photographs(shared):
    from PIL import Image

    paths = sorted((shared / "data" / "eval" / "Set14").glob("HR/*.png"))[:5]
    photos = [np.asarray(Image.open(path).convert("RGB"))[:256, :256] / 127.5 - 1 for path in paths]
    ratio = np.array(wavelets.measure_scale(photos)) / np.array(IMAGE_SCALE)
    assert ((ratio > 0.4) & (ratio < 2.5)).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wavelets.haar_decompose(draw((1, 10, 8, 3)), 2), "multiples of 4"),
        (lambda: wavelets.haar_decompose(draw((8, 8, 3)), 1), r"\[B, H, W, C\]"),
        (lambda: wavelets.haar_decompose(np.zeros((1, 8, 8, 3), np.uint8), 1), "uint8"),
        (lambda: wavelets.haar_decompose(draw((1, 8, 8, 3)), 0), "levels"),
        (lambda: wavelets.decompose(draw((1, 8, 8, 3)), "db2", 1, "periodic"), "symmetric, reflect, zero"),
        (lambda: wavelets.decompose(draw((1, 8, 8, 3)), "db2", 1, "constant"), "constant"),
        (lambda: wavelets.decompose(draw((1, 8, 8, 3)), "db77"), "db77"),
        (lambda: wavelets.decompose(draw((1, 8, 8, 3)), "db2", 0), "levels"),
        (lambda: wavelets.decompose(draw((8, 8)), "db2"), r"\[B, H, W, C\]"),
        (lambda: wavelets.decompose(np.zeros((1, 8, 8, 3), np.uint8), "db2"), "uint8"),
        (lambda: wavelets.reconstruct(wavelets.decompose(draw((1, 8, 8, 1))), "haar", (9, 8)), "larger"),
        (lambda: wavelets.encode(draw((1, 8, 8, 3)), WaveletCodec(2, (1.0,) * 4)), "7 scales"),
        (lambda: wavelets.decode(draw((1, 2, 2, 12)), WaveletCodec()), "multiple of 16"),
        (lambda: wavelets.measure_scale([]), "no image"),
        (lambda: wavelets.measure_scale([np.zeros((8, 8, 3))]), "constant"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
