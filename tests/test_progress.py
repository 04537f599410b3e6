"""Progress: a bar with the remaining time on a terminal, lines in a log, nothing where it is quiet."""

import argparse
import importlib
import io
import sys

import pytest
from rich.console import Console

from framer_jax import cli, progress
from framer_jax.commands.precompute import KINDS
from framer_jax.console import LOG_WIDTH, message_console
from framer_jax.progress import Report, duration, track

LONG = ("upscale", "train", "pretrain", "degrade", "evaluate", "compare", "analyze", "ablate", "fit-niqe", "export")
"""Commands that may take more than five seconds; precompute has kinds."""


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 10 s each time it is read."""
    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def log():
    return Console(file=io.StringIO(), width=LOG_WIDTH)


def test_a_bar_with_the_remaining_time_on_a_terminal():
    console = terminal()
    assert list(track(range(3), "images", console)) == [0, 1, 2]
    text = console.file.getvalue()
    assert "images" in text
    assert "━" in text
    assert "3/3" in text
    assert "0:00:00" in text


def test_lines_and_no_bars_in_a_log(clock):
    console = log()
    with Report(console) as report:
        task = report.add_task("images", total=40)
        part = report.add_task("a.png", total=None)
        for _ in range(40):
            report.advance(task)
        report.update(part, completed=2)
    lines = console.file.getvalue().splitlines()
    assert 3 <= len(lines) <= 7  # one a minute, and 40 steps of 10 s
    assert "━" not in console.file.getvalue()
    assert lines[0].startswith("images: 6 of 40, ")
    assert "left" in lines[0]
    assert "a.png: 0, " in lines[0]


def test_what_is_quick_leaves_no_line_in_a_log():
    console = log()
    assert list(track(range(5), "images", console, total=5)) == list(range(5))
    assert console.file.getvalue() == ""


def test_nothing_without_a_console_or_with_a_quiet_one(clock):
    for console in (None, Console(file=io.StringIO(), quiet=True, force_terminal=True)):
        assert list(track(range(50), "images", console)) == list(range(50))
        assert console is None or console.file.getvalue() == ""


def test_messages_in_a_log_are_not_wrapped(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    message_console().print("word " * 200)
    message_console(quiet=True).print("never")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "3 s"), (99, "99 s"), (130, "2 min"), (5990, "100 min"), (12_000, "3 h 20 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds).replace("1 h 40 min", "100 min") == words


@pytest.mark.parametrize("name", [*LONG, *(f"precompute {kind}" for kind in KINDS)])
def test_every_command_that_takes_long_can_be_quiet(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([*name.split(), "--help"])
    assert "--quiet" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["upscale", "degrade", "port", "info", "models", "doctor", "evaluate", "compare", "ablate"]
)
def test_every_command_with_a_summary_has_it_as_json(name):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"framer_jax.commands.{name}").add_arguments(parser)
    options = [option for action in parser._actions for option in action.option_strings]
    # the table of an ablation is written as JSON anyway
    assert ("--json" in options) == (name != "ablate")
