"""TSD-SR: Stable Diffusion 3 distilled into one step."""

from __future__ import annotations

from functools import partial

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import perceptual, spaces
from framer_jax.recipes.components import text as texts
from framer_jax.recipes.components.base_model import stored_layout
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.components.published_lora import AUTOENCODER_NETWORK
from framer_jax.recipes.method import Config, Method, Networks, UpscaleProtocol, WeightFile, WeightReader
from framer_jax.recipes.tsd_sr.recipe import tsd_sr
from framer_jax.recipes.tsd_sr.settings import TsdSrSettings
from framer_jax.recipes.tsd_sr.weights import (
    BASE_FILE,
    NETWORK,
    merge,
    published_by,
    read_transformer,
)

TEACHER_FILE = WeightFile(("tsd_sr", "teacher_lora_checkpoint"), "teacher LoRA")

PROTOCOL = UpscaleProtocol(
    summary="one canvas of latents; tiles of 64 latents that share 8 are blended in the one step; wavelets or AdaIN "
    "restore the colors",
    tiles="latent",
    tile=512,
    overlap=lambda tile: tile // 32 * 4,  # 8 of 64 latents
    color_fixes=("wavelet", "adain", "none"),
    shorter_side=512,
    autoencoder_tiles=(1024, 1792),
)
"""As TSD-SR's released code; its authors use AdaIN for their benchmarks. Differences: the released code upsamples the
image in one step, restores its size before its colors, and takes the LR image as AdaIN's source."""


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings: TsdSrSettings = settings_from(TsdSrSettings, config["tsd_sr"], "recipe.tsd_sr")
    space = spaces.build_space(config, purpose, reader)
    widths = texts.text_widths(config)
    denoiser = build_denoiser(config, space, **widths)
    sizes, entries = texts.text_sizes(config), _batch_entries(config, data)
    if purpose == "description":
        nulls = {texts.NULL: texts.zero_text(sizes)}
        return tsd_sr(denoiser, space, config["scale"], settings, sizes, nulls, batch_entries=entries)
    base = read_transformer(settings.base_checkpoint, config, widths, reader)
    teacher = None
    if purpose == "training":
        _check_prompt(config, settings)
        if settings.teacher_lora_checkpoint:
            teacher = reader.lora(TEACHER_FILE.knob, settings.teacher_lora_checkpoint, NETWORK, base)
            teacher = stored_layout(teacher, denoiser)
    any_length = () if purpose == "training" else (texts.NULL, texts.PROMPT, texts.NEGATIVE)
    return tsd_sr(
        denoiser,
        space,
        config["scale"],
        settings,
        sizes,
        texts.read_texts(config, any_length),
        stored_layout(base, denoiser),
        teacher,
        perceptual.auxiliary_losses(config, settings.perceptual_weight, purpose, reader),
        entries,
    )


def _check_prompt(config: Config, settings: TsdSrSettings) -> None:
    text = config["text"]
    if settings.guidance != 1 and not text["prompt_embedding"] and text["condition"] != "captions":
        raise ValueError(
            f"recipe.tsd_sr.guidance {settings.guidance} leads from the null text to a prompt, and there is none: set "
            "recipe.text.prompt_embedding or recipe.text.condition=captions, or recipe.tsd_sr.guidance=1"
        )


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    texts.require_photos(config, data)
    return texts.batch_entries_with_text(config, data, PIXELS)


def _text_summary(condition: str, caption_dropout: float) -> str:
    if condition == "zero":
        return texts.describe_text(condition, caption_dropout)
    others = "the caption, or randomly the null text" if condition == "captions" else "the same"
    return f"for the student, one prompt (recipe.text.prompt_embedding); for its teacher, of each example, {others}"


METHOD = Method(
    name="tsd_sr",
    paper="Dong et al., TSD-SR: One-Step Diffusion with Target Score Distillation for Real-World Image "
    "Super-Resolution, CVPR 2025",
    summary="Stable Diffusion 3 with LoRAs, distilled into one step by target-score distillation.",
    networks=Networks("denoiser", (NETWORK,)),
    sections={
        "space": spaces.KlSpaceSettings,
        "tsd_sr": TsdSrSettings,
        "lpips": perceptual.LpipsSettings,
        "text": texts.TextConditioning,
    },
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, BASE_FILE, *texts.WEIGHT_FILES, perceptual.WEIGHT_FILE, TEACHER_FILE),
    conditioning="text",
    text_summary=_text_summary,
    batch_entries=_batch_entries,
    sampling_overrides={"prompt_embedding": texts.SAMPLING_OVERRIDES["prompt_embedding"]},
    identity=(("name",), ("space",)),
    sampler_knobs=(("dtype",),),
    published=published_by(_build),
    merge={NETWORK: partial(merge, model=NETWORK), AUTOENCODER_NETWORK: partial(merge, model=AUTOENCODER_NETWORK)},
    protocols={"tsd_sr": PROTOCOL},
    tiny=(
        "recipe.tsd_sr.lora_rank=2",
        "recipe.tsd_sr.encoder_lora_rank=2",
        "recipe.tsd_sr.regulariser_lora_rank=2",
        "recipe.lpips.net=alex",
        *texts.TINY,
    ),
    renamed_knobs={
        **spaces.RENAMED_KNOBS,
        **perceptual.RENAMED_KNOBS,
        "tsd_sr.base": "tsd_sr.base_checkpoint",
        "tsd_sr.teacher_lora": "tsd_sr.teacher_lora_checkpoint",
        "tsd_sr.lora": "tsd_sr.lora_modules",
        "tsd_sr.encoder_lora": "tsd_sr.encoder_lora_modules",
        "tsd_sr.encoder_rank": "tsd_sr.encoder_lora_rank",
        "tsd_sr.regulariser_lora": "tsd_sr.regulariser_lora_modules",
        "tsd_sr.regulariser_rank": "tsd_sr.regulariser_lora_rank",
        "tsd_sr.variational_share": "tsd_sr.vsd_weight",
        **texts.RENAMED_KNOBS,
    },
)
