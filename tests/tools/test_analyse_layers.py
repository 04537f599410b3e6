import json
import sys

import numpy as np
import pytest

from framer_jax.data.whole_photos import ValidationPair
from tests.support.tiny import photo, weights
from tools import analyse_layers
from tools.score_model import halves


def test_plots_and_numbers_are_not_overwritten(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    model, out = weights(tmp_path / "tiny.safetensors"), tmp_path / "out"
    photos = [photo(64, 128, seed).astype(np.float32) / 255 for seed in range(2)]
    pairs = [ValidationPair("photo", hr, hr[::4, ::4]) for hr in photos]
    monkeypatch.setattr(analyse_layers, "degraded_pairs", lambda *arguments: pairs)
    monkeypatch.setattr(sys, "argv", ["analyse_layers", str(model), "--output", str(out)])
    assert analyse_layers.main() == 0
    assert {path.name for path in out.iterdir()} == set(analyse_layers.FILES)
    numbers = json.loads((out / "layers.json").read_text())
    layers = len(numbers["similarity"]["low"])
    assert np.shape(numbers["factors"]["weight"]["high"]) == (layers,)
    assert np.shape(numbers["densities"]["high"])[0] == layers + 1
    assert np.shape(numbers["matrices"]["low"]) == (layers + 1, 2, 2)
    with pytest.raises(SystemExit):
        analyse_layers.main()
    assert "add --overwrite" in capsys.readouterr().err


def test_halves_do_not_overlap():
    class Pair:
        lr = np.arange(20 * 30 * 3, dtype=np.float32).reshape(20, 30, 3)
        hr = lr.repeat(2, 0).repeat(2, 1)

    fit, measure = halves([Pair, Pair], 2, multiple=4)
    assert fit["lr"].shape == measure["lr"].shape == (2, 12, 12, 3)
    assert fit["hr"].shape == (2, 24, 24, 3)
    np.testing.assert_array_equal(fit["lr"][0], Pair.lr[:12, :12])
    np.testing.assert_array_equal(measure["lr"][0], Pair.lr[:12, 18:])
    np.testing.assert_array_equal(measure["hr"][0], Pair.hr[:24, 36:])
    with pytest.raises(ValueError, match="too small"):
        halves([Pair], 2, multiple=16)
