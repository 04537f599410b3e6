"""Stable Diffusion 3's transformer: diffusers' SD3Transformer2DModel in many configurations."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, read_network
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tests.support.originals import close, diffusers, normal, original, stated, tensor, torch

TINY = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "caption_projection_dim": 24,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 12,
    "pos_embed_max_size": 12,
}

CONFIGURATIONS = {
    "SD 3": {},
    "SD 3, wide heads": {"attention_head_dim": 80, "num_attention_heads": 1, "caption_projection_dim": 80},
    "SD 3.5 large": {"qk_norm": "rms_norm"},
    "SD 3.5 medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "a second attention without norms": {"dual_attention_layers": (0,)},
    "a second attention in all blocks": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1, 2)},
    "a second attention in the second block": {"dual_attention_layers": (1,)},
    "a second attention in the outer blocks": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 2)},
    "one block": {"num_layers": 1},
    "a small table": {"pos_embed_max_size": 5, "sample_size": 4},
    "a base beyond the table": {"pos_embed_max_size": 7, "sample_size": 40},
    "single latents": {"patch_size": 1, "in_channels": 2, "out_channels": 2},
    "large patches": {"patch_size": 4, "sample_size": 32},
}


def transformer(**changes):
    return original(diffusers.SD3Transformer2DModel, **{**TINY, **changes})


def inputs(config, rows=3, columns=5):
    patch = config["patch_size"]
    latent = normal(0, 2, rows * patch, columns * patch, config["in_channels"])
    text, pooled = normal(1, 2, 7, config["joint_attention_dim"]), normal(2, 2, config["pooled_projection_dim"])
    return latent, np.asarray([3.5, 730.0], np.float32), {"text": text, "pooled_text": pooled}


def theirs(model, latent, time, condition):
    with torch.no_grad():
        return model(
            tensor(latent),
            encoder_hidden_states=tensor(condition["text"]),
            pooled_projections=tensor(condition["pooled_text"]),
            timestep=tensor(time),
        ).sample


def ours(ported, latent, time, condition):
    module = build_network("mmdit", ported.arguments)
    with jax.default_matmul_precision("highest"):
        return jax.jit(module.apply)({"params": ported.params}, latent, time, condition)[0]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_folder_of_diffusers_computes_the_same(tmp_path, name):
    model = transformer(**CONFIGURATIONS[name])
    model.save_pretrained(tmp_path)
    ported = read_network("mmdit", tmp_path)
    arguments = inputs(model.config)
    close(ours(ported, *arguments), theirs(model, *arguments))
    # and back: tensor by tensor, and with a config.json of the same meaning
    state = to_torch(MAPS["mmdit"], ported.params, "", ported.arguments)
    for key, value in model.state_dict().items():
        np.testing.assert_allclose(state[key], value, rtol=0, atol=2e-6, err_msg=key)
    write_folder(tmp_path / "back", MAPS["mmdit"].make_config(ported.arguments), state)
    again = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "back")
    for setting in {*TINY, *CONFIGURATIONS[name]}:
        assert stated(again, setting) == stated(model, setting), setting


def test_an_image_of_the_size_of_the_table(tmp_path):
    model = transformer(pos_embed_max_size=6)
    model.save_pretrained(tmp_path)
    arguments = inputs(model.config, rows=6, columns=6)
    close(ours(read_network("mmdit", tmp_path), *arguments), theirs(model, *arguments))


def test_a_trained_table_of_positions(tmp_path):
    model = transformer()
    with torch.no_grad():
        model.pos_embed.pos_embed.add_(tensor(normal(5, *model.pos_embed.pos_embed.shape)))
    model.save_pretrained(tmp_path)
    ported = read_network("mmdit", tmp_path)
    assert ported.arguments["positions"] == "table"
    arguments = inputs(model.config)
    close(ours(ported, *arguments), theirs(model, *arguments))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 8}, "out_channels|head/projection"),
        ({"qk_norm": "layer_norm"}, "qk_norm|norm_q"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, changes, message):
    transformer(**changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_network("mmdit", tmp_path)
    assert "\n" not in str(caught.value)
