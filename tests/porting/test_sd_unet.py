"""Stable Diffusion 2's U-Net and its ControlNet: folders of Diffusers, single files, and what tensors do not tell."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from framer_jax.checkpoints.networks import build_network, load_network, network_shapes, read_network
from framer_jax.models.controlnet import ControlNet
from framer_jax.models.sd_unet import SDUNet
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.table import LAYOUTS, MAPS, read_torch
from framer_jax.porting.weights import read_metadata
from framer_jax.trees import flatten_names
from tests.commands.test_port import port, refused
from tests.support.checkpoints import small_states
from tests.support.tiny import TINY, ported, random_weights
from tools.parity.cases import load_case

NAMES = ("sd_unet", "controlnet")

ASSUMED = "assumed, as in published models, since the tensors do not tell: "


def small(name, **changes):
    """(parameters, arguments, tensors in Diffusers' names) of a small network with random numbers."""
    arguments = {**TINY[name], **changes}
    params = random_weights(network_shapes(name, build_network(name, arguments)))
    return params, arguments, to_torch(MAPS[name], params, name, arguments)


def folder_of(path, name, state, arguments, **settings):
    """A folder as Diffusers saves it."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(MAPS[name].make_config(arguments) | settings))
    save_file(state, path / "diffusion_pytorch_model.safetensors")
    return path


def same(params, expected):
    ours, theirs = flatten_names(params)[0], flatten_names(expected)[0]
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_diffusers_there_and_back(name, tmp_path, capsys):
    params, arguments, state = small(name)
    folder_of(tmp_path / "pipeline" / MAPS[name].folder, name, state, arguments)
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back"
    assert port(tmp_path / "pipeline", ours, "--model", name) == 0
    printed = capsys.readouterr().out
    assert ASSUMED not in printed and "(widths 8, 16, text of width 16)" in printed
    network = load_network(name, ours)
    assert network.arguments == arguments
    same(network.params, params)
    assert port(ours, back, "--model", name, "--to", "diffusers") == 0
    tensors = load_file(back / "diffusion_pytorch_model.safetensors")
    assert tensors.keys() == state.keys()
    assert all(np.array_equal(tensors[key], value) for key, value in state.items())
    config = json.loads((back / "config.json").read_text())
    assert config["_class_name"] == MAPS[name].config_class
    assert MAPS[name].read_config(config, "") == arguments
    assert (config["attention_head_dim"], config["block_out_channels"]) == ([2, 4], [8, 16])
    assert config["down_block_types"] == ["CrossAttnDownBlock2D", "DownBlock2D"]
    if name == "sd_unet":
        assert config["up_block_types"] == ["UpBlock2D", "CrossAttnUpBlock2D"]


@pytest.mark.parametrize("name", NAMES)
def test_what_tensors_do_not_tell_is_printed_or_stated(name, tmp_path, capsys):
    _, arguments, state = small(name)
    ours, back, again = (tmp_path / f"{word}.safetensors" for word in ("ours", "back", "again"))
    save_file(state, tmp_path / "in.safetensors")
    assert port(tmp_path / "in.safetensors", ours, "--model", name) == 0
    assert f"{ASSUMED}heads (1, 1), groups 8; state others" in capsys.readouterr().out
    sets = ("--set", "heads=[2,4]", "--set", "groups=4")
    assert port(tmp_path / "in.safetensors", ours, "--model", name, *sets, "--overwrite") == 0
    assert port(ours, back, "--model", name, "--to", "torch") == 0
    assert port(back, again, "--model", name) == 0
    assert ASSUMED not in capsys.readouterr().out
    stated = read_metadata(again)
    assert tuple(stated["arguments"]["heads"]) == (2, 4) and stated["arguments"]["groups"] == 4
    assert load_network(name, again).arguments == arguments


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (("heads=[2,3]",), "heads (2, 3) do not divide the widths of the levels, (8, 16)"),
        (("heads=[2]",), "heads is [2]: it must be a list of 2 numbers, one for each level"),
        (("heads=2",), "heads is 2: it must be a list of 2 numbers"),
        (("heads=[2,'a']",), "heads (2, 'a') do not divide"),
        (("groups=5",), "groups 5 do not divide the widths"),
        (("blocks=2",), "--set contradicts the tensors (blocks 2 and 1)"),
    ],
)
def test_values_that_do_not_fit_are_one_line(values, fault, tmp_path, capsys):
    save_file(small("sd_unet")[2], tmp_path / "in.safetensors")
    sets = [word for value in values for word in ("--set", value)]
    assert port(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--model", "sd_unet", *sets) == 2
    refused(capsys, fault)


def test_the_controlnet_of_the_fixture_goes_there_and_back(fixtures):
    state = load_case(fixtures / "controlnet_sd2_tiny.npz").weights["model"]
    params, arguments, dropped = to_flax(MAPS["controlnet"], state, "fixture")
    back = to_torch(MAPS["controlnet"], params, "ours", arguments)
    assert back.keys() == state.keys() and not dropped
    assert all(np.array_equal(back[key], value) for key, value in state.items())
    assert arguments["image_widths"] == (8, 8, 12, 16)


@pytest.mark.parametrize(("name", "module"), [("sd_unet", SDUNet()), ("controlnet", ControlNet())])
def test_published_networks_are_recognised_from_their_shapes(name, module):
    params = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), network_shapes(name, build_network(name, {}))
    )
    state = to_torch(MAPS[name], params, "ours")
    arguments = MAPS[name].arguments(state)  # with the assumed heads of width 64 and 32 groups
    assert build_network(name, arguments) == module
    assert "(widths 320, 640, 1280, 1280, text of width 1024)" in MAPS[name].describe(arguments)
    assert build_network(name, MAPS[name].read_config(MAPS[name].make_config(arguments), "")) == module
    assert len(state) == {"sd_unet": 686, "controlnet": 340}[name]


def test_a_ported_file_may_be_loaded_by_path(tmp_path):
    for name in NAMES:
        file = ported(tmp_path / f"{name}.safetensors", name)
        assert load_network(name, file).arguments == TINY[name]


# --- single files ----------------------------------------------------------------------------------------------------

LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

WHOLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
}


def latent_diffusions(state):
    """The tensors in the names of latent diffusion's code: the inverse of the layout, written out."""
    blocks = 1 + max(int(match[1]) for key in state if (match := re.match(r"down_blocks\.0\.resnets\.(\d+)", key)))
    hints = sum(key.startswith("controlnet_cond_embedding") for key in state) // 2
    levels = {match[1] for key in state if (match := re.match(r"down_blocks\.(\d+)\.attentions", key))}
    last = max(int(match[1]) for key in state if (match := re.match(r"down_blocks\.(\d+)", key)))
    result = {}
    for key, value in state.items():
        stem, _, tensor = key.rpartition(".")
        if stem in WHOLE:
            name = WHOLE[stem]
        elif stem == "controlnet_cond_embedding.conv_out":
            name = f"input_hint_block.{2 * hints - 2}"
        elif match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)", stem):
            name = f"input_hint_block.{2 * int(match[1]) + 2}"
        elif match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", stem):
            name = f"zero_convs.{match[1]}.0"
        elif match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", stem):
            layer = LAYERS.get(match[3], match[3]) if match[1] == "resnets" else match[3]
            name = f"middle_block.{2 * int(match[2]) + (match[1] == 'attentions')}.{layer}"
        else:
            way, level, part, index, layer = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d)\.(.+)", stem).groups()
            number = int(level) * (blocks + 1) + (way == "down")
            attends = level in levels if way == "down" else str(last - int(level)) in levels
            name = (
                f"{'input' if way == 'down' else 'output'}_blocks."
                + {
                    "resnets": f"{number + int(index)}.0.{LAYERS.get(layer)}",
                    "attentions": f"{number + int(index)}.1.{layer}",
                    "downsamplers": f"{number + blocks}.0.op",
                    "upsamplers": f"{number + blocks}.{1 + attends}.conv",
                }[part]
            )
        result[f"{name}.{tensor}"] = value
    return result


