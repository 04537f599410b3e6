"""--protocol swinir: the borders and tiles of SwinIR's released test code, against a statement of it in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import WHOLE, pad_image, plan_window_tiles
from framer_jax.inference.upscaler import check_settings, upscale
from framer_jax.recipes.base import Recipe, Update

SCALE = 2


def network(image):
    """[h, w, 3] → [2h, 2w, 3]: every value depends on the whole input, so a wrong border or tile shows everywhere."""
    rows = np.linspace(0.5, 1, image.shape[0], dtype=np.float32)[:, None, None]
    total = (image * rows).mean(dtype=np.float32) * np.float32(0.3)
    return np.repeat(np.repeat(image * np.float32(0.5) + total, SCALE, 0), SCALE, 1)


def sample(params, frozen, lr, noise):
    rows = jnp.linspace(0.5, 1, lr.shape[1], dtype=jnp.float32)[None, :, None, None]
    total = jnp.mean(lr * rows, axis=(1, 2, 3), keepdims=True) * jnp.float32(0.3)
    return jnp.repeat(jnp.repeat(lr * jnp.float32(0.5) + total, SCALE, 1), SCALE, 2)


def recipe(window):
    update = Update("student", ("student",), lambda *arguments: None)
    return Recipe("toy", SCALE, lambda key, batch: {}, (update,), sample, sample, exported=("student",), window=window)


def flipped(image, window):
    """The image and its mirror image, up to more than whole windows."""
    height, width = image.shape[:2]
    rows, columns = (height // window + 1) * window, (width // window + 1) * window
    image = np.concatenate([image, image[::-1]])[:rows]
    return np.concatenate([image, image[:, ::-1]], axis=1)[:, :columns]


def released(image, window, tile=None, overlap=32):
    height, width = image.shape[:2]
    padded = flipped(image, window)
    if tile is None:
        result = network(padded)
    else:
        rows, columns = padded.shape[:2]
        tile = min(tile, rows, columns)
        total, count = (np.zeros((rows * SCALE, columns * SCALE, 3), np.float32) for _ in range(2))
        for top in [*range(0, rows - tile, tile - overlap), rows - tile]:
            for left in [*range(0, columns - tile, tile - overlap), columns - tile]:
                part = slice(top * SCALE, (top + tile) * SCALE), slice(left * SCALE, (left + tile) * SCALE)
                total[part] += network(padded[top : top + tile, left : left + tile])
                count[part] += 1
        result = total / count
    return np.clip(result[: height * SCALE, : width * SCALE], 0, 1)


def photo(height, width):
    return np.random.default_rng(height * width).uniform(size=(height, width, 3)).astype(np.float32)


SETTINGS = {"protocol": "swinir", "tile": WHOLE, "overlap": 32}


@pytest.mark.parametrize(
    ("size", "window", "tile"),
    [
        ((13, 19), 8, None),
        ((16, 24), 8, None),  # multiples: a whole window more
        ((14, 20), 7, None),
        ((50, 90), 8, 48),
        ((40, 70), 8, 64),  # no larger than the padded height: the tile is reduced
    ],
)
def test_the_result_is_that_of_the_released_code(size, window, tile):
    image = photo(*size)
    settings = UpscaleSettings(**SETTINGS | ({"tile": tile} if tile else {}))
    mine = upscale(recipe(window), {"student": {}}, image, settings)
    np.testing.assert_allclose(mine, released(image, window, tile), atol=2e-6)


@pytest.mark.parametrize("size", [(1, 5), (3, 8), (4, 4)])
def test_images_of_less_than_half_a_window_are_flipped_once(size):
    image = photo(*size)
    plan = plan_window_tiles(*size, WHOLE, 0, 8)
    np.testing.assert_array_equal(pad_image(image, plan), flipped(image, 8))


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="pads to the windows of a network, and this one has none"):
        check_settings(recipe(1), UpscaleSettings(**SETTINGS))
    with pytest.raises(ValueError, match="tile 50 is no multiple of the network's window 8: use 48"):
        check_settings(recipe(8), UpscaleSettings(**SETTINGS | {"tile": 50}))
    protocol = PROTOCOLS["swinir"]
    assert [protocol.overlap(tile) for tile in (WHOLE, 48, 32, 8)] == [32, 32, 16, 4]
    assert protocol.tile(SCALE) == WHOLE and protocol.color_fixes == ("none",)
