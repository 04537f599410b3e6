"""Checkpoints of RRDBNet and SRVGG: three namings, ncnn's files, and what is neither."""

import re
import sys
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from framer_jax.commands import port_originals
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.ncnn import read_ncnn
from framer_jax.porting.rrdbnet import RRDBNET
from framer_jax.porting.srvgg import SRVGG
from framer_jax.porting.table import read_torch
from tests.support.checkpoints import small_states
from tests.support.ncnn import write_ncnn
from tools.parity.cases import load_case


@pytest.fixture(scope="module")
def states(fixtures):
    """(RRDBNet's, SRVGG's) state dicts in BasicSR's names."""
    both = small_states(fixtures)
    return both["rrdbnet"], both["srvgg"]


OLDEST = {"conv_first": "model.0", "conv_up1": "model.3", "conv_up2": "model.6", "conv_hr": "model.8"}
OLDEST |= {"conv_last": "model.10", "conv_body": "model.1.sub.2"}


def middle_name(key):
    for new, old in (("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), ("rdb", "RDB")):
        key = key.replace(new, old)
    return key.replace("conv_up", "upconv").replace("conv_hr", "HRconv")


def oldest_name(key):
    layer, _, tensor = key.rpartition(".")
    if block := re.fullmatch(r"body\.(\d+)\.rdb(\d)\.conv(\d)", layer):
        return f"model.1.sub.{block[1]}.RDB{block[2]}.conv{block[3]}.0.{tensor}"
    return f"{OLDEST[layer]}.{tensor}"


@pytest.mark.parametrize("rename", [middle_name, oldest_name])
@pytest.mark.parametrize("prefix", ["", "params_ema.", "module.", "model.net_g.", "generator.", "_orig_mod."])
def test_old_names_and_prefixes_load_to_equal_parameters(states, tmp_path, rename, prefix):
    params, arguments, _ = to_flax(RRDBNET, states[0], "new")
    save_file({prefix + rename(key): value for key, value in states[0].items()}, tmp_path / "old.safetensors")
    old = read_torch("rrdbnet", tmp_path / "old.safetensors")
    assert old.arguments == arguments == {
        "scale": 4, "variant": "real_esrgan", "channels": 16, "blocks": 2, "growth": 8, "image_channels": 3
    }  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, old.params, params)


def test_bsrgans_factor_2_comes_back_under_its_own_names(fixtures):
    (state,) = load_case(fixtures / "rrdbnet_bsrgan_keys_x2_tiny.npz").weights.values()
    params, arguments, _ = to_flax(RRDBNET, state, "bsrgan")
    assert (arguments["scale"], arguments["variant"]) == (2, "bsrgan")
    back = to_torch(RRDBNET, params, "bsrgan", arguments)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("fixture", "scale"), [("rrdbnet_x2_tiny", 2), ("rrdbnet_x1_tiny", 1), ("rrdbnet_esrgan_keys_x4_tiny", 4)]
)
def test_channels_of_the_first_layer_tell_the_scale(fixtures, fixture, scale):
    (state,) = load_case(fixtures / f"{fixture}.npz").weights.values()
    assert to_flax(RRDBNET, state, fixture)[1]["scale"] == scale


def test_activations_without_slopes_are_assumed_or_stated(states, tmp_path, capsys):
    state = {key: value for key, value in states[1].items() if not re.fullmatch(r"body\.\d*[13579]\.weight", key)}
    save_file(state, tmp_path / "relu.safetensors")
    ported = read_torch("srvgg", tmp_path / "relu.safetensors")
    assert ported.arguments["activation"] == "relu" and ported.source["assumed"] == ["activation"]
    assert "activation 'relu'" in ported.source["notes"][0]
    with pytest.raises(ValueError, match="a network without slopes has relu or leaky_relu"):
        SRVGG.settle(ported.arguments, {"activation": "prelu"}, state)
    assert SRVGG.settle(ported.arguments, {"activation": "leaky_relu"}, state)["activation"] == "leaky_relu"


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("kind", [0, 1])
def test_ncnn_files_hold_the_same_tensors(states, tmp_path, kind, half):
    state, name = states[kind], ("rrdbnet", "srvgg")[kind]
    path = write_ncnn(tmp_path / "net", state, half=half)
    rounded = {
        key: value.astype("f2").astype("f4") if half and value.ndim > 1 else value for key, value in state.items()
    }
    read = read_ncnn(path)
    assert read.keys() == state.keys()
    assert all(np.array_equal(read[key], rounded[key]) for key in state)
    for file in (path, path.with_suffix(".bin")):
        ported = read_torch(name, file)
        assert [entry["file"] for entry in ported.source["files"]] == ["net.param", "net.bin"]
    with pytest.raises(ValueError, match=f"this is a {name} checkpoint, not swinir"):
        read_torch("swinir", path)


FOREIGN = {
    "HAT": {"layers.0.residual_group.overlap_attn.qkv.weight": 0, "conv_first.weight": 0, "conv_last.weight": 0},
    "DAT": {"layers.0.blocks.0.attn.attns.0.get_v.weight": 0, "conv_first.weight": 0},
    "EDSR": {"conv_first.weight": 0, "body.0.conv1.weight": 0, "conv_last.weight": 0},
    "a discriminator": {"conv0.weight": 0, "conv1.weight_orig": 0, "conv9.weight": 0},
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("model", ["rrdbnet", "srvgg", "swinir"])
def test_other_networks_are_named(tmp_path, name, model):
    save_file({key: np.zeros((4, 3, 3, 3), np.float32) for key in FOREIGN[name]}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"x.safetensors: weights of {name}.*, not of {model}"):
        read_torch(model, tmp_path / "x.safetensors")


def test_networks_of_ours_are_told_apart(fixtures, tmp_path):
    names = ("rrdbnet", "srvgg", "swinir")
    states = small_states(fixtures)
    for given in names:
        state = {key: np.ascontiguousarray(value) for key, value in states[given].items()}
        save_file(state, tmp_path / "x.safetensors")
        for model in set(names) - {given}:
            with pytest.raises(ValueError, match=f"this is a {given} checkpoint, not {model}"):
                read_torch(model, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("arguments", "module", "expected"),
    [
        ({}, "basicsr.archs.rrdbnet_arch", {"scale": 4, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}),
        (
            {"variant": "bsrgan", "scale": 2},
            "models.network_rrdbnet",
            {"in_nc": 3, "out_nc": 3, "nf": 8, "nb": 1, "gc": 4, "sf": 2},
        ),
    ],
)
def test_originals_are_built_from_the_arguments(monkeypatch, arguments, module, expected):
    """The class that has the keys that `to_torch` writes."""
    values = {"scale": 4, "variant": "real_esrgan", "channels": 8, "blocks": 1, "growth": 4, "image_channels": 3}
    stand_in = types.SimpleNamespace(RRDBNet=lambda *sizes, **settings: settings)
    monkeypatch.setitem(sys.modules, module.split(".")[0], types.ModuleType(module))
    monkeypatch.setattr(port_originals.importlib, "import_module", {module: stand_in}.__getitem__)
    assert port_originals._make_rrdbnet(values | arguments) == expected
