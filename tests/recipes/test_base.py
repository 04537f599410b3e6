"""What the types of recipes promise: outputs of an update, auxiliary losses, tilings, bad values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.recipes.base import AuxiliaryLoss, Tiling, Update, add_auxiliary, with_outputs

ONES = jnp.ones((2, 1, 1, 1), jnp.float32)


def test_later_updates_take_no_gradient_through_the_outputs_of_earlier_ones():
    batch = {"hr": ONES, "image": ONES}
    seen = with_outputs(batch, {"image": 3 * ONES})
    np.testing.assert_array_equal(seen["image"], 3 * ONES)
    assert seen["hr"] is ONES and batch["image"] is ONES
    slope = jax.grad(lambda image: with_outputs(batch, {"image": image})["image"].sum())(ONES)
    np.testing.assert_array_equal(slope, 0 * ONES)


def test_auxiliary_losses_are_added_with_their_weights():
    def distance(params, image, reference):
        return params * (image - reference).sum(axis=(1, 2, 3))

    terms = (AuxiliaryLoss("one", 0.5, distance, 2.0), AuxiliaryLoss("other", 3.0, distance, 5.0))
    frozen = {"one": 2.0, "other": 5.0}
    values, metrics = add_auxiliary(terms, frozen, jnp.asarray([1.0, 2.0]), {"first": ONES}, 3 * ONES, ONES)
    np.testing.assert_allclose(values, [1 + 0.5 * 4 + 3 * 10, 2 + 0.5 * 4 + 3 * 10])
    assert list(metrics) == ["first", "one", "other"]
    np.testing.assert_allclose(metrics["other"], [10.0, 10.0])


def test_a_tiling_has_no_tiles_unless_it_names_them():
    assert Tiling() == Tiling(side=0, overlap=0, batch=1, encoder=0, decoder=0)


def test_updates_that_could_never_run_are_errors():
    assert Update("one", (), None, start=3, stop=4).every == 1  # in every step from the start on
    with pytest.raises(ValueError, match="every is 0, it must be at least 1"):
        Update("one", (), None, every=0)
    for start, stop in ((3, 3), (0, 0)):
        with pytest.raises(ValueError, match=f"stop {stop} must be after start {start}"):
            Update("one", (), None, start=start, stop=stop)
