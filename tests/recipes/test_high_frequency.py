"""HF-Diff's perceptual terms with their networks: zero for equal images, and no gradient through the ground truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.losses.high_frequency import high_frequency_error
from framer_jax.recipes.components.high_frequency import detail_distance, embedding_distance
from tests.support.tiny import random_weights

MODULE = build_network("hf_extractor", {"channels": 6, "modules": 1, "classes": 0, "classifier_layers": 0})
PARAMS = random_weights(network_shapes("hf_extractor", MODULE))
IMAGE, REFERENCE = np.random.default_rng(0).uniform(-1, 1, (2, 2, 5, 4, 3)).astype(np.float32)


def patches(params, image):
    """[B, H, W, 3] → a token of width 4 per pixel."""
    return image.reshape(len(image), -1, 3) @ params


TERMS = {
    "detail": lambda *pair: detail_distance(MODULE, PARAMS, *pair),
    "embedding": lambda *pair: embedding_distance(
        patches, jnp.ones((3, 4)).at[0].set(jnp.arange(4.0)), *pair, base=2.0
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_reaches_the_prediction_only(name):
    term = jax.jit(TERMS[name])
    value = term(IMAGE, REFERENCE)
    assert value.shape == (2,) and value.dtype == jnp.float32 and (np.asarray(value) > 0).all()
    np.testing.assert_array_equal(term(IMAGE, IMAGE), [0, 0])
    prediction, reference = jax.grad(lambda *pair: term(*pair).sum(), argnums=(0, 1))(IMAGE, REFERENCE)
    assert np.abs(prediction).max() > 0 and not np.abs(reference).max()


def test_the_detail_features_are_compared():
    details = [MODULE.apply({"params": PARAMS}, x)[1] for x in (IMAGE, REFERENCE)]
    np.testing.assert_allclose(TERMS["detail"](IMAGE, REFERENCE), high_frequency_error(*details), rtol=1e-5)
