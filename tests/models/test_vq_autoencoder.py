"""The autoencoder: codes, straight-through gradient, chunks. Its parity fixtures are in test_check_parity.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models import autoencoder_layers
from framer_jax.models.autoencoder_layers import PositionAttention
from framer_jax.models.vq_autoencoder import VQAutoencoder, nearest_code
from tests.support.drawn import drawn

TINY = VQAutoencoder(channels=32, multipliers=(1, 1), blocks=1, codes=20)
IMAGE = jax.random.uniform(jax.random.key(0), (2, 16, 24, 3), jnp.float32, -1.0, 1.0)


@functools.cache
def variables():
    tree = drawn(TINY.init, jax.random.key(0), IMAGE)
    tree["params"]["codebook"] = 5.0 * tree["params"]["codebook"]  # as far apart as latents are
    return tree


@functools.partial(jax.jit, static_argnames=("method", "quantise", "dtype"))
def apply(tree, x, method, dtype=jnp.float32, **options):
    return TINY.clone(dtype=dtype).apply(tree, x, method=method, **options)


def test_shapes_and_reconstruction():
    z = apply(variables(), IMAGE, method="encode")
    assert z.shape == (2, 8, 12, 3)
    image = apply(variables(), IMAGE, method="__call__")
    assert image.shape == IMAGE.shape
    codes, index = TINY.apply(variables(), z, method="quantise")
    assert index.shape == (2, 8, 12) and index.dtype == jnp.int32
    np.testing.assert_array_equal(codes, variables()["params"]["codebook"][index])  # exactly the codes
    decoded = apply(variables(), codes, method="decode", quantise=False)
    np.testing.assert_allclose(decoded, image, atol=1e-5)


def test_gradient_passes_straight_through_the_codes():
    z, weight = (jax.random.normal(key, (1, 4, 4, 3)) for key in jax.random.split(jax.random.key(3), 2))

    def weighted(tree, z):
        return (weight * TINY.apply(tree, z, method="quantise")[0]).sum()

    tree, gradient = jax.grad(weighted, argnums=(0, 1))(variables(), z)
    np.testing.assert_array_equal(gradient, weight)
    assert not tree["params"]["codebook"].any()


def test_bfloat16_stays_close_to_float32():
    z = apply(variables(), IMAGE, method="encode")
    rough = apply(variables(), IMAGE, method="encode", dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    decoded = [apply(variables(), z, method="decode", quantise=False, dtype=d) for d in (jnp.bfloat16, jnp.float32)]
    for mine, reference in ((rough, z), decoded):
        assert 1e-4 < np.sqrt(np.mean(np.square(mine - reference)) / np.mean(np.square(reference))) < 0.02


def test_images_whose_sides_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="multiples of 2"):
        jax.eval_shape(TINY.init, jax.random.key(0), IMAGE[:, :15])


def test_nearest_codes_are_the_nearest_and_the_first_of_equal_ones():
    keys = jax.random.split(jax.random.key(1), 2)
    vectors, codebook = jax.random.normal(keys[0], (300, 3)), jax.random.normal(keys[1], (50, 3))
    distance = np.square(np.asarray(vectors)[:, None] - np.asarray(codebook)[None]).sum(-1)
    np.testing.assert_array_equal(nearest_code(vectors, codebook), distance.argmin(axis=1))
    twice = jnp.concatenate([codebook, codebook])
    np.testing.assert_array_equal(nearest_code(vectors, twice), distance.argmin(axis=1))


def test_the_search_needs_little_memory():
    """A photo of 2048 pixels: all its distances to the 8192 codes at once would be 8 GB."""
    shapes = jax.ShapeDtypeStruct((512 * 512, 3), jnp.float32), jax.ShapeDtypeStruct((8192, 3), jnp.float32)
    memory = jax.jit(nearest_code).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 300e6


def test_attention_in_chunks_is_the_same_attention(monkeypatch):
    layer = PositionAttention()
    x = jax.random.normal(jax.random.key(2), (2, 6, 5, 32))
    tree = drawn(layer.init, jax.random.key(0), x)

    def run():
        def loss(tree):
            y = layer.apply(tree, x)
            return jnp.square(y).mean(), y

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss, has_aux=True))(tree))

    reference_leaves = run()
    monkeypatch.setattr(autoencoder_layers, "LARGEST_SCORES", 30 * 7)
    for mine, reference in zip(run(), reference_leaves, strict=True):
        np.testing.assert_allclose(mine, reference, atol=2e-6)
