"""Weight maps: the published names and shapes, and exact round trips."""

import numpy as np
import pytest
from checkpoints import FIXTURES, small_states

from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.weights import check_same_structure, flatten_names
from framer_jax.recipes.pretrained import KINDS, build, expected_params


@pytest.fixture(scope="module")
def states(fixtures):
    return small_states(fixtures)


def published(fixtures, name):
    """The published keys and shapes, with arrays that take no memory."""
    rows = [str(row).split("\t") for row in np.load(fixtures / "published_keys.npz")[name]]
    shapes = {key: tuple(int(side) for side in shape.split(",")) for key, shape, _ in rows}
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def test_every_map_has_a_module():
    assert MAPS.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("name", "count", "module"),
    [
        ("resshift_unet", 118_593_583, SwinUNet()),
        ("vq_f4", 55_322_782, VQAutoencoder()),
        ("lpips_vgg", 14_714_688 + 1_472, None),
    ],
)
def test_published_checkpoints_fill_the_published_configuration(fixtures, name, count, module):
    params, arguments, dropped = to_flax(MAPS[name], published(fixtures, name), name)
    built = build(name, arguments)
    assert module is None or built == module
    check_same_structure(params, expected_params(name, built), name)
    assert sum(leaf.size for leaf in flatten_names(params)[0].values()) == count
    assert not dropped


def test_the_original_gets_back_the_564_entries_that_it_asks_for(fixtures):
    state = published(fixtures, "resshift_unet")
    weights = MAPS["resshift_unet"]
    buffers = weights.buffers(state, weights.arguments(state))
    assert len(state | buffers) == 564
    assert buffers["input_blocks.1.1.blocks.1.attn_mask"].shape == (64, 64, 64)
    assert buffers["output_blocks.6.1.blocks.1.attn_mask"].shape == (16, 64, 64)
    assert "middle_block.1.blocks.1.attn_mask" not in buffers
    _, arguments, dropped = to_flax(weights, state | buffers, "whole")
    assert set(dropped) == set(buffers)
    assert build("resshift_unet", arguments) == SwinUNet()


@pytest.mark.parametrize("name", FIXTURES)
def test_round_trips_are_exact_both_ways(states, name):
    weights, state = MAPS[name], states[name]
    params, arguments, _ = to_flax(weights, state, name)
    back = to_torch(weights, params, name, arguments)
    assert back.keys() >= state.keys()
    for key, value in state.items():
        assert back[key].dtype == np.float32
        np.testing.assert_array_equal(back[key], value)
    again, told, _ = to_flax(weights, back, name)
    assert told == arguments
    leaves, expected = flatten_names(again)[0], flatten_names(params)[0]
    assert leaves.keys() == expected.keys()
    for leaf_name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[leaf_name])


def test_a_registered_mask_tells_the_nominal_side(states):
    weights, state = MAPS["resshift_unet"], states["resshift_unet"]
    assert weights.arguments(state)["image_size"] == 32
    mask = {"input_blocks.1.1.blocks.1.attn_mask": np.zeros((64, 64, 64), np.float32)}
    assert weights.arguments(state | mask)["image_size"] == 64
