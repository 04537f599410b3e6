"""Unsharp masking (USM) of the training target, as in Real-ESRGAN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.degradations.blur import Size, separable_blur

_SIDE = 51  # radius 50, made odd
_SIGMA = 0.3 * ((_SIDE - 1) * 0.5 - 1) + 0.8  # OpenCV's rule for a kernel of this side: 8.0


def sharpen(planes: jax.Array, size: Size | None = None, weight: float = 0.5, threshold: float = 10.0) -> jax.Array:
    """Sharpen an image where it clearly differs from its blurred version.

    Source: Real-ESRGAN's USM (radius 50). The published code filters with a dense 51 × 51 kernel; the kernel is an
    outer product, so two passes along the axes give the same image with a twenty-fifth of the multiplications.

    Args:
      planes: [C, H, W] float32 in [0, 1].
      size: valid (height, width) of the image, if smaller than its canvas; may be traced.
      weight: factor on the difference from the blurred image, which is added.
      threshold: difference from the blurred image, in 8-bit levels, up to which a pixel is not sharpened.

    Returns:
      [C, H, W] float32 in [0, 1]; values outside the valid size are unspecified.
    """
    offsets = np.arange(_SIDE) - _SIDE // 2
    gaussian = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = jnp.asarray(gaussian / gaussian.sum(), jnp.float32)
    residual = planes - separable_blur(planes, weights, weights, size)
    mask = (jnp.abs(residual) * 255.0 > threshold).astype(jnp.float32)
    soft_mask = separable_blur(mask, weights, weights, size)
    sharpened = jnp.clip(planes + weight * residual, 0.0, 1.0)
    return soft_mask * sharpened + (1.0 - soft_mask) * planes
