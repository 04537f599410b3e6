"""`framer-jax info METHOD --knobs`."""

import json
import re

import pytest

from framer_jax import cli
from framer_jax import config as configuration
from framer_jax.commands.info import knob_facts
from framer_jax.knobs import MISSING, Knob
from framer_jax.recipes import table as recipes

KNOBS = [
    ("recipe.toy.kappa", Knob("kappa", float, False, 2.0, "Noise level.", "standard deviations", above=0)),
    ("recipe.toy.steps", Knob("steps", int, True, None, "Steps of the ramp.", follows="training.steps", at_least=1)),
    ("recipe.toy.kind", Knob("kind", str, False, "paper", "Variant [of two].", choices=("paper", "released"))),
    ("recipe.toy.path", Knob("path", str, False, MISSING, "Path of the weights.", empty=True)),
    ("recipe.toy.betas", Knob("betas", tuple, False, (0.9, 0.99), "Decay rates.", empty=True)),
]


class Toy:
    name, paper, summary = "toy", "arXiv 0000.00000", "a toy"


@pytest.fixture
def toy(monkeypatch):
    """One method with a few knobs."""
    monkeypatch.setattr(recipes, "METHODS", (Toy,), raising=False)
    monkeypatch.setattr(configuration, "knob_table", {"toy": KNOBS}.__getitem__, raising=False)


def info(capsys, *words):
    assert cli.main(["info", *words]) == 0
    return capsys.readouterr().out


def test_knobs_as_a_table(toy, capsys):
    text = info(capsys, "toy", "--knobs")
    assert text.startswith("toy: a toy (arXiv 0000.00000)\n")
    for pattern in (
        r"knob +default +unit +legal values +meaning",
        r"recipe\.toy\.kappa +2\.0 +standard deviations +a number above 0 +Noise level\.",
        r"recipe\.toy\.steps +that of training\.steps +a whole number of at least 1, or None +Steps of the ramp\.",
        r"recipe\.toy\.kind +'paper' +one of paper, released +Variant \[of two\]\.",
        r"recipe\.toy\.path +required +a string +Path of the weights\.",
        r"recipe\.toy\.betas +\(0\.9, 0\.99\) +a list of values +Decay rates\.",
    ):
        assert re.search(f"^{pattern} *$", text, re.MULTILINE), pattern


def test_knobs_as_json(toy, capsys):
    facts = json.loads(info(capsys, "toy", "--knobs", "--json"))
    assert (facts["method"], facts["paper"], facts["summary"]) == ("toy", "arXiv 0000.00000", "a toy")
    knobs = {fact["knob"]: fact for fact in facts["knobs"]}
    assert list(knobs) == [path for path, _ in KNOBS]
    assert knobs["recipe.toy.kappa"] == {
        "knob": "recipe.toy.kappa",
        "type": "float",
        "default": 2.0,
        "required": False,
        "follows": "",
        "unit": "standard deviations",
        "legal_values": "a number above 0",
        "meaning": "Noise level.",
    }
    assert (knobs["recipe.toy.path"]["default"], knobs["recipe.toy.path"]["required"]) == (None, True)
    assert knobs["recipe.toy.steps"]["follows"] == "training.steps"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tyo", "--knobs"], "unknown method 'tyo': did you mean 'toy'?"),
        (["starter", "--knobs"], "unknown method 'starter': known are toy"),
        (["--knobs"], "--knobs needs a method: name one of toy"),
        (["toy", "--knobs", "--cost"], "--knobs and --cost exclude each other"),
        (["toy", "--knobs", "--batch", "2"], "--batch belongs to --cost"),
    ],
)
def test_bad_requests_are_one_line(words, message, toy, capsys):
    assert cli.main(["info", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("framer-jax info: ")
    assert message in line


def test_every_method_has_knobs(capsys):
    for method in recipes.METHODS:
        facts = json.loads(info(capsys, method.name, "--knobs", "--json"))
        assert facts["knobs"] == [
            json.loads(json.dumps(knob_facts(path, knob))) for path, knob in configuration.knob_table(method.name)
        ]
        assert all(fact["meaning"] for fact in facts["knobs"])
        assert method.name in info(capsys, method.name, "--knobs")
