"""DINOv2's published files: the authors' names and those of transformers, both ways."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from framer_jax.checkpoints.networks import build_network, network_shapes, read_network
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.dinov2 import PUBLISHED, TITLES, arguments_of_config, config_of_arguments, gated_width
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.stated import ARGUMENTS_KEY
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.porting.weights import read_metadata
from framer_jax.trees import flatten_names
from tests.commands.test_port import port, refused
from tests.support.tiny import TINY, random_weights

DINOV2 = MAPS["dinov2"]

PLAIN = {**TINY["dinov2"], "registers": 0, "mlp": "gelu", "hidden": 96}
PLAIN |= {"position_offset": 0.1, "position_antialias": False}

VARIANTS = {"registers": TINY["dinov2"], "plain": PLAIN}
"""With registers and SwiGLU, and without both; three heads each."""


def state_of(arguments):
    """The authors' state dict of a tiny network."""
    params = random_weights(network_shapes("dinov2", build_network("dinov2", arguments)))
    return to_torch(DINOV2, params, "", arguments)


def same(one, two):
    leaves, expected = flatten_names(one)[0], flatten_names(two)[0]
    assert leaves.keys() == expected.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[name])


def test_keys_are_the_authors(fixtures):
    rows = [str(row).split("\t") for row in np.load(fixtures / "dinov2_tiny.npz")["params/model"]]
    state = {key: np.zeros(tuple(map(int, shape.split(","))), np.float32) for key, shape, _ in rows}
    _, arguments, dropped = to_flax(DINOV2, state, "tiny")
    assert not dropped
    assert arguments == {**PLAIN, "width": 48, "depth": 3, "heads": 1, "hidden": 192, "image_size": 518}
    assert state_of(arguments).keys() == state.keys()
    assert {"register_tokens", "blocks.1.mlp.w12.weight", "blocks.1.mlp.w3.bias"} <= state_of(TINY["dinov2"]).keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_both_layouts_there_and_back(name, tmp_path, capsys):
    arguments, state = VARIANTS[name], state_of(VARIANTS[name])
    first, ours, folder, again, back = (
        tmp_path / word for word in ("in.safetensors", "ours.safetensors", "out", "again.safetensors", "b.safetensors")
    )
    write_state(first, state)
    assert port(first, ours, "--model", "dinov2", "--set", "heads=3") == 0
    assert "DINOv2 (24 wide, 2 blocks, patches of 14)" in capsys.readouterr().out
    assert read_metadata(ours)["arguments"] == arguments
    assert port(ours, folder, "--model", "dinov2", "--to", "diffusers") == 0
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    theirs = load_file(folder / "model.safetensors")
    assert len(theirs) == len(state) + 2 * 2 * 2  # three for one: weight and bias of two blocks
    layer = "encoder.layer.1.attention.attention"
    np.testing.assert_array_equal(theirs[f"{layer}.key.weight"], state["blocks.1.attn.qkv.weight"][24:48])
    np.testing.assert_array_equal(theirs[f"{layer}.value.bias"], state["blocks.1.attn.qkv.bias"][48:])
    np.testing.assert_array_equal(theirs["encoder.layer.0.layer_scale2.lambda1"], state["blocks.0.ls2.gamma"])
    np.testing.assert_array_equal(theirs["layernorm.weight"], state["norm.weight"])
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == "pt"  # transformers refuses others
    assert port(folder, again, "--model", "dinov2") == 0
    assert "read in the layout of transformers" in capsys.readouterr().out
    assert read_metadata(again)["arguments"] == arguments and read_metadata(again)["source"]["assumed"] == []
    assert port(again, back, "--model", "dinov2", "--to", "torch") == 0
    returned = load_file(back)
    assert returned.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(returned[key], value)
    with safe_open(back, framework="numpy") as file:
        assert json.loads(file.metadata()[ARGUMENTS_KEY])["arguments"]["heads"] == 3


@pytest.mark.parametrize("name", VARIANTS)
def test_folders_of_transformers_state_their_heads(name, tmp_path):
    arguments = VARIANTS[name]
    write_folder(tmp_path / "model", config_of_arguments(arguments), DINOV2.folder_tensors(state_of(arguments)))
    ported = read_network("dinov2", tmp_path / "model")
    assert ported.arguments == arguments
    assert ported.source["assumed"] == ["position_offset", "position_antialias"]
    same(ported.params, to_flax(DINOV2, state_of(arguments), "")[0])


