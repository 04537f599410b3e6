"""Weight maps of SupResDiffGAN: what the tensors tell, files of both networks, counters of BatchNorm, other models."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from framer_jax.checkpoints.networks import build_network, network_shapes, read_network
from framer_jax.commands.port import port_to_jax, port_to_torch
from framer_jax.models.pair_discriminator import StoredPairDiscriminator
from framer_jax.models.supresdiffgan_unet import SupResDiffGanUNet
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.trees import flatten_names, nest_names
from tests.support.checkpoints import small_states


@pytest.fixture(scope="module")
def states(fixtures):
    return small_states(fixtures)


@pytest.mark.parametrize(
    ("name", "module"), [("supresdiffgan_unet", SupResDiffGanUNet()), ("pair_discriminator", StoredPairDiscriminator())]
)
def test_the_tensors_of_the_release_tell_its_configuration(name, module):
    shapes = flatten_names(network_shapes(name, module))[0]
    params = nest_names({key: np.broadcast_to(np.float32(0), leaf.shape) for key, leaf in shapes.items()})
    arguments = {key: getattr(module, key) for key in MAPS[name].arguments(to_torch(MAPS[name], params, "ours"))}
    assert build_network(name, MAPS[name].arguments(to_torch(MAPS[name], params, "ours", arguments))) == module
    assert "-128-" in MAPS[name].describe(arguments)


def test_the_discriminator_keeps_its_statistics_and_gets_pytorchs_counters(states, tmp_path):
    state = states["pair_discriminator"]
    write_state(tmp_path / "theirs.safetensors", state)
    port_to_jax("pair_discriminator", [tmp_path / "theirs.safetensors"], tmp_path / "ours.safetensors")
    port_to_torch("pair_discriminator", [tmp_path / "ours.safetensors"], tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    counters = {f"blocks.{index}.bn.num_batches_tracked" for index in range(7)}
    assert back.keys() == state.keys() | counters and len(state) == 48
    assert all(back[name].dtype == np.int64 and back[name].shape == () for name in counters)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)
    assert set(to_flax(MAPS["pair_discriminator"], back, "back")[2]) == counters


def test_files_of_one_network_are_not_taken_for_the_other(states, tmp_path):
    for name, other in (("supresdiffgan_unet", "pair_discriminator"), ("pair_discriminator", "supresdiffgan_unet")):
        path = tmp_path / f"{name}.safetensors"
        write_state(path, states[name])
        assert read_network(name, path).arguments == MAPS[name].arguments(states[name])
        with pytest.raises(ValueError, match=f"this is a {name} checkpoint, not {other}"):
            read_network(other, path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("supresdiffgan_unet", {"conv_in.weight": (32, 6, 3, 3)}, "6 channels enter and 4 leave"),
        ("pair_discriminator", {"conv1.weight": (8, 5, 3, 3)}, "5 channels enter"),
        ("pair_discriminator", {"blocks.0.conv.weight": (12, 8, 3, 3)}, r"\[8, 12, .* not two of a width"),
        ("supresdiffgan_unet", {"down_blocks.0.attentions.0.to_q.weight": (32, 32)}, "1 of 327 names are unknown"),
    ],
)
def test_networks_of_another_shape_are_errors(states, name, changes, message):
    state = states[name] | {key: np.zeros(shape, np.float32) for key, shape in changes.items()}
    with pytest.raises(ValueError, match=message):
        to_flax(MAPS[name], state, "file")
