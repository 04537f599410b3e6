"""LPIPS as an auxiliary loss, with a network that returns its image."""

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.recipes.components.perceptual import lpips_loss


class Identity:
    def apply(self, variables, image):
        return (image,), (variables["params"],)


def test_the_gradient_reaches_the_first_image_only():
    images = [jax.random.normal(jax.random.key(seed), (1, 2, 2, 3), jnp.float32) for seed in (0, 1)]
    term = lpips_loss(Identity(), jnp.ones((3,), jnp.float32), 0.25, "name")
    assert (term.name, term.weight) == ("name", 0.25)
    slopes = jax.grad(lambda *images: term.function(term.frozen, *images).sum(), (0, 1))(*images)
    assert np.any(slopes[0]) and not np.any(slopes[1])
