"""Tiny photographs, configurations and weights, shared by the tests of the command line and of what lies behind it."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from framer_jax.config import load_config, to_dict
from framer_jax.inference.model import save_model
from framer_jax.porting.weights import flatten_names, nest_names, save_weights
from framer_jax.recipes import pretrained
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.table import build_recipe
from tests.support.paths import CONFIGS

MODEL = (
    "recipe.denoiser.unet.channels=(8, 8)",
    "recipe.denoiser.unet.blocks=1",
    "recipe.denoiser.unet.condition_blocks=0",
    "recipe.denoiser.unet.time_width=8",
    "recipe.denoiser.dit.width=8",
    "recipe.denoiser.dit.depth=2",
    "recipe.denoiser.dit.heads=1",
    "recipe.denoiser.resshift_unet.channels=32",
    "recipe.denoiser.resshift_unet.multipliers=(1,)",
    "recipe.denoiser.resshift_unet.blocks=(1,)",
    "recipe.denoiser.resshift_unet.swin_blocks=1",
    "recipe.denoiser.resshift_unet.swin_channels=32",
    "recipe.denoiser.resshift_unet.head_channels=16",
    "recipe.denoiser.resshift_unet.image_size=8",
    "recipe.denoiser.resshift_unet.condition_size=8",
    "recipe.denoiser.dit4sr.depth=2",
    "recipe.denoiser.dit4sr.heads=2",
    "recipe.denoiser.dit4sr.head_width=8",
    "recipe.denoiser.dit4sr.dual_blocks=1",
    "recipe.denoiser.dit4sr.position_grid=32",
    "recipe.denoiser.dit4sr.attention=manual",  # JAX's own mixes dtypes in its gradient, which a strict session refuses
    "recipe.denoiser.mmdit.depth=2",
    "recipe.denoiser.mmdit.heads=2",
    "recipe.denoiser.mmdit.head_width=8",
    "recipe.denoiser.mmdit.dual_blocks=1",
    "recipe.denoiser.mmdit.qk_norm=True",
    "recipe.denoiser.mmdit.position_grid=32",
    "recipe.denoiser.mmdit.attention=manual",
    "recipe.dit4sr.sampling_steps=2",
    "recipe.tsd_sr.lora_rank=2",
    "recipe.tsd_sr.encoder_rank=2",
    "recipe.tsd_sr.regulariser_rank=2",
    "recipe.text.clip_length=1",
    "recipe.text.t5_length=2",
    "recipe.text.clip_widths=(4, 8)",
    "recipe.text.width=16",
    "recipe.student.swinir.channels=8",
    "recipe.student.swinir.depths=(1, 1)",
    "recipe.student.swinir.heads=2",
    "recipe.lpips.net=alex",
    "recipe.resshift.steps=2",
    "recipe.flow.sampling_steps=2",
)
"""Shrinks any configuration's model."""

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
    """A smooth colour field with some noise: uint8 [height, width, 3]."""
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


def config(*changes: str, base: Path = CONFIGS / "default.py") -> dict[str, Any]:
    """The default (or another) configuration with a tiny model and run."""
    return to_dict(load_config(base, (*MODEL, *RUN, *changes)))


def weights(path: Path, *changes: str, fill: float | None = None, base: Path = CONFIGS / "default.py") -> Path:
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

TINY = {
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
    "mmdit": TRANSFORMER,
    "dit4sr": TRANSFORMER,
    "lpips_alex": {"net": "alex"},
    "resshift_unet": {
        "channels": 32,
        "multipliers": (1,),
        "blocks": (1,),
        "swin_blocks": 1,
        "swin_channels": 32,
        "head_channels": 16,
        "image_size": 8,
        "condition_size": 8,
        "mask": "released",
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
        "colours": 3,
        "value_range": 1.0,
        "image_size": 64,
    },
}
"""Weight map → arguments of a small model; denoiser and student are those of `MODEL`."""


def ported(path: Path, name: str, file: str = "original.pth", fill: float | None = None, **changes: Any) -> Path:
    """A small published model with random weights (or all `fill`), as `framer-jax port` writes it.

    `file`: what it was made of; `changes`: of its arguments.
    """
    arguments = {**TINY[name], **changes}
    params = random_weights(pretrained.expected_params(name, pretrained.build(name, arguments)), fill)
    source = {"files": [{"file": file, "sha256": ""}]}
    save_weights(path, params, {"model": name, "arguments": arguments, "source": source})
    return path


def text(path: Path, length: int = 3, seed: int = 0) -> Path:
    """A text's embedding, as `framer-jax precompute embeddings --null` writes it, for the denoiser of `MODEL`."""
    rng = np.random.default_rng(seed)
    arrays = {"prompt": rng.standard_normal((length, 16)), "pooled": rng.standard_normal(12)}
    zeros = dict.fromkeys(("clip_l", "clip_g", "t5"), "zeros")
    metadata = {"kind": "text", "text": {"encoders": zeros}}
    save_weights(path, {name: value.astype(np.float32) for name, value in arrays.items()}, metadata)
    return path


def named_weights(folder: Path, config_path: Path) -> tuple[str, ...]:
    """Changes that name small weights, made in `folder`, for all that training with a configuration needs."""
    recipe = load_config(config_path).recipe
    changes = []
    if recipe.space.name == "vq_f4":
        changes.append(f"recipe.space.weights={ported(folder / 'autoencoder.safetensors', 'vq_f4')}")
    if recipe.space.name == "kl":
        changes.append(f"recipe.space.weights={ported(folder / 'autoencoder.safetensors', 'kl_autoencoder')}")
        changes.append(f"recipe.{recipe.name}.base={ported(folder / 'base.safetensors', 'mmdit')}")
        changes += [f"recipe.text.null={text(folder / 'null.safetensors')}", "recipe.text.condition=null"]
    if recipe.name == "tsd_sr":
        # JAX's own attention, which the autoencoder asks, mixes dtypes in its gradient: a strict session refuses that
        changes.append("recipe.dtype=float32")
        changes.append(f"recipe.text.wanted={text(folder / 'wanted.safetensors', seed=1)}")
    if recipe.resshift.perceptual_weight or recipe.name == "tsd_sr":
        changes.append(f"recipe.lpips.weights={ported(folder / 'lpips.safetensors', 'lpips_alex')}")
    if recipe.name == "sinsr":
        teacher = weights(folder / "teacher.safetensors", "recipe.name=resshift", base=config_path)
        changes.append(f"recipe.sinsr.teacher={teacher}")
    if recipe.name in ("dtkd", "augkd"):
        changes.append(f"recipe.teacher.weights={weights(folder / 'teacher.safetensors')}")
    return tuple(changes)


def random_weights(shapes: dict[str, Any], fill: float | None = None) -> dict[str, Any]:
    """Random numbers (or all `fill`) in the places of shapes."""
    rng = np.random.default_rng(0)
    leaves, empty = flatten_names(shapes)
    drawn = {
        name: 0.1 * rng.standard_normal(leaf.shape) if fill is None else np.full(leaf.shape, fill)
        for name, leaf in leaves.items()
    }
    return nest_names({name: leaf.astype(np.float32) for name, leaf in drawn.items()}, empty)
