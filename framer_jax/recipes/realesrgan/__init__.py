"""Real-ESRGAN: L1, then L1, a perceptual term and a U-Net discriminator."""

from __future__ import annotations

from framer_jax.data.settings import UNSHARPENED
from framer_jax.knobs import settings_from
from framer_jax.losses.pixel import CHECKERBOARD_CELLS, CHECKERBOARD_TEXTURE_CELLS
from framer_jax.models.unet_discriminator import SIDE_MULTIPLE
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import perceptual
from framer_jax.recipes.components.networks import DTYPES, build_student
from framer_jax.recipes.method import (
    PHOTOS,
    TEACHER_OUTPUTS,
    Config,
    Method,
    Networks,
    Pretrained,
    UpscaleProtocol,
    WeightFile,
    WeightReader,
)
from framer_jax.recipes.realesrgan.recipe import realesrgan
from framer_jax.recipes.realesrgan.settings import RealEsrganSettings

PROTOCOL = UpscaleProtocol(
    summary="the whole image (with --tile: tiles side by side, each computed with 10 pixels around it, which are cut "
    "off)",
    tiles="adjacent",
    tile=0,
    overlap=lambda tile: 10,
    color_fixes=("none",),
)
"""As the released inference script with its default options (whose pre_pad is 0; its class pads by 10 by default)."""

DISCRIMINATOR_FILE = WeightFile(("realesrgan", "discriminator_checkpoint"), "discriminator", training_only=True)


def _settings(config: Config) -> RealEsrganSettings:
    settings: RealEsrganSettings = settings_from(RealEsrganSettings, config["realesrgan"], "recipe.realesrgan")
    return settings


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = _settings(config)
    losses = perceptual.vgg19_losses if settings.perceptual == perceptual.VGG19 else perceptual.auxiliary_losses
    auxiliary = losses(config, settings.perceptual_weight, purpose, reader)
    return realesrgan(
        build_student(config),
        config["scale"],
        settings,
        auxiliary,
        DTYPES[config["dtype"]],
        _discriminator(settings, reader) if purpose == "training" else None,
    )


def _discriminator(settings: RealEsrganSettings, reader: WeightReader) -> Pretrained | None:
    if not (settings.adversarial_weight and settings.discriminator_checkpoint):
        return None
    return reader.network(
        DISCRIMINATOR_FILE.knob,
        settings.discriminator_checkpoint,
        "unet_discriminator_sn",
        "the discriminator",
        channels=settings.discriminator_channels,
    )


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    if data not in (PHOTOS, TEACHER_OUTPUTS):
        raise ValueError(f"recipe.name {config['name']} cannot train on {data}: set data.train to photographs")
    if not _settings(config).needs_unsharpened:
        return PIXELS
    if data == TEACHER_OUTPUTS:
        raise ValueError(
            "they lack the HR images before sharpening: set recipe.realesrgan.adversarial_target=sharpened, which "
            "compares with the HR images as they were stored"
        )
    return (*PIXELS, UNSHARPENED)


def _check_crop(config: Config, crop: int) -> None:
    settings = _settings(config)
    if settings.adversarial_weight and crop % SIDE_MULTIPLE:
        raise ValueError(f"data.crop is {crop}: the discriminator needs a multiple of {SIDE_MULTIPLE}")
    cells = {"checkerboard_weight": CHECKERBOARD_CELLS, "checkerboard_texture_weight": CHECKERBOARD_TEXTURE_CELLS}
    for name, count in cells.items():
        if getattr(settings, name) and crop < (window := count * config["scale"]):
            raise ValueError(f"data.crop is {crop}: recipe.realesrgan.{name} needs at least {window} pixels")


def _any_records(config: Config) -> None:
    """There is no teacher, so any precomputed records of the same images can be trained on."""


METHOD = Method(
    name="realesrgan",
    paper="Wang et al., Real-ESRGAN, ICCV Workshops 2021",
    summary="One-pass network trained with a pixel loss, a perceptual loss and a U-Net discriminator.",
    networks=Networks("student", ("rrdbnet", "srvgg", "swinir")),
    sections={
        perceptual.LPIPS: perceptual.LpipsSettings,
        perceptual.VGG19: perceptual.Vgg19Settings,
        "realesrgan": RealEsrganSettings,
    },
    build=_build,
    weight_files=(perceptual.WEIGHT_FILE, perceptual.VGG19_FILE, DISCRIMINATOR_FILE),
    check_crop=_check_crop,
    batch_entries=_batch_entries,
    sampler_knobs=(("dtype",),),
    records_identity=_any_records,
    published_network=True,
    protocols={"realesrgan": PROTOCOL},
    tiny=("recipe.realesrgan.perceptual_weight=0.0", "recipe.realesrgan.discriminator_channels=4"),
)
