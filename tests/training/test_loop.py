import dataclasses
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.recipes.base import Loss, Update
from framer_jax.training.finite import NonFiniteError
from framer_jax.training.logging import (
    JsonLinesWriter,
)
from framer_jax.training.loop import train
from tests.support import training_toys as toys
from tests.support.logs import read_json_lines


def run(workdir, settings, **arguments):
    arguments.setdefault("recipe", toys.recipe(init_state=lambda: {"count": jnp.float32(0)}))
    arguments.setdefault("batches", toys.batches())
    arguments.setdefault("prepare", toys.prepare)
    arguments.setdefault("writer", JsonLinesWriter(Path(workdir) / "metrics.jsonl"))
    return train(settings=settings, workdir=workdir, **arguments)


def losses(workdir):
    timing = ("images_per_second",)
    return [
        {name: value for name, value in entry.items() if name not in timing}
        for entry in read_json_lines(Path(workdir) / "metrics.jsonl")
    ]


def test_stop_and_resume_is_exact(tmp_path):
    changes = {"steps": 7, "ema_decay": 0.9, "warmup_steps": 2, "schedule": "cosine", "clip_norm": 0.5}
    whole = run(tmp_path / "whole", toys.settings(**changes))
    assert not whole.stopped
    assert whole.step == 7
    part = run(tmp_path / "parts", toys.settings(**changes, stop_after=3))
    assert part.stopped
    assert part.step == 3
    rest = run(tmp_path / "parts", toys.settings(**changes))
    assert rest.step == 7
    assert toys.same(whole.state, rest.state)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    again = run(tmp_path / "parts", toys.settings(**changes))
    assert "already complete" in again.message
    assert toys.same(whole.state, again.state)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_resume_within_and_between_phases_is_exact(tmp_path, stop):
    phases = (
        Update("first", ("denoiser",), toys.noisy_loss, stop=3),
        Update("second", ("denoiser", "critic"), toys.critic_loss, start=3),
    )
    recipe = toys.recipe(updates=phases, init_state=lambda: {"count": jnp.float32(0)})
    changes = {"steps": 7, "ema_decay": 0.9, "updates": {"second": {"learning_rate": 0.02}}}
    whole = run(tmp_path / "whole", toys.settings(**changes), recipe=recipe)
    assert run(tmp_path / "parts", toys.settings(**changes, stop_after=stop), recipe=recipe).step == stop
    rest = run(tmp_path / "parts", toys.settings(**changes), recipe=recipe)
    assert toys.same(whole.state, rest.state)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert float(whole.state.mutable["count"]) == 3
    assert [int(whole.state.opt_state[name][0].count) for name in ("first", "second")] == [3, 4]


