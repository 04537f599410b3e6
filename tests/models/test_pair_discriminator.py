"""The discriminator of pairs, its BatchNorm and statistics. Its parity fixture is in test_check_parity.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.pair_discriminator import STATISTICS, BatchNorm, PairDiscriminator, StoredPairDiscriminator
from tests.support.drawn import drawn

TINY = PairDiscriminator(channels=(4, 8))
FIRST, SECOND = (jax.random.uniform(jax.random.key(seed), (3, 9, 6, 3), jnp.float32, -1.0, 1.0) for seed in (0, 1))


@functools.cache
def variables():
    tree = drawn(TINY.init, jax.random.key(0), FIRST, SECOND)
    for block in tree[STATISTICS].values():
        block["norm"]["variance"] = 1.0 + np.abs(block["norm"]["variance"])
    return tree


def test_the_release_has_the_layers_of_srgan():
    image = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)
    logits, tree = jax.eval_shape(PairDiscriminator().init_with_output, jax.random.key(0), image, image)
    assert logits.shape == (2,) and logits.dtype == jnp.float32
    kernels = [tree["params"][f"block_{index}"]["conv"]["kernel"].shape[3] for index in range(7)]
    assert kernels == [64, 128, 128, 256, 256, 512, 512] and "block_7" not in tree["params"]
    assert tree["params"]["hidden"]["kernel"].shape == (1, 1, 512, 1024)
    # SRGAN's discriminator with six input channels, and its dense layers replaced by two on pooled features.
    assert sum(leaf.size for leaf in jax.tree.leaves(tree["params"])) == 5_217_153


def test_batch_norm_against_numpy():
    """The batch's own statistics in training, with the divisor N; the moving ones move with the divisor N - 1."""
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 3, 4, 5)).astype(np.float32)
    norm, flat = BatchNorm(), x.reshape(-1, 5).astype(np.float64)
    state = norm.init(jax.random.key(0), x, False)
    np.testing.assert_array_equal(state[STATISTICS]["mean"], np.zeros(5))
    np.testing.assert_array_equal(state[STATISTICS]["variance"], np.ones(5))
    y, after = norm.apply(state, x, True, mutable=[STATISTICS])
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    moved = after[STATISTICS]
    np.testing.assert_allclose(moved["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved["variance"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    z = norm.apply({"params": state["params"], STATISTICS: moved}, x, False)
    np.testing.assert_allclose(
        z, (x - 0.1 * flat.mean(0)) / np.sqrt(np.asarray(moved["variance"]) + 1e-5), rtol=1e-4, atol=1e-4
    )


def test_initialization_leaves_the_statistics_alone():
    for training in (False, True):
        tree = TINY.init(jax.random.key(0), FIRST, SECOND, training)[STATISTICS]
        assert not np.any(tree["block_0"]["norm"]["mean"]) and np.all(tree["block_0"]["norm"]["variance"] == 1)


def test_evaluation_classifies_each_pair_alone_and_in_its_order():
    logits = TINY.apply(variables(), FIRST, SECOND)
    assert logits.shape == (3,) and len(np.unique(logits)) == 3
    np.testing.assert_allclose(TINY.apply(variables(), FIRST[1:], SECOND[1:]), logits[1:], atol=1e-5)
    assert not np.allclose(TINY.apply(variables(), SECOND, FIRST), logits)


def test_training_reads_the_batch_and_gradients_reach_images_and_parameters():
    def loss(params, first):
        state = {"params": params, STATISTICS: variables()[STATISTICS]}
        logits, after = TINY.apply(state, first, SECOND, True, mutable=[STATISTICS])
        return jnp.square(logits - 1.0).mean(), after

    (gradients, image), after = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables()["params"], FIRST)
    assert np.all(np.any(image, axis=(1, 2, 3)))
    # A bias before BatchNorm is subtracted with the mean.
    for path, leaf in jax.tree.leaves_with_path(gradients):
        if "block" not in (name := jax.tree_util.keystr(path)) or "conv']['bias" not in name:
            assert np.any(leaf), name
    moved = jax.tree.map(lambda new, old: np.any(new != old), after[STATISTICS], variables()[STATISTICS])
    assert all(jax.tree.leaves(moved))


def test_a_stored_discriminator_computes_what_its_network_does():
    stored = StoredPairDiscriminator(channels=TINY.channels)
    params = {"network": variables()["params"], "statistics": variables()[STATISTICS]}
    np.testing.assert_array_equal(
        stored.apply({"params": params}, FIRST, SECOND), TINY.apply(variables(), FIRST, SECOND)
    )
    shapes = jax.eval_shape(stored.init, jax.random.key(0), FIRST, SECOND)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_bfloat16_gives_float32_logits():
    logits = TINY.clone(dtype=jnp.bfloat16).apply(variables(), FIRST, SECOND)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, TINY.apply(variables(), FIRST, SECOND), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("pair", [(FIRST, SECOND[:, :8]), (FIRST[..., :1], SECOND[..., :1]), (FIRST[0], SECOND[0])])
def test_images_that_do_not_fit_are_errors(pair):
    with pytest.raises(ValueError, match=r"two of one shape \[B, H, W, 3\]"):
        jax.eval_shape(TINY.init, jax.random.key(0), *pair)


def test_empty_levels_are_an_error():
    with pytest.raises(ValueError, match="channels"):
        PairDiscriminator(channels=(0,))
