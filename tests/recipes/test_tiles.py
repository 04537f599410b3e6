"""A function tile by tile: blended as the released samplers blend, exact where it can be, and normed as one image."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.checkpoints.networks import build_network
from framer_jax.diffusion.tiles import TileGrid, blend_weights, gaussian_profile, map_tiles, tile_grid, tile_starts
from framer_jax.recipes.components import tiled_apply as tiled_apply_file
from framer_jax.recipes.components.tiled_apply import subsample, tiled_apply
from tests.support.drawn import drawn
from tests.support.tiny import TINY

RNG = np.random.default_rng(0)
KERNEL = jnp.asarray(RNG.standard_normal((3, 3, 4, 4)), jnp.float32)


def network(x, z):
    """A network whose results depend on the neighbors, and so on the border of a tile."""
    mixed = jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(mixed + 0.5 * z)


def maps(height, width, count=1):
    return [RNG.standard_normal((count, height, width, 4)).astype(np.float32) for _ in range(2)]


def released(function, x, z, tile, overlap):
    """The released procedure: two sums over tiles, of weighted velocities and of weights, and their quotient."""
    _, height, width, _ = x.shape
    side = min(tile, height, width)

    def places(length):
        count, reached = 0, 0
        while reached < length:
            reached = count * (side - overlap) + side
            count += 1
        return [number * (side - overlap) if number < count - 1 else length - side for number in range(count)]

    y, x_ = np.arange(side), np.arange(side)
    down = np.exp(-((y - side / 2) ** 2) / side**2 / 0.02) / np.sqrt(2 * np.pi * 0.01)
    across = np.exp(-((x_ - (side - 1) / 2) ** 2) / side**2 / 0.02) / np.sqrt(2 * np.pi * 0.01)
    weight = np.outer(down, across)[None, :, :, None]
    total, weights = np.zeros(x.shape), np.zeros(x.shape)
    for top in places(height):
        for left in places(width):
            part = np.s_[:, top : top + side, left : left + side]
            total[part] += np.asarray(function(x[part], z[part])) * weight
            weights[part] += weight
    return total / weights


@pytest.mark.parametrize(("batch", "size"), [(1, (13, 19)), (3, (19, 13)), (16, (13, 19))])
def test_it_is_the_released_procedure(batch, size):
    x, z = maps(*size, 2)
    tiled = jax.jit(lambda x, z: map_tiles(network, tile_grid(size, 8, 3), x, z, batch=batch))(x, z)
    np.testing.assert_allclose(tiled, released(jax.jit(network), x, z, 8, 3), atol=1e-5)


def test_one_tile_is_the_whole():
    x, z = maps(8, 6)
    for grid in (tile_grid((8, 6), 8, 3), tile_grid((8, 6), 0, 0)):
        assert grid.num_tiles == 1
        np.testing.assert_array_equal(map_tiles(network, grid, x, z), network(x, z))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_weights_sum_to_one_and_tiles_cover_all(length, side, data):
    side = min(side, length)
    overlap = data.draw(st.integers(0, side - 1))
    places = tile_starts(length, side, overlap)
    assert places[0] == 0
    assert places[-1] == length - side
    total = np.zeros(length)
    for start, share in zip(places, blend_weights(places, length, gaussian_profile(side, side / 2)), strict=True):
        total[start : start + side] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_function_of_single_positions_is_exact_in_any_unit():
    image = maps(26, 38)[0]

    def halved(tile):  # as an encoder
        return tile.reshape(tile.shape[0], tile.shape[1] // 2, 2, tile.shape[2] // 2, 2, 4).mean(axis=(2, 4))

    def doubled(tile):  # as a decoder
        return tile.repeat(2, axis=1).repeat(2, axis=2)

    for function, source in ((halved, image), (doubled, image[:, :13, :19]), (jnp.tanh, image[:, :13, :19])):
        tiled = jax.jit(lambda x, function=function: map_tiles(function, tile_grid((13, 19), 6, 2), x, batch=2))(source)
        np.testing.assert_allclose(tiled, function(source), atol=1e-6)


def test_an_axis_no_longer_than_a_tile_is_not_divided():
    assert tile_grid((13, 19), 16, 3) == TileGrid((13, 19), (13, 16), (0,), (0, 3))
    assert tile_grid((19, 13), 16, 3) == TileGrid((19, 13), (16, 13), (0, 3), (0,))


def test_an_overlap_without_a_stride_is_named():
    with pytest.raises(ValueError, match="overlap is 8: it must be from 0 to 7"):
        tile_grid((20, 20), 8, 8)


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_tiles_are_normalized_as_one_image(method, monkeypatch):
    """An image that is dark on one side: normalizing the tiles separately would make both sides alike."""
    module = build_network("kl_autoencoder", {**TINY["kl_autoencoder"], "multipliers": (1, 2)})
    channels, unit = {"encode": (3, 2), "decode": (4, 1)}[method]
    image = jnp.asarray(RNG.standard_normal((1, 16 * unit, 40 * unit, channels)), jnp.float32)
    image = image * 0.3 + jnp.linspace(-2, 2, 40 * unit)[None, None, :, None]
    params = drawn(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.float32))["params"]
    for half in ("encoder", "decoder"):  # attention stays within a tile: without it, only the norms differ
        part = params[half]["middle"]["attention_1"]["project"]
        part.update({name: np.zeros_like(leaf) for name, leaf in part.items()})
    call = {"encode": lambda m, x: m.encode(x).mean, "decode": lambda m, x: m.decode(x)}[method]

    def run(side):
        applied = partial(tiled_apply, module, method=call, side=side, unit=unit)
        return np.asarray(jax.jit(lambda image: applied({"params": params}, image=image))(image))

    whole, together = run(0), run(16)
    np.testing.assert_array_equal(run(40), whole)
    monkeypatch.setattr(tiled_apply_file, "MOMENTS", "unused")
    separate = run(16)
    near, far = (np.sqrt(np.square(tiled - whole).mean()) for tiled in (together, separate))
    assert together.shape == whole.shape
    assert near < 0.6 * far


def test_images_are_subsampled_to_whole_latents():
    image = jnp.arange(40 * 24, dtype=jnp.float32).reshape(1, 40, 24, 1)
    assert subsample(image, 0.5, 8).shape == (1, 16, 16, 1)  # 2.5 and 1.5 latents
    np.testing.assert_array_equal(subsample(image, 0.5)[0, :, 0, 0], image[0, 1::2, 1, 0])
