"""Which validation metric chooses the best checkpoint, and which checkpoints it chooses among."""

import dataclasses
import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.data.whole_photos import ValidationPair
from framer_jax.evaluation.validation import Validation, make_validation
from framer_jax.training.logging import JsonLinesWriter
from framer_jax.training.loop import train
from tests.support import training_toys as toys
from tests.support.logs import read_json_lines

EVERY_TWO = {"validate_every": 2, "checkpoint_every": 2}
EVERY_FOUR = {"steps": 7, "validate_every": 2, "checkpoint_every": 4, "best_metric": "psnr-y"}
SCORES = {2: 40.0, 4: 30.0, 6: 50.0, 7: 20.0}


class Best:
    """An export that remembers the steps of the best weights."""

    def __init__(self):
        self.steps = []

    def digest(self, params, step):
        return str(step)

    def write(self, params, step, kinds):
        self.steps += [step] if "best" in kinds else []

    def outdated(self, kind, step, digest):
        return ""


def run(workdir, validate, export=None, recipe=None, **changes):
    return train(
        recipe or toys.recipe(),
        toys.batches(),
        toys.prepare,
        toys.settings(**changes),
        workdir,
        validate=validate,
        export=export,
        writer=JsonLinesWriter(workdir / "metrics.jsonl"),
        quiet=True,
    )


def scored(params, frozen, step):
    return {"psnr-y": SCORES[step]}, {}


def photograph(side=192, value=None):
    hr = np.random.default_rng(0).random((side, side, 3), np.float32)
    hr = hr if value is None else np.full_like(hr, value)
    return ValidationPair("a", hr, hr)


def texts(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["value"] for line in lines if "text" in line]


@pytest.mark.parametrize("name", ["mean/psnr-y", "sample/psnr", "bicubic/psnr-y"])
def test_a_name_that_validation_does_not_have_is_refused_before_anything_is_written(name, tmp_path):
    validate = make_validation(toys.recipe(), [photograph(48)])  # without a mean, as SinSR
    with pytest.raises(
        ValueError,
        match=rf"training\.best_metric '{name}' is not a metric of validation: use one of sample/psnr-y, "
        "sample/ssim-y, or None for no best checkpoint; crops of 48 x 48 pixels are too small for niqe-framer",
    ):
        run(tmp_path, validate, best_metric=name)
    assert not list(tmp_path.iterdir())


def test_the_names_are_those_of_the_samplers_of_a_recipe():
    mean = lambda params, frozen, lr, noise: lr  # noqa: E731
    both = make_validation(toys.recipe(mean=mean), [photograph(48)], ["psnr-y"])
    assert both.names == ("mean/psnr-y", "sample/psnr-y")
    assert set(both({}, {}, 0)[0]) == {*both.names, "bicubic/psnr-y"}
    one_pass = dataclasses.replace(toys.recipe(), sample=mean, mean=mean)
    assert make_validation(one_pass, [photograph(48)], ["psnr-y"]).names == ("mean/psnr-y",)


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_an_undefined_metric_does_not_end_training_and_is_not_the_best(value, tmp_path):
    """NIQE of a flat image, and of samples with NaN."""
    best = Best()
    sample = lambda params, frozen, lr, noise: lr * jnp.float32(value)  # noqa: E731
    recipe = dataclasses.replace(toys.recipe(), sample=sample)
    validate = make_validation(recipe, [photograph(value=1.0)], ["psnr-y", "niqe-framer"])
    changes = {**EVERY_TWO, "steps": 2, "best_metric": "sample/niqe-framer", "best_mode": "min"}
    assert run(tmp_path, validate, best, recipe, **changes).step == 2
    assert best.steps == []
    (line,) = [line for line in read_json_lines(tmp_path / "metrics.jsonl") if "loss" not in line]
    assert "validation/sample/niqe-framer" not in line
    assert ("validation/sample/psnr-y" in line) is not np.isnan(value)


def test_a_metric_that_is_undefined_at_first_can_become_the_best(tmp_path):
    values = {2: {}, 4: {"niqe": np.nan}, 6: {"niqe": 5.0}}
    best = Best()
    validate = Validation(lambda params, frozen, step: (values[step], {}), ("niqe",))
    run(tmp_path, validate, best, **EVERY_TWO, best_metric="niqe")
    assert best.steps == [6]


def test_without_validation_a_chosen_metric_is_noted_once(tmp_path):
    note = "training.best_metric 'sample/psnr-y' has no effect: there is no validation"
    run(tmp_path / "chosen", None, **EVERY_TWO, best_metric="sample/psnr-y")
    assert texts(tmp_path / "chosen").count(note) == 1
    run(tmp_path / "default", None, **EVERY_TWO, best_metric="mean/psnr-y")
    assert not any("best_metric" in text for text in texts(tmp_path / "default"))


@pytest.mark.parametrize("how", ["stop_after", "SIGTERM", "minutes"])
def test_an_interruption_does_not_change_the_best(how, tmp_path):
    """Steps 2 and 6 have the best scores, and are saved by an interruption only."""
    whole, parts = Best(), Best()
    run(tmp_path / "whole", scored, whole, **EVERY_FOUR)
    assert whole.steps == [4]

    def interrupted(params, frozen, step):
        if how == "SIGTERM" and step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return scored(params, frozen, step)

    if how == "minutes":
        run(tmp_path / "parts", scored, parts, **EVERY_FOUR, checkpoint_minutes=1e-9)
    else:
        if how == "stop_after":
            run(tmp_path / "parts", scored, parts, **EVERY_FOUR, stop_after=2)
        assert run(tmp_path / "parts", interrupted, parts, **EVERY_FOUR, stop_after=6).step == 6
        assert run(tmp_path / "parts", scored, parts, **EVERY_FOUR).step == 7
    assert parts.steps == whole.steps
    assert (tmp_path / "parts" / "checkpoints" / "4").exists()


def test_the_last_step_is_compared_even_between_regular_checkpoints(tmp_path):
    best = Best()
    run(tmp_path, lambda params, frozen, step: ({"psnr-y": float(step)}, {}), best, **EVERY_FOUR)
    assert best.steps == [4, 7]
