"""TAESD against the same layers in NumPy, entry by entry of the authors' lists."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tests.support.tiny import TINY, random_weights

ARGUMENTS = TINY["taesd"]


@pytest.fixture(scope="module")
def model():
    """(module, parameters, {'encoder': {key: tensor}, 'decoder': …} in the authors' numbers of entries)."""
    module = build_network("taesd", ARGUMENTS)
    params = random_weights(network_shapes("taesd", module))
    halves = {"encoder": {}, "decoder": {}}
    for key, value in to_torch(MAPS["taesd"], params, "", ARGUMENTS).items():
        half, _, index, rest = key.split(".", 3)
        halves[half][f"{int(index) + (half == 'decoder')}.{rest}"] = value
    return module, params, halves


def convolve(x, state, entry, stride=1):
    """A 3x3 convolution of [C, H, W] with one pixel of zeros on every side."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    y = np.einsum("chwij,ocij->ohw", windows, state[f"{entry}.weight"])
    return y + state[f"{entry}.bias"][:, None, None] if f"{entry}.bias" in state else y


def block(x, state, entry):
    h = np.maximum(convolve(x, state, f"{entry}.conv.0"), 0)
    h = np.maximum(convolve(h, state, f"{entry}.conv.2"), 0)
    return np.maximum(convolve(h, state, f"{entry}.conv.4") + x, 0)


def encoded(x, state):
    h = block(convolve(x, state, 0), state, 1)
    for first in (2, 6, 10):
        h = convolve(h, state, first, stride=2)
        for entry in range(first + 1, first + 4):
            h = block(h, state, entry)
    return convolve(h, state, 14)


def decoded(z, state):
    h = np.maximum(convolve(np.tanh(z / 3) * 3, state, 1), 0)
    for first in (3, 8, 13):
        for entry in range(first, first + 3):
            h = block(h, state, entry)
        h = convolve(h.repeat(2, axis=1).repeat(2, axis=2), state, first + 4)
    return convolve(block(h, state, 18), state, 19)


def test_latents_and_images(model):
    module, params, halves = model
    image = np.random.default_rng(0).random((1, 16, 24, 3), np.float32)
    z = np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype(np.float32) * 3

    @jax.jit
    def ours(params, image, z):
        apply = {"params": params}
        return module.apply(apply, image * 2 - 1, method="encode"), module.apply(apply, z, method="decode")

    with jax.default_matmul_precision("highest"):
        latent, picture = ours(params, image, z)
    expected = encoded(image[0].transpose(2, 0, 1), halves["encoder"]).transpose(1, 2, 0)
    np.testing.assert_allclose(latent[0], expected, atol=1e-4 * np.abs(expected).max())
    expected = decoded(z[0].transpose(2, 0, 1), halves["decoder"]).transpose(1, 2, 0) * 2 - 1
    np.testing.assert_allclose(picture[0], expected, atol=1e-4 * np.abs(expected).max())


def test_sides_that_are_no_multiples_of_8_are_refused(model):
    module, params, _ = model
    with pytest.raises(ValueError, match="multiples of 8, got \\(16, 20\\)"):
        module.apply({"params": params}, np.zeros((1, 16, 20, 3), np.float32), method="encode")
