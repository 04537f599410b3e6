"""Multi-step diffusion on Stable Diffusion 2 in SeeSR's manner."""

from __future__ import annotations

from functools import partial

from framer_jax.knobs import settings_from
from framer_jax.models.controlled_unet import ControlledUNet
from framer_jax.recipes.base import PIXELS, Recipe
from framer_jax.recipes.components import spaces
from framer_jax.recipes.components import text as texts
from framer_jax.recipes.components.image_tokens import ImageEncoder, dinov2_encoder
from framer_jax.recipes.components.latent_space import LatentSpace
from framer_jax.recipes.components.lr_condition import LATENT_ENTRIES
from framer_jax.recipes.components.networks import DTYPES, build_denoiser
from framer_jax.recipes.components.sd_base import build_space, check_latents
from framer_jax.recipes.method import (
    LATENTS,
    TEACHER_OUTPUTS,
    Config,
    Method,
    Networks,
    UpscaleProtocol,
    WeightFile,
    WeightReader,
)
from framer_jax.recipes.multistep_sd.recipe import multistep_sd
from framer_jax.recipes.multistep_sd.settings import MultistepSdSettings
from framer_jax.recipes.multistep_sd.weights import (
    BASE_FILE,
    CONTROLNET_MAP,
    NETWORK,
    UNET_MAP,
    merge,
    read_base,
    with_controlnet,
)

ENCODER_FILE = WeightFile(("multistep_sd", "dinov2_checkpoint"), "DINOv2", inference=True)

PROTOCOL = UpscaleProtocol(
    summary="one canvas of latents with one noise; tiles of 96 latents that share 4 are blended in each step; AdaIN "
    "restores the colors",
    tiles="latent",
    tile=768,
    overlap=lambda tile: tile // 48 * 2,  # 4 of 96 latents
    color_fixes=("adain", "wavelet", "none"),
    shorter_side=512,
    autoencoder_tiles=(1024, 1792),
)
"""As SeeSR's released code with its published command. Differences: all images have one prompt (released code: tags of
each, and an added text); the latent of the LR image is the mean of its Gaussian, not a draw; nothing is rounded to 8
bits in between."""


