"""Validation during training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from framer_jax.data.whole_photos import ValidationPair
from framer_jax.evaluation.validation import center_crops, make_validation, mean_scores
from framer_jax.recipes.base import Recipe, Update
from framer_jax.training.sharding import make_mesh
from tests.support import training_toys as toys


def pair(name, height, width, flat=False):
    """Noise (or gray) as HR image, and every fourth pixel of it as LR image."""
    hr = np.random.default_rng(len(name)).random((height, width, 3), np.float32)
    hr = np.full_like(hr, 0.5) if flat else hr
    return ValidationPair(name, hr, hr[::4, ::4])


def nearest(params, frozen, lr, noise):
    return jnp.repeat(jnp.repeat(lr, 4, axis=1), 4, axis=2) * params["denoiser"]["gain"].mean()


def recipe(**changes):
    updates = (Update("main", ("denoiser",), toys.clean_loss),)
    return Recipe("nearest", 4, toys.init, updates, sample=nearest, **changes)


PARAMS = {"denoiser": {"gain": jnp.ones((8,), jnp.float32)}}


def test_hr_and_lr_crops_cover_the_same_square():
    hr, lr = center_crops([pair("a", 40, 64), pair("bb", 56, 48)], scale=4, multiple=2)
    assert (hr.shape, lr.shape) == ((2, 40, 40, 3), (2, 10, 10, 3))
    np.testing.assert_array_equal(hr[:, ::4, ::4], lr)
    np.testing.assert_array_equal(hr[0], pair("a", 40, 64).hr[:, 12:52])
    hr, lr = center_crops([pair("a", 80, 80)], scale=4, multiple=4, max_side=40)
    assert (hr.shape, lr.shape) == ((1, 32, 32, 3), (1, 8, 8, 3))


def test_scores_and_images():
    def mean(*inputs):
        return nearest(*inputs)

    pairs = [pair("a/b.png", 40, 48), pair("c", 48, 40)]
    validate = make_validation(recipe(mean=mean), pairs)
    scalars, images = validate(PARAMS, {}, 3)
    assert set(scalars) == {f"{way}/{name}" for way in ("bicubic", "sample", "mean") for name in ("psnr-y", "ssim-y")}
    assert scalars["sample/psnr-y"] == scalars["mean/psnr-y"] > 5
    assert {name: image.shape for name, image in images.items()} == {"a_b.png": (40, 160, 3), "c": (40, 160, 3)}
    np.testing.assert_array_equal(images["c"][:, 120:], pair("c", 48, 40).hr[4:44])
    # a one-step network is scored once
    once, images = make_validation(recipe(mean=nearest), pairs)(PARAMS, {}, 3)
    assert once == {name: value for name, value in scalars.items() if not name.startswith("sample/")}
    assert images["c"].shape == (40, 120, 3)


def test_metrics_that_need_larger_crops_are_skipped():
    scalars, _ = make_validation(recipe(), [pair("a", 8, 40)])(PARAMS, {}, 0)
    assert set(scalars) == {"bicubic/psnr-y", "sample/psnr-y"}


def test_a_flat_photograph_does_not_end_the_run():
    noise, flat = pair("a", 192, 192), pair("bb", 192, 192, flat=True)
    hr = np.stack([noise.hr, flat.hr])
    ids = ["niqe-framer", "psnr-y"]
    alone, both = mean_scores(hr[:1], hr[:1], ids), mean_scores(hr, hr, ids)
    assert both["niqe-framer"] == pytest.approx(alone["niqe-framer"])
    assert set(mean_scores(hr[1:], hr[1:], ids)) == {"psnr-y"}
    scalars, images = make_validation(recipe(), [flat], ids)(PARAMS, {}, 0)
    assert set(scalars) == {"bicubic/psnr-y", "sample/psnr-y"}
    assert set(images) == {"bb"}


def test_parameters_on_a_mesh_give_complete_results():
    mesh = make_mesh(toys.settings(mesh={"data": 2, "fsdp": 4}))
    spread = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec("fsdp")))
    validate = make_validation(recipe(), [pair("a", 40, 40), pair("bb", 40, 40)])
    alone, there = validate(PARAMS, {}, 0), validate(spread, {}, 0)
    assert alone[0] == pytest.approx(there[0])
    np.testing.assert_allclose(alone[1]["a"], there[1]["a"], rtol=1e-6)
