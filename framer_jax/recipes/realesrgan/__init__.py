"""Real-ESRGAN: L1, then L1, a perceptual term and a U-Net discriminator."""

from __future__ import annotations

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import perceptual
from framer_jax.recipes.components.networks import DTYPES, build_student
from framer_jax.recipes.method import PHOTOS, TEACHER_OUTPUTS, Config, Method, Networks, WeightReader
from framer_jax.recipes.realesrgan.recipe import realesrgan
from framer_jax.recipes.realesrgan.settings import RealEsrganSettings


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = settings_from(RealEsrganSettings, config["realesrgan"], "recipe.realesrgan")
    auxiliary = perceptual.auxiliary_losses(config, settings.perceptual_weight, purpose, reader)
    return realesrgan(build_student(config), config["scale"], settings, auxiliary, DTYPES[config["dtype"]])


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    if data not in (PHOTOS, TEACHER_OUTPUTS):
        raise ValueError(f"recipe.name {config['name']} cannot train on {data}: set data.train to photographs")
    return PIXELS


def _any_records(config: Config) -> None:
    """There is no teacher, so any precomputed records of the same images can be trained on."""


METHOD = Method(
    name="realesrgan",
    paper="Wang et al., Real-ESRGAN, ICCV Workshops 2021",
    summary="One-pass network trained with a pixel loss, a perceptual loss and a U-Net discriminator.",
    networks=Networks("student", ("rrdbnet", "srvgg", "swinir")),
    sections={perceptual.LPIPS: perceptual.LpipsSettings, "realesrgan": RealEsrganSettings},
    build=_build,
    weight_files=(perceptual.WEIGHT_FILE,),
    batch_entries=_batch_entries,
    sampler_knobs=(("dtype",),),
    records_identity=_any_records,
    published_network=True,
    tiny=("recipe.lpips.net=alex", "recipe.realesrgan.discriminator_channels=4"),
)
