"""Small checkpoints in PyTorch's names, from the parity fixtures."""

from tools.parity.cases import load_case

FIXTURES = {
    "resshift_unet": "resshift_unet_small",
    "vq_f4": "resshift_vq_small",
    "swinir": "swinir_tiny_3conv",
    "rrdbnet": "rrdbnet_x4_tiny",
    "srvgg": "srvgg_tiny",
    "mmdit": "sd35_medium_tiny",
    "dit4sr_transformer": "dit4sr_sd35_tiny",
    "sd_unet": "unet_sd2_tiny",
    "lpips_alex": "lpips_alex",
    "kl_autoencoder": "vae_sd2_tiny",
    "hf_extractor": "inn",
    "dinov2": "dinov2_tiny",
    "supresdiffgan_unet": "supresdiffgan_unet_tiny",
    "pair_discriminator": "supresdiffgan_disc_tiny",
}
"""Weight map → fixture whose models it carries over."""


def small_states(folder):
    """Weight map → a state dict that it carries over, with drawn numbers."""
    models = {name: load_case(folder / f"{file}.npz").weights.values() for name, file in FIXTURES.items()}
    return {name: {key: value for state in parts for key, value in state.items()} for name, parts in models.items()}
