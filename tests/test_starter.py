"""The model that ships."""

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
from framer_jax.degradations.presets import preset_by_name
from framer_jax.diffusion.noise import noise_field
from framer_jax.evaluation.metrics import score
from framer_jax.images.decode import read_rgb
from framer_jax.inference.model import STARTER
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.trees import flatten_names

CROP, SIDE = 128, 24  # of the degraded crops in HR pixels, and of their middles in LR pixels


@pytest.fixture(scope="module")
def model():
    return framer_jax.load_model()


def test_it_is_small_and_whole(model):
    assert model.path == STARTER
    assert STARTER.stat().st_size <= 10_000_000
    assert set(model.params) == {"denoiser"}
    for name, leaf in flatten_names(model.params)[0].items():
        assert np.isfinite(leaf).all(), name
    assert model.recipe.scale == 4
    assert model.recipe.mean is not None


def test_its_name_means_the_model_and_not_the_configuration(model):
    facts = describe("starter")
    assert facts["file"] == str(STARTER)
    assert facts["step"] == model.metadata["step"]


def test_its_card_tells_how_it_was_made(model):
    card = STARTER.with_suffix(".md").read_text(encoding="utf-8")
    for word in ("data", "config", "seed", "steps", "hardware", "scores", "limits", "PSNR-Y", "NIQE", "bicubic"):
        assert re.search(word, card, re.IGNORECASE), f"the card says nothing of {word}"
    assert "configs/starter.py" in card
    numbers = re.sub(r"(?<=\d)[ ,\u202f](?=\d{3})", "", card)  # 6,200 and 6 200 are 6200
    assert re.search(rf"\b{model.metadata['step']}\b", numbers)
    assert re.search(rf"\b{model.metadata['config']['training']['seed']}\b", numbers)


def test_its_one_step_mean_beats_bicubic_on_held_out_photos(model, tmp_path):
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
    psnr = {
        name: float(np.mean(score(np.clip(np.asarray(images), 0, 1), hr, ["psnr-y"])["psnr-y"]))
        for name, images in (("mean", mean), ("bicubic", bicubic))
    }
    assert psnr["mean"] > psnr["bicubic"] + 0.2
