"""What the tests of TSD-SR share: files that it is trained with, and a configuration that names them."""

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.checkpoints.open import build_recipe
from framer_jax.porting.lora import LoraLayers, write_layers
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.porting.weights import load_weights
from tests.support.tiny import config, photos, ported, text

SMALL = (
    "recipe.name=tsd_sr",
    "recipe.space.name=kl",
    "recipe.denoiser.mmdit.taps=prediction",
    "recipe.text.condition=null",
)


def make_files(place):
    """Everything that TSD-SR is trained with, in a folder."""
    ported(place / "vae.safetensors", "kl_autoencoder")
    ported(place / "base.safetensors", "mmdit")
    ported(place / "lpips.safetensors", "lpips_alex")
    for seed, name in enumerate(("null", "prompt")):
        text(place / f"{name}.safetensors", seed=seed)
    base, _ = load_weights(place / "base.safetensors")
    query = base["block_0"]["attention"]["query"]["kernel"]
    rng = np.random.default_rng(4)
    shapes = {"down": (query.shape[0], 2), "up": (2, query.shape[1])}
    factors = {name: 10 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    layers = LoraLayers({"block_0": {"attention": {"query": factors}}}, {"block_0/attention/query": 4.0})
    write_state(place / "teacher.safetensors", write_layers(MAPS["mmdit"], base, {"": layers}))
    photos(place / "photos")
    return place


def knobs(folder):
    return (
        *SMALL,
        f"recipe.space.checkpoint={folder}/vae.safetensors",
        f"recipe.tsd_sr.base_checkpoint={folder}/base.safetensors",
        f"recipe.tsd_sr.teacher_lora_checkpoint={folder}/teacher.safetensors",
        f"recipe.lpips.checkpoint={folder}/lpips.safetensors",
        f"recipe.text.null_embedding={folder}/null.safetensors",
        f"recipe.text.prompt_embedding={folder}/prompt.safetensors",
    )


def recipe_of(*changes, data="photos"):
    return build_recipe(config(*changes)["recipe"], "training", data)


def batch(count=2, side=8):
    hr = jax.random.uniform(jax.random.key(0), (count, 4 * side, 4 * side, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, side, 4, side, 4, 3).mean(axis=(2, 4))}
