"""Supervised L1 training of a one-pass network (SwinIR): the baseline of distillation."""

from __future__ import annotations

from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components.networks import ONE_PASS_NETWORKS, build_student
from framer_jax.recipes.method import (
    PHOTOS,
    TEACHER_OUTPUTS,
    Config,
    Method,
    Networks,
    UpscaleProtocol,
    WeightReader,
)
from framer_jax.recipes.supervised_l1.recipe import supervised_l1

PROTOCOL = UpscaleProtocol(
    summary="the whole image (with --tile: tiles at a fixed stride, averaged), which its mirror image extends to more "
    "than whole windows",
    tiles="windows",
    tile=0,
    overlap=lambda tile: 32 if tile > 32 else tile // 2,
    color_fixes=("none",),
)
"""As SwinIR's released test code, which is the protocol of its published figures."""


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    return supervised_l1(build_student(config), config["scale"])


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    if data not in (PHOTOS, TEACHER_OUTPUTS):
        raise ValueError(f"recipe.name {config['name']} cannot train on {data}: set data.train to photographs")
    return PIXELS


def _any_records(config: Config) -> None:
    """There is no teacher, so any precomputed records of the same images can be trained on."""


METHOD = Method(
    name="supervised_l1",
    paper="Liang et al., SwinIR: Image Restoration Using Swin Transformer, ICCV Workshops 2021",
    summary="One-pass network trained with the L1 distance to the HR image.",
    networks=Networks("student", ONE_PASS_NETWORKS),
    sections={},
    build=_build,
    batch_entries=_batch_entries,
    sampler_knobs=(("dtype",),),
    records_identity=_any_records,
    published_network=True,
    protocols={"swinir": PROTOCOL},
    former_names=("swinir",),
)
