"""Weights of HF-Diff's extractor: exact round trips, what the tensors tell, and what is refused by name."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from framer_jax.checkpoints.networks import build_network, load_network, network_shapes, read_network
from framer_jax.commands.port import port_to_jax, port_to_torch
from framer_jax.models.hf_extractor import RELEASED
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.trees import flatten_names
from tests.support.tiny import random_weights
from tools.parity.cases import load_case

WEIGHTS = MAPS["hf_extractor"]

PAPER = {
    "variant": "paper",
    "image_channels": 4,
    "channels": 6,
    "modules": 3,
    "expansion": 2,
    "classifier_layers": 1,
    "classes": 7,
    "exponent_limit": None,
}


@pytest.fixture(scope="module")
def released(fixtures):
    return load_case(fixtures / "inn.npz").weights["model"]


@pytest.fixture
def file(released, tmp_path):
    write_state(tmp_path / "detail.safetensors", released)
    return tmp_path / "detail.safetensors"


def test_cddfuses_file_goes_both_ways(released, file, tmp_path):
    port_to_jax("hf_extractor", [file], tmp_path / "ours.safetensors")
    port_to_torch("hf_extractor", [tmp_path / "ours.safetensors"], tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == released.keys()
    for key, value in released.items():
        np.testing.assert_array_equal(back[key], value)
    for path in (file, tmp_path / "ours.safetensors"):
        network = load_network("hf_extractor", path)
        assert network.arguments == {**RELEASED, "exponent_limit": None}


@pytest.mark.parametrize(
    "changes", [{}, {"modules": 5, "expansion": 1}, {"image_channels": 0}, {"classes": 0, "classifier_layers": 0}]
)
def test_tensors_tell_the_architecture(changes):
    arguments = {**PAPER, **changes}
    params = random_weights(network_shapes("hf_extractor", build_network("hf_extractor", arguments)))
    state = to_torch(WEIGHTS, params, "ours", arguments)
    again, inferred, dropped = to_flax(WEIGHTS, state, "theirs")
    assert inferred == arguments and not dropped
    leaves, expected = flatten_names(again)[0], flatten_names(params)[0]
    assert leaves.keys() == expected.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[name])


def test_the_bound_of_the_exponents_comes_from_the_caller_and_stays_with_the_file(tmp_path):
    params = random_weights(network_shapes("hf_extractor", build_network("hf_extractor", PAPER)))
    write_state(tmp_path / "e.safetensors", to_torch(WEIGHTS, params, "ours", PAPER))
    assert load_network("hf_extractor", tmp_path / "e.safetensors", exponent_limit=2.0).module.exponent_limit == 2.0
    assert read_network("hf_extractor", tmp_path / "e.safetensors").source["assumed"] == ["exponent_limit"]


def test_an_extractor_of_another_depth_is_refused_by_name(file):
    with pytest.raises(ValueError, match=r"detail.safetensors, a checkpoint of HF-Diff's extractor, variant released"):
        load_network("hf_extractor", file, modules=8)
    with pytest.raises(ValueError, match=r"3 invertible modules.*missing.*module_3/additive"):
        load_network("hf_extractor", file, modules=8)


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("net.1.theta_eta.", "it lacks 'net.1.theta_eta.bottleneckBlock.0.weight'"),
        ("net.2.shffleconv.bias", r"missing.*net\.2\.shffleconv\.bias"),
        ("net.0.", "it lacks 'net.0.theta_phi.bottleneckBlock.0.weight'"),
        ("net.1.", r"unexpected.*net\.2\."),
        ("", "not|lacks"),
    ],
)
def test_partial_weights_are_refused_by_name(released, tmp_path, lacking, words):
    state = {key: value for key, value in released.items() if not key.startswith(lacking)}
    state = state or {"other.weight": np.zeros((2, 2), np.float32)}
    write_state(tmp_path / "part.safetensors", state)
    with pytest.raises(ValueError, match=f"part.safetensors.*(?:{words})"):
        read_network("hf_extractor", tmp_path / "part.safetensors")


def test_missing_files_and_other_networks_are_refused_by_name(fixtures, file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_network("hf_extractor", tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="this is a hf_extractor checkpoint, not srvgg"):
        read_network("srvgg", file)
    write_state(tmp_path / "s.safetensors", load_case(fixtures / "srvgg_tiny.npz").weights["model"])
    with pytest.raises(ValueError, match="this is a srvgg checkpoint, not hf_extractor"):
        read_network("hf_extractor", tmp_path / "s.safetensors")
