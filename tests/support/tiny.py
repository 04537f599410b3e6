"""Tiny photographs, configurations and weights, shared by the tests of the command line and of what lies behind it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.checkpoints.open import build_recipe
from framer_jax.config import load_config, shipped, shipped_names, to_dict
from framer_jax.data.text import CLIP_H, ENCODERS
from framer_jax.inference.model import save_model
from framer_jax.porting.weights import save_weights
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.components.networks import NETWORKS
from framer_jax.recipes.components.spaces import AUTOENCODER_ARGUMENTS, AUTOENCODER_MAPS
from framer_jax.recipes.method import Method
from framer_jax.recipes.table import method_named, method_of
from framer_jax.trees import flatten_names, nest_names
from tests.support.paths import CONFIGS

DEFAULT = CONFIGS / "default.py"

RUN = (
    "data.crop=32",
    "data.degradation=light_one_stage",
    "data.validation_count=1",
    "training.steps=2",
    "training.global_batch=8",
    "training.mesh.data=1",  # compiled much faster than for the session's eight devices
    "training.gradient_accumulation_steps=1",
    "training.seed=0",
    "training.log_every=1",
    "training.checkpoint_every=1",
    "training.validate_every=1",
    # Equal numbers in all tests make equal programs, which are compiled once.
    "training.learning_rate=1e-3",
    "training.schedule=cosine",
    "training.warmup_steps=0",
    "training.ema_decay=0.9",
)
"""Shrinks any configuration's run."""


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth color field with some noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(rng.uniform(0.05, 0.3) * x + rng.uniform(0.05, 0.3) * y + phase) for phase in range(3)]
    return np.clip(127 + 80 * np.stack(waves, axis=-1) + 8 * rng.standard_normal((height, width, 3)), 0, 255).astype(
        np.uint8
    )


