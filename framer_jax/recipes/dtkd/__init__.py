"""DTKD: a diffusion teacher distilled into a one-pass network by a wavelet loss."""

from __future__ import annotations

from typing import Any

from framer_jax.knobs import settings_from
from framer_jax.losses.wavelet_kd import check_size
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import teacher as teachers
from framer_jax.recipes.components.networks import ONE_PASS_NETWORKS, build_student
from framer_jax.recipes.dtkd.recipe import dtkd
from framer_jax.recipes.dtkd.settings import DtkdSettings
from framer_jax.recipes.method import TEACHER_OUTPUTS, Config, Method, Networks, WeightReader


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = settings_from(DtkdSettings, config["dtkd"], "recipe.dtkd")
    teacher = teachers.read_teacher(config, purpose, reader) if settings.weight else None
    return dtkd(build_student(config), config["scale"], settings, teacher, data == TEACHER_OUTPUTS)


def _check_crop(config: Config, crop: int) -> None:
    settings = settings_from(DtkdSettings, config["dtkd"], "recipe.dtkd")
    if not settings.weight:  # nothing is transformed
        return
    try:
        check_size(settings, (crop, crop))
    except ValueError as error:
        raise ValueError(f"recipe.dtkd.{error}") from error


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    entries = teachers.distilled_batch_entries(config, data, (teachers.TEACHER,))
    return entries if config["dtkd"]["weight"] else PIXELS


def _records_identity(config: Config) -> dict[str, Any] | None:
    return teachers.teacher_identity(config) if config["dtkd"]["weight"] else None


METHOD = Method(
    name="dtkd",
    paper="Park and Song, DTKD, Electronics 15(10) 1986, 2026",
    summary="A diffusion teacher distilled into a one-pass network by a two-level wavelet loss.",
    networks=Networks("student", ONE_PASS_NETWORKS),
    sections={"teacher": teachers.TeacherSettings, "dtkd": DtkdSettings},
    build=_build,
    weight_files=teachers.WEIGHT_FILES,
    check_crop=_check_crop,
    batch_entries=_batch_entries,
    sampler_knobs=(("dtype",),),
    records_identity=_records_identity,
    published_network=True,
    renamed_knobs={
        **teachers.RENAMED_KNOBS,
        "dtkd.border": "dtkd.padding_mode",
        "dtkd.within": "dtkd.band_reduction",
    },
)