def test_same_run_on_eight_devices(tmp_path):
    alone = run(tmp_path / "one", toys.settings())
    spread = run(tmp_path / "eight", toys.settings(mesh={"data": 4, "fsdp": 2}))
    for one, other in zip(losses(tmp_path / "one"), losses(tmp_path / "eight"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    kernels = [np.asarray(result.state.params["denoiser"]["out"]["kernel"]) for result in (alone, spread)]
    np.testing.assert_allclose(*kernels, rtol=1e-4)


def test_resume_on_another_mesh(tmp_path):
    whole = run(tmp_path / "whole", toys.settings())
    run(tmp_path / "parts", toys.settings(stop_after=3, mesh={"data": 2, "fsdp": 2}))
    rest = run(tmp_path / "parts", toys.settings())
    kernels = [np.asarray(result.state.params["denoiser"]["out"]["kernel"]) for result in (whole, rest)]
    np.testing.assert_allclose(*kernels, rtol=1e-4)


class Exported:
    """An export that stores its calls, and says of some kinds of files that they are outdated."""

    def __init__(self, outdated=()):
        self.seen, self.compared, self.missing = [], [], outdated

    def digest(self, params, step):
        return f"digest of {step}"

    def write(self, params, step, kinds):
        assert set(params) == {"denoiser"}
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
        self.seen.append((step, *kinds))
        self.params = params

    def outdated(self, kind, step, digest):
        self.compared.append((kind, step, digest))
        return f"the {kind} file is missing" if kind in self.missing else ""


def test_log_checkpoint_validate_and_export(tmp_path):

    def validate(params, frozen, step):
        assert set(params) == {"denoiser"}
        return {"psnr-y": {2: 20.0, 4: 30.0, 6: 25.0, 7: 28.0}[step]}, {"first": np.full((4, 4, 3), 0.5)}

    export, lines = Exported(), []
    settings = toys.settings(
        steps=7, log_every=3, validate_every=2, checkpoint_every=2, keep_last=1, best_metric="psnr-y", ema_decay=0.9
    )
    writer = Recording(lines)
    result = run(tmp_path, settings, validate=validate, export=export, writer=writer)
    assert export.seen == [(2, "latest", "best"), (4, "latest", "best"), (6, "latest"), (7, "latest")]
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 7]
    assert [step for kind, step, _ in lines if kind == "scalars" and "loss" in _] == [3, 6, 7]
    assert [step for kind, step, _ in lines if kind == "images"] == [2, 4, 6, 7]
    assert result.scalars["images_per_second"] > 0
    texts = [text for kind, _, text in lines if kind == "text"]
    assert any("denoiser/conv/kernel" in text for text in texts)  # the parameter overview
    assert any("first step, with compilation, took" in text for text in texts)
    assert "complete: 7 steps" in texts[-1]


class Recording:
    """A writer that stores its calls."""

    def __init__(self, lines):
        self.lines = lines

    def resume(self, step):
        self.lines.append(("resume", step, None))

    def write_scalars(self, step, scalars):
        self.lines.append(("scalars", step, dict(scalars)))

    def write_images(self, step, images):
        self.lines.append(("images", step, dict(images)))

    def write_text(self, step, name, text):
        self.lines.append(("text", step, text))

    def close(self):
        self.lines.append(("close", None, None))


def test_resumed_run_keeps_the_best(tmp_path):
    export = Exported()
    scores = {2: 30.0, 4: 20.0, 6: 31.0}

    def validate(params, frozen, step):
        return {"psnr-y": scores[step]}, {}

    for stop in (2, None):
        settings = toys.settings(validate_every=2, checkpoint_every=2, best_metric="psnr-y", stop_after=stop)
        run(tmp_path, settings, validate=validate, export=export)
    assert export.seen == [(2, "latest", "best"), (4, "latest"), (6, "latest", "best")]
    assert export.compared == [("latest", 2, "digest of 2"), ("best", 2, "digest of 2")]


def test_outdated_exports_are_written_again(tmp_path):
    scores = {2: 30.0, 4: 20.0}
    settings = {"validate_every": 2, "checkpoint_every": 2, "best_metric": "psnr-y"}
    first, again, lines = Exported(), Exported(outdated=("latest", "best")), []
    validate = lambda params, frozen, step: ({"psnr-y": scores[step]}, {})  # noqa: E731
    run(tmp_path, toys.settings(**settings, stop_after=2), validate=validate, export=first)
    best = first.params
    run(tmp_path, toys.settings(**settings, stop_after=4), validate=validate, export=first)
    run(tmp_path, toys.settings(**settings, steps=4), export=again, writer=Recording(lines))
    assert again.compared == [("latest", 4, "digest of 4"), ("best", 2, "digest of 2")]
    assert again.seen == [(4, "latest"), (2, "best")]
    assert toys.same(best, again.params)
    notes = [text for kind, _, text in lines if kind == "text" and "missing" in text]
    assert notes == [
        "the latest file is missing: written again from the checkpoint of step 4",
        "the best file is missing: written again from the checkpoint of step 2",
    ]


def test_another_best_metric_forgets_the_best(tmp_path):
    scores = {2: 30.0, 4: 20.0, 6: 10.0}
    settings = {"validate_every": 2, "checkpoint_every": 2}
    export, lines = Exported(), []
    for name, stop in (("psnr-y", 2), ("ssim-y", None)):
        run(
            tmp_path,
            toys.settings(**settings, best_metric=name, stop_after=stop),
            validate=lambda params, frozen, step: ({"psnr-y": scores[step], "ssim-y": scores[step]}, {}),
            export=export,
            config_json=json.dumps({"training": {"best_metric": name}}),
            writer=Recording(lines),
        )
    assert export.seen == [(2, "latest", "best"), (4, "latest", "best"), (6, "latest")]
    assert any("best_metric 'psnr-y' then, 'ssim-y' now: the best validation so far" in str(line[2]) for line in lines)


def test_unknown_best_metric(tmp_path):
    """The error is raised at the first validation, after a save."""
    changes = {"validate_every": 2, "checkpoint_every": 4}
    wrong = toys.settings(**changes, best_metric="psnr")
    with pytest.raises(ValueError, match="'psnr' is not a metric of validation: psnr-y; step 2 is saved: correct"):
        run(tmp_path, wrong, validate=lambda *_: ({"psnr-y": 1.0}, {}))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    result = run(
        tmp_path,
        toys.settings(**changes, best_metric=None),
        validate=lambda *_: ({"psnr-y": 1.0}, {}),
    )
    assert (result.step, result.stopped) == (6, False)


def bad_loss(params, frozen, state, batch, key, step):
    good = toys.noisy_loss(params, frozen, state, batch, key, step)
    return Loss(good.values / jnp.where(step == 3, jnp.float32(0), jnp.float32(1)), {}, (), good.state)


def test_nan_names_step_records_and_checkpoint(tmp_path):
    order = toys.batches()
    records = [next(order)["record"] for _ in range(4)][3]
    settings = toys.settings(steps=20, log_every=10, checkpoint_every=2)
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, settings, recipe=toys.recipe(bad_loss), record_names=toys.names())
    line = str(caught.value)
    assert "loss is NaN or infinite at step 4" in line
    assert ", ".join(f"photo_{index:02d}.png" for index in records) in line
    assert f"last checkpoint {tmp_path / 'checkpoints' / '2'}" in line
    assert "\n" not in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_bad_data(tmp_path):
    with pytest.raises(ValueError, match="the data gives no batch"):
        run(tmp_path, toys.settings(), batches=iter([]))
    with pytest.raises(ValueError, match=r"batches hold 4 examples per host: training.global_batch 8 needs 8"):
        run(tmp_path, toys.settings(), batches=toys.batches(size=4))
    with pytest.raises(ValueError, match="10 is not divisible by 8 devices x 1 microbatches: use 8 or 16"):
        run(tmp_path, toys.settings(global_batch=10, mesh={"data": 8}))
    short = toys.dataset()[:2].to_iter_dataset()
    with pytest.raises(ValueError, match=r"the data ended after step 2 of 6: repeat the dataset; step 2 is saved in"):
        run(tmp_path, toys.settings(), batches=iter(short))
    assert run(tmp_path, toys.settings()).step == 6


