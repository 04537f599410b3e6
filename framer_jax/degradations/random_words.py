"""Random words for each pixel, from its place and its image's seed: the same on any canvas, device and in any batch.

JAX's own generators number the elements of an array, so a pixel's draw would depend on the width of the canvas it lies
on. A hash of (row, column, seed) does not, costs a tenth of threefry on a CPU, and stays integer arithmetic, equal to
the bit everywhere. The hash is pcg4d of Jarzynski and Olano, "Hash Functions for GPU Rendering" (JCGT 9(3), 2020).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_MULTIPLIER, _INCREMENT = 1664525, 1013904223  # of the 32-bit linear congruential generator (Numerical Recipes)


def hash_four(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, ...]:
    """Four well mixed uint32 arrays of four uint32 arrays of one shape."""

    def mixed(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, ...]:
        a = a + b * d
        b = b + c * a
        c = c + a * b
        return a, b, c, d + b * c

    words = (word * jnp.uint32(_MULTIPLIER) + jnp.uint32(_INCREMENT) for word in (a, b, c, d))
    return mixed(*(word ^ (word >> 16) for word in mixed(*words)))


def pixel_words(seed: jax.Array, planes: jax.Array, height: int, width: int) -> jax.Array:
    """Random words of an image.

    Args:
      seed: [2] uint32, of the image.
      planes: [C] uint32, a number for each plane; planes of one number are equal.
      height: of the canvas; a pixel's words do not depend on it.
      width: of the canvas.

    Returns:
      [C, height, width] uint32.
    """
    shape = (planes.shape[0], height, width)
    axes = (jnp.arange(height, dtype=jnp.uint32), jnp.arange(width, dtype=jnp.uint32), seed[0] + planes)
    rows, columns, first = (
        jax.lax.broadcast_in_dim(values, shape, (axis,)) for values, axis in zip(axes, (1, 2, 0), strict=True)
    )
    return hash_four(rows, columns, first, jnp.broadcast_to(seed[1], shape))[0]


def folded(seed: jax.Array, words: jax.Array) -> jax.Array:
    """Another seed [2] uint32 for each pair of a seed [2] and words [2]."""
    return jnp.stack(hash_four(seed[0], seed[1], words[0], words[1])[:2])
