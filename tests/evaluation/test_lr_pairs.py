from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from framer_jax.degradations.lookup import preset_by_name
from framer_jax.degradations.presets import odd_sizes
from framer_jax.evaluation.lr_pairs import folder_pairs, halves, model_degradation
from tests.support.tiny import photo


class Pair:
    lr = np.arange(20 * 30 * 3, dtype=np.float32).reshape(20, 30, 3)
    hr = lr.repeat(2, 0).repeat(2, 1)


def test_halves_do_not_overlap():
    fit, measure = halves([Pair, Pair], 2, multiple=4)
    assert fit["lr"].shape == measure["lr"].shape == (2, 12, 12, 3)
    assert fit["hr"].shape == (2, 24, 24, 3)
    np.testing.assert_array_equal(fit["lr"][0], Pair.lr[:12, :12])
    np.testing.assert_array_equal(measure["lr"][0], Pair.lr[:12, 18:])
    np.testing.assert_array_equal(measure["hr"][0], Pair.hr[:24, 36:])
    with pytest.raises(ValueError, match="too small"):
        halves([Pair], 2, multiple=16)


@pytest.fixture
def folders(tmp_path):
    """Two LR images of 10 x 13 pixels, and HR images of twice the size."""
    for name, scale in (("lr", 1), ("hr", 2)):
        (tmp_path / name).mkdir()
        for index in range(2):
            pixels = photo(10, 13, index).repeat(scale, 0).repeat(scale, 1)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path / "lr", tmp_path / "hr"


def test_pairs_of_folders_are_cropped(folders):
    pairs = folder_pairs(*folders, scale=2, multiple=4)
    assert [pair.name for pair in pairs] == ["0", "1"]
    np.testing.assert_array_equal(pairs[1].lr, photo(10, 13, 1)[:8, :12].astype(np.float32) / 255)
    assert pairs[1].hr.shape == (16, 24, 3)
    assert len(folder_pairs(*folders, scale=2, limit=1)) == 1


def test_pairs_that_do_not_fit_are_refused(folders):
    lr, hr = folders
    with pytest.raises(ValueError, match="0: the HR image is 26x20, and 4 times the LR image is 52x40"):
        folder_pairs(lr, hr, scale=4)
    with pytest.raises(ValueError, match="smaller than 16 pixels"):
        folder_pairs(lr, hr, scale=2, multiple=16)
    (hr / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1 images of .* have no partner of the same name \(1\)"):
        folder_pairs(lr, hr, scale=2)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        folder_pairs(lr, hr / "none", scale=2)


def test_a_part_of_the_training_degradation_is_replaced_and_the_rest_stays():
    data = {"degradation": "real_esrgan:1,camera:3", "degradation_geometry": "released", "sharpen_target": True}
    model = SimpleNamespace(metadata={"config": {"data": data}}, recipe=SimpleNamespace(scale=4))
    trained = model_degradation(model)
    assert (trained.name, trained.geometry, trained.sharpen_target) == (
        "real_esrgan:0.25,camera:0.75",
        "released",
        True,
    )
    assert model_degradation(model, None, "aligned") == replace(trained, geometry="aligned")
    assert model_degradation(model, "real_esrgan:1,camera:3") == trained
    other = model_degradation(model, "resshift", "aligned")
    assert (other.name, other.geometry, other.sharpen_target) == ("resshift", "aligned", True)
    data |= {"degradation": "framer_paper", "second_kernel_sizes": (7, 21), "sharpen_target": None}
    assert model_degradation(model, geometry="aligned").second.blur.sizes == odd_sizes(7, 21)
    assert model_degradation(model, "resshift") == preset_by_name("resshift")
