"""Rectified flow in a latent space, conditioned on the LR image."""

from __future__ import annotations

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.components import spaces
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.method import Config, Method, Networks, WeightReader
from framer_jax.recipes.rectified_flow.recipe import rectified_flow
from framer_jax.recipes.rectified_flow.settings import RectifiedFlowSettings


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = settings_from(RectifiedFlowSettings, config["rectified_flow"], "recipe.rectified_flow")
    space = spaces.build_space(config, purpose, reader)
    denoiser = build_denoiser(config, space)
    spaces.check_grid(config, space, denoiser.downsampling)
    return rectified_flow(denoiser, space, config["scale"], settings)


METHOD = Method(
    name="rectified_flow",
    paper="Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, ICML 2024",
    summary="Rectified flow in a latent space, from noise to what the LR image lacks.",
    networks=Networks("denoiser", ("unet", "dit", "resshift_unet")),
    sections={"space": spaces.SpaceSettings, "rectified_flow": RectifiedFlowSettings},
    build=_build,
    weight_files=(spaces.WEIGHT_FILE,),
    sampling_overrides={"steps": ("rectified_flow", "sampling_steps")},
    identity=(("name",), ("space",)),
    sampler_knobs=(("rectified_flow", "sampling_steps"), ("dtype",)),
    tiny=("recipe.rectified_flow.sampling_steps=2",),
    former_names=("flow",),
    renamed_knobs={
        **spaces.RENAMED_KNOBS,
        "flow.density": "rectified_flow.timestep_sampling",
        "flow": "rectified_flow",
    },
)
