"""TAESD's published files: two with the same names, a folder of them, diffusers' folders, and ours."""

import json
import shutil

import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, network_shapes, read_network
from framer_jax.checkpoints.paths import digest_of
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import to_torch
from framer_jax.porting.stated import Statement
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.trees import flatten_names, tree_digest
from tests.commands.test_port import port
from tests.support.tiny import random_weights

TAESD = MAPS["taesd"]


def halves(channels, prefix=False):
    """(diffusers' state dict, the authors' encoder, the authors' decoder) of a narrow autoencoder."""
    arguments = {"latent_channels": channels, "channels": 8}
    params = random_weights(network_shapes("taesd", build_network("taesd", arguments)))
    state = to_torch(TAESD, params, "", arguments)
    files = {"encoder": {}, "decoder": {}}
    for key, value in state.items():
        half, _, index, rest = key.split(".", 3)
        number = int(index) + (half == "decoder")
        files[half][f"{half}.{number}.{rest}" if prefix else f"{number}.{rest}"] = value
    return state, files["encoder"], files["decoder"]


def write_pair(folder, name, channels):
    folder.mkdir(exist_ok=True)
    state, encoder, decoder = halves(channels)
    write_state(folder / f"{name}_encoder.safetensors", encoder)
    write_state(folder / f"{name}_decoder.safetensors", decoder)
    return state


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("taesd")
    state = write_pair(place / "one", "taesd3", 16)
    write_pair(place / "both", "taesd3", 16)
    write_pair(place / "both", "taesd", 4)
    write_pair(place / "both", "taesdxl", 4)
    write_folder(place / "diffusers", TAESD.make_config({"latent_channels": 16, "channels": 8}), state)
    write_state(place / "module.safetensors", {**halves(16, True)[1], **halves(16, True)[2]})
    shutil.copy(place / "one" / "taesd3_encoder.safetensors", place / "a.safetensors")
    shutil.copy(place / "one" / "taesd3_decoder.safetensors", place / "b.safetensors")
    return place


@pytest.mark.parametrize(
    "names",
    [
        ("a.safetensors", "b.safetensors"),
        ("b.safetensors", "a.safetensors"),
        ("one",),
        ("diffusers",),
        ("diffusers/diffusion_pytorch_model.safetensors",),
        ("module.safetensors",),
    ],
    ids="+".join,
)
def test_all_forms_give_the_same_parameters_and_arguments(place, names):
    ported = read_network("taesd", *(place / name for name in names))
    assert ported.arguments == {"latent_channels": 16, "channels": 8}
    reference = read_network("taesd", place / "a.safetensors", place / "b.safetensors")
    assert tree_digest(ported.params, {}) == tree_digest(reference.params, {})
    if "diffusers" not in names[0]:
        assert ported.source["notes"] == ["read in the authors' layout of TAESD"]
    if len(names) == 2 or names == ("one",):  # in the order of encoder and decoder, so that digests agree
        assert [file["sha256"] for file in ported.source["files"]] == [
            file["sha256"] for file in reference.source["files"]
        ]


def test_port_both_ways(place, tmp_path, capsys):
    ours, torch, folder = tmp_path / "ours.safetensors", tmp_path / "torch.safetensors", tmp_path / "folder"
    assert port(place / "b.safetensors", place / "a.safetensors", ours, "--model", "taesd") == 0
    assert "TAESD3 (16 latent channels, 8 wide)" in capsys.readouterr().out
    assert digest_of(ours) == digest_of(place / "one")
    assert port(ours, torch, "--model", "taesd", "--to", "torch") == 0
    assert port(ours, folder, "--model", "taesd", "--to", "diffusers") == 0
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "AutoencoderTiny"
    reference = flatten_names(read_network("taesd", ours).params)[0]
    for path in (torch, folder):
        for name, leaf in flatten_names(read_network("taesd", path).params)[0].items():
            np.testing.assert_array_equal(leaf, reference[name])


def test_a_folder_of_several_pairs(place):
    """As of the previews of a user interface: the space decides, and without one it is refused."""
    for channels, name in ((4, "taesd"), (16, "taesd3")):
        statement = Statement("the recipe", {"latent_channels": channels})
        ported = read_network("taesd", place / "both", statements=[statement])
        assert ported.arguments["latent_channels"] == channels
        assert {file["file"] for file in ported.source["files"]} == {
            f"{name}_encoder.safetensors",
            f"{name}_decoder.safetensors",
        }
        assert digest_of(place / "both", pair=name) == "+".join(file["sha256"] for file in ported.source["files"])
    with pytest.raises(ValueError, match="holds several autoencoders \\(taesd, taesd3, taesdxl\\)"):
        read_network("taesd", place / "both")


def refused(message, *names, model="taesd"):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_network(model, *names)
    assert "\n" not in str(caught.value)


def test_what_is_not_one_autoencoder_is_refused(place, tmp_path):
    refused("it lacks 'the decoder \\(give both files", place / "a.safetensors")
    refused("it lacks 'the encoder \\(give both files", place / "b.safetensors")
    refused("of another file again", place / "a.safetensors", place / "a.safetensors")
    refused("16 channels, the decoder takes 4", place / "a.safetensors", place / "both" / "taesd_decoder.safetensors")
    refused(
        "this is a taesd checkpoint in the authors' layout of TAESD, not kl_autoencoder",
        *(place / "a.safetensors", place / "b.safetensors"),
        model="kl_autoencoder",
    )
    (tmp_path / "taesd_encoder.safetensors").write_bytes((place / "a.safetensors").read_bytes())
    refused("holds neither config.json of diffusers nor two files", tmp_path)
    state, encoder, _ = halves(4)
    write_state(tmp_path / "deep.safetensors", {**encoder, "15.conv.0.weight": np.zeros((8, 8, 3, 3), np.float32)})
    refused("names are unknown to it: encoder.layers.15", tmp_path / "deep.safetensors", place / "b.safetensors")
    config = TAESD.make_config({"latent_channels": 4, "channels": 8})
    for name, value in (("act_fn", "silu"), ("upsample_fn", "bilinear"), ("num_encoder_blocks", [1, 2, 2, 2])):
        write_folder(tmp_path / name, {**config, name: value}, state)
        refused(f"{name} .* is not supported", tmp_path / name)
    write_folder(tmp_path / "kl", {"_class_name": "AutoencoderKL"}, state)
    refused("describes a AutoencoderKL, not an AutoencoderTiny", tmp_path / "kl")
