import re
from dataclasses import dataclass

import pytest

from framer_jax.config import ConfigError, default, override_config
from framer_jax.knobs import check_knobs, check_same_values, knob, knobs_of, legal_values, nearest, settings_from


@dataclass(frozen=True)
class Settings:
    count: int = knob(1, "A count.", at_least=1)
    share: float = knob(0.5, "A share.", above=0, at_most=1)
    rate: float | None = knob(None, "A rate.", at_least=0, below=1)
    channels: int = knob(3, "Channels.", choices=(1, 3))
    flag: bool = knob(False, "A flag.")
    name: str = knob("a", "A name.", choices=("a", "b"))
    sides: tuple[int, ...] = knob((1, 2), "Sides.")
    free: float = knob(0.0, "Any number.")
    seed: int = knob(0, "A seed.", at_least=0, at_most=2**32 - 1)
    pair: tuple[float, float] = knob((0.5, 1.0), "Two shares.", at_least=0, at_most=1)
    words: tuple[str, ...] = knob(("a",), "Words.", choices=("a", "b"), empty=True)
    path: str = knob("x", "A path.")
    pattern: str = knob("", "A pattern.", empty=True, regex=True)

    def __post_init__(self):
        check_knobs(self)


LEGAL = [
    *({"count": 2**31 - 1}, {"share": 1}, {"share": 1.0}, {"rate": None}, {"rate": 0}, {"channels": 1}, {"flag": True}),
    *({"name": "b"}, {"sides": (3,)}, {"words": ()}, {"free": -1e9}, {"share": 1e-30}, {"rate": 1e-300}),
]


@pytest.mark.parametrize("values", LEGAL)
def test_legal_values_are_taken(values):
    ((name, value),) = values.items()
    assert getattr(settings_from(Settings, values, "section"), name) == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "a whole number of at least 1"),
        ({"count": 1.0}, "a whole number"),
        ({"count": True}, "a whole number"),  # Python's bool is an int
        ({"count": None}, "a whole number"),
        ({"count": "1"}, "a whole number"),
        ({"share": 0}, "a number above 0 and at most 1"),
        ({"share": float("nan")}, "a number above 0"),
        ({"share": True}, "a number above 0"),
        ({"rate": 1}, "a number of at least 0 and below 1, or None"),
        ({"channels": True}, "one of 1, 3"),
        ({"channels": 1.0}, "one of 1, 3"),
        ({"flag": 1}, "True or False"),
        ({"name": ["a"]}, "one of a, b"),
        ({"sides": 3}, "a list of whole numbers that is not empty"),
        ({"sides": ()}, "a list of whole numbers that is not empty"),
        ({"sides": (1, 2.5)}, "a list of whole numbers"),
        ({"pair": (0.5,)}, "a list of 2 numbers from 0 to 1"),
        ({"pair": (0.5, float("nan"))}, "a list of 2 numbers from 0 to 1"),
        ({"words": ("c",)}, "a list of strings among a, b"),
        ({"words": "a"}, "a list of strings among a, b"),
        ({"path": ""}, "a string that is not empty"),
        ({"path": "a\0b"}, "a string that is not empty without a null character"),
        ({"pattern": "("}, r"a regular expression \(missing \), unterminated subpattern"),
        ({"count": 10**400}, "a whole number of at least 1 as an int32"),
        ({"count": 10**5000}, "a whole number of at least 1 as an int32"),  # Python does not print it
        ({"share": 1e-50}, "a number above 0 and at most 1 as a float32"),  # it would be 0
        ({"rate": 1 - 1e-9}, "a number of at least 0 and below 1, or None as a float32"),  # it would be 1
        ({"free": 1e39}, "a number as a float32"),
        ({"free": float("inf")}, "a number"),
    ],
)
def test_other_values_are_refused_with_the_legal_ones(values, message):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=rf"section\.{name} is .*: it must be {message}") as caught:
        settings_from(Settings, {name: value}, "section")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 2**32}, "section.seed is 4294967296: it must be a whole number from 0 to 4294967295"),
        ({"seed": -(10**20)}, "section.seed is -100000000000000000000: it must be a whole number from 0 to 4294967295"),
        ({"share": 1e39}, "section.share is 1e+39: it must be a number above 0 and at most 1"),
    ],
)
def test_out_of_range_is_not_blamed_on_the_machine(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        settings_from(Settings, values, "section")


def test_none_for_a_string_that_may_be_empty_has_a_remedy():
    with pytest.raises(ValueError, match=r"pattern is None: it must be a regular expression; leave it empty in place"):
        settings_from(Settings, {"pattern": None}, "section")
    with pytest.raises(ValueError, match=r"path is None: it must be a string that is not empty$"):
        settings_from(Settings, {"path": None}, "section")


def test_none_on_the_command_line_is_no_project():
    config = default("resshift")
    with pytest.raises(
        ConfigError, match=r"logging\.wandb is None: it must be a string; leave it empty in place of None"
    ):
        override_config(config, ["logging.wandb=None"])
    override_config(config, ["logging.wandb=", "data.train=None"])  # a folder may have this name
    assert (config.logging.wandb, config.data.train) == ("", "None")


def test_an_unknown_name_has_a_hint():
    with pytest.raises(ValueError, match=r"unknown knob section\.cuont: did you mean 'count'\?"):
        settings_from(Settings, {"cuont": 1}, "section")
    assert nearest("zzzz", ()) == ": known are none"


def test_lists_become_tuples():
    assert settings_from(Settings, {"sides": [3, 4]}, "section").sides == (3, 4)


def test_ranges_in_words():
    words = {knob.name: legal_values(knob) for knob in knobs_of(Settings)}
    assert words["count"] == "a whole number of at least 1"
    assert words["free"] == "a number"
    assert words["name"] == "one of a, b"


def test_weights_of_other_knobs_are_refused():
    check_same_values({"a": [1, [2]], "b": 1}, {"a": (1, (2,)), "c": 2}, "weights")
    with pytest.raises(ValueError, match=r"weights was made with a 1, not 2: use the configuration that belongs"):
        check_same_values({"a": 1}, {"a": 2}, "weights")