def test_a_model_within_a_classifier_is_read(tmp_path):
    arguments = TINY["dinov2"]
    tensors = {
        f"dinov2_with_registers.{key}": value for key, value in DINOV2.folder_tensors(state_of(arguments)).items()
    }
    tensors |= {"classifier.weight": np.ones((5, 48), np.float32), "classifier.bias": np.ones(5, np.float32)}
    write_folder(tmp_path / "model", config_of_arguments(arguments), tensors, stem="model")
    ported = read_network("dinov2", tmp_path / "model")
    same(ported.params, to_flax(DINOV2, state_of(arguments), "")[0])
    assert any("left out classifier (2 tensors)" in note for note in ported.source["notes"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_there_and_back(name):
    for registers in (0, 4):
        arguments = {**PUBLISHED[name], "patch": 14, "image_size": 518, "registers": registers}
        config = config_of_arguments({**arguments, "layer_scale": True})
        assert config["mlp_ratio"] == 4 and config["image_size"] == 518
        assert arguments_of_config(config, "") == arguments
        assert DINOV2.describe(arguments) == f"DINOv2 {TITLES[name]}/14{' with 4 registers' if registers else ''}"
    assert gated_width(1536, 4) == 4096


LAYER = "encoder.layer.1.attention.attention.key.weight"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("mask_token", "missing (1): mask_token"),
        ("blocks.1.attn.proj.bias", "missing (1): blocks.1.attn.proj.bias"),
        ("blocks.1.ls2.gamma", "missing (1): blocks.1.ls2.gamma"),
        ("blocks.0.mlp.fc1.weight", "it lacks 'blocks.0.mlp.fc1.weight'"),
        ("pos_embed", "it lacks 'pos_embed'"),
        ("patch_embed.proj.weight", "it lacks 'patch_embed.proj.weight'"),
    ],
)
def test_partial_weights_are_refused_by_name(key, words, tmp_path, capsys):
    state = state_of(PLAIN)
    del state[key]
    write_state(tmp_path / "in.safetensors", state)
    assert port(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--model", "dinov2") == 2
    refused(capsys, words)


def test_partial_folders_are_refused_by_name(tmp_path, capsys):
    tensors = DINOV2.folder_tensors(state_of(PLAIN))
    del tensors[LAYER]
    write_folder(tmp_path / "model", config_of_arguments(PLAIN), tensors)
    assert port(tmp_path / "model", tmp_path / "out.safetensors", "--model", "dinov2") == 2
    refused(capsys, f"incomplete as dinov2: it lacks {LAYER!r}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "vit"}, "model_type 'vit' is not supported, only dinov2 and dinov2_with_registers"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported, only 'gelu'"),
        ({"qkv_bias": False}, "qkv_bias False is not supported"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05 is not supported"),
        ({"num_hidden_layers": 3}, "config.json and the tensors are not of one model"),
        ({"num_attention_heads": 5}, "heads is 5: it must divide the width, 24"),
        ({"num_register_tokens": 4}, "(registers 4 and 0)"),
    ],
)
def test_folders_with_other_settings_are_refused_by_their_names(changes, words, tmp_path, capsys):
    config = {**config_of_arguments(PLAIN), **changes}
    write_folder(tmp_path / "model", config, DINOV2.folder_tensors(state_of(PLAIN)))
    assert port(tmp_path / "model", tmp_path / "out.safetensors", "--model", "dinov2") == 2
    refused(capsys, words)


def test_positions_that_make_no_square_and_other_models_are_refused(tmp_path, capsys):
    state = state_of(PLAIN)
    write_state(tmp_path / "in.safetensors", state | {"pos_embed": state["pos_embed"][:, :-1]})
    assert port(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--model", "dinov2") == 2
    refused(capsys, "pos_embed has 35 positions of patches, which make no square")
    write_state(tmp_path / "in.safetensors", state)
    assert port(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--model", "swinir") == 2
    refused(capsys, "this is a dinov2 checkpoint, not swinir")
    write_state(tmp_path / "theirs.safetensors", DINOV2.folder_tensors(state))
    assert port(tmp_path / "theirs.safetensors", tmp_path / "out.safetensors", "--model", "swinir") == 2
    refused(capsys, "this is a dinov2 checkpoint in the layout of transformers, not swinir")


def test_without_layer_scale_there_is_no_folder(tmp_path, capsys):
    arguments = {**PLAIN, "layer_scale": False}
    write_state(tmp_path / "in.safetensors", state_of(arguments))
    ours = tmp_path / "ours.safetensors"
    assert port(tmp_path / "in.safetensors", ours, "--model", "dinov2") == 0
    assert read_metadata(ours)["arguments"]["layer_scale"] is False
    capsys.readouterr()
    assert port(ours, tmp_path / "out", "--model", "dinov2", "--to", "diffusers") == 2
    refused(capsys, "transformers has no DINOv2 without LayerScale: use --to torch")
