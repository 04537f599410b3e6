import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny import photo, ported
from tools import draw_features


def test_a_photograph_and_its_maps_are_drawn_once(tmp_path, monkeypatch, capsys):
    extractor, output = ported(tmp_path / "extractor.safetensors", "hf_extractor"), tmp_path / "maps.png"
    Image.fromarray(photo(30, 40)).save(tmp_path / "photo.png")
    arguments = ["draw_features", str(extractor), str(tmp_path / "photo.png"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--crop", "20", "--maps", "3"])
    assert draw_features.main() == 0
    drawn = np.asarray(Image.open(output))
    assert drawn.shape == (40, 100, 3)
    for row in (drawn[:20], drawn[20:]):
        np.testing.assert_array_equal(row[:, :20], photo(30, 40)[5:25, 10:30])
        assert all(row[:, start : start + 20].std() > 0 for start in (20, 40, 60, 80))
    assert (drawn[:20, 20:] != drawn[20:, 20:]).any()
    with pytest.raises(SystemExit):
        draw_features.main()
    assert "add --overwrite" in capsys.readouterr().err


def test_a_map_is_drawn_around_gray():
    np.testing.assert_allclose(draw_features.centered(np.asarray([[-2.0, 0.0, 1.0]])), [[0.0, 0.5, 0.75]])
    np.testing.assert_allclose(draw_features.centered(np.zeros((1, 2))), 0.5)


@pytest.mark.parametrize("name", ["dinov2", "missing"])
def test_other_networks_are_refused(tmp_path, monkeypatch, capsys, name):
    path = ported(tmp_path / "dinov2.safetensors", "dinov2").with_name(f"{name}.safetensors")
    monkeypatch.setattr(sys, "argv", ["draw_features", str(path), "photo.png", "--output", str(tmp_path / "a.png")])
    with pytest.raises(SystemExit):
        draw_features.main()
    assert name in capsys.readouterr().err
