"""PiSA-SR: Stable Diffusion 2 as a one-step super-resolver with two LoRAs of adjustable effect."""

from __future__ import annotations

from functools import partial

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import perceptual, spaces
from framer_jax.recipes.components import text as texts
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.components.sd_base import NETWORK, build_space, check_latents, read_unet
from framer_jax.recipes.method import Config, Method, Networks, UpscaleProtocol, WeightReader
from framer_jax.recipes.pisa_sr.recipe import pisa_sr
from framer_jax.recipes.pisa_sr.settings import PisaSrSettings
from framer_jax.recipes.pisa_sr.weights import BASE_FILE, merge, published_by

PROTOCOL = UpscaleProtocol(
    summary="one canvas of latents; tiles of 96 latents that share 32 are blended in the one step; AdaIN restores the "
    "colors",
    tiles="latent",
    tile=768,
    overlap=lambda tile: tile // 3,  # 32 of 96 latents
    color_fixes=("adain", "wavelet", "none"),
    shorter_side=512,
    autoencoder_tiles=(1024, 1792),
)
"""As PiSA-SR's released code. Differences: the latent of the LR image is the mean of its Gaussian, not a draw; all
images have one prompt (released code: tags of each); nothing is rounded to 8 bits in between; the blending weights of
tiles are centred half a latent lower (as in other releases of this family)."""


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings: PisaSrSettings = settings_from(PisaSrSettings, config["pisa_sr"], "recipe.pisa_sr")
    space = build_space(config, purpose, reader)
    denoiser = build_denoiser(config, space, **texts.text_widths(config))
    sizes, entries = texts.text_sizes(config), _batch_entries(config, data)
    has_base = bool(settings.base_checkpoint)
    if purpose == "description":
        nulls = {texts.NULL: texts.zero_text(sizes)}
        return pisa_sr(
            denoiser, space, config["scale"], settings, sizes, nulls, batch_entries=entries, has_base=has_base
        )
    if purpose == "training" and settings.distillation_weight:
        _check_teacher(config, settings)
    base = read_unet(BASE_FILE, settings.base_checkpoint, config, reader) if has_base else None
    if base is not None:
        check_latents(BASE_FILE, base, space)
    any_length = () if purpose == "training" else (texts.NULL, texts.PROMPT, texts.NEGATIVE)
    return pisa_sr(
        denoiser,
        space,
        config["scale"],
        settings,
        sizes,
        texts.read_texts(config, any_length),
        base,
        perceptual.auxiliary_losses(config, settings.perceptual_weight, purpose, reader),
        entries,
        has_base,
    )


def _check_teacher(config: Config, settings: PisaSrSettings) -> None:
    """Classifier score distillation needs a teacher, and two texts that differ."""
    knob = f"recipe.pisa_sr.distillation_weight {settings.distillation_weight:g}"
    if not settings.base_checkpoint:
        raise ValueError(
            f"{knob} needs the base as a teacher, and {BASE_FILE.knob} is empty: set it to the path of Stable "
            "Diffusion 2's U-Net, or train without distillation (recipe.pisa_sr.distillation_weight=0)"
        )
    text = config["text"]
    if not (text["negative_embedding"] or text["prompt_embedding"] or text["condition"] == "captions"):
        raise ValueError(
            f"{knob} leads from the negative prompt to the prompt, and both are the null text: set "
            "recipe.text.negative_embedding, recipe.text.prompt_embedding or recipe.text.condition=captions, or train "
            "without distillation (recipe.pisa_sr.distillation_weight=0)"
        )


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    texts.require_photos(config, data)
    return texts.batch_entries_with_text(config, data, PIXELS)


METHOD = Method(
    name="pisa_sr",
    paper="Sun et al., Pixel-level and Semantic-level Adjustable Super-resolution: A Dual-LoRA Approach, CVPR 2025",
    summary="Stable Diffusion 2 in one step, with a pixel-level and a semantic-level LoRA of adjustable effect.",
    networks=Networks("denoiser", (NETWORK,)),
    sections={
        "space": spaces.KlSpaceSettings,
        "pisa_sr": PisaSrSettings,
        "lpips": perceptual.LpipsSettings,
        "text": texts.ClipTextConditioning,
    },
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, BASE_FILE, *texts.WEIGHT_FILES, perceptual.WEIGHT_FILE),
    conditioning="text",
    text_summary=texts.describe_prompt,
    batch_entries=_batch_entries,
    sampling_overrides={
        "pixel_scale": ("pisa_sr", "pixel_scale"),
        "semantic_scale": ("pisa_sr", "semantic_scale"),
        "prompt_embedding": texts.SAMPLING_OVERRIDES["prompt_embedding"],
    },
    identity=(("name",), ("space",), ("pisa_sr", "timestep"), ("pisa_sr", "lora_scale")),
    sampler_knobs=(("pisa_sr", "pixel_scale"), ("pisa_sr", "semantic_scale"), ("dtype",)),
    published=published_by(_build),
    merge={NETWORK: partial(merge, build=_build)},
    protocols={"pisa_sr": PROTOCOL},
    tiny=("recipe.pisa_sr.lora_rank=2", "recipe.pisa_sr.pixel_steps=1", "recipe.lpips.net=alex", *texts.CLIP_TINY),
)
