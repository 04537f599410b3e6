"""Random words for each pixel from its position and its image's seed, independent of canvas, device and batch.

JAX's own generators number the elements of an array, so a pixel's draw would depend on the width of its canvas. A hash
of (row, column, seed) does not, costs a tenth of threefry on a CPU, and is integer arithmetic, bitwise equal
everywhere. The hash is pcg4d of Jarzynski and Olano, "Hash Functions for GPU Rendering" (JCGT 9(3), 2020).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_MULTIPLIER, _INCREMENT = 1664525, 1013904223  # of the 32-bit linear congruential generator (Numerical Recipes)


def hash_four(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, ...]:
    """Hash four uint32 arrays of one shape to four uint32 arrays."""

    def mix(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, ...]:
        a = a + b * d
        b = b + c * a
        c = c + a * b
        return a, b, c, d + b * c

    words = (word * jnp.uint32(_MULTIPLIER) + jnp.uint32(_INCREMENT) for word in (a, b, c, d))
    return mix(*(word ^ (word >> 16) for word in mix(*words)))


def pixel_words(seed: jax.Array, planes: jax.Array, height: int, width: int) -> jax.Array:
    """Random words of an image.

    Args:
      seed: the image's seed, [2] uint32.
      planes: number of each plane, [C] uint32; planes with the same number get the same words.
      height: height of the canvas; a pixel's words do not depend on it.
      width: width of the canvas, likewise.

    Returns:
      [C, height, width] uint32.
    """
    shape = (planes.shape[0], height, width)
    axes = (jnp.arange(height, dtype=jnp.uint32), jnp.arange(width, dtype=jnp.uint32), seed[0] + planes)
    rows, columns, first = (
        jax.lax.broadcast_in_dim(values, shape, (axis,)) for values, axis in zip(axes, (1, 2, 0), strict=True)
    )
    return hash_four(rows, columns, first, jnp.broadcast_to(seed[1], shape))[0]


def fold_seed(seed: jax.Array, words: jax.Array) -> jax.Array:
    """Fold words [2] into a seed [2]: a new seed [2] uint32."""
    return jnp.stack(hash_four(seed[0], seed[1], words[0], words[1])[:2])
