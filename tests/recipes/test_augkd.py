"""AugKD: auxiliary images, invertible augmentations, and the loss that is made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.diffusion.noise import noise_field
from framer_jax.recipes.augkd import recipe as augkd
from framer_jax.recipes.augkd.settings import TRANSFORMS, AugKdSettings
from tests.support.drawn import drawn
from tests.support.students import AUGKD, STILL, batch, recipe_of, run, teachers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return teachers(tmp_path_factory.mktemp("students"))


@given(seed=st.integers(0, 99), chosen=st.lists(st.sampled_from(sorted(TRANSFORMS)), unique=True, max_size=4))
@settings(deadline=None, max_examples=20)
def test_an_augmentation_is_undone(seed, chosen):
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.random((3, 6, 6, 3)), jnp.float32)
    drawn_ = jnp.asarray(rng.integers(2, size=(len(chosen), 3)), bool)
    seen = augkd.augment(images, drawn_, tuple(chosen))
    np.testing.assert_allclose(augkd.invert_augmentation(seen, drawn_, tuple(chosen)), images, atol=1e-6)
    untouched = ~np.asarray(drawn_).any(axis=0)
    np.testing.assert_array_equal(seen[untouched], images[untouched])


def test_augmentation_and_upsampling_commute():
    """Every transform means the same for an image and the upsampled image."""
    images = jax.random.uniform(jax.random.key(0), (1, 6, 6, 3), jnp.float32)
    for name in TRANSFORMS:
        chosen = jnp.ones((1, 1), bool)
        large = augkd.augment(images, chosen, (name,)).repeat(2, axis=1).repeat(2, axis=2)
        np.testing.assert_array_equal(
            large, augkd.augment(images.repeat(2, axis=1).repeat(2, axis=2), chosen, (name,)), err_msg=name
        )


def test_zooming_in_and_out():
    data = batch()
    corner = jnp.asarray([[0, 24], [5, 1]], jnp.int32)
    part = augkd.zoom_in(data["hr"], corner, 4)
    np.testing.assert_array_equal(part[0], data["hr"][0, :8, 24:])
    np.testing.assert_array_equal(part[1], data["hr"][1, 5:13, 1:9])
    drawn_ = augkd.draw_corners(
        jax.random.split(jax.random.key(0), 200), jnp.broadcast_to(data["hr"][:1], (200, 32, 32, 3)), 4
    )
    assert drawn_.min() == 0 and drawn_.max() == 24
    flat = jnp.full((1, 8, 12, 3), 0.25, jnp.float32)
    reduced = augkd.zoom_out(flat, 4)
    assert reduced.shape == (1, 2, 3, 3)
    np.testing.assert_allclose(reduced, 0.25, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(3, 8\) pixels cannot be downsampled by 4: use a larger data.crop"):
        augkd.zoom_out(flat[:, :3, :8], 4)


def test_augkd_is_its_parts(folder):
    knobs = (AUGKD, STILL, "recipe.augkd.weight=0.5", "recipe.augkd.auxiliary_weight=2.0")
    recipe, data = recipe_of(folder, *knobs), batch(side=16)
    params = drawn(recipe.init, jax.random.key(1), data)
    outputs = recipe.precompute(recipe.frozen, data, noise_field(jax.random.key(5), 2))
    assert {name: value.shape for name, value in outputs.items()} == {
        augkd.CORNER: (2, 2),
        "teacher": (2, 1, 64, 64, 3),
        "teacher_zoom_in": (2, 1, 64, 64, 3),
        "teacher_zoom_out": (2, 1, 16, 16, 3),
    }
    records = {**data, **outputs}
    student = student_of(recipe, params)
    pixels = np.abs(student(data["lr"]) - data["hr"]).mean(axis=(1, 2, 3))
    terms = {
        "plain": (0.5, data["lr"]),
        "zoom_in": (2.0, augkd.zoom_in(data["hr"], outputs[augkd.CORNER], 4)),
        "zoom_out": (2.0, augkd.zoom_out(data["lr"], 4)),
    }
    plain = recipe_of(folder, *knobs, "recipe.augkd.probability=0.0", data="teacher")
    loss = run(plain, params, records, frozen={})
    expected = pixels
    for view, (factor, images) in terms.items():
        distance = np.abs(student(images) - outputs[augkd.ENTRIES[view]][:, 0]).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(loss.metrics[f"teacher_{view}"], distance, rtol=1e-5, err_msg=view)
        expected = expected + factor * distance
    np.testing.assert_allclose(loss.values, expected, rtol=1e-5)
    # under augmentations only the auxiliary images look different to the student
    augmented = run(recipe_of(folder, *knobs, data="teacher"), params, records, frozen={})
    np.testing.assert_allclose(augmented.metrics["teacher_plain"], loss.metrics["teacher_plain"], rtol=1e-5)
    for view in ("zoom_in", "zoom_out"):
        assert np.any(np.abs(augmented.metrics[f"teacher_{view}"] - loss.metrics[f"teacher_{view}"]) > 1e-6)
    pairs = recipe_of(folder, *knobs, "recipe.augkd.augment_pairs=True", data="teacher")
    pairs = run(pairs, params, records, frozen={})
    assert np.any(np.abs(pairs.metrics["teacher_plain"] - loss.metrics["teacher_plain"]) > 1e-6)
    from_photos = run(recipe, params, data)
    assert np.isfinite(from_photos.values).all()


def student_of(recipe, params):
    """The student as a function of LR images."""
    return jax.jit(lambda lr: recipe.sample(params, {}, lr, noise_field(jax.random.key(0), lr.shape[0])))


def test_a_view_of_weight_0_asks_no_teacher(folder):
    recipe = recipe_of(folder, AUGKD, "recipe.augkd.weight=0.0", "recipe.augkd.zoom_in=False")
    outputs = jax.eval_shape(recipe.precompute, recipe.frozen, batch(side=16), noise_field(jax.random.key(0), 2))
    assert outputs.keys() == {augkd.CORNER, "teacher_zoom_out"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.augkd.transforms=('turn',)", r"recipe.augkd.transforms is \('turn',\): .* among invert, flip"),
        ("recipe.augkd.probability=1.5", "recipe.augkd.probability is 1.5: it must be a number from 0 to 1"),
        ("recipe.augkd.weight=-1.0", "recipe.augkd.weight is -1.0"),
    ],
)
def test_bad_settings_of_augkd_are_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(folder, AUGKD, change)
    with pytest.raises(ValueError, match="are not square: leave 'transpose' out"):
        augkd.augment(jnp.zeros((1, 2, 3, 3), jnp.float32), jnp.ones((1, 1), bool), ("transpose",))


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"^probability is 1.5: it must be a number from 0 to 1"):
        AugKdSettings(probability=1.5)
