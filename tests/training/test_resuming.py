"""What a resumed run says about settings that changed, and what a run says about numbers that are not finite."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.recipes.base import Loss
from framer_jax.training.checkpoint import CheckpointMetadata, Restored
from framer_jax.training.finite import NonFiniteError
from framer_jax.training.optimizer import learning_rate_schedule
from framer_jax.training.resuming import resumed
from tests.support import training_toys as toys
from tests.training.test_loop import Recording, run


def notes(before, after, updates=("main",), step=3, best=None):
    """What is said of a checkpoint of `step` with settings `before` that is resumed with settings `after`."""
    saved, present = ({"training": {"steps": 6, "updates": {}, **changes}} for changes in (before, after))
    metadata = CheckpointMetadata(present, {}, {}, best or {})
    restored = Restored(step, None, metadata, saved, ("damaged",))
    first, *rest = resumed(restored, toys.settings(**after), updates).notes
    assert first == "damaged"
    return rest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 20}, "training.steps 10 then, 20 now"),
        ({"learning_rate": 0.02}, "training.learning_rate 0.01 then, 0.02 now"),
        ({"warmup_steps": 8}, "training.warmup_steps 0 then, 8 now"),
        ({"schedule": "constant"}, "training.schedule 'cosine' then, 'constant' now"),
        ({"final_learning_rate": 0.005}, "training.final_learning_rate 0.0 then, 0.005 now"),
    ],
)
def test_another_learning_rate_or_length_says_what_jumps(changes, words):
    before = {"steps": 10, "schedule": "cosine", "learning_rate": 0.01, "warmup_steps": 0, "final_learning_rate": 0.0}
    after = {**before, **changes}
    old, new = (float(learning_rate_schedule(toys.settings(**each))(jnp.int32(3))) for each in (before, after))
    assert notes(before, after) == [f"{words}: the learning rate of step 4 jumps from {old:.4g} to {new:.4g}"]
    assert f"{old:.4g}" != f"{new:.4g}"


def test_the_log_of_a_longer_run_says_what_jumps(tmp_path):
    lines = []
    for steps in (2, 4):
        settings = toys.settings(steps=steps, stop_after=1 if steps == 2 else None, schedule="cosine")
        config = json.dumps({"training": {"steps": steps, "schedule": "cosine"}})
        result = run(tmp_path, settings, config_json=config, writer=Recording(lines))
    assert result.step == 4
    words = "training.steps 2 then, 4 now: the learning rate of step 2 jumps from 0.005 to 0.008536"
    assert ("text", 1, words) in lines


def test_a_length_that_changes_no_rate_says_so_and_the_same_settings_say_nothing():
    assert notes({"steps": 10}, {"steps": 20}) == [
        "training.steps 10 then, 20 now: the learning rate of step 4 stays 0.01"
    ]
    assert notes({"steps": 10}, {"steps": 10}) == []


def test_every_update_has_its_own_jump():
    after = {"updates": {"second": {"learning_rate": 0.05}}}
    assert notes({}, after, updates=("first", "second")) == [
        "training.updates: the learning rate of step 4 of update first stays 0.01, "
        "the learning rate of step 4 of update second jumps from 0.01 to 0.05"
    ]


def at_once(loss, count=0.0):
    """A loss that multiplies its values by `loss`, and sets the mutable state to `count`, from the first step on."""

    def wrapped(params, frozen, state, batch, key, step):
        good = toys.noisy_loss(params, frozen, state, batch, key, step)
        return Loss(good.values * loss, {}, (), {name: jnp.float32(count) for name in state})

    return wrapped


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            toys.recipe(at_once(jnp.inf)),
            "loss is NaN or infinite at step 1 (loss main inf), the first step: no update",
        ),
        (
            toys.recipe(at_once(1.0, jnp.nan), init_state=lambda: {"count": jnp.float32(0)}),
            "so look at the optimizer's settings (training.learning_rate, …) first",
        ),
    ],
)
def test_the_first_step_blames_settings_before_photographs(tmp_path, recipe, words):
    settings = toys.settings(steps=2, log_every=1)
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, settings, recipe=recipe, record_names=toys.names(), unusual_settings="framer.weight=1e+30")
    line = str(caught.value)
    assert words in line
    assert line.index("settings that differ from their defaults: framer.weight=1e+30") < line.index("records photo_")
    assert "\n" not in line


@pytest.mark.parametrize("frozen", [True, False])
def test_weights_that_are_not_finite_are_refused_before_the_first_step(tmp_path, frozen):
    kernel = np.array([1.0, np.nan], np.float32)
    if frozen:
        recipe, source = toys.recipe(frozen={"gain": kernel}), "frozen weights"
    else:
        start = {"critic": {"kernel": np.full((3, 8), np.inf, np.float32)}}
        recipe, source = toys.recipe(initial_params=start), "the weights that training starts from"
    with pytest.raises(ValueError, match=rf"{source}: NaN or infinity in 1 of 1 arrays \(.*\): use other weights"):
        run(tmp_path / "run", toys.settings(), recipe=recipe)
    assert not (tmp_path / "run").exists()
