"""`port --set NAME=VALUE` with anything, next to any config.json: a file that loads, or one line and no file."""

import json

import pytest

from framer_jax.porting.table import read_ported
from framer_jax.porting.torch_files import write_state
from tests.support.checkpoints import small_states
from tests.support.hostile import cases, contents, refused, run

NAMES = ("value_range", "image_size", "heads", "scale", "window", "mlp_ratio", "head", "valuerange", "", "a=b", "é")

VALUES = (
    "1",
    "255.0",
    "64",
    "-1",
    "0",
    "1e400",
    "nan",
    "None",
    "True",
    "[]",
    "(1, 2)",
    "'x'",
    "",
    "7",
    "__import__",
    "{}",
)

CONFIGS = (
    *("", "{", "[]", "null", '{"_class_name": 3}', '{"model": "swinir"}', '{"model": "swinir", "arguments": 3}'),
    *(
        json.dumps({"model": "swinir", "arguments": {name: value}})
        for name in NAMES
        for value in (None, -1, 255.0, [2])
    ),
)


@pytest.fixture(scope="module")
def checkpoint(fixtures, tmp_path_factory):
    path = tmp_path_factory.mktemp("values") / "in.safetensors"
    write_state(path, small_states(fixtures)["swinir"])
    return path


def draw(rng):
    sets = [f"{rng.choice(NAMES)}={rng.choice(VALUES)}" for _ in range(rng.randint(0, 2))]
    return sets, rng.choice(CONFIGS) if rng.random() < 0.6 else None


@pytest.mark.parametrize("case", cases(draw, 16, 300))
def test_any_value_is_taken_or_refused_in_one_line(case, checkpoint, tmp_path, capsys):
    sets, config = case
    (tmp_path / "in.safetensors").symlink_to(checkpoint)
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    before = contents(tmp_path)
    words = [word for text in sets for word in ("--set", text)]
    output = tmp_path / "out.safetensors"
    outcome = run(capsys, "port", tmp_path / "in.safetensors", output, "--model", "swinir", *words)
    if outcome.status:
        refused(outcome)
        assert contents(tmp_path) == before
    else:
        arguments = read_ported("swinir", output).arguments
        assert arguments["value_range"] > 0 and arguments["image_size"] >= arguments["window"]
