import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.macs import products
from framer_jax.models.layers import (
    MOMENTS,
    GroupNorm,
    LayerNorm,
    ResidualBlock,
    downsample_mean,
    upsample_nearest,
    upsampling_conv,
)
from framer_jax.models.lora import apply_adapters, init_lora, make_lora, merge, with_adapters


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


def test_sums_of_bfloat16_taps_are_rounded_once():
    """1 + 2^-8 and 2^-8 are 1 and 2^-8 in bfloat16, whose sum is 1; the sum of both, rounded, is 1 + 2^-7."""
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1 + 2**-8).at[1, 2].set(2**-8)
    conv = upsampling_conv(1, jnp.bfloat16, "conv", use_bias=False)
    out = conv.apply({"params": {"kernel": kernel}}, jnp.ones((1, 1, 1, 1)))
    assert out.dtype == jnp.bfloat16
    assert out[0, 0, 0, 0] == 1 + 2**-7


def test_no_traced_arrays_are_stacked():
    """jax2onnx cannot express it."""
    conv, _ = pair()
    x = drawn((1, 4, 4, 4))
    traced = jax.make_jaxpr(conv.apply)(conv.init(jax.random.key(1), x), x)
    assert "stack" not in {equation.primitive.name for equation in traced.eqns}


def test_a_lora_of_it_sees_the_upsampled_map():
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
            return upsampling_conv(6, jnp.float32, "conv")(x)

    with apply_adapters():
        added = Network().apply(with_adapters(nested, {"a": lora}), x)
    expected = reference({"params": merged}, x)
    assert np.abs(expected - reference({"params": params}, x)).max() > 0.1
    np.testing.assert_allclose(added, expected, rtol=1e-5, atol=1e-5)


def test_unknown_resamplings_are_refused():
    with pytest.raises(ValueError, match=r"resample is 'twice': choose one of"):
        ResidualBlock(4, resample="twice").init(jax.random.key(0), drawn((1, 4, 4, 4)))


@pytest.mark.parametrize("mean", [0.0, 5.0, -100.0])
def test_group_norms_are_exact_to_a_few_units_of_the_last_digit(mean):
    x = np.asarray(drawn((2, 96, 96, 8))) + np.float32(mean)
    norm = GroupNorm(groups=4, epsilon=1e-6)
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    wide = x.astype(np.float64).reshape(2, 96, 96, 4, 2)
    centered = wide - wide.mean(axis=(1, 2, 4), keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(axis=(1, 2, 4), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape), rtol=0, atol=5e-6 * max(1, abs(mean)))


def test_statistics_of_one_image_serve_a_batch_of_its_tiles():
    image = drawn((1, 8, 8, 8)) + 3
    norm = GroupNorm(groups=4)
    params = norm.init(jax.random.key(0), image)
    whole, sown = norm.apply(params, image, mutable="intermediates")
    tiles = jnp.concatenate([image[:, :, :4], image[:, :, 4:]])  # [2, 8, 4, 8]
    of_tiles = norm.apply({**params, MOMENTS: sown["intermediates"]}, tiles)
    np.testing.assert_allclose(jnp.concatenate([of_tiles[:1], of_tiles[1:]], axis=2), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("resample", "function"), [("up", upsample_nearest), ("down", downsample_mean)])
@pytest.mark.parametrize("channels", [4, 6])
def test_residual_blocks_resample_the_input_of_their_first_convolution_and_of_the_skip(resample, function, channels):
    block = ResidualBlock(channels, resample=resample)
    x = drawn((1, 4, 6, 4))
    params = jax.tree.map(lambda leaf: leaf + 0.1, block.init(jax.random.key(1), x))["params"]
    layer = {name: nn.Conv(channels, (side, side)) for name, side in (("conv_0", 3), ("conv_1", 3), ("skip", 1))}

    def apply(name, x):
        return layer[name].apply({"params": params[name]}, x)

    def norm(name, x):
        return nn.silu(LayerNorm().apply({"params": params[name]}, x))

    h = function(norm("norm_0", x))
    skip = function(x)
    expected = apply("conv_1", norm("norm_1", apply("conv_0", h))) + (apply("skip", skip) if channels != 4 else skip)
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)
