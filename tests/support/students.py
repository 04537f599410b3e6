"""What the tests of students share: teachers, recipes that learn from them, a batch."""

import jax
import jax.numpy as jnp

from framer_jax.checkpoints.open import build_recipe
from tests.support.tiny import config, photos, weights

DTKD, AUGKD = "recipe.name=dtkd", "recipe.name=augkd"

STILL = "recipe.student.swinir.drop_path=0.0"

STEP = jnp.int32(1)


def teachers(place):
    """The folder with photographs, and teachers of two kinds."""
    photos(place / "photos")
    weights(place / "resshift.safetensors")
    weights(place / "swinir.safetensors", "recipe.name=supervised_l1")
    return place


def recipe_of(folder, *changes, teacher="resshift", purpose="training", data="photos"):
    checkpoint = f"recipe.teacher.checkpoint={folder}/{teacher}.safetensors"
    return build_recipe(config(checkpoint, *changes)["recipe"], purpose, data)


def batch(count=2, side=8):
    hr = jax.random.uniform(jax.random.key(0), (count, 4 * side, 4 * side, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, side, 4, side, 4, 3).mean(axis=(2, 4))}


def run(recipe, params, data, step=STEP, key=3, frozen=None):
    frozen = recipe.frozen if frozen is None else frozen
    return jax.jit(recipe.updates[0].loss)(params, frozen, {}, data, jax.random.key(key), step)
