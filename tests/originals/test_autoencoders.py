"""Stable Diffusion's autoencoders: diffusers' AutoencoderKL in the shapes of versions 1, 2 and 3."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, read_network
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tests.support.originals import close, diffusers, normal, original, stated, tensor, torch

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
SD_3 = {"use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5305, "shift_factor": 0.0609}

CONFIGURATIONS = {
    "SD 2": {"scaling_factor": 0.18215},
    "SD 3": {**SD_3, "latent_channels": 16},
    "SDXL": {"scaling_factor": 0.13025},
    "a shift after a convolution": {"shift_factor": 0.25, "latent_channels": 3},
    "two blocks, three levels": {
        **SD_3,
        "layers_per_block": 2,
        "block_out_channels": (4, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_folder_of_diffusers_computes_the_same(tmp_path, name):
    model = original(diffusers.AutoencoderKL, **{**TINY, **CONFIGURATIONS[name]})
    model.save_pretrained(tmp_path)
    ported = read_network("kl_autoencoder", tmp_path)
    module = build_network("kl_autoencoder", ported.arguments)
    image = np.tanh(normal(0, 2, 16, 24, 3))

    @jax.jit
    def ours(params, image):
        latent = module.apply({"params": params}, image, method="encode")
        z = module.normalised(latent.mean)
        return latent, z, module.apply({"params": params}, module.denormalised(z + 1), method="decode")

    with jax.default_matmul_precision("highest"):
        latent, z, decoded = ours(ported.params, image)
    with torch.no_grad():
        distribution = model.encode(tensor(image)).latent_dist
        shift, scaling = model.config.shift_factor or 0.0, model.config.scaling_factor
        normalised = (distribution.mean - shift) * scaling  # as the pipelines and trainers of diffusers have it
        images = model.decode((normalised + 1) / scaling + shift).sample
    close(latent.mean, distribution.mean)
    close(latent.log_variance, distribution.logvar)
    close(latent.standard_deviation, distribution.std)
    close(z, normalised)
    close(decoded, images)
    # and back, with a config.json of the same meaning
    state = to_torch(MAPS["kl_autoencoder"], ported.params, "", ported.arguments)
    assert state.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    write_folder(tmp_path / "back", MAPS["kl_autoencoder"].make_config(ported.arguments), state)
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "back")
    for name in {*TINY, *SD_3}:
        assert stated(again, name) == stated(model, name), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mid_block_add_attention": False}, "mid_block_add_attention False"),
        ({"use_post_quant_conv": False}, "use_quant_conv and use_post_quant_conv differ"),
        ({"act_fn": "relu"}, "act_fn 'relu'"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "latents_(mean|std)"),
        ({"in_channels": 1, "out_channels": 1}, "(in|out)_channels 1"),
        ({"block_out_channels": (8, 12)}, r"block_out_channels \[8, 12\]"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, changes, message):
    original(diffusers.AutoencoderKL, **{**TINY, **changes}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_network("kl_autoencoder", tmp_path)
    assert "\n" not in str(caught.value)
