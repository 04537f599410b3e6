"""Errors under another message, and a reader that goes away."""

import json
import subprocess
import sys

import pytest

from framer_jax import cli
from framer_jax.errors import KINDS, with_message
from framer_jax.porting.table import OtherModelError


def raised(action):
    with pytest.raises(Exception) as info:  # noqa: PT011 - the error is what is looked at
        action()
    return info.value


def other_model():
    raise OtherModelError("this is a swinir checkpoint", "swinir")


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda: json.loads("{"), ValueError),
        (lambda: b"\xff".decode(), ValueError),
        (lambda: open("/nowhere/at/all"), FileNotFoundError),  # noqa: SIM115 - it is not opened
        (lambda: __import__("no_such_package"), ImportError),
        (other_model, ValueError),
    ],
)
def test_every_subclass_takes_another_message(action, kind):
    error = raised(action)
    assert isinstance(error, KINDS)
    renamed = with_message(error, "recipe.teacher.checkpoint: a name")
    assert type(renamed) is kind
    assert str(renamed) == "recipe.teacher.checkpoint: a name"


def test_other_kinds_stay():
    assert type(with_message(ZeroDivisionError("x"), "y")) is ZeroDivisionError


def test_a_reader_that_has_read_enough_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "framer_jax", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    with process.stderr:
        messages = process.stderr.read()
    assert (process.wait(), messages) == (cli.PIPE_CLOSED, "")
