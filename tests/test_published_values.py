"""Values that the papers and the released options print, in the configurations that claim them."""

import pytest

from framer_jax.config import load_config, to_dict

RESSHIFT = {
    "recipe.resshift.kappa": 2.0,
    "recipe.resshift.power": 0.3,
    "recipe.resshift.etas_end": 0.99,
    "training.learning_rate": 5e-5,
    "training.warmup_steps": 5000,
    "training.ema_decay": 0.999,
    "training.weight_decay": 0.0,
    "data.degradation": "resshift",
    "data.crop": 256,
}

PUBLISHED = {
    "resshift_v1": RESSHIFT
    | {
        "recipe.resshift.steps": 15,
        "recipe.resshift.min_noise_level": 0.04,
        "recipe.resshift.perceptual_weight": 0.0,
        "training.global_batch": 64,
        "training.steps": 300_000,
    },
    "resshift_v3": RESSHIFT
    | {
        "recipe.resshift.steps": 4,
        "recipe.resshift.min_noise_level": 0.2,
        "recipe.resshift.perceptual_weight": 1.0,
        "recipe.lpips.net": "vgg",
        "training.global_batch": 96,
    },
    "sinsr": RESSHIFT
    | {
        "recipe.resshift.steps": 15,
        "recipe.resshift.min_noise_level": 0.04,
        "recipe.sinsr.distillation_weight": 1.0,
        "recipe.sinsr.inverse_weight": 1.0,
        "recipe.sinsr.consistency_weight": 1.0,
        "training.global_batch": 64,
    },
    "pisa_sr_sd21": {
        "recipe.pisa_sr.lora_rank": 4,
        "recipe.pisa_sr.lora_scale": 2.0,
        "recipe.pisa_sr.timestep": 1,
        "recipe.pisa_sr.null_text_ratio": 0.5,
        "data.caption_dropout": 0.0,
        "data.degradation": "framer_released",
        "recipe.pisa_sr.pixel_steps": 4000,
        "recipe.pisa_sr.pixel_weight": 1.0,
        "recipe.pisa_sr.perceptual_weight": 2.0,
        "recipe.pisa_sr.distillation_weight": 1.0,
        "recipe.pisa_sr.guidance": 7.5,
        "recipe.lpips.net": "vgg",
        "training.learning_rate": 5e-5,
        "training.weight_decay": 1e-2,
        "training.clip_norm": 1.0,
        "training.global_batch": 16,
        "training.steps": 12_500,
        "data.crop": 512,
    },
    "multistep_sd21": {
        "recipe.multistep_sd.prediction": "epsilon",
        "recipe.multistep_sd.sampling_steps": 50,
        "recipe.multistep_sd.sampler": "ddpm",
        "recipe.multistep_sd.start": "lr",
        "recipe.multistep_sd.guidance": 5.5,
        "recipe.denoiser.controlled_sd_unet.channels": [320, 640, 1280, 1280],
        "recipe.denoiser.controlled_sd_unet.image_widths": [16, 32, 96, 256],
        "training.learning_rate": 5e-5,
        "training.global_batch": 32,
        "training.schedule": "constant",
        "data.caption_dropout": 0.5,
        "data.crop": 512,
    },
    "tsd_sr_sd3": {
        "recipe.tsd_sr.lora_rank": 64,
        "recipe.tsd_sr.encoder_lora_rank": 64,
        "recipe.tsd_sr.regulariser_lora_rank": 64,
        "recipe.tsd_sr.lora_scale": 1.0,
        "recipe.tsd_sr.guidance": 7.5,
        "recipe.tsd_sr.vsd_weight": 0.7,
        "recipe.tsd_sr.latent_weight": 1.0,
        "recipe.tsd_sr.perceptual_weight": 1.0,
        "recipe.tsd_sr.substep_size": 50,
        "recipe.lpips.net": "alex",
        "training.learning_rate": 5e-6,
        "training.updates": {"regulariser": {"learning_rate": 1e-6}},
        "training.weight_decay": 1e-4,
        "training.warmup_steps": 3000,
        "training.steps": 200_000,
        "training.global_batch": 16,
        "training.clip_norm": 1.0,
    },
    "osediff_sd21": {
        "recipe.osediff.lora_rank": 4,
        "recipe.osediff.encoder_lora_rank": 4,
        "recipe.osediff.regulariser_lora_rank": 4,
        "recipe.osediff.lora_scale": 2.0,
        "recipe.osediff.trainable": "^conv_in/",
        "recipe.osediff.guidance": 7.5,
        "recipe.osediff.pixel_weight": 1.0,
        "recipe.osediff.perceptual_weight": 2.0,
        "recipe.osediff.distillation_weight": 1.0,
        "recipe.lpips.net": "vgg",
        "training.learning_rate": 5e-5,
        "training.schedule": "constant",
        "training.weight_decay": 1e-2,
        "training.steps": 100_000,
        "training.global_batch": 16,
        "training.clip_norm": 1.0,
        "data.degradation": "real_esrgan",
        "data.sharpen_target": False,
        "data.crop": 512,
    },
    "realesrnet_x4plus": {
        "recipe.realesrgan.adversarial_weight": 0.0,
        "recipe.realesrgan.perceptual_weight": 0.0,
        "training.learning_rate": 2e-4,
        "training.b2": 0.99,
        "training.steps": 1_000_000,
        "training.global_batch": 48,
        "training.ema_decay": 0.999,
        "data.degradation": "real_esrgan",
        "data.crop": 256,
    },
    "realesrgan_x4plus": {
        "recipe.realesrgan.pixel_weight": 1.0,
        "recipe.realesrgan.perceptual_weight": 1.0,
        "recipe.realesrgan.adversarial_weight": 0.1,
        "recipe.realesrgan.adversarial_loss": "vanilla",
        "recipe.realesrgan.discriminator_channels": 64,
        "training.learning_rate": 1e-4,
        "training.b2": 0.99,
        "training.steps": 400_000,
        "training.global_batch": 48,
        "training.ema_decay": 0.999,
        "data.degradation": "real_esrgan",
        "data.crop": 256,
    },
    "supresdiffgan": {
        "recipe.space.name": "kl",
        "recipe.denoiser.supresdiffgan_unet.channels": [64, 96, 128, 512],
        "recipe.denoiser.supresdiffgan_unet.blocks": 2,
        "recipe.denoiser.supresdiffgan_unet.head_width": 32,
        "recipe.supresdiffgan.steps": 1000,
        "recipe.supresdiffgan.adversarial_weight": 0.01,
        "recipe.supresdiffgan.perceptual_weight": 0.0,
        "recipe.supresdiffgan.discriminator_channels": [64, 128, 256, 512],
        "recipe.supresdiffgan.eta": 1.0,
        "training.learning_rate": 1e-4,
        "training.schedule": "constant",
        "training.warmup_steps": 0,
        "training.b1": 0.9,
        "training.b2": 0.999,
        "training.weight_decay": 0.0,
        "training.clip_norm": None,
        "training.ema_decay": 0.0,
        "training.steps": 330_000,
        "training.global_batch": 32,
        "data.degradation": "bicubic",
        "data.crop": 256,
    },
    "dtkd_swinir_small": {
        "recipe.dtkd.levels": 2,
        "recipe.dtkd.weights": [1.0, 2.0, 1.0],
        "recipe.dtkd.schedule": "linear",
        "recipe.dtkd.transform": "dwt",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_configuration_has_the_published_values(name):
    config = to_dict(load_config(name))
    values = {}
    for path in PUBLISHED[name]:
        value = config
        for part in path.split("."):
            value = value[part]
        values[path] = value
    assert values == PUBLISHED[name]
