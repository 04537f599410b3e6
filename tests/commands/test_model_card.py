"""The metadata of a run in its log, its weights and its card; the training itself is left out."""

import pytest

from framer_jax import cli
from framer_jax.commands import train as command
from framer_jax.commands.model_card import CARD
from framer_jax.commands.train import train_from_config
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.base import expected_params
from framer_jax.training.exports import BEST, LATEST
from framer_jax.training.run import TrainResult
from tests.support.drawn import drawn
from tests.support.tiny import config, photos, text

ALONE = (
    "recipe.name=dit4sr",
    "recipe.text.condition=zero",
    "recipe.dit4sr.trainable=",
    "recipe.space.statistics=image",
)
"""DiT4SR without any files."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains nothing: (changes) → keyword arguments of the loop, after it has exported once."""
    data = photos(tmp_path / "photos")

    def started(*changes):
        arguments = {}

        def train(recipe, batches, prepare, settings, workdir, **named):
            arguments.update(named)
            named["export"].write(drawn(lambda: expected_params(recipe)), 1, (LATEST, BEST))
            return TrainResult(None, 1, False, "", {}, {})

        monkeypatch.setattr(command, "train", train)
        photographs = [f"data.{part}={data}" for part in ("train", "validation")]
        train_from_config(config(*photographs, *changes), tmp_path / "run")
        return arguments

    return started


def test_without_a_text_encoder_log_weights_and_card_say_so(run, tmp_path, capsys):
    arguments = run(*ALONE, "framer.variant=paper")
    summary = "zeros for every example: no text encoder was used, and the model does not know any text"
    assert arguments["run_info"] == {"text": summary}
    for name in ("weights", "best"):
        assert load_weights(tmp_path / "run" / f"{name}.safetensors")[1]["text"] == summary
    card = (tmp_path / "run" / CARD).read_text(encoding="utf-8").splitlines()
    assert card[0] == "# dit4sr+framer"
    assert f"| text | {summary} |" in card
    assert "| FRAMER | variant 'paper', in training only |" in card
    data = next(line for line in card if line.startswith("| data |"))
    assert data.startswith("| data | photos, crops of 32 pixels, degradation `light_one_stage`") and "released" in data
    assert cli.main(["info", str(tmp_path / "run")]) == 0
    assert summary in capsys.readouterr().out


def test_the_null_text_is_named_with_its_digest(run, tmp_path):
    null = text(tmp_path / "null.safetensors")
    changes = ("recipe.text.condition=null", f"recipe.text.null_embedding={null}")
    assert run(*ALONE, *changes)["run_info"] == {"text": "the null text for every example"}
    digest = load_weights(tmp_path / "run" / "weights.safetensors")[1]["weights"]["recipe.text.null_embedding"]
    card = (tmp_path / "run" / CARD).read_text(encoding="utf-8")
    assert f"| needs | `recipe.text.null_embedding`: null.safetensors (SHA-256 {digest[:12]}…) |" in card
    assert str(tmp_path) not in card


def test_a_method_without_text_has_no_metadata_about_it(run, tmp_path):
    assert run()["run_info"] == {}
    assert "text" not in load_weights(tmp_path / "run" / "weights.safetensors")[1]
    assert "| text |" not in (tmp_path / "run" / CARD).read_text(encoding="utf-8")
