import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from framer_jax.knobs import knobs_of, settings_from
from framer_jax.recipes.base import Update
from framer_jax.training.logging import LoggingSettings
from framer_jax.training.optimizer import clip_by_norm, decay_mask, learning_rate_schedule, make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from tests.support import training_toys as toys


def rates(count=10, **changes):
    rate = learning_rate_schedule(toys.settings(steps=10, learning_rate=1.0, **changes))
    return np.array([rate(jnp.int32(step)) for step in range(count)])


def test_constant_schedule_with_warmup():
    np.testing.assert_allclose(rates(warmup_steps=4), [0.25, 0.5, 0.75] + [1.0] * 7)
    np.testing.assert_allclose(rates(), np.ones(10))


def test_staircase_is_multiplied_by_its_factor_after_every_interval():
    learning_rates = rates(count=7, schedule="staircase", decay_factor=0.5, decay_every=3)
    np.testing.assert_allclose(learning_rates, [1, 1, 1, 0.5, 0.5, 0.5, 0.25], rtol=1e-6)
    warm = rates(count=4, schedule="staircase", decay_factor=0.5, decay_every=2, warmup_steps=4)
    np.testing.assert_allclose(warm, [0.25, 0.5, 0.375, 0.5], rtol=1e-6)  # it counts from step 0


def test_cosine_schedule_ends_at_the_final_rate():
    learning_rates = rates(count=11, warmup_steps=2, schedule="cosine", final_learning_rate=0.1)
    np.testing.assert_allclose(learning_rates[:3], [0.5, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(learning_rates[6], 0.55, rtol=1e-5)
    np.testing.assert_allclose(learning_rates[10], 0.1, rtol=1e-5)
    assert (np.diff(learning_rates[2:]) < 0).all()


def test_decay_spares_vectors_biases_and_scales():
    params = {
        "kernel": np.zeros((2, 2)),
        "gamma": np.zeros(3),
        "stack": {"bias": np.zeros((4, 3)), "scale": np.zeros((4, 3))},
    }
    assert decay_mask(params) == {"kernel": True, "gamma": False, "stack": {"bias": False, "scale": False}}


@given(st.floats(0.0, 100.0), st.floats(0.01, 10.0))
@budget(deadline=None, max_examples=20)
def test_clip(norm, max_norm):
    direction = jnp.float32(norm) * jnp.array([0.6, 0.8], jnp.float32)
    clipped = clip_by_norm({"a": direction}, jnp.float32(norm), max_norm)["a"]
    np.testing.assert_allclose(np.linalg.norm(clipped), min(norm, max_norm), rtol=1e-4, atol=1e-6)
    assert clip_by_norm(direction, jnp.float32(norm), None) is direction


def test_updates_by_name():
    updates = (Update("main", ("denoiser",), toys.clean_loss), Update("critic", ("critic",), toys.critic_loss))
    recipe = toys.recipe(updates=updates)
    optimizers = make_optimizers(recipe, toys.settings(updates={"critic": {"learning_rate": 0.5, "clip_norm": 2.0}}))
    assert float(optimizers["main"].learning_rate(jnp.int32(0))) == pytest.approx(0.01)
    assert float(optimizers["critic"].learning_rate(jnp.int32(0))) == pytest.approx(0.5)
    assert (optimizers["main"].clip_norm, optimizers["critic"].clip_norm) == (None, 2.0)
    with pytest.raises(ValueError, match=r"training\.updates names discriminator: .* main, critic"):
        make_optimizers(recipe, toys.settings(updates={"discriminator": {}}))
    with pytest.raises(ValueError, match="two updates of the same name"):
        make_optimizers(toys.recipe(updates=(updates[0], updates[0])), toys.settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "training.steps is 0: .* at least 1"),
        ({"steps": None}, "training.steps is None: .* a whole number"),
        ({"seed": True}, "training.seed is True: .* a whole number"),
        ({"learning_rate": "1"}, "training.learning_rate is '1': .* a number"),
        ({"learning_rate": 0.0}, "training.learning_rate is 0.0: .* above 0"),
        ({"schedule": "linear"}, "training.schedule is 'linear': .* constant, cosine, staircase"),
        ({"ema_decay": 1.0}, "training.ema_decay is 1.0: .* of at least 0 and below 1"),
        ({"clip_norm": 0.0}, "training.clip_norm is 0.0: .* above 0, or None"),
        ({"stop_after": 0}, "training.stop_after is 0: .* at least 1, or None"),
        ({"mesh": 8}, "training.mesh is 8: .* a section"),
        ({"sharding_rules": "kernel"}, "training.sharding_rules is 'kernel': .* a list of values"),
        ({"warmup_steps": 7, "steps": 6}, "training.warmup_steps is 7: .* not exceed steps, 6"),
        ({"updates": {"critic": {"steps": 3}}}, "training.updates.critic.steps cannot be set"),
        ({"updates": {"critic": {"warmup": 3}}}, "training.updates.critic.warmup .* did you mean 'warmup_steps'"),
        ({"updates": {"critic": {"clip_norm": -1.0}}}, "training.updates.critic.clip_norm is -1.0: .* above 0"),
        ({"updates": {"critic": 1e-4}}, "training.updates.critic is 0.0001: .* a section of learning_rate, "),
        (
            {"checkpoint_every": 30, "validate_every": 20},
            "training.checkpoint_every is 30: .* multiple of validate_every",
        ),
        ({"accumulate": 2}, "unknown knob training.accumulate"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        settings_from(TrainingSettings, changes, "training")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("batch", "microbatches", "devices", "message"),
    [
        (10, 1, 8, "10 is not divisible by 8 devices x 1 microbatches: use 8 or 16"),
        (10, 4, 1, "not divisible by training.gradient_accumulation_steps 4: use 8 or 12"),
        (4, 1, 8, "use 8$"),
        (24, 2, 8, "use 16 or 32"),
    ],
)
def test_batch_that_does_not_divide(batch, microbatches, devices, message):
    with pytest.raises(ValueError, match=message):
        check_batch(toys.settings(global_batch=batch, gradient_accumulation_steps=microbatches), devices)


@pytest.mark.parametrize("settings", [TrainingSettings, LoggingSettings])
def test_every_setting_is_a_documented_knob(settings):
    knobs = {knob.name: knob for knob in knobs_of(settings)}
    assert list(knobs) == [field.name for field in dataclasses.fields(settings)]
    assert all(knob.meaning.endswith((".", ")")) for knob in knobs.values()), "a knob's meaning is a sentence"
    defaults = {name: knob.default for name, knob in knobs.items()}
    assert settings_from(settings, json.loads(json.dumps(defaults)), "section") == settings()


def test_settings_do_not_share_their_sections():
    TrainingSettings().mesh["data"] = 3
    assert TrainingSettings().mesh == {"data": -1, "fsdp": 1}
