import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from framer_jax.recipes.base import Update
from framer_jax.training.optimizer import clip_by_norm, decay_mask, learning_rate_schedule, make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from tests.support import training_toys as toys


def rates(count=10, **changes):
    rate = learning_rate_schedule(toys.settings(steps=10, learning_rate=1.0, **changes))
    return np.array([rate(jnp.int32(step)) for step in range(count)])


def test_constant_schedule_with_warmup():
    np.testing.assert_allclose(rates(warmup_steps=4), [0.25, 0.5, 0.75] + [1.0] * 7)
    np.testing.assert_allclose(rates(), np.ones(10))


def test_cosine_schedule_ends_at_the_final_rate():
    found = rates(count=11, warmup_steps=2, schedule="cosine", final_learning_rate=0.1)
    np.testing.assert_allclose(found[:3], [0.5, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found[6], 0.55, rtol=1e-5)
    np.testing.assert_allclose(found[10], 0.1, rtol=1e-5)
    assert (np.diff(found[2:]) < 0).all()


def test_decay_spares_vectors_biases_and_scales():
    params = {
        "kernel": np.zeros((2, 2)),
        "gamma": np.zeros(3),
        "stack": {"bias": np.zeros((4, 3)), "scale": np.zeros((4, 3))},
    }
    assert decay_mask(params) == {"kernel": True, "gamma": False, "stack": {"bias": False, "scale": False}}


@given(st.floats(0.0, 100.0), st.floats(0.01, 10.0))
@budget(deadline=None, max_examples=20)
def test_clip(norm, largest):
    direction = jnp.float32(norm) * jnp.array([0.6, 0.8], jnp.float32)
    clipped = clip_by_norm({"a": direction}, jnp.float32(norm), largest)["a"]
    np.testing.assert_allclose(np.linalg.norm(clipped), min(norm, largest), rtol=1e-4, atol=1e-6)
    assert clip_by_norm(direction, jnp.float32(norm), None) is direction


def test_updates_by_name():
    updates = (Update("main", ("denoiser",), toys.clean_loss), Update("critic", ("critic",), toys.critic_loss))
    recipe = toys.recipe(updates=updates)
    found = make_optimizers(recipe, toys.settings(updates={"critic": {"learning_rate": 0.5, "clip_norm": 2.0}}))
    assert float(found["main"].learning_rate(jnp.int32(0))) == pytest.approx(0.01)
    assert float(found["critic"].learning_rate(jnp.int32(0))) == pytest.approx(0.5)
    assert (found["main"].clip_norm, found["critic"].clip_norm) == (None, 2.0)
    with pytest.raises(ValueError, match="updates names discriminator: recipe has main, critic"):
        make_optimizers(recipe, toys.settings(updates={"discriminator": {}}))
    with pytest.raises(ValueError, match="two updates of one name"):
        make_optimizers(toys.recipe(updates=(updates[0], updates[0])), toys.settings())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": 0}, "steps = 0: it must be at least 1"),
        ({"steps": None}, "steps = None: it must be a whole number"),
        ({"seed": True}, "seed = True: it must be a whole number"),
        ({"learning_rate": "1"}, "learning_rate = '1': it must be a number"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: it must be positive"),
        ({"schedule": "linear"}, "schedule = 'linear': it must be one of constant, cosine"),
        ({"ema_decay": 1.0}, r"ema_decay = 1.0: it must be in \[0, 1\)"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0"),
        ({"warmup_steps": 7}, "warmup_steps 7 is longer than the run of 6 steps"),
        ({"updates": {"critic": {"steps": 3}}}, r"updates\['critic'\] has unknown steps"),
        ({"best_metric": "psnr-y", "checkpoint_every": 30, "validate_every": 20}, "multiple of validate_every"),
    ],
)
def test_bad_settings(changes, line):
    with pytest.raises(ValueError, match=line):
        toys.settings(**changes)


@pytest.mark.parametrize(
    ("batch", "accumulate", "devices", "line"),
    [
        (10, 1, 8, "10 is not divisible by 8 devices x 1 microbatches: use 8 or 16"),
        (10, 4, 1, "not divisible by accumulate 4: use 8 or 12"),
        (4, 1, 8, "use 8$"),
        (24, 2, 8, "use 16 or 32"),
    ],
)
def test_batch_that_does_not_divide(batch, accumulate, devices, line):
    with pytest.raises(ValueError, match=line):
        check_batch(toys.settings(global_batch=batch, accumulate=accumulate), devices)


def test_every_field_states_its_unit():
    import inspect

    source = inspect.getsource(TrainingSettings).splitlines()
    for name in TrainingSettings.names():
        line = next(line for line in source if line.strip().startswith(f"{name}:"))
        assert "#" in line or name == "optimizer", line
