"""SinSR: a ResShift chain distilled into one step."""

from __future__ import annotations

from typing import Any, NamedTuple

from framer_jax.knobs import settings_from
from framer_jax.models.denoiser import Denoiser
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.components import spaces
from framer_jax.recipes.components.latent_space import LatentSpace
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.components.teacher import distilled_batch_entries
from framer_jax.recipes.method import (
    TEACHER_OUTPUTS,
    WITH_TEACHER,
    Config,
    Method,
    Networks,
    WeightFile,
    WeightReader,
)
from framer_jax.recipes.resshift import (
    CHAIN_KNOBS,
    check_file_name,
    release_differences,
)
from framer_jax.recipes.resshift.recipe import resshift
from framer_jax.recipes.resshift.settings import ResShiftSettings
from framer_jax.recipes.sinsr.recipe import TRAJECTORY_ENTRIES, sinsr
from framer_jax.recipes.sinsr.settings import SinSRSettings

UNUSED_KNOBS = ("sampling_steps", "mean_share", "perceptual_weight")
"""Knobs of `recipe.resshift` that would change images or the objective, and that a one-step student does not have: its
teacher takes all steps of the chain. Those that say which indices the teacher was trained on, and where its own
one-step mean starts, are left alone: they come with its configuration."""

TEACHER_FILE = WeightFile(("sinsr", "teacher_checkpoint"), "teacher")


class Parts(NamedTuple):
    """What a configuration of SinSR, or of a method that builds on it, describes: the first arguments of `sinsr`."""

    denoiser: Denoiser
    space: LatentSpace
    scale: int
    chain: ResShiftSettings
    settings: SinSRSettings
    teacher: Params | None


def read_parts(config: Config, purpose: str, reader: WeightReader) -> Parts:
    """Build what a configuration describes, and read the teacher where the purpose needs one.

    Raises:
      ValueError: for training or precomputing, a knob of the chain that has no effect here.
    """
    chain = settings_from(ResShiftSettings, config["resshift"], "recipe.resshift")
    if purpose in WITH_TEACHER:
        _check_unused(chain)
    settings = settings_from(SinSRSettings, config["sinsr"], "recipe.sinsr")
    space = spaces.build_space(config, purpose, reader)
    denoiser = build_denoiser(config, space)
    spaces.check_grid(config, space, denoiser.downsampling)
    teacher = None
    if purpose in WITH_TEACHER:
        what = "the trained ResShift denoiser (a file, not a folder)"
        teacher_config = {**config, "name": "resshift"}
        recipe = resshift(denoiser, space, config["scale"], chain)
        teacher = reader.trained(TEACHER_FILE.knob, settings.teacher_checkpoint, what, teacher_config, recipe)
    return Parts(denoiser, space, config["scale"], chain, settings, teacher)


def _check_unused(chain: ResShiftSettings) -> None:
    for name in UNUSED_KNOBS:
        default, value = getattr(ResShiftSettings(), name), getattr(chain, name)
        if value != default:
            raise ValueError(
                f"recipe.resshift.{name} is {value}, and has no effect on a one-step student: set it to {default}"
            )


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    return sinsr(*read_parts(config, purpose, reader), precomputed=data == TEACHER_OUTPUTS)


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    return distilled_batch_entries(config, data, TRAJECTORY_ENTRIES)


def _records_identity(config: Config) -> dict[str, Any]:
    return {}  # none besides those of the chain, and the dtype


METHOD = Method(
    name="sinsr",
    paper="Wang et al., SinSR: Diffusion-Based Image Super-Resolution in a Single Step, CVPR 2024",
    summary="A ResShift model distilled into one network call.",
    networks=Networks("denoiser", ("unet", "dit", "resshift_unet")),
    sections={"space": spaces.SpaceSettings, "resshift": ResShiftSettings, "sinsr": SinSRSettings},
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, TEACHER_FILE),
    batch_entries=_batch_entries,
    identity=(("name",), ("space",), *CHAIN_KNOBS),
    sampler_knobs=(("dtype",),),
    records_identity=_records_identity,
    published_network=True,
    check_file_name=check_file_name,
    release_differences=release_differences,
    tiny=("recipe.resshift.steps=2",),
    renamed_knobs={**spaces.RENAMED_KNOBS, "sinsr.teacher": "sinsr.teacher_checkpoint"},
)
