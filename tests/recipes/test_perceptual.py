"""LPIPS as an auxiliary loss, with a network that returns its image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.config import load_config
from framer_jax.models.vgg import Lpips, Vgg19
from framer_jax.recipes.components.perceptual import at_phases, lpips_loss


class Identity:
    def apply(self, variables, image):
        return (image,), (variables["params"],)


def test_the_gradient_reaches_the_first_image_only():
    images = [jax.random.normal(jax.random.key(seed), (1, 2, 2, 3), jnp.float32) for seed in (0, 1)]
    term = lpips_loss(Identity(), jnp.ones((3,), jnp.float32), 0.25, "name")
    assert (term.name, term.weight) == ("name", 0.25)
    slopes = jax.grad(lambda *images: term.function(term.frozen, *images).sum(), (0, 1))(*images)
    assert np.any(slopes[0]) and not np.any(slopes[1])


def test_phases_are_all_positions_of_a_grid_in_turn():
    images = jnp.arange(16 * 6 * 7, dtype=jnp.float32).reshape(16, 6, 7, 1)
    crops = at_phases(images, 4)
    assert crops.shape == (16, 3, 4, 1)
    corners = [divmod(int(crop[0, 0, 0]) - 42 * index, 7) for index, crop in enumerate(crops)]
    assert len(set(corners)) == 16 and max(map(max, corners)) == 3
    assert {top for top, _ in corners[:4]} == {left for _, left in corners[:4]} == set(range(4))
    for image, crop, (top, left) in zip(images, crops, corners, strict=True):
        np.testing.assert_array_equal(crop, image[top : top + 3, left : left + 4])
    assert at_phases(images, 1) is images


def test_a_microbatch_without_an_example_for_each_position_is_refused():
    message = r"recipe\.lpips\.phases is 4, and a microbatch has 3 .*at least 4 .*or recipe\.lpips\.phases=3"
    with pytest.raises(ValueError, match=message):
        at_phases(jnp.zeros((3, 6, 6, 3), jnp.float32), 4)
    accumulate = "training.gradient_accumulation_steps=2"  # of batches of 6
    for name in ("diffusion", "standard"):
        with pytest.raises(ValueError, match=message):
            load_config(name, [accumulate])
        load_config(name, [accumulate, "recipe.lpips.phases=3"])
    load_config("diffusion", [accumulate, "recipe.resshift.perceptual_weight=0.0"])
    load_config("standard:finish", [accumulate, "recipe.lpips.phases=4"])


class EveryFourth:
    def apply(self, variables, image):
        return (image[:, ::4, ::4],), (variables["params"],)


def test_with_phases_a_network_that_looks_at_every_fourth_pixel_sees_all_of_them():
    reference = jax.random.uniform(jax.random.key(0), (4, 12, 12, 3), jnp.float32, 0.2, 1.0)
    grid = jnp.zeros((12, 12)).at[1::4, 1::4].set(0.5)  # between the pixels that it looks at
    image = reference + grid[None, :, :, None] * jnp.asarray([1.0, -1.0, 0.0])[None, None, None, :]
    distances = []
    for phases in (1, 4):
        term = lpips_loss(EveryFourth(), jnp.ones((3,), jnp.float32), 1.0, "lpips", phases)
        distances.append(float(term.function(term.frozen, image, reference).sum()))
    assert distances[0] == 0 < distances[1]


@pytest.mark.parametrize(("module", "side"), [(Lpips("alex"), 30), (Lpips("vgg"), 15), (Vgg19(), 15)])
def test_images_of_which_the_last_features_would_be_empty_are_refused(module, side):
    least = side + 1
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, least, least, 3)))
    with pytest.raises(ValueError, match=f"at least {least}x{least} pixels, got {least}x{side}: use larger crops"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, least, side, 3)))