def test_batch_without_an_entry_of_the_recipe(tmp_path):
    def init(key, batch):
        raise AssertionError("nothing is computed")

    recipe = toys.recipe(batch_entries=("hr", "lr", "prompt", "pooled"))
    with pytest.raises(
        ValueError, match=r"batches lack prompt, pooled, which the recipe 'toy' needs .*hr, lr"
    ) as caught:
        run(tmp_path, toys.settings(), recipe=dataclasses.replace(recipe, init=init))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_initial_params_replace_those_of_the_recipe(tmp_path):
    start = jax.device_get(toys.init(jax.random.key(1), {"hr": np.zeros((1, 4, 4, 3))})["denoiser"])
    zeros = jax.tree.map(np.zeros_like, start)
    recipe = toys.recipe(initial_params={"denoiser": start})
    settings = toys.settings(steps=1, learning_rate=1e-9)
    for folder, initial_params, expected in (("recipe", None, start), ("argument", {"denoiser": zeros}, zeros)):
        result = run(tmp_path / folder, settings, recipe=recipe, initial_params=initial_params)
        denoiser = result.state.params["denoiser"]
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-8), denoiser, expected)


def test_configuration_that_may_change_or_is_migrated(tmp_path):
    run(tmp_path, toys.settings(steps=2), config_json='{"recipe": {"weights": "a"}}')
    options = {
        "config_json": '{"method": {"weights": "b"}}',
        "migrate": lambda config: {"method": config["recipe"]},
    }
    with pytest.raises(ValueError, match=r"method\.weights 'a' then, 'b' now"):
        run(tmp_path, toys.settings(steps=2), **options)
    result = run(
        tmp_path, toys.settings(steps=2), **options, may_change=("method.weights",), run_info={"text": "words"}
    )
    assert "already complete" in result.message
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"step": 2, "text": "text", "value": "words"} in lines


def test_foreign_checkpoint(tmp_path):
    run(tmp_path, toys.settings(stop_after=2), config_json='{"model": "small"}')
    with pytest.raises(ValueError, match="another configuration: model 'small' then, 'large' now"):
        run(tmp_path, toys.settings(), config_json='{"model": "large"}')
    both_groups = toys.recipe(updates=(Update("main", ("denoiser", "critic"), toys.noisy_loss),))
    with pytest.raises(ValueError, match="opt_state/main/0/mu/critic/kernel"):
        run(tmp_path, toys.settings(), recipe=both_groups, config_json='{"model": "small"}')


def test_the_folders_of_a_mixture_may_move_and_their_shares_may_not(tmp_path):
    def mixture(*parts):
        return json.dumps({"data": {"mixture": parts}})

    run(tmp_path, toys.settings(stop_after=2), config_json=mixture(("here/a", 0.7), ("here/b", 0.3)))
    with pytest.raises(ValueError, match=r"data\.mixture \[0\.7, 0\.3\] then, \[0\.5, 0\.3\] now"):
        run(tmp_path, toys.settings(), config_json=mixture(("here/a", 0.5), ("here/b", 0.3)))
    assert run(tmp_path, toys.settings(), config_json=mixture(("there/a", 0.7), ("there/b", 0.3))).step == 6


def test_progress_bar_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(tmp_path, toys.settings())
    assert "6/6" in terminal.getvalue()
    assert "images/s" in terminal.getvalue()
