"""The whole step of a real recipe with FRAMER, on one device and on eight."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.config import default, to_dict
from framer_jax.data.pipeline import make_prepare
from framer_jax.degradations.draw import draw, stack
from framer_jax.degradations.presets import LIGHT_ONE_STAGE
from framer_jax.recipes.framer import add_framer
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.sharding import make_mesh, place_batch
from framer_jax.training.state import init_train_state
from framer_jax.training.step import make_step
from tests.support import training_toys as toys


def raw_batch(count=8, side=32):
    rng = np.random.default_rng(0)
    degradation = stack([draw(np.random.default_rng(record), LIGHT_ONE_STAGE) for record in range(count)])
    hr = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    return {"hr": hr, "degradation": degradation, "record": np.arange(count, dtype=np.int32)}


def losses(mesh):
    config = to_dict(default())["recipe"]
    config["denoiser"]["unet"] = {"channels": [8, 12], "blocks": 1, "condition_blocks": 1, "time_width": 8}
    recipe = add_framer(build_recipe(config), {"variant": "paper"})
    settings = toys.settings(steps=2, learning_rate=1e-3, mesh=mesh, fsdp_min_size=64, seed=0)
    placed, optimizers = make_mesh(settings), make_optimizers(recipe, settings)
    shapes = jax.eval_shape(make_prepare(LIGHT_ONE_STAGE), raw_batch())
    state = init_train_state(recipe, optimizers, settings, placed, shapes)
    step = make_step(recipe, make_prepare(LIGHT_ONE_STAGE), optimizers, settings, placed, state)
    averages = []
    for _ in range(2):
        state, metrics = step(state, {}, place_batch(raw_batch(), placed))
        jax.block_until_ready(state)
        averages.append({name: average.compute() for name, average in jax.device_get(metrics.averages).items()})
    return averages


def test_framer_training_gives_the_same_losses_on_one_device_and_on_eight():
    """InterCL's negatives are the other images of the global batch, so a per-device batch of one would show."""
    one, eight = losses({"data": 1, "fsdp": 1}), losses({"data": 4, "fsdp": 2})
    for first, second in zip(one, eight, strict=True):
        assert first["framer_term"] > 0.1
        for name in ("loss", "base_loss", "framer_term", "framer_ratio", "grad_norm", "framer_cosine_high/1"):
            assert first[name] == pytest.approx(second[name], rel=2e-4, abs=1e-6), name
