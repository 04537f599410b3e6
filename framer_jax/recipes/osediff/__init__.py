"""OSEDiff: Stable Diffusion 2 distilled into one step."""

from __future__ import annotations

from functools import partial

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import perceptual, spaces
from framer_jax.recipes.components import text as texts
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.components.published_lora import AUTOENCODER_NETWORK
from framer_jax.recipes.components.sd_base import NETWORK, build_space, check_latents, read_unet
from framer_jax.recipes.method import Config, Method, Networks, UpscaleProtocol, WeightReader
from framer_jax.recipes.osediff.recipe import osediff
from framer_jax.recipes.osediff.settings import OsediffSettings
from framer_jax.recipes.osediff.weights import BASE_FILE, merge, published_by

PROTOCOL = UpscaleProtocol(
    summary="one canvas of latents; tiles of 96 latents that share 32 are blended in the one step; AdaIN or wavelets "
    "restore the colors",
    tiles="latent",
    tile=768,
    overlap=lambda tile: tile // 6 * 2,  # 32 of 96 latents
    color_fixes=("adain", "wavelet", "none"),
    shorter_side=512,
    autoencoder_tiles=(1024, 1792),
)
"""As OSEDiff's released code. Differences: the encoder returns its mean, and the image is resized to its size after its
colors are restored, where the released code forgets to resize it."""


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings: OsediffSettings = settings_from(OsediffSettings, config["osediff"], "recipe.osediff")
    space = build_space(config, purpose, reader)
    denoiser = build_denoiser(config, space, **texts.text_widths(config))
    sizes, entries = texts.text_sizes(config), _batch_entries(config, data)
    if purpose == "description":
        nulls = {texts.NULL: texts.zero_text(sizes)}
        return osediff(denoiser, space, config["scale"], settings, sizes, nulls, batch_entries=entries)
    base = read_unet(BASE_FILE, settings.base_checkpoint, config, reader)
    check_latents(BASE_FILE, base, space)
    if purpose == "training":
        _check_prompt(config, settings)
    any_length = () if purpose == "training" else (texts.NULL, texts.PROMPT, texts.NEGATIVE)
    return osediff(
        denoiser,
        space,
        config["scale"],
        settings,
        sizes,
        texts.read_texts(config, any_length),
        base,
        perceptual.auxiliary_losses(config, settings.perceptual_weight, purpose, reader),
        entries,
    )


def _check_prompt(config: Config, settings: OsediffSettings) -> None:
    text = config["text"]
    differing = text["prompt_embedding"] or text["negative_embedding"] or text["condition"] == "captions"
    if settings.distillation_weight and settings.guidance != 1 and not differing:
        raise ValueError(
            f"recipe.osediff.guidance {settings.guidance} leads from the negative prompt to a prompt, and both are the "
            "null text: set recipe.text.prompt_embedding or recipe.text.condition=captions, or "
            "recipe.osediff.guidance=1"
        )


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    texts.require_photos(config, data)
    return texts.batch_entries_with_text(config, data, PIXELS)


METHOD = Method(
    name="osediff",
    paper="Wu et al., One-Step Effective Diffusion Network for Real-World Image Super-Resolution, NeurIPS 2024",
    summary="Stable Diffusion 2 with LoRAs, distilled into one step by variational score distillation.",
    networks=Networks("denoiser", (NETWORK,)),
    sections={
        "space": spaces.KlSpaceSettings,
        "osediff": OsediffSettings,
        "lpips": perceptual.LpipsSettings,
        "text": texts.ClipTextConditioning,
    },
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, BASE_FILE, *texts.WEIGHT_FILES, perceptual.WEIGHT_FILE),
    conditioning="text",
    text_summary=texts.describe_prompt,
    batch_entries=_batch_entries,
    sampling_overrides={"prompt_embedding": texts.SAMPLING_OVERRIDES["prompt_embedding"]},
    identity=(("name",), ("space",), ("osediff", "lora_scale")),
    sampler_knobs=(("dtype",),),
    published=published_by(_build),
    merge={NETWORK: partial(merge, model=NETWORK), AUTOENCODER_NETWORK: partial(merge, model=AUTOENCODER_NETWORK)},
    protocols={"osediff": PROTOCOL},
    tiny=(
        "recipe.osediff.lora_rank=2",
        "recipe.osediff.encoder_lora_rank=2",
        "recipe.osediff.regulariser_lora_rank=2",
        "recipe.lpips.net=alex",
        *texts.CLIP_TINY,
    ),
)
