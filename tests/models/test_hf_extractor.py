"""HF-Diff's extractor: Eq. 5 in NumPy, the inverse, the bound of the exponents, the classifier, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.models.hf_extractor import RELEASED, HFExtractor
from framer_jax.trees import flatten_names
from tests.support.tiny import random_weights

SMALL = {"channels": 6, "modules": 2, "classes": 5, "classifier_layers": 2}


def drawn(**arguments):
    """(module, random parameters)."""
    module = build_network("hf_extractor", arguments)
    return module, random_weights(network_shapes("hf_extractor", module))


def image(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(("variant", "limit"), [("paper", None), ("paper", 0.5), ("released", None), ("released", 0.5)])
def test_the_inverse_of_eight_modules_gives_back_the_input_at_odd_sizes(variant, limit):
    """Exact to float error: the features come back to 1e-5 of their largest value."""
    more = {} if variant == "paper" else {"expansion": 2}
    module, params = drawn(
        variant=variant, channels=8, modules=8, classes=0, classifier_layers=0, exponent_limit=limit, **more
    )
    if variant == "released":  # rotations, as initialization draws them: random kernels may be close to singular
        for index in range(8):
            rotation = np.linalg.qr(np.random.default_rng(index).standard_normal((8, 8)))[0]
            params[f"module_{index}"]["shuffle"]["kernel"] = rotation.astype(np.float32)[None, None]
    features = 2 * image(2, 5, 7, 8)

    @jax.jit
    def there_and_back(params, features):
        detail = module.apply({"params": params}, features, method="transform")
        return detail, module.apply({"params": params}, detail, method="invert")

    detail, back = there_and_back(params, features)
    assert detail.shape == features.shape and np.abs(np.asarray(detail) - features).max() > 0.1
    np.testing.assert_allclose(back, features, atol=1e-5 * np.abs(detail).max())


def convolve(x, layer):
    """A 3x3 convolution of [H, W, C] with one pixel of zeros on every side."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), axis=(0, 1))
    return np.einsum("hwcij,ijco->hwo", windows, layer["kernel"]) + layer["bias"]


def two_layers(x, layers):
    return convolve(np.maximum(convolve(x, layers["conv_1"]), 0), layers["conv_2"])


@pytest.mark.parametrize("limit", [None, 0.1])
def test_features_are_those_of_eq_5(limit):
    module, params = drawn(**SMALL, exponent_limit=limit)
    x = image(1, 5, 4, 3)
    shallow, detail = jax.jit(lambda params, x: module.apply({"params": params}, x))(params, x)
    encoder = params["encoder"]
    z = convolve(x[0], encoder["conv_in"])
    z = z + convolve(np.maximum(convolve(z, encoder["conv_1"]), 0), encoder["conv_2"])
    np.testing.assert_allclose(shallow[0], z, atol=1e-5)
    for index in range(2):
        maps = params[f"module_{index}"]
        first, second = z[..., :3], z[..., 3:]
        second = second + two_layers(first, maps["additive"])
        exponent = two_layers(second, maps["exponent"])
        exponent = exponent if limit is None else limit * np.tanh(exponent / limit)
        first = first * np.exp(exponent) + two_layers(second, maps["shift"])
        z = np.concatenate([first, second], axis=-1)
    np.testing.assert_allclose(detail[0], z, atol=1e-5)


def test_a_bound_keeps_large_exponents_finite():
    bounded, params = drawn(**SMALL, exponent_limit=2.0)
    params = jax.tree.map(lambda leaf: 100 * leaf, params)
    plain = build_network("hf_extractor", SMALL)
    assert not np.isfinite(plain.apply({"params": params}, image(1, 4, 4, 3))[1]).all()
    assert np.isfinite(bounded.apply({"params": params}, image(1, 4, 4, 3))[1]).all()


def test_an_untrained_module_is_the_identity():
    module = HFExtractor(**SMALL)
    x = image(1, 4, 4, 3)
    params = module.init(jax.random.key(0), x)["params"]
    shallow, detail = module.apply({"params": params}, x)
    np.testing.assert_array_equal(shallow, detail)


def test_the_classifier_is_trained_through_all_modules():
    module, params = drawn(**SMALL)
    x = image(2, 9, 7, 3)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logits = module.apply({"params": params}, x, method="classify")
        assert logits.shape == (2, 5) and logits.dtype == jnp.float32
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    gradients = flatten_names(loss(params)[1])[0]
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())


def test_features_are_float32_whatever_the_compute_dtype():
    module, params = drawn(**SMALL)
    x = image(1, 6, 5, 3)
    exact = module.apply({"params": params}, x)
    half = module.clone(dtype=jnp.bfloat16).apply({"params": params}, x)
    for features, other in zip(exact, half, strict=True):
        assert other.dtype == jnp.float32
        np.testing.assert_allclose(features, other, atol=0.02 * np.abs(features).max())


def test_default_sizes():
    """54,528 numbers in CDDFuse's branch; the widths that HF-Diff states."""
    shapes = flatten_names(network_shapes("hf_extractor", HFExtractor(**RELEASED)))[0]
    assert sum(leaf.size for leaf in shapes.values()) == 54_528
    shapes = flatten_names(network_shapes("hf_extractor", HFExtractor()))[0]
    assert shapes["encoder/conv_in/kernel"].shape == (3, 3, 3, 128)
    assert shapes["classifier/linear/kernel"].shape == (128, 1000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": 7}, "channels is 7: it must be even"),
        ({"classes": 0}, "classifier_layers is 2: without classes it must be 0"),
        ({"variant": "mghf"}, "variant"),
        ({"exponent_limit": 0.0}, "exponent_limit"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        HFExtractor(**arguments)


def test_inputs_that_do_not_fit_are_refused():
    module, params = drawn(**SMALL)
    for shape in ((1, 4, 4, 6), (4, 4, 3), (1, 0, 4, 3)):
        with pytest.raises(ValueError, match=r"needs \[B, H, W, 3\] with sides of at least 1"):
            module.apply({"params": params}, np.zeros(shape, np.float32))
    module, params = drawn(**RELEASED)
    with pytest.raises(ValueError, match=r"needs \[B, H, W, 64\] with sides of at least 2"):
        module.apply({"params": params}, np.zeros((1, 1, 4, 64), np.float32))
    with pytest.raises(ValueError, match="no classifier"):
        module.apply({"params": params}, np.zeros((1, 4, 4, 64), np.float32), method="classify")
