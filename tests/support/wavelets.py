"""The inverse wavelet transform, for tests."""

import numpy as np
import pywt


def reconstruct(bands, wavelet, size, padding_mode):
    """PyWavelets' inverse of `framer_jax.frequency.wavelets.decompose`: [B, H, W, C] float64, for `size` (H, W)."""
    low = np.asarray(bands.low, np.float64)
    details = [tuple(np.asarray(band, np.float64) for band in detail) for detail in bands.details]
    image = pywt.waverec2([low, *details], wavelet, padding_mode, axes=(1, 2))
    return image[:, : size[0], : size[1]]
