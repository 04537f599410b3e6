import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.macs import products
from framer_jax.models.lora import apply_adapters, init_lora, make_lora, merge, with_adapters
from framer_jax.models.resampling import upsample_nearest, upsampling_conv


def pair(channels=6, dtype=jnp.float32, **settings):
    """The convolution and, of the same parameters, that of an upsampled map."""
    plain = nn.Conv(channels, (3, 3), dtype=dtype, **settings)
    return upsampling_conv(channels, dtype, "conv", **settings), lambda params, x: plain.apply(
        params, upsample_nearest(x)
    )


def drawn(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


@pytest.mark.parametrize("shape", [(2, 5, 7, 4), (1, 1, 3, 4), (1, 2, 1, 4)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_convolution_of_upsampled_maps_is_computed_from_the_maps(shape, use_bias):
    conv, reference = pair(use_bias=use_bias)
    x = drawn(shape)
    params = jax.tree.map(lambda leaf: leaf + 0.3, conv.init(jax.random.key(1), x))
    np.testing.assert_allclose(conv.apply(params, x), reference(params, x), rtol=1e-5, atol=1e-5)

    def squares(function):
        return jax.grad(lambda params, x: (function(params, x) ** 2).sum(), argnums=(0, 1))(params, x)

    for one, other in zip(*map(jax.tree.leaves, (squares(conv.apply), squares(reference))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_it_takes_four_ninths_of_the_products():
    conv, reference = pair()
    x = drawn((1, 8, 8, 4))
    params = conv.init(jax.random.key(1), x)
    fewer, all_of_them = (
        sum(product.macs for product in products(jax.make_jaxpr(f)(params, x))) for f in (conv.apply, reference)
    )
    assert 9 * fewer == 4 * all_of_them


def test_in_bfloat16_taps_are_rounded_one_by_one():
    """As in a convolution of the upsampled map, to the last bit."""
    conv, reference = pair(dtype=jnp.bfloat16)
    x = drawn((1, 6, 6, 16))
    params = conv.init(jax.random.key(1), x)
    out = conv.apply(params, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, reference(params, x))


def test_no_traced_arrays_are_stacked():
    """jax2onnx cannot express it."""
    conv, _ = pair()
    x = drawn((1, 4, 4, 4))
    traced = jax.make_jaxpr(conv.apply)(conv.init(jax.random.key(1), x), x)
    assert "stack" not in {equation.primitive.name for equation in traced.eqns}


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.1)])
def test_a_lora_of_it_sees_the_upsampled_map(dtype, tolerance):
    conv, reference = pair()
    x = drawn((1, 4, 5, 4))
    params = conv.init(jax.random.key(1), x)["params"]
    nested = {"conv": params}
    lora = init_lora(jax.random.key(2), nested, "conv", rank=2, alpha=2)
    lora = make_lora(jax.tree.map(lambda leaf: leaf + 0.1, lora.factors), alpha=2)
    merged = merge(nested, {"a": lora})["conv"]

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return upsampling_conv(6, dtype, "conv")(x)

    with apply_adapters():
        added = Network().apply(with_adapters(nested, {"a": lora}), x)
    expected = reference({"params": merged}, x)
    assert np.abs(expected - reference({"params": params}, x)).max() > 0.5
    np.testing.assert_allclose(added.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)
