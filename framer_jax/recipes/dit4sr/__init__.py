"""DiT4SR: Stable Diffusion 3.5's transformer with a second stream of LR tokens."""

from __future__ import annotations

from functools import partial

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import spaces
from framer_jax.recipes.components import text as texts
from framer_jax.recipes.components.base_model import stored_layout
from framer_jax.recipes.components.lr_condition import LATENT_ENTRIES
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.dit4sr.recipe import dit4sr
from framer_jax.recipes.dit4sr.settings import Dit4srSettings
from framer_jax.recipes.dit4sr.weights import BASE_FILE, BASE_NETWORK, NETWORK, merge, published_by, read_base
from framer_jax.recipes.method import (
    LATENTS,
    TEACHER_OUTPUTS,
    Config,
    Method,
    Networks,
    UpscaleProtocol,
    WeightReader,
)

PROTOCOL = UpscaleProtocol(
    summary="one canvas of latents with one noise; tiles of 64 latents that share 24 are blended in each step; AdaIN "
    "restores the colors",
    tiles="latent",
    tile=512,
    overlap=lambda tile: tile * 3 // 32 * 4,  # 24 of 64 latents
    color_fixes=("adain",),
    shorter_side=512,
    autoencoder_tiles=(1024, 1792),
)
"""As DiT4SR's released code and paper, on which FRAMER_D builds. Differences: the latent of the LR image is the mean of
its Gaussian, not a draw; all images have one prompt (released code: a caption of each, and an added text); nothing is
rounded to 8 bits in between; images above 1024 pixels a side are encoded, and above 1792 decoded, in overlapping tiles
with shared GroupNorm statistics (the released scripts name these sides and do not use them)."""


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings = settings_from(Dit4srSettings, config["dit4sr"], "recipe.dit4sr")
    space = spaces.build_space(config, purpose, reader)
    denoiser = build_denoiser(config, space, **texts.text_widths(config))
    sizes, entries = texts.text_sizes(config), _batch_entries(config, data)
    if purpose == "description":
        nulls = {texts.NULL: texts.zero_text(sizes)}
        return dit4sr(denoiser, space, config["scale"], settings, sizes, nulls, batch_entries=entries)
    base = None
    if settings.base_checkpoint:
        module_arguments = {name: getattr(denoiser, name) for name in ("channels", "positions", "position_base")}
        arguments = {**config["denoiser"][NETWORK], **texts.text_widths(config), **module_arguments}
        base = stored_layout(read_base(settings.base_checkpoint, arguments, reader), denoiser)
    elif settings.trainable:
        raise ValueError(
            f"{BASE_FILE.knob} is empty, and recipe.dit4sr.trainable {settings.trainable!r} leaves parameters "
            "untrained: set it to the path of Stable Diffusion 3.5's transformer, or train everything (trainable '')"
        )
    free = (texts.PROMPT, texts.NEGATIVE) if purpose == "training" else (texts.NULL, texts.PROMPT, texts.NEGATIVE)
    embeddings = texts.read_texts(config, any_length=free)
    return dit4sr(denoiser, space, config["scale"], settings, sizes, embeddings, base, entries)


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    if data == TEACHER_OUTPUTS:
        raise ValueError("recipe.name dit4sr has no teacher: set data.train to photographs or precomputed latents")
    return texts.batch_entries_with_text(config, data, LATENT_ENTRIES if data == LATENTS else PIXELS)


METHOD = Method(
    name="dit4sr",
    paper="Duan et al., DiT4SR: Taming Diffusion Transformer for Real-World Image Super-Resolution, ICCV 2025",
    summary="Text-conditioned flow on Stable Diffusion 3.5's latents with a second stream of LR tokens.",
    networks=Networks("denoiser", (NETWORK,)),
    sections={"space": spaces.SpaceSettings, "dit4sr": Dit4srSettings, "text": texts.TextConditioning},
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, BASE_FILE, *texts.WEIGHT_FILES),
    conditioning="text",
    text_summary=texts.describe_text,
    batch_entries=_batch_entries,
    sampling_overrides={
        "steps": ("dit4sr", "sampling_steps"),
        "guidance": ("dit4sr", "guidance"),
        **texts.SAMPLING_OVERRIDES,
    },
    identity=(("name",), ("space",)),
    sampler_knobs=(("dit4sr", "sampling_steps"), ("dit4sr", "guidance"), ("dtype",)),
    published=published_by(_build),
    merge={
        NETWORK: partial(merge, build=_build, model=NETWORK),
        BASE_NETWORK: partial(merge, build=_build, model=BASE_NETWORK),
    },
    protocols={"dit4sr": PROTOCOL},
    tiny=("recipe.dit4sr.sampling_steps=2", *texts.TINY),
    renamed_knobs={
        **spaces.RENAMED_KNOBS,
        "dit4sr.base": "dit4sr.base_checkpoint",
        "dit4sr.lora": "dit4sr.lora_modules",
        "dit4sr.density": "dit4sr.timestep_sampling",
        **texts.RENAMED_KNOBS,
    },
)
