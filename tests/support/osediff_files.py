"""What the tests of OSEDiff share: files that it is trained with, a configuration of them, its authors' file."""

import jax
import numpy as np

from framer_jax.checkpoints.open import build_recipe
from framer_jax.data.text import CLIP_H
from framer_jax.porting.lora import LoraLayers, write_layers
from framer_jax.porting.table import MAPS
from framer_jax.recipes.components.base_model import BASE
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.one_step import ENCODER, STUDENT
from framer_jax.trees import flatten_names, nest_names
from tests.support.tiny import config, photos, ported, text

SMALL = ("recipe.name=osediff", "recipe.space.name=kl", "recipe.text.condition=null")

PARTS = {
    "encoder": ("down_blocks", "conv_in"),
    "decoder": ("up_blocks", "conv_out"),
    "others": ("mid_block",),
}
"""The adapters that the released trainer splits the U-Net's LoRA into → beginnings of their modules' names."""


def make_files(place):
    """Everything that OSEDiff is trained with, in a folder."""
    ported(place / "vae.safetensors", "kl_autoencoder", quantisation_convs=True, shift=0.0)
    ported(place / "base.safetensors", "sd_unet")
    ported(place / "lpips.safetensors", "lpips_alex")
    for seed, name in enumerate(("null", "prompt", "negative")):
        text(place / f"{name}.safetensors", seed=seed, encoders=(CLIP_H,))
    photos(place / "photos")
    return place


def knobs(folder):
    return (
        *SMALL,
        f"recipe.space.checkpoint={folder}/vae.safetensors",
        f"recipe.osediff.base_checkpoint={folder}/base.safetensors",
        f"recipe.lpips.checkpoint={folder}/lpips.safetensors",
        f"recipe.text.null_embedding={folder}/null.safetensors",
        f"recipe.text.prompt_embedding={folder}/prompt.safetensors",
        f"recipe.text.negative_embedding={folder}/negative.safetensors",
    )


def recipe_of(*changes, data="photos"):
    return build_recipe(config(*changes)["recipe"], "training", data)


def batch(count=2, side=8):
    hr = jax.random.uniform(jax.random.key(0), (count, 4 * side, 4 * side, 3), "float32")
    return {"hr": hr, "lr": hr.reshape(count, side, 4, side, 4, 3).mean(axis=(2, 4))}


def published(recipe, params, scale=2.0):
    """The content of osediff.pkl, NumPy arrays in the place of tensors, that holds a student's parameters."""
    content = {"rank_unet": 2, "rank_vae": 2}
    unet = MAPS["sd_unet"]
    factors = nest_names({name: np.asarray(leaf) for name, leaf in flatten_names(params[STUDENT])[0].items()})
    plain = plain_state(unet, recipe.frozen[BASE], factors, scale)
    states = {"unet": {}, "vae": {}}
    for part, starts in PARTS.items():
        keys = [key for key in plain if key.startswith(starts)]
        for key in keys:
            states["unet"][key.replace(".weight", f".default_{part}.weight")] = plain[key]
        content[f"unet_lora_{part}_modules"] = sorted({key.partition(".lora_")[0] for key in keys})
    kernel, bias = (params["denoiser"]["conv_in"][name] for name in ("kernel", "bias"))
    states["unet"]["conv_in.base_layer.weight"] = np.moveaxis(np.asarray(kernel), (-1, -2), (0, 1))
    states["unet"]["conv_in.base_layer.bias"] = np.asarray(bias)
    plain = plain_state(MAPS["kl_autoencoder"], recipe.frozen[AUTOENCODER], params[ENCODER], scale)
    states["vae"] = {key.replace(".weight", ".default_encoder.weight"): value for key, value in plain.items()}
    content["vae_lora_encoder_modules"] = 2 * sorted({key.partition(".lora_")[0] for key in plain})
    return content | {f"state_dict_{name}": state for name, state in states.items()}


def plain_state(weights, base, factors, scale):
    """A LoRA's state dict in PEFT's names, whose alpha 8 gives the same addition as `scale`."""
    changed = {
        name: np.asarray(leaf) * np.float32(scale / (8 / leaf.shape[-2]) if name.endswith("/up") else 1)
        for name, leaf in flatten_names(factors)[0].items()
    }
    downs = [name.removesuffix("/down") for name in changed if name.endswith("/down")]
    layers = LoraLayers(nest_names(changed), dict.fromkeys(downs, 8.0))
    state = write_layers(weights, base, {"": layers}, prefix="")
    return {key: value for key, value in state.items() if not key.endswith(".alpha")}
