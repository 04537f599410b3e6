"""The models that ship."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

import framer_jax
from framer_jax.commands.info import describe
from framer_jax.data.photos import HELD_OUT, photo_path
from framer_jax.data.sources import folder_source
from framer_jax.data.whole_photos import validation_pairs
from framer_jax.degradations.lookup import preset_by_name
from framer_jax.diffusion.noise import noise_field
from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.images.decode import read_rgb
from framer_jax.inference.model import DEFAULT, SHIPPED
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.recipes.base import expected_params
from framer_jax.trees import flatten_names

CROP, SIDE = 128, 24  # of the degraded crops in HR pixels, and of their middles in LR pixels

GROUPS = {"standard": "student", "diffusion": "denoiser", "starter": "denoiser"}

GAINS = {
    "standard": {"psnr-y": 0.1, "ssim-y": 0.0, "psnr-low": 0.5, "spectrum-distance": 12.0},
    "diffusion": {"psnr-y": 0.3, "ssim-y": 0.015, "psnr-low": 0.7, "spectrum-distance": 6.0},
    "starter": {"psnr-y": 0.2},
}
"""Model → the scores in which its deterministic result is better than bicubic upsampling, and by how much at least."""


@pytest.fixture(scope="module", params=SHIPPED)
def model(request):
    return framer_jax.load_model(request.param)


def test_the_one_that_upscales_by_default():
    assert framer_jax.load_model().path == SHIPPED[DEFAULT]


def test_all_together_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.values()) <= 30_000_000


def test_it_is_whole(model):
    assert model.path == SHIPPED[model.path.stem]
    assert set(model.params) == {GROUPS[model.path.stem]}
    for name, leaf in flatten_names(model.params)[0].items():
        assert np.isfinite(leaf).all(), name
    assert model.recipe.scale == 4
    assert model.recipe.mean is not None


def test_its_name_means_the_model_and_not_the_configuration(model):
    facts = describe(model.path.stem)
    assert facts["file"] == str(model.path)
    assert facts["step"] == model.metadata["step"]


def test_its_card_tells_how_it_was_made(model):
    card = model.path.with_suffix(".md").read_text(encoding="utf-8")
    for word in ("data", "config", "seed", "steps", "hardware", "scores", "limits", "PSNR-Y", "NIQE", "bicubic"):
        assert re.search(word, card, re.IGNORECASE), f"the card says nothing of {word}"
    assert f"configs/{model.path.stem}.py" in card
    numbers = re.sub(r"(?<=\d)[ ,\u202f](?=\d{3})", "", card)  # 6,200 and 6 200 are 6200
    for number in (model.metadata["step"], model.metadata["config"]["training"]["seed"]):
        assert re.search(rf"\b{number}\b", numbers)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(expected_params(model.recipe)))
    assert re.search(rf"\b{count}\b", numbers)


def test_its_deterministic_result_beats_bicubic_on_held_out_photos(model, tmp_path):
    for name in HELD_OUT:  # crops of one size: one program
        photo = read_rgb(photo_path(name))
        height, width, _ = photo.shape
        for place in range(4):
            top, left = height // 2 - CROP * (place // 2), width // 2 - CROP * (place % 2)
            Image.fromarray(photo[top : top + CROP, left : left + CROP]).save(tmp_path / f"{name}_{place}.png")
    preset = preset_by_name(model.metadata["config"]["data"]["degradation"])
    multiple = model.recipe.scale * model.recipe.lr_multiple
    pairs = validation_pairs(folder_source(tmp_path), preset, seed=0, multiple=multiple)
    scale = model.recipe.scale
    start = (CROP // scale - SIDE) // 2
    lr = np.stack([pair.lr[start : start + SIDE, start : start + SIDE] for pair in pairs])
    inner = slice(start * scale, (start + SIDE) * scale)
    hr = np.stack([pair.hr[inner, inner] for pair in pairs])
    mean = jax.jit(model.recipe.mean)(model.params, model.recipe.frozen, lr, noise_field(jax.random.key(0), len(lr)))
    bicubic = np.stack([upsample_bicubic(image, scale) for image in lr])
    for metric, gain in GAINS[model.path.stem].items():
        values = {
            name: float(np.mean(score(np.clip(np.asarray(images), 0, 1), hr, [metric])[metric]))
            for name, images in (("mean", mean), ("bicubic", bicubic))
        }
        better = 1 if METRICS[metric].higher_is_better else -1
        assert better * (values["mean"] - values["bicubic"]) > gain, metric