def _build(config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
    settings: MultistepSdSettings = settings_from(MultistepSdSettings, config["multistep_sd"], "recipe.multistep_sd")
    space = build_space(config, purpose, reader)
    denoiser = build_denoiser(config, space, **texts.text_widths(config))
    assert isinstance(denoiser, ControlledUNet)
    sizes, entries = texts.text_sizes(config), _batch_entries(config, data)
    if purpose == "description":
        nulls = {texts.NULL: texts.zero_text(sizes)}
        return multistep_sd(denoiser, space, config["scale"], settings, sizes, nulls, batch_entries=entries)
    _check_control(config, space, denoiser)
    base = None
    if settings.base_checkpoint:
        unet = read_base(settings.base_checkpoint, config, reader, settings.prediction)
        check_latents(BASE_FILE, unet, space)
        base = with_controlnet(unet, denoiser, sizes)
    elif settings.trainable:
        raise ValueError(
            f"{BASE_FILE.knob} is empty, and recipe.multistep_sd.trainable {settings.trainable!r} leaves parameters "
            "untrained: set it to the path of Stable Diffusion 2's U-Net, or train everything (trainable '')"
        )
    encoder = _encoder(config, settings, denoiser, reader)
    text = config["text"]
    if (
        purpose == "inference"
        and settings.guidance != 1
        and not (text["prompt_embedding"] or text["negative_embedding"])
    ):
        reader.note(
            "recipe.multistep_sd.guidance",
            f"is {settings.guidance:g} and changes nothing: prompt and negative prompt are both the null text. Give "
            "--prompt-embedding or --negative-embedding, or --guidance 1, which takes half the time",
        )
    embeddings = texts.read_texts(config)
    return multistep_sd(denoiser, space, config["scale"], settings, sizes, embeddings, base, encoder, entries)


def _check_control(config: Config, space: LatentSpace, denoiser: ControlledUNet) -> None:
    if denoiser.control == "image" and denoiser.downsampling != space.image_pixels_per_latent:
        levels = space.image_pixels_per_latent.bit_length()
        raise ValueError(
            f"recipe.denoiser.{NETWORK}.image_widths {denoiser.image_widths} reduces the image {denoiser.downsampling} "
            f"times, and recipe.space.name {config['space']['name']!r} has one latent position per "
            f"{space.image_pixels_per_latent} pixels of a side: give {levels} widths, or set control=latent"
        )


def _encoder(
    config: Config, settings: MultistepSdSettings, denoiser: ControlledUNet, reader: WeightReader
) -> ImageEncoder | None:
    """The encoder of image tokens; a ValueError unless the network attends to tokens of its width."""
    knob = f"recipe.denoiser.{NETWORK}.image_context_width"
    if settings.image_tokens == "none":
        if denoiser.image_context_width:
            raise ValueError(
                f"{knob} is {denoiser.image_context_width}, and recipe.multistep_sd.image_tokens is none: set that to "
                "dinov2, or the width to 0"
            )
        if settings.dinov2_checkpoint:
            reader.note(ENCODER_FILE.knob, "is not read: recipe.multistep_sd.image_tokens is none; dinov2 would use it")
        return None
    dtype = DTYPES[config["dtype"]]
    dinov2 = reader.network(ENCODER_FILE.knob, settings.dinov2_checkpoint, "dinov2", "DINOv2", dtype)
    if (width := dinov2.module.width) != denoiser.image_context_width:
        raise ValueError(
            f"{knob} is {denoiser.image_context_width}, and {ENCODER_FILE.knob} {settings.dinov2_checkpoint} makes "
            f"tokens of {width} features: set {knob}={width}"
        )
    return dinov2_encoder(dinov2.module, dinov2.params, settings.token_side, "recipe.multistep_sd.token_side")


def _batch_entries(config: Config, data: str) -> tuple[str, ...]:
    if data == TEACHER_OUTPUTS:
        raise ValueError("recipe.name multistep_sd has no teacher: set data.train to photographs or latents")
    if data != LATENTS:
        return texts.batch_entries_with_text(config, data, PIXELS)
    if config["denoiser"][NETWORK]["control"] == "image":
        raise ValueError(
            f"recipe.denoiser.{NETWORK}.control is image, and precomputed latents have no image: set control=latent "
            "and image_widths to one width such as (64,), or data.train to photographs"
        )
    if config["multistep_sd"]["image_tokens"] != "none":
        raise ValueError(
            "recipe.multistep_sd.image_tokens are made of images, and precomputed latents have none: set it to none, "
            "or data.train to photographs"
        )
    return texts.batch_entries_with_text(config, data, LATENT_ENTRIES)


METHOD = Method(
    name="multistep_sd",
    paper="Wu et al., SeeSR: Towards Semantics-Aware Real-World Image Super-Resolution, CVPR 2024",
    summary="Text-conditioned diffusion on Stable Diffusion 2's latents with the LR image through a ControlNet.",
    networks=Networks("denoiser", (NETWORK,)),
    sections={
        "space": spaces.SpaceSettings,
        "multistep_sd": MultistepSdSettings,
        "text": texts.ClipTextConditioning,
    },
    build=_build,
    weight_files=(spaces.WEIGHT_FILE, BASE_FILE, ENCODER_FILE, *texts.WEIGHT_FILES),
    conditioning="text",
    text_summary=texts.describe_text,
    batch_entries=_batch_entries,
    sampling_overrides={
        "steps": ("multistep_sd", "sampling_steps"),
        "guidance": ("multistep_sd", "guidance"),
        **texts.SAMPLING_OVERRIDES,
    },
    identity=(
        ("name",),
        ("space",),
        ("multistep_sd", "prediction"),
        ("multistep_sd", "image_tokens"),
        ("multistep_sd", "token_side"),
    ),
    sampler_knobs=(
        ("multistep_sd", "sampling_steps"),
        ("multistep_sd", "sampler"),
        ("multistep_sd", "eta"),
        ("multistep_sd", "start"),
        ("multistep_sd", "guidance"),
        ("dtype",),
    ),
    merge={
        UNET_MAP: partial(merge, build=_build, model=UNET_MAP),
        CONTROLNET_MAP: partial(merge, build=_build, model=CONTROLNET_MAP),
    },
    protocols={"seesr": PROTOCOL},
    tiny=(
        "recipe.multistep_sd.sampling_steps=2",
        "recipe.multistep_sd.image_tokens=none",
        "recipe.denoiser.controlled_sd_unet.image_context_width=0",
        *texts.CLIP_TINY,
    ),
)
