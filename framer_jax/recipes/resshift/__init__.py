"""ResShift: diffusion by residual shifting in a latent space."""

from __future__ import annotations

import re

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.components import perceptual, spaces
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.method import Config, Method, Networks, UpscaleProtocol, WeightReader
from framer_jax.recipes.resshift.recipe import resshift
from framer_jax.recipes.resshift.settings import ResShiftSettings

CHAIN_KNOBS = tuple(
    ("resshift", name)
    for name in ("steps", "kappa", "min_noise_level", "etas_end", "sqrt_eta_cap", "power", "residual")
)
"""The knobs of the chain that trained parameters depend on."""

OVERLAPS = {512: 64, 256: 32, 64: 16}
"""Tile → overlap of the settings that the authors publish (512 with stride 448, 256 with 224, 64 with 48)."""

PROTOCOL = UpscaleProtocol(
    summary="tiles at a fixed stride with fresh noise per tile, averaged; the image is padded by reflection",
    tiles="strided",
    tile=512 * 4,  # the published sides are for x4 and grow for smaller scales
    overlap=lambda tile: OVERLAPS.get(tile, tile // 8),
    color_fixes=("none",),
)


def release_differences(config: Config) -> list[str]:
    """Differences of a trained model from what the released samplers run: a ResShift chain on VQ-f4 latents."""
    differences = []
    if config["space"]["name"] != "vq_f4":
        differences.append(f"its latents are those of {config['space']['name']}")
    if config["resshift"]["residual"]:
        differences.append("its chain is residual")
    return differences


def check_file_name(name: str, config: Config) -> None:
    """Check the number of steps in the name of a published denoiser, as in resshift_…_s4_v3.pth.

    The tensors of all published denoisers have the same names and shapes, whatever their schedule.

    Raises:
      ValueError: the name states another number of steps than the configuration has.
    """
    stated = re.search(r"^resshift_\w*_s(\d+)(?=[_.]|$)", name)
    steps = config["resshift"]["steps"]
    if stated and int(stated[1]) != steps:
        raise ValueError(
            f"{name} is by its name a model of {stated[1]} steps, and recipe.resshift.steps is {steps}: use the "
            "configuration that belongs to it"
        )


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = settings_from(ResShiftSettings, config["resshift"], "recipe.resshift")
    space = spaces.build_space(config, purpose, reader)
    denoiser = build_denoiser(config, space)
    spaces.check_grid(config, space, denoiser.downsampling)
    auxiliary = perceptual.auxiliary_losses(config, settings.perceptual_weight, purpose, reader, name="perceptual")
    return resshift(denoiser, space, config["scale"], settings, auxiliary)


METHOD = Method(
    name="resshift",
    paper="Yue, Wang and Loy, ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting, "
    "NeurIPS 2023",
    summary="Latent diffusion in few steps, from the LR latent to the HR latent.",
    networks=Networks("denoiser", ("unet", "dit", "resshift_unet")),
    sections={"space": spaces.SpaceSettings, "resshift": ResShiftSettings, "lpips": perceptual.LpipsSettings},
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, perceptual.WEIGHT_FILE),
    sampling_overrides={"steps": ("resshift", "sampling_steps"), "mean_share": ("resshift", "mean_share")},
    identity=(("name",), ("space",), *CHAIN_KNOBS),
    sampler_knobs=(
        ("resshift", "sampling_steps"),
        ("resshift", "centred_mean"),
        ("dtype",),
        ("resshift", "mean_share"),
    ),
    published_network=True,
    check_file_name=check_file_name,
    release_differences=release_differences,
    protocols={"resshift": PROTOCOL},
    tiny=("recipe.resshift.steps=2", "recipe.lpips.net=alex", "recipe.lpips.phases=1"),
    renamed_knobs={**spaces.RENAMED_KNOBS, **perceptual.RENAMED_KNOBS},
)