LARGER = {"channels": (8, 16, 24), "heads": (2, 4, 3), "blocks": 2, "attention_levels": (0, 2)}


def test_the_written_out_names_are_those_of_the_release():
    """Places known from Stability's files: 25 entries of the way, 12 on the way down with the first convolution."""
    changes = {"channels": (8, 16, 16, 16), "heads": (2, 4, 4, 4), "blocks": 2, "attention_levels": (0, 1, 2)}
    names = latent_diffusions(small("sd_unet", **changes)[2])
    assert {"input_blocks.3.0.op.weight", "input_blocks.4.0.skip_connection.weight"} <= names.keys()
    assert {"input_blocks.11.0.in_layers.0.weight", "output_blocks.2.1.conv.weight"} <= names.keys()
    assert {"output_blocks.5.2.conv.bias", "output_blocks.11.1.proj_out.weight"} <= names.keys()
    assert "middle_block.1.transformer_blocks.0.attn2.to_k.weight" in names
    assert not any(key.startswith(("input_blocks.12", "output_blocks.12", "output_blocks.11.2")) for key in names)


@pytest.mark.parametrize("changes", [{}, LARGER], ids=["two levels", "three levels"])
@pytest.mark.parametrize("name", NAMES)
def test_single_files_are_read_as_from_diffusers(name, changes, tmp_path):
    params, _, state = small(name, **changes)
    renamed = latent_diffusions(state)
    assert not renamed.keys() & state.keys()
    prefix = {"sd_unet": "model.diffusion_model.", "controlnet": "control_model."}[name]
    others = {"first_stage_model.encoder.conv_in.bias": np.ones(8, np.float32), "betas": np.ones(1000, np.float32)}
    save_file({f"{prefix}{key}": value for key, value in renamed.items()} | others, tmp_path / "v2.safetensors")
    read = read_network(name, tmp_path / "v2.safetensors")
    same(read.params, params)
    assert read.source["removed"] == [prefix]
    assert any(f"read in {LAYOUTS[name].title}" in note for note in read.source["notes"])
    save_file(state, tmp_path / "diffusers.safetensors")
    assert read.arguments == read_torch(name, tmp_path / "diffusers.safetensors").arguments


