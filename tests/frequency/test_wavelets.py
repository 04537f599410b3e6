"""Wavelet bands, compared with PyWavelets and the fixture, and the latent codec."""

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
from tests.support.wavelets import reconstruct

CODECS = [WaveletCodec(), WaveletCodec(scale=RESIDUAL_SCALE), WaveletCodec(1, (2.0, 0.5, 0.25, 0.125))]


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def flat(bands):
    return [bands.low, *itertools.chain.from_iterable(bands.details)]


@given(rows=st.integers(1, 3), columns=st.integers(1, 3), levels=st.integers(1, 3), colors=st.integers(1, 3))
@settings(deadline=None, max_examples=12)
def test_haar_by_slices_equals_pywt_and_inverts(rows, columns, levels, colors):
    image = draw((2, rows * 2**levels, columns * 2**levels, colors))
    bands = wavelets.haar_decompose(image, levels)
    low, *details = pywt.wavedec2(image, "haar", "periodization", levels, axes=(1, 2))
    for mine, theirs in zip(flat(bands), flat(WaveletBands(low, tuple(details))), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)
    np.testing.assert_allclose(wavelets.haar_reconstruct(bands), image, atol=2e-6)
    energy = sum(float(np.square(band).sum()) for band in flat(bands))
    assert energy == pytest.approx(float(np.square(image).sum()), rel=1e-5)  # orthonormal


@pytest.mark.parametrize("size", [(24, 32), (21, 27)])
@pytest.mark.parametrize("padding_mode", wavelets.PADDING_MODES)
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
def test_other_wavelets_equal_pywt_and_invert(wavelet, padding_mode, size):
    image = draw((1, *size, 2))
    bands = wavelets.decompose(image, wavelet, 2, padding_mode)
    low, *details = pywt.wavedec2(image, wavelet, padding_mode, 2, axes=(1, 2))
    for mine, theirs in zip(flat(bands), flat(WaveletBands(low, tuple(details))), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    np.testing.assert_allclose(reconstruct(bands, wavelet, size, padding_mode), image, atol=1e-5)


@pytest.mark.parametrize("padding_mode", wavelets.PADDING_MODES)
def test_other_wavelets_run_under_jit(padding_mode):
    image = draw((2, 16, 24, 3))
    bands = jax.jit(lambda x: wavelets.decompose(x, "db2", 2, padding_mode))(image)
    np.testing.assert_allclose(reconstruct(bands, "db2", (16, 24), padding_mode), image, atol=1e-5)


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


def test_codec_maps_each_block_to_one_latent_position():
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


def test_the_scales_are_those_that_published_weights_were_trained_with():
    """The starter's latents are divided by them: with other numbers its images would be wrong without a word."""
    assert IMAGE_SCALE == (2.0018, 0.28427, 0.26675, 0.15024, 0.12704, 0.11914, 0.059332)
    assert RESIDUAL_SCALE == (0.13929, 0.22856, 0.21211, 0.14590, 0.11580, 0.10812, 0.058867)


def band_standard_deviations(images, levels=2):
    """How `IMAGE_SCALE` was measured: standard deviations over all pixels and color channels of images [H, W, C]."""
    values = [[] for _ in range(3 * levels + 1)]
    for image in images:
        height, width = (side - side % 2**levels for side in image.shape[:2])
        for band, pooled in zip(
            flat(wavelets.haar_decompose(image[None, :height, :width], levels)), values, strict=True
        ):
            pooled.append(np.ravel(band))
    return tuple(float(np.concatenate(pooled).std()) for pooled in values)


def test_standard_deviations_of_the_bands_give_latents_of_unit_variance():
    images = [draw((16, 24, 3), 1), 3 * draw((9, 13, 3), 2), 3 * draw((9, 13, 3), 3)]
    codec = WaveletCodec(2, band_standard_deviations(images))
    cropped = [images[0], *(image[:8, :12] for image in images[1:])]
    latents = [np.asarray(wavelets.encode(image[None], codec)) for image in cropped]
    channel_bands = wavelets.band_of_channel(codec)
    for band in range(7):
        values = np.concatenate([latent[..., channel_bands == band].ravel() for latent in latents])
        assert values.std() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.slow
def test_the_image_scale_fits_photographs(shared):
    from PIL import Image

    paths = sorted((shared / "data" / "eval" / "Set14").glob("HR/*.png"))[:5]
    photos = [np.asarray(Image.open(path).convert("RGB"))[:256, :256] / 127.5 - 1 for path in paths]
    ratio = np.array(band_standard_deviations(photos)) / np.array(IMAGE_SCALE)
    assert ((ratio > 0.4) & (ratio < 2.5)).all()


def mismatched():
    """Bands that broadcast against each other."""
    low, narrow = draw((1, 2, 4, 3)), draw((1, 2, 1, 3))
    return WaveletBands(low, (wavelets.Detail(low, low, narrow),))


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
        (lambda: wavelets.encode(draw((1, 8, 8, 3)), WaveletCodec(2, (1.0,) * 4)), "7 scales"),
        (lambda: wavelets.decode(draw((1, 2, 2, 12)), WaveletCodec()), "multiple of 16"),
        (lambda: wavelets.haar_reconstruct(mismatched()), "differ in shape"),
    ],
)
def test_bad_input_raises_an_error_that_names_it(call, words):
    with pytest.raises(ValueError, match=words):
        call()
