import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_toys as toys

from framer_jax.recipes.base import Loss
from framer_jax.training.logging import JsonLinesWriter, read_json_lines
from framer_jax.training.loop import NonFiniteError, train


def run(workdir, settings, **arguments):
    arguments.setdefault("recipe", toys.recipe(init_carry=lambda: {"count": jnp.float32(0)}))
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