def test_resshifts_unet_is_not_taken_for_it(fixtures, tmp_path):
    """Its layers have names of latent diffusion's layout too."""
    save_file(small_states(fixtures)["resshift_unet"], tmp_path / "resshift.safetensors")
    with pytest.raises(ValueError, match="this is a resshift_unet checkpoint, not sd_unet"):
        read_torch("sd_unet", tmp_path / "resshift.safetensors")
    save_file(latent_diffusions(small("sd_unet")[2]), tmp_path / "sd.safetensors")
    with pytest.raises(ValueError, match="is not resshift_unet"):
        read_torch("resshift_unet", tmp_path / "sd.safetensors")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_the_two_networks_are_not_taken_for_each_other(tmp_path):
    for name, other in (NAMES, NAMES[::-1]):
        _, arguments, state = small(name)
        folder = folder_of(tmp_path / name, name, state, arguments)
        for path in (folder, folder / "diffusion_pytorch_model.safetensors"):
            with pytest.raises(ValueError, match=f"this is a {name} checkpoint, not {other}"):
                read_torch(other, path)
        folder_of(tmp_path / f"{name} mixed", name, state, arguments, _class_name="UNet2DModel")
        with pytest.raises(ValueError, match=f"describes a UNet2DModel, not a {MAPS[name].config_class}"):
            read_torch(name, tmp_path / f"{name} mixed")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sd_unet", {"use_linear_projection": False}, "use_linear_projection False, as in Stable Diffusion 1"),
        (
            "sd_unet",
            {"addition_embed_type": "text_time"},
            "addition_embed_type 'text_time' is not supported, only None",
        ),
        ("sd_unet", {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ("sd_unet", {"transformer_layers_per_block": [1, 2]}, "transformer_layers_per_block [1, 2]"),
        ("sd_unet", {"layers_per_block": [1, 1]}, "layers_per_block [1, 1] is not supported, only one number"),
        ("sd_unet", {"in_channels": 9}, "in_channels 9 is not supported, only 4"),
        ("sd_unet", {"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "up_block_types ['UpBlock2D', 'UpBlock2D']"),
        ("sd_unet", {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, "down_block_types"),
        ("sd_unet", {"down_block_types": ["DownBlock2D"]}, "one for each of block_out_channels"),
        ("sd_unet", {"block_out_channels": [16, 16]}, "(channels (16, 16) and (8, 16)): fetch both again"),
        ("sd_unet", {"attention_head_dim": 3}, "heads (3, 3) do not divide the widths"),
        ("controlnet", {"controlnet_conditioning_channel_order": "bgr"}, "channel_order 'bgr' is not supported"),
        ("controlnet", {"global_pool_conditions": True}, "global_pool_conditions True"),
        ("controlnet", {"conditioning_channels": 1}, "image_channels 1 and 3"),
    ],
)
def test_a_folder_with_other_settings_is_refused_by_their_names(name, settings, words, tmp_path):
    _, arguments, state = small(name)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_torch(name, folder_of(tmp_path / name, name, state, arguments, **settings))
    assert "\n" not in str(caught.value)


def test_heads_may_be_one_number_and_the_softmax_upcast(tmp_path):
    _, arguments, state = small("sd_unet")
    folder = folder_of(tmp_path / "unet", "sd_unet", state, arguments, attention_head_dim=4, upcast_attention=True)
    assert read_torch("sd_unet", folder).arguments["heads"] == (4, 4)


def test_networks_of_other_kinds_are_one_line(tmp_path):
    _, _, state = small("sd_unet")
    older = {
        key: value[:, :, None, None] if ".proj_" in key and value.ndim == 2 else value for key, value in state.items()
    }
    inpainting = state | {"conv_in.weight": np.zeros((8, 9, 3, 3), np.float32)}
    larger = state | {"add_embedding.linear_1.weight": np.zeros((8, 8), np.float32)}
    lacking = {key: value for key, value in state.items() if not key.startswith("mid_block")}
    for tensors, words in (
        (older, "a convolution as in Stable Diffusion 1: only Stable Diffusion 2 is supported"),
        (inpainting, "9 channels enter and 4 leave it"),
        (larger, "1 of 209 names are unknown to it: add_embedding.linear_1.weight"),
        (lacking, "incomplete as sd_unet: it lacks 'mid_block.attentions.0.proj_in.weight'"),
    ):
        save_file(tensors, tmp_path / "in.safetensors")
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            read_network("sd_unet", tmp_path / "in.safetensors")
        assert "\n" not in str(caught.value)
