import numpy as np
import pytest

from framer_jax.evaluation.band_discrepancy import (
    BANDS,
    FREQUENCIES,
    RINGS,
    band_discrepancy,
    power_spectrum,
)

RNG = np.random.default_rng(0)


def wave(cycles):
    """A horizontal cosine of some cycles over 32 pixels, around 0.5, as a batch of one image."""
    row = 0.5 + 0.2 * np.cos(2 * np.pi * cycles * np.arange(32) / 32)
    return np.broadcast_to(row[None, None, :, None], (1, 32, 32, 3)).astype(np.float32)


def ring_of(cycles):
    """The ring of a frequency of some cycles over 32 pixels; 16 is the Nyquist frequency."""
    return min(int(cycles / 16 * RINGS), RINGS - 1)


def test_equal_images_have_no_discrepancy():
    images = RNG.random((2, 16, 24, 3), np.float32)
    wavelet, fourier = band_discrepancy(images, images)
    assert wavelet.shape == (len(BANDS), 2) and fourier.shape == (RINGS, 2)
    np.testing.assert_array_equal(wavelet, 0)
    np.testing.assert_array_equal(fourier, 0)


def test_a_scaled_image_has_the_same_discrepancy_in_all_bands():
    images = RNG.random((2, 16, 24, 3), np.float32)
    for values in band_discrepancy(images * np.float32(0.75), images):
        np.testing.assert_allclose(values, 0.25, rtol=1e-4)


def test_a_wave_changes_its_own_ring():
    noise = RNG.random((1, 32, 32, 3), np.float32)
    change = wave(9) - 0.5
    fourier = band_discrepancy(noise + change, noise).fourier[:, 0]
    assert fourier[ring_of(9)] > 0.5
    np.testing.assert_allclose(np.delete(fourier, ring_of(9)), 0, atol=1e-4)


@pytest.mark.parametrize("cycles", [3, 9, 16])
def test_power_lies_in_the_ring_of_its_frequency(cycles):
    power = power_spectrum(wave(cycles) - np.float32(0.5))[:, 0]
    assert np.argmax(power) == ring_of(cycles)
    assert power[ring_of(cycles)] > 0.999 * power.sum()
    assert abs(FREQUENCIES[ring_of(cycles)] - cycles / 16) <= 0.5 / RINGS + 1e-9


def test_smooth_images_differ_in_low_bands_only():
    image = wave(1)
    wavelet = dict(zip(BANDS, band_discrepancy(image + np.float32(0.1), image).wavelet[:, 0], strict=True))
    assert wavelet["LL2"] > 0.1
    assert max(value for name, value in wavelet.items() if name != "LL2") < 1e-3


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        band_discrepancy(wave(1), wave(1)[:, :16])
    with pytest.raises(ValueError, match="multiple"):
        band_discrepancy(wave(1)[:, :30], wave(1)[:, :30])
