from dataclasses import dataclass

import pytest

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

    def __post_init__(self):
        check_knobs(self)


LEGAL = [
    *({"count": 10**400}, {"share": 1}, {"share": 1.0}, {"rate": None}, {"rate": 0}, {"channels": 1}, {"flag": True}),
    *({"name": "b"}, {"sides": ()}, {"sides": (3,)}, {"free": -1e9}),
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
        ({"sides": 3}, "a list of values"),
        ({"free": float("inf")}, "a number"),
    ],
)
def test_other_values_are_refused_with_the_legal_ones(values, message):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=rf"section\.{name} is .*: it must be {message}") as caught:
        settings_from(Settings, {name: value}, "section")
    assert "\n" not in str(caught.value)


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
