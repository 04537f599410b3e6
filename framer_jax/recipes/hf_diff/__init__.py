"""HF-Diff: SinSR with a high-frequency perceptual loss and distribution matching."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from framer_jax.knobs import settings_from
from framer_jax.losses.high_frequency import HighFrequencySettings
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.components import perceptual
from framer_jax.recipes.components.high_frequency import DISTRIBUTION, HIGH_FREQUENCY, DistributionSettings
from framer_jax.recipes.components.latent_space import LatentSpace
from framer_jax.recipes.components.networks import DTYPES
from framer_jax.recipes.hf_diff.recipe import further_losses
from framer_jax.recipes.hf_diff.settings import HFDiffSettings
from framer_jax.recipes.method import TEACHER_OUTPUTS, Config, Method, Pretrained, WeightFile, WeightReader
from framer_jax.recipes.sinsr import METHOD as SINSR
from framer_jax.recipes.sinsr import read_parts
from framer_jax.recipes.sinsr.recipe import PredictionLoss, sinsr

EXTRACTOR_FILE = WeightFile(("hf_diff", "extractor_checkpoint"), "feature extractor", training_only=True)

DINOV2_FILE = WeightFile(("hf_diff", "dinov2_checkpoint"), "DINOv2", training_only=True)


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    parts = read_parts(config, purpose, reader)
    further = _further_losses(config, parts.space, reader) if purpose == "training" else ()
    return replace(sinsr(*parts, precomputed=data == TEACHER_OUTPUTS, further=further), name="hf_diff")


def _further_losses(config: Config, space: LatentSpace, reader: WeightReader) -> tuple[PredictionLoss, ...]:
    settings: HFDiffSettings = settings_from(HFDiffSettings, config["hf_diff"], "recipe.hf_diff")
    compared = settings_from(HighFrequencySettings, config[HIGH_FREQUENCY], f"recipe.{HIGH_FREQUENCY}")
    distribution = settings_from(DistributionSettings, config[DISTRIBUTION], f"recipe.{DISTRIBUTION}")
    extractor = dinov2 = None
    if settings.high_frequency_weight:
        channels = space.channels if compared.features_of == "latent" else 3
        extractor = _extractor(settings, compared, channels, DTYPES[config["dtype"]], reader)
    if settings.distribution_weight:
        dtype = DTYPES[distribution.dtype]
        dinov2 = reader.network(DINOV2_FILE.knob, settings.dinov2_checkpoint, "dinov2", "DINOv2", dtype)
    losses = perceptual.vgg19_losses if settings.perceptual == perceptual.VGG19 else perceptual.auxiliary_losses
    others = losses(config, settings.perceptual_weight, "training", reader)
    return further_losses(settings, compared, distribution, extractor, dinov2, others)


def _extractor(
    settings: HFDiffSettings, compared: HighFrequencySettings, channels: int, dtype: Any, reader: WeightReader
) -> Pretrained:
    """The feature extractor; a ValueError unless it has the modules asked for and takes so many channels."""
    knob, path = EXTRACTOR_FILE.knob, settings.extractor_checkpoint
    extractor = reader.network(knob, path, "hf_extractor", "the feature extractor, from `framer-jax pretrain`", dtype)
    module = extractor.module
    if settings.extractor_modules not in (None, module.modules):
        raise ValueError(
            f"{knob} {path} has {module.modules} invertible modules, and recipe.hf_diff.extractor_modules is "
            f"{settings.extractor_modules}: name another file, or set that knob to None"
        )
    if (taken := module.image_channels or module.channels) != channels:
        other = {"latent": "image", "image": "latent"}[compared.features_of]
        raise ValueError(
            f"{knob} {path} takes {taken} channels, and recipe.{HIGH_FREQUENCY}.features_of={compared.features_of} "
            f"gives {channels}: set that to {other}, or pre-train an extractor with recipe.extractor.hf_extractor."
            f"image_channels={channels}"
        )
    return extractor


METHOD = Method(
    name="hf_diff",
    paper="HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for One-Step Diffusion-Based Image "
    "Super-Resolution, arXiv 2411.13548, 2024",
    summary="SinSR with a high-frequency perceptual loss and a divergence of DINOv2 embeddings.",
    networks=SINSR.networks,
    sections={
        **SINSR.sections,
        "hf_diff": HFDiffSettings,
        HIGH_FREQUENCY: HighFrequencySettings,
        DISTRIBUTION: DistributionSettings,
        perceptual.LPIPS: perceptual.LpipsSettings,
        perceptual.VGG19: perceptual.Vgg19Settings,
    },
    build=_build,
    weight_files=(
        *SINSR.weight_files,
        EXTRACTOR_FILE,
        DINOV2_FILE,
        perceptual.WEIGHT_FILE,
        perceptual.VGG19_FILE,
    ),
    batch_entries=SINSR.batch_entries,
    identity=SINSR.identity,
    sampler_knobs=SINSR.sampler_knobs,
    records_identity=SINSR.records_identity,
    published_network=True,
    check_file_name=SINSR.check_file_name,
    release_differences=SINSR.release_differences,
    tiny=(*SINSR.tiny, "recipe.distribution.side=28"),
)
