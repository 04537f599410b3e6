"""`framer-jax port --check`: the original and ours, layer by layer."""

import re
import sys
import types

import flax.linen as nn
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.commands import port_check
from framer_jax.commands.port_originals import ORIGINALS
from framer_jax.porting.maps import layer_pairs, to_flax
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from tests.commands.test_port import port, refused
from tests.support.checkpoints import small_states
from tests.support.tiny import ported


@pytest.fixture(scope="module")
def states(fixtures):
    return small_states(fixtures)


@pytest.fixture(scope="module")
def checkpoint(states, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "vq.safetensors"
    write_state(path, states["vq_f4"])
    return path


NAMES = [("resshift_unet", 180), ("vq_f4", 93), ("swinir", 41), ("mmdit", 71), ("dit4sr_transformer", 94)]
NAMES += [("rrdbnet", 36), ("srvgg", 6)]


@pytest.mark.parametrize(("name", "count"), NAMES)
def test_every_layer_of_the_original_has_one_of_ours_to_be_compared_with(states, name, count):
    pairs = layer_pairs(MAPS[name], states[name])
    module = build_network(name, MAPS[name].arguments(states[name]))
    called = set()

    def record(call, arguments, options, context):
        called.add("/".join(context.module.path))
        return call(*arguments, **options)

    with nn.intercept_methods(record):
        network_shapes(name, module)
    pairs = {layer: path for layer, path in pairs.items() if not re.search(ORIGINALS[name].unused, layer)}
    assert len(pairs) == count
    assert set(pairs.values()) <= called


def original_that_adds(change):
    """A stand-in for PyTorch's module and what is recorded of it: our own outputs, changed."""

    def run(name, state, arguments, inputs, folder):
        params, arguments, _ = to_flax(MAPS[name], state, name)
        ours, output = port_check._run_ours(name, build_network(name, arguments), params, inputs)
        layers = {layer: ours[path] for layer, path in layer_pairs(MAPS[name], state).items()}
        layers["decoder.conv_in"] = layers["decoder.conv_in"] + np.float32(change)
        return {layer: np.moveaxis(value, -1, 1) for layer, value in layers.items()}, np.moveaxis(output, -1, 1)

    return run


def test_check_says_which_layer_differs(checkpoint, tmp_path, monkeypatch, capsys):
    words = (checkpoint, tmp_path / "out.safetensors", "--model", "vq_f4", "--check", tmp_path)
    monkeypatch.setattr(port_check, "_run_original", original_that_adds(1.0))
    assert port(*words) == 2
    refused(capsys, "differs from its original: first at decoder.conv_in")
    assert not (tmp_path / "out.safetensors").exists()
    monkeypatch.setattr(port_check, "_run_original", original_that_adds(0.0))
    assert port(*words) == 0
    assert "93 layers, relative differences up to 0.0e+00" in capsys.readouterr().out


def test_check_needs_pytorch_and_the_original(states, checkpoint, tmp_path, monkeypatch, capsys):
    words = (checkpoint, tmp_path / "out.safetensors", "--model", "vq_f4", "--check")
    assert port(*words, tmp_path / "none") == 2
    refused(capsys, "no such folder")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert port(*words, tmp_path) == 2
    refused(capsys, "--check needs PyTorch")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace())
    assert port(*words, tmp_path) == 2
    refused(capsys, "the original cannot be imported")
    write_state(tmp_path / "alex.safetensors", states["lpips_alex"])
    words = (tmp_path / "alex.safetensors", tmp_path / "out.safetensors", "--model", "lpips_alex", "--check", tmp_path)
    assert port(*words) == 2
    refused(capsys, "knows no original of lpips_alex")


def test_check_of_dit4sr_is_of_what_its_code_computes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace())
    for changes, fault in (({}, "variant 'correct', lr_attention 'added'"), ({"variant": "released"}, "import")):
        file = ported(tmp_path / "ours.safetensors", "dit4sr_transformer", **changes)
        assert port(file, tmp_path / "out.safetensors", "--model", "dit4sr_transformer", "--check", tmp_path) == 2
        refused(capsys, "--check", fault)
    assert not (tmp_path / "out.safetensors").exists()


def test_layers_that_are_not_numbers_differ(states):
    ones = np.ones((1, 2, 2, 3), np.float32)
    channels_first = ones.transpose(0, 3, 1, 2)
    assert port_check._difference(ones, channels_first) == 0
    assert port_check._difference(ones * np.nan, channels_first) == np.inf
    assert port_check._difference(ones, channels_first * np.nan) == np.inf
    assert port_check._difference(0 * ones, 0 * channels_first) == 0
