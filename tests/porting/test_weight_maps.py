"""Weight maps: the published names and shapes, and exact round trips."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from framer_jax.checkpoints.networks import KINDS, build_network, network_shapes
from framer_jax.commands.port import port_to_jax, port_to_torch
from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.swinir import SwinIR
from framer_jax.models.vgg import TRUNKS
from framer_jax.models.vq_autoencoder import VQAutoencoder
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.trees import check_same_structure, flatten_names
from tests.support.checkpoints import FIXTURES, small_states
from tools.parity.cases import load_case


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
    built = build_network(name, arguments)
    assert module is None or built == module
    check_same_structure(params, network_shapes(name, built), name)
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
    assert build_network("resshift_unet", arguments) == SwinUNet()


@pytest.mark.parametrize("name", FIXTURES)
def test_round_trips_are_exact_both_ways(states, name):
    weights, state = MAPS[name], states[name]
    params, arguments, _ = to_flax(weights, state, name)
    back = to_torch(weights, params, name, arguments)
    assert back.keys() >= state.keys()
    for key, value in state.items():
        assert back[key].dtype == np.float32
        np.testing.assert_array_equal(back[key], value)
    again, again_arguments, _ = to_flax(weights, back, name)
    assert again_arguments == arguments
    leaves, expected = flatten_names(again)[0], flatten_names(params)[0]
    assert leaves.keys() == expected.keys()
    for leaf_name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[leaf_name])


def test_a_discriminator_keeps_its_vectors_of_spectral_norm_both_ways(fixtures, tmp_path):
    case = load_case(fixtures / "unet_discriminator_sn_tiny.npz")
    vectors = {key.removeprefix("in/sn/"): value for key, value in case.arrays.items() if key.startswith("in/sn/")}
    state = {**case.weights["model"], **vectors}
    write_state(tmp_path / "net_d.safetensors", state)
    port_to_jax("unet_discriminator_sn", [tmp_path / "net_d.safetensors"], tmp_path / "d.safetensors")
    port_to_torch("unet_discriminator_sn", [tmp_path / "d.safetensors"], tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == state.keys() and len(state) == 28
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


def test_dists_and_vgg19_are_read_by_torchvisions_names():
    trunk = {
        "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        "vgg19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    }
    for net, name, count in (("vgg", "dists", 14_714_688 + 2_950), ("vgg19", "vgg19", 20_024_384)):
        layers = {layer.number: layer for layer in TRUNKS[net]}
        assert tuple(layers) == trunk[net]
        state, before = {}, 3
        for number, layer in layers.items():
            state[f"features.{number}.weight"] = np.broadcast_to(np.float32(0), (layer.channels, before, 3, 3))
            state[f"features.{number}.bias"] = np.broadcast_to(np.float32(0), (layer.channels,))
            before = layer.channels
        state["classifier.0.weight"] = np.broadcast_to(np.float32(0), (4096, 25088))
        if name == "dists":
            state |= {key: np.broadcast_to(np.float32(0), (1, 1475, 1, 1)) for key in ("alpha", "beta")}
        params, arguments, dropped = to_flax(MAPS[name], state, name)
        check_same_structure(params, network_shapes(name, build_network(name, arguments)), name)
        assert sum(leaf.size for leaf in flatten_names(params)[0].values()) == count
        assert dropped == ["classifier.0.weight"]
    back = to_torch(MAPS["dists"], params := network_zeros("dists"), "")
    assert back["stage3.14.weight"].shape == (256, 256, 3, 3) and back["stage2.4.filter"].shape == (64, 1, 3, 3)
    assert len(back) == 26 + 2 + 4 + 2 and set(params) == {"alpha", "beta", "trunk"}


def network_zeros(name):
    """Parameters that take no memory."""
    shapes = network_shapes(name, build_network(name, {}))
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


SMALL, DEEP = {"channels": 8, "heads": 2, "depths": (2, 1)}, {"heads": 6, "channels": 180, "depths": (6,) * 6}
JPEG = {"window": 7, "image_size": 126, "value_range": 255.0}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (
            SwinIR(**DEEP, head="pixelshuffle", scale=3),
            "SwinIR classical (SwinIR-M), x3 (head pixelshuffle, 180",
        ),
        (SwinIR(head="pixelshuffledirect", scale=2), "SwinIR lightweight (SwinIR-S), x2 ("),
        (SwinIR(**DEEP, scale=2), "SwinIR real-world M, x2 (head nearest+conv"),
        (SwinIR(channels=240, depths=(6,) * 9, heads=8, residual="3conv"), "SwinIR real-world L, x4 ("),
        (SwinIR(**DEEP, head="none", scale=1, image_size=128, image_channels=1), "SwinIR gray denoising, x1 ("),
        (SwinIR(**DEEP, **JPEG, head="none", scale=1), "SwinIR color JPEG, x1 (head none, 180 channels"),
        (SwinIR(), "SwinIR small real-world, x4 ("),
        (
            SwinIR(**SMALL, image_size=8),
            "SwinIR, x4 (head nearest+conv, 8 channels, 2+1 blocks",
        ),
        (SwinIR(**SMALL, head="pixelshuffle", scale=8, image_size=48), "SwinIR, x8 (head pixelshuffle, 8"),
        # The first group has no block with shifted windows.
        (SwinIR(**SMALL | {"depths": (1, 2)}, image_size=48), "SwinIR, x4 (head nearest+conv, 8 channels, 1+2 blocks"),
        (SwinIR(**SMALL | {"depths": (1, 1, 4)}, image_size=8), "SwinIR, x4 (head nearest+conv, 8 channels, 1+1+4 bl"),
    ],
    ids=lambda value: value.split("(")[0] if isinstance(value, str) else "",
)
def test_a_swinir_file_tells_its_variant(model, name):
    """From the shapes alone, with the constants that the original registers."""
    weights = MAPS["swinir"]
    shapes = network_shapes("swinir", model)
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    state = to_torch(weights, params, "ours", dataclasses.asdict(model))
    _, arguments, dropped = to_flax(weights, state, "theirs")
    assert build_network("swinir", arguments) == model
    assert weights.assumed(state, arguments) == ("value_range",)
    assert weights.describe(arguments).startswith(name)
    blocks = sum(model.depths)
    shifted = sum(depth // 2 for depth in model.depths) if model.image_size > model.window else 0
    assert len(dropped) == blocks + shifted
    masks = {value.shape for key, value in state.items() if key.endswith("attn_mask")}
    assert masks <= {((model.image_size // model.window) ** 2, model.window**2, model.window**2)}


def test_the_nominal_side_is_assumed_where_no_constant_shows_it():
    weights, model = MAPS["swinir"], SwinIR(**SMALL | {"depths": (1, 2)}, image_size=48)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), network_shapes("swinir", model))
    state = to_torch(weights, params, "ours", dataclasses.asdict(model))
    bare = {key: value for key, value in state.items() if not key.endswith(("attn_mask", "position_index"))}
    arguments = weights.arguments(bare)
    assert (arguments["image_size"], weights.assumed(bare, arguments)) == (64, ("value_range", "image_size"))


def test_published_swinir_files_without_constants_get_the_published_side():
    weights = MAPS["swinir"]
    for model in (SwinIR(**SMALL), SwinIR(**SMALL, **JPEG, head="none", scale=1)):
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), network_shapes("swinir", model))
        state = to_torch(weights, params, "ours", dataclasses.asdict(model))
        assert (
            build_network("swinir", weights.arguments({k: v for k, v in state.items() if v.dtype == np.float32}))
            == model
        )
        bare = {key: value for key, value in state.items() if not key.endswith(("attn_mask", "position_index"))}
        assert build_network("swinir", weights.arguments(bare)) == model


def test_a_registered_mask_tells_the_nominal_side(states):
    weights, state = MAPS["resshift_unet"], states["resshift_unet"]
    assert weights.arguments(state)["image_size"] == 32
    mask = {"input_blocks.1.1.blocks.1.attn_mask": np.zeros((64, 64, 64), np.float32)}
    assert weights.arguments(state | mask)["image_size"] == 64
