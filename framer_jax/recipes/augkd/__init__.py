"""AugKD: distillation on augmented and auxiliary images."""

from __future__ import annotations

from typing import Any

from framer_jax.knobs import settings_from
from framer_jax.recipes.augkd.recipe import augkd, record_entries
from framer_jax.recipes.augkd.settings import VIEWS, AugKdSettings
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.components import teacher as teachers
from framer_jax.recipes.components.networks import ONE_PASS_NETWORKS, build_student
from framer_jax.recipes.method import TEACHER_OUTPUTS, Config, Method, Networks, WeightReader


def _settings(config: Config) -> AugKdSettings:
    settings: AugKdSettings = settings_from(AugKdSettings, config["augkd"], "recipe.augkd")
    return settings


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = _settings(config)
    teacher = teachers.read_teacher(config, purpose, reader) if any(map(settings.weight_of, VIEWS)) else None
    return augkd(build_student(config), config["scale"], settings, teacher, data == TEACHER_OUTPUTS)


def _check_crop(config: Config, crop: int) -> None:
    if _settings(config).weight_of("zoom_out") and crop < config["scale"] ** 2:
        raise ValueError(
            f"data.crop is {crop}: with recipe.augkd.zoom_out the LR crop is downsampled once more, so it must be at "
            f"least {config['scale'] ** 2}"
        )


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    return teachers.distilled_batch_entries(config, data, record_entries(_settings(config)))


def _records_identity(config: Config) -> dict[str, Any]:
    """The teacher's knobs, and which auxiliary images are made."""
    section = config["augkd"]
    auxiliary = bool(section["auxiliary_weight"])
    views = {f"recipe.augkd.{name}": auxiliary and section[name] for name in ("zoom_in", "zoom_out")}
    return {**teachers.teacher_identity(config), **views, "recipe.augkd.weight above 0": section["weight"] > 0}


METHOD = Method(
    name="augkd",
    paper="Zhang et al., AugKD: Ingenious Augmentations Empower Knowledge Distillation for Image Super-Resolution, "
    "ICLR 2025",
    summary="A teacher distilled into a one-pass network on augmented and auxiliary images.",
    networks=Networks("student", ONE_PASS_NETWORKS),
    sections={"teacher": teachers.TeacherSettings, "augkd": AugKdSettings},
    build=_build,
    weight_files=teachers.WEIGHT_FILES,
    check_crop=_check_crop,
    batch_entries=_batch_entries,
    sampler_knobs=(("dtype",),),
    records_identity=_records_identity,
    published_network=True,
    renamed_knobs=teachers.RENAMED_KNOBS,
)
