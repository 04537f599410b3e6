import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.layers import MOMENTS, GroupNorm, LayerNorm, ResidualBlock
from framer_jax.models.resampling import downsample_mean, upsample_nearest


def drawn(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


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
