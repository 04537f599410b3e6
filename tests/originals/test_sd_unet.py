"""Stable Diffusion 2's U-Net and its ControlNet: diffusers' classes in several configurations."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, read_network
from framer_jax.commands import port_check
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tests.support.originals import close, diffusers, normal, original, stated, tensor, torch

ENCODER = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
}

UNET = {**ENCODER, "sample_size": 8, "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}

CONTROLNET = {**ENCODER, "conditioning_embedding_out_channels": (4, 6)}

CONFIGURATIONS = {
    "two levels": {},
    "one number of heads": {"attention_head_dim": 4},
    "attention at every level": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    },
    "softmax upcast": {"upcast_attention": True},
    "two blocks": {"layers_per_block": 2},
}


def inputs(multiple=2):
    return normal(0, 2, 2 * multiple, 3 * multiple, 4), np.asarray([3.0, 730.0], np.float32), normal(1, 2, 5, 12)


def run(name, ported, *arguments):
    module = build_network(name, ported.arguments)
    with jax.default_matmul_precision("highest"):
        return jax.jit(module.apply)({"params": ported.params}, *arguments)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_folder_of_the_unet_computes_the_same(tmp_path, name):
    config = {**UNET, **CONFIGURATIONS[name]}
    model = original(diffusers.UNet2DConditionModel, **config)
    model.save_pretrained(tmp_path)
    ported = read_network("sd_unet", tmp_path)
    x, t, text = inputs()
    with torch.no_grad():
        theirs = model(tensor(x), tensor(t), tensor(text)).sample
    close(run("sd_unet", ported, x, t, {"text": text})[0], theirs)
    # and back: tensor by tensor, and with a config.json of the same meaning
    state = to_torch(MAPS["sd_unet"], ported.params, "", ported.arguments)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    write_folder(tmp_path / "back", MAPS["sd_unet"].make_config(ported.arguments), state)
    again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "back")
    for setting in set(config) - {"sample_size", "attention_head_dim", "upcast_attention"}:
        assert stated(again, setting) == stated(model, setting), setting
    with torch.no_grad():
        close(again(tensor(x), tensor(t), tensor(text)).sample.permute(0, 2, 3, 1).numpy(), theirs)


def test_a_folder_of_the_controlnet_computes_the_same(tmp_path):
    model = original(diffusers.ControlNetModel, **CONTROLNET)
    model.save_pretrained(tmp_path)
    ported = read_network("controlnet", tmp_path)
    x, t, text = inputs()
    image = normal(2, 2, 8, 12, 3)
    with torch.no_grad():
        down, middle = model(tensor(x), tensor(t), tensor(text), tensor(0.5 * image + 0.5), return_dict=False)
    residuals = run("controlnet", ported, x, t, {"text": text, "image": image})
    for ours, theirs in zip((*residuals.down, residuals.middle), (*down, middle), strict=True):
        close(ours, theirs)
    state = to_torch(MAPS["controlnet"], ported.params, "", ported.arguments)
    write_folder(tmp_path / "back", MAPS["controlnet"].make_config(ported.arguments), state)
    again = diffusers.ControlNetModel.from_pretrained(tmp_path / "back")
    for setting in CONTROLNET:
        assert stated(again, setting) == stated(model, setting), setting


@pytest.mark.parametrize(("name", "config"), [("sd_unet", UNET), ("controlnet", CONTROLNET)])
def test_every_layer_agrees_with_the_installed_package(tmp_path, name, config):
    kind = getattr(diffusers, MAPS[name].config_class)
    original(kind, **config).save_pretrained(tmp_path)
    ported = read_network(name, tmp_path)
    differences = port_check.check(name, ported.params, ported.arguments, port_check.INSTALLED)
    assert len(differences) > 40
    assert max(difference.relative for difference in differences) < 2e-5
