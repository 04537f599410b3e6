"""Runs of the multi-step method as whole networks: U-Net and ControlNet in the layout of Diffusers."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from framer_jax.checkpoints.networks import read_network
from framer_jax.porting.weights import load_weights
from tests.commands.test_port import port
from tests.support.tiny import ported, weights

NETWORK = "recipe.denoiser.controlled_sd_unet"


def knobs(folder):
    return (
        *("recipe.name=multistep_sd", f"{NETWORK}.control=latent", f"{NETWORK}.image_widths=(4,)"),
        *("recipe.space.statistics=image", "recipe.text.condition=zero"),  # wavelets: nothing to compile
        f"recipe.multistep_sd.base_checkpoint={folder}/base.safetensors",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and runs that trained the whole ControlNet or its last layers."""
    place = tmp_path_factory.mktemp("runs")
    ported(place / "base.safetensors", "sd_unet", out_channels=48)
    weights(place / "whole.safetensors", *knobs(place))
    weights(place / "part.safetensors", *knobs(place), "recipe.multistep_sd.trainable=^controlnet/control_")
    weights(place / "tokens.safetensors", *knobs(place), f"{NETWORK}.image_context_width=24")
    return place


def read(folder, model):
    """(parameters by name, constructor arguments) of a network in Diffusers' layout."""
    network = read_network(model, folder)
    return flatten_dict(network.params, sep="/"), network.arguments


def test_a_run_becomes_two_folders(folder, tmp_path):
    for model in ("sd_unet", "controlnet"):
        assert port(folder / "whole.safetensors", tmp_path / model, "--model", model, "--to", "diffusers") == 0
    base = flatten_dict(load_weights(folder / "base.safetensors")[0], sep="/")
    unet, arguments = read(tmp_path / "sd_unet", "sd_unet")
    assert arguments["heads"] == (2, 4) and arguments["groups"] == 4 and arguments["out_channels"] == 48
    assert unet.keys() == base.keys()
    for name, leaf in base.items():
        np.testing.assert_array_equal(unet[name], leaf)
    trained = flatten_dict(load_weights(folder / "whole.safetensors")[0]["denoiser"]["controlnet"], sep="/")
    controlnet, arguments = read(tmp_path / "controlnet", "controlnet")
    assert (arguments["image_widths"], arguments["image_channels"]) == ((4,), 48)
    assert controlnet.keys() == trained.keys()
    for name, leaf in trained.items():
        np.testing.assert_array_equal(controlnet[name], leaf)


def test_what_was_not_trained_of_the_controlnet_is_the_copy_that_it_started_from(folder, tmp_path):
    assert port(folder / "part.safetensors", tmp_path / "out", "--model", "controlnet", "--to", "diffusers") == 0
    controlnet, _ = read(tmp_path / "out", "controlnet")
    base = flatten_dict(load_weights(folder / "base.safetensors")[0], sep="/")
    trained = flatten_dict(load_weights(folder / "part.safetensors")[0]["denoiser"]["controlnet"], sep="/")
    assert trained and all(name.startswith("control_") for name in trained)
    for name, leaf in controlnet.items():
        if name in trained or name in base:
            np.testing.assert_array_equal(leaf, trained.get(name, base.get(name)))


def test_a_run_with_image_tokens_has_no_such_layout(folder, tmp_path, capsys):
    assert port(folder / "tokens.safetensors", tmp_path / "out", "--model", "sd_unet", "--to", "diffusers") == 2
    assert "its network attends to image tokens, which sd_unet in the layout of diffusers" in capsys.readouterr().err
