"""Random parameters for tests, made without compiling an initialiser; none is zero, which would hide mistakes."""

import jax
import numpy as np


def drawn(init, *arguments, spread=0.1):
    """Parameters of the shapes of `init(*arguments)`: kernels scaled by fan-in, norm scales near 1, the rest near 0."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        noise = spread * rng.standard_normal(leaf.shape)
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name == "kernel":
            noise += rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        elif name == "scale":
            noise += 1.0
        return noise.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, *arguments))