def photos(folder: Path, count: int = 3, size: tuple[int, int] = (40, 48)) -> Path:
    """A folder of `count` PNG files named photo_0.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(photo(*size, seed=index)).save(folder / f"photo_{index}.png")
    return folder


def overrides(*changes: str, base: Path = DEFAULT) -> tuple[str, ...]:
    """Overrides that give a configuration a tiny network and a tiny run, then `changes`."""
    names = [change for change in changes if change.startswith("recipe.name=")]
    method = method_named(load_config(base, names).recipe.name)
    section = method.networks.section
    networks = [
        f"recipe.{section}.{name}.{knob}={value}"
        for name in method.networks.names
        for knob, value in NETWORKS[name].tiny.items()
    ]
    return (*networks, *method.tiny, *RUN, *changes)


def config(*changes: str, base: Path = DEFAULT) -> dict[str, Any]:
    """The default (or another) configuration with a tiny network and run."""
    return to_dict(load_config(base, overrides(*changes, base=base)))


def weights(path: Path, *changes: str, fill: float | None = None, base: Path = DEFAULT) -> Path:
    """A weights file of a tiny model: random (or all `fill`), nothing is compiled."""
    settings = config(*changes, base=base)
    recipe = build_recipe(settings["recipe"], "description")
    save_model(path, recipe, random_weights(expected_params(recipe), fill), {"config": settings, "step": 0})
    return path


TRANSFORMER = {
    "channels": 4,
    "depth": 2,
    "heads": 2,
    "head_width": 8,
    "dual_blocks": 1,
    "qk_norm": True,
    "context_width": 16,
    "pooled_width": 12,
    "patch": 2,
    "position_grid": 32,
    "position_base": 64,
}

SD_ENCODER = {
    "channels": (8, 16),
    "blocks": 1,
    "attention_levels": (0,),
    "heads": (2, 4),
    "groups": 4,
    "context_width": 16,
}

TINY = {
    "sd_unet": {**SD_ENCODER, "out_channels": 4},
    "controlnet": {**SD_ENCODER, "in_channels": 4, "image_channels": 3, "image_widths": (4, 6)},
    "vq_f4": {"channels": 32, "multipliers": (1, 1, 1), "blocks": 1, "codes": 16},
    "kl_autoencoder": {
        "channels": 8,
        "multipliers": (1, 1, 1, 1),
        "blocks": 1,
        "latent_channels": 4,
        "groups": 4,
        "quantisation_convs": False,
        "scaling": 1.5,
        "shift": 0.1,
    },
    "taesd": {"latent_channels": 4, "channels": 8},
    "mmdit": TRANSFORMER,
    "dit4sr_transformer": TRANSFORMER,
    "lpips_alex": {"net": "alex"},
    "dinov2": {
        "width": 24,
        "depth": 2,
        "heads": 3,
        "hidden": 32,
        "mlp": "swiglu",
        "patch": 14,
        "image_size": 84,
        "registers": 4,
        "layer_scale": True,
        "position_offset": 0.0,
        "position_antialias": True,
    },
    "hf_extractor": {
        "variant": "paper",
        "image_channels": 3,
        "channels": 6,
        "modules": 1,
        "expansion": 1,
        "classifier_layers": 0,
        "classes": 0,
        "exponent_limit": None,
    },
    "resshift_unet": {
        "channels": 32,
        "multipliers": (1,),
        "blocks": (1,),
        "swin_blocks": 1,
        "swin_channels": 32,
        "head_channels": 16,
        "image_size": 8,
        "condition_size": 8,
        "variant": "released",
    },
    "swinir": {
        "scale": 4,
        "head": "nearest+conv",
        "channels": 8,
        "depths": (1, 1),
        "heads": 2,
        "window": 8,
        "mlp_ratio": 2,
        "residual": "1conv",
        "image_channels": 3,
        "value_range": 1.0,
        "image_size": 64,
    },
    "rrdbnet": {
        "scale": 4,
        "variant": "real_esrgan",
        "channels": 8,
        "blocks": 1,
        "growth": 4,
        "image_channels": 3,
    },
    "supresdiffgan_unet": {
        "out_channels": 4,
        "channels": (8, 16),
        "blocks": 1,
        "head_width": 8,
        "groups": 4,
    },
    "pair_discriminator": {"image_channels": 3, "channels": (4, 8)},
    "srvgg": {"scale": 4, "channels": 8, "depth": 1, "activation": "prelu", "image_channels": 3},
}
"""Weight map → arguments of a small model; denoiser and student are those of `NETWORKS[...].tiny`."""


def ported(path: Path, name: str, file: str = "original.pth", fill: float | None = None, **changes: Any) -> Path:
    """A small published model with random weights (or all `fill`), as `framer-jax port` writes it.

    `file`: what it was made of; `changes`: of its arguments.
    """
    arguments = {**TINY[name], **changes}
    params = random_weights(network_shapes(name, build_network(name, arguments)), fill)
    source = {"files": [{"file": file, "sha256": ""}]}
    save_weights(path, params, {"model": name, "arguments": arguments, "source": source})
    return path


def text(path: Path, length: int = 3, seed: int = 0, encoders: tuple[str, ...] = ENCODERS) -> Path:
    """A text's embedding, as `framer-jax precompute embeddings --null` writes it, for a tiny denoiser.

    `encoders`: (CLIP_H,) for Stable Diffusion 2, whose text has no pooled embedding.
    """
    rng = np.random.default_rng(seed)
    arrays = {"prompt": rng.standard_normal((length, 16)), "pooled": rng.standard_normal(12)}
    if CLIP_H in encoders:
        del arrays["pooled"]
    zeros = dict.fromkeys(encoders, "zeros")
    metadata = {"kind": "text", "text": {"encoders": zeros}}
    save_weights(path, {name: value.astype(np.float32) for name, value in arrays.items()}, metadata)
    return path


def named_weights(folder: Path, config_path: Path) -> tuple[str, ...]:
    """Overrides that name small weights, made in `folder`, for all that training with a configuration needs."""
    recipe = load_config(config_path).recipe
    method = method_of(recipe)
    knobs = {file.path: file.knob for file in method.weight_files}
    is_unet = method.networks.names[0] in ("sd_unet", "controlled_sd_unet")
    base, encoders = ("sd_unet", (CLIP_H,)) if is_unet else ("mmdit", ENCODERS)
    makers: dict[str, Callable[[], Path]] = {
        "base_checkpoint": lambda: ported(folder / "base.safetensors", base),
        "null_embedding": lambda: text(folder / "null.safetensors", encoders=encoders),
        "prompt_embedding": lambda: text(folder / "prompt.safetensors", seed=1, encoders=encoders),
        "extractor_checkpoint": lambda: ported(folder / "extractor.safetensors", "hf_extractor"),
        "dinov2_checkpoint": lambda: ported(folder / "dinov2.safetensors", "dinov2"),
        "teacher_checkpoint": lambda: weights(folder / "teacher.safetensors", "recipe.name=resshift", base=config_path),
    }
    changes = [f"{knob}={makers[path[-1]]()}" for path, knob in knobs.items() if path[-1] in makers and needs(recipe)]
    if ("lpips", "checkpoint") in knobs and recipe[method.name].perceptual_weight:
        changes.append(f"recipe.lpips.checkpoint={ported(folder / 'lpips.safetensors', 'lpips_alex')}")
    if ("teacher", "checkpoint") in knobs:
        changes.append(f"recipe.teacher.checkpoint={weights(folder / 'teacher.safetensors')}")
    if "space" in recipe and recipe.space.name in AUTOENCODER_MAPS:
        arguments = AUTOENCODER_ARGUMENTS.get(recipe.space.name, {})
        autoencoder = ported(folder / "autoencoder.safetensors", AUTOENCODER_MAPS[recipe.space.name], **arguments)
        changes.append(f"recipe.space.checkpoint={autoencoder}")
    if "text" in recipe and needs(recipe):
        changes.append("recipe.text.condition=null")
    if "encoder_lora_modules" in recipe.get(method.name, {}) or is_unet:
        # JAX's own attention, which these networks use, mixes dtypes in its gradient: a strict session refuses that
        changes.append("recipe.dtype=float32")
    return tuple(changes)


def needs(recipe: Any) -> bool:
    """Whether a configuration trains on a frozen base with text, and not everything from nothing without any."""
    return "text" not in recipe or recipe.text.condition != "zero"


def shipped_configuration(method: Method) -> str:
    """A shipped configuration of a method, without FRAMER if there is one."""
    fitting = [
        (variant != "none", name) for name, (of_method, variant) in _shipped().items() if of_method == method.name
    ]
    return min(fitting)[1]


@cache
def _shipped() -> dict[str, tuple[str, str]]:
    """Shipped configuration → (its method, its variant of FRAMER)."""
    configurations = {name: shipped(name) for name in shipped_names() if name != "default"}
    return {name: (each.recipe.name, each.framer.variant) for name, each in configurations.items()}


def random_weights(shapes: dict[str, Any], fill: float | None = None) -> dict[str, Any]:
    """Random numbers (or all `fill`) in the places of shapes."""
    rng = np.random.default_rng(0)
    leaves, empty = flatten_names(shapes)
    drawn = {
        name: 0.1 * rng.standard_normal(leaf.shape) if fill is None else np.full(leaf.shape, fill)
        for name, leaf in leaves.items()
    }
    return nest_names({name: leaf.astype(np.float32) for name, leaf in drawn.items()}, empty)
