"""SupResDiffGAN: latent diffusion with a discriminator of image pairs and adaptive noise."""

from __future__ import annotations

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import perceptual, spaces
from framer_jax.recipes.components.lr_condition import LATENT_ENTRIES
from framer_jax.recipes.components.networks import DTYPES, build_denoiser
from framer_jax.recipes.components.sd_base import build_space
from framer_jax.recipes.method import (
    LATENTS,
    PHOTOS,
    Config,
    Method,
    Networks,
    Pretrained,
    WeightFile,
    WeightReader,
)
from framer_jax.recipes.supresdiffgan.recipe import supresdiffgan
from framer_jax.recipes.supresdiffgan.settings import SupResDiffGanSettings

DISCRIMINATOR_FILE = WeightFile(("supresdiffgan", "discriminator_checkpoint"), "discriminator", training_only=True)


def _settings(config: Config) -> SupResDiffGanSettings:
    settings: SupResDiffGanSettings = settings_from(
        SupResDiffGanSettings, config["supresdiffgan"], "recipe.supresdiffgan"
    )
    return settings


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = _settings(config)
    space = build_space(config, purpose, reader)
    losses = perceptual.vgg19_losses if settings.perceptual == perceptual.VGG19 else perceptual.auxiliary_losses
    return supresdiffgan(
        build_denoiser(config, space),
        space,
        config["scale"],
        settings,
        losses(config, settings.perceptual_weight, purpose, reader),
        DTYPES[config["dtype"]],
        _discriminator(settings, reader) if purpose == "training" else None,
        _batch_entries(config, data),
    )


def _discriminator(settings: SupResDiffGanSettings, reader: WeightReader) -> Pretrained | None:
    if not (settings.adversarial_weight and settings.discriminator_checkpoint):
        return None
    return reader.network(
        DISCRIMINATOR_FILE.knob,
        settings.discriminator_checkpoint,
        "pair_discriminator",
        "the discriminator",
        image_channels=3,
        channels=settings.discriminator_channels,
    )


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    if data not in (PHOTOS, LATENTS):
        raise ValueError(
            f"recipe.name {config['name']} cannot train on {data}: set data.train to photographs or precomputed latents"
        )
    if data == PHOTOS:
        return PIXELS
    if _settings(config).perceptual_weight:
        raise ValueError(
            "latents lack the HR images of the perceptual term: set recipe.supresdiffgan.perceptual_weight=0, or "
            "data.train to photographs"
        )
    return LATENT_ENTRIES


METHOD = Method(
    name="supresdiffgan",
    paper="Kopeć et al., SupResDiffGAN: a new approach for the Super-Resolution task, ICCS 2025",
    summary="Latent diffusion with a discriminator of image pairs and adaptive noise.",
    networks=Networks("denoiser", ("supresdiffgan_unet",)),
    sections={
        "space": spaces.SpaceSettings,
        perceptual.LPIPS: perceptual.LpipsSettings,
        perceptual.VGG19: perceptual.Vgg19Settings,
        "supresdiffgan": SupResDiffGanSettings,
    },
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, perceptual.WEIGHT_FILE, perceptual.VGG19_FILE, DISCRIMINATOR_FILE),
    batch_entries=_batch_entries,
    sampling_overrides={"steps": ("supresdiffgan", "sampling_steps")},
    identity=(("name",), ("space",), ("supresdiffgan", "steps")),
    sampler_knobs=(("supresdiffgan", "sampling_steps"), ("supresdiffgan", "eta"), ("dtype",)),
    published_network=True,
    tiny=("recipe.supresdiffgan.discriminator_channels=(4, 8)", "recipe.supresdiffgan.sampling_steps=2"),
)
