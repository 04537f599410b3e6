"""--protocol realesrgan: the tiles of Real-ESRGAN's released inference code, against a statement of it in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.inference.model import load_model, settings_for
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import WHOLE, adjacent_parts
from framer_jax.inference.upscaler import make_upscaler, upscale
from framer_jax.recipes.base import Recipe, Update
from tests.inference.test_swinir_protocol import SCALE, network, photo, sample
from tests.inference.test_upscaler import PARAMS, toy


def recipe(denoiser_sample=sample, lr_multiple=1):
    update = Update("student", ("student",), lambda *arguments: None)
    return Recipe(
        "toy",
        SCALE,
        lambda key, batch: {},
        (update,),
        denoiser_sample,
        denoiser_sample,
        exported=("student",),
        lr_multiple=lr_multiple,
    )


def released(image, tile, pad):
    """Every tile is cut out with up to `pad` pixels around it, upscaled, and its middle is copied."""
    height, width = image.shape[:2]
    result = np.zeros((height * SCALE, width * SCALE, 3), np.float32)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            first_row, first_column = max(top - pad, 0), max(left - pad, 0)
            part = image[first_row : min(bottom + pad, height), first_column : min(right + pad, width)]
            row, column = (top - first_row) * SCALE, (left - first_column) * SCALE
            middle = network(part)[row:, column:][: (bottom - top) * SCALE, : (right - left) * SCALE]
            result[top * SCALE : bottom * SCALE, left * SCALE : right * SCALE] = middle
    return np.clip(result, 0, 1)


@pytest.mark.parametrize(
    ("size", "tile", "pad"),
    [((13, 19), None, 10), ((50, 33), 16, 10), ((32, 16), 16, 3), ((40, 21), 20, 0), ((9, 70), 24, 10)],
)
def test_the_result_is_that_of_the_released_code(size, tile, pad):
    image = photo(*size)
    settings = UpscaleSettings(protocol="realesrgan", tile=tile or WHOLE, overlap=pad)
    calls = []
    result = make_upscaler(recipe(), settings).run(
        {"student": {}}, image, lambda done, total: calls.append((done, total))
    )
    np.testing.assert_allclose(result.pixels, released(image, tile or max(size), pad), atol=2e-6)
    total = -(-size[0] // (tile or WHOLE)) * -(-size[1] // (tile or WHOLE))
    assert calls == [(done, total) for done in range(total + 1)]


def test_parts_cover_the_image_once_and_end_with_it():
    count = np.zeros((23, 50), int)
    for part in adjacent_parts(23, 50, 16, 10):
        count[part.kept_rows, part.kept_columns] += 1
        assert part.rows.start <= part.kept_rows.start < part.kept_rows.stop <= part.rows.stop <= 23
        assert part.columns.start <= part.kept_columns.start < part.kept_columns.stop <= part.columns.stop <= 50
    assert (count == 1).all()
    with pytest.raises(ValueError, match="nothing to upscale"):
        adjacent_parts(0, 5, 16, 10)


def test_noise_belongs_to_positions_in_the_image():
    """A sampler whose pixels depend on their own input and noise gives the same image with any tiles."""
    whole, parts = (
        upscale(toy(), PARAMS, photo(24, 40), UpscaleSettings(protocol="realesrgan", tile=tile, overlap=4, seed=3))
        for tile in (WHOLE, 16)
    )
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_sides_are_padded_to_what_the_recipe_can_compute():
    def checked(params, frozen, lr, noise):
        assert lr.shape[1] % 4 == 0 and lr.shape[2] % 4 == 0
        return jnp.repeat(jnp.repeat(lr, SCALE, 1), SCALE, 2)

    image = photo(10, 21)
    settings = UpscaleSettings(protocol="realesrgan", tile=8, overlap=3)
    expected = image.repeat(SCALE, 0).repeat(SCALE, 1)
    np.testing.assert_array_equal(upscale(recipe(checked, 4), {"student": {}}, image, settings), expected)


def test_the_memory_of_the_largest_part_is_estimated():
    settings = UpscaleSettings(protocol="realesrgan", tile=16, overlap=4, tile_batch=1)
    estimate = make_upscaler(recipe(), settings).estimate({"student": {}}, 50, 40)
    assert (estimate.tiles, estimate.batch, estimate.tile) == (12, 1, (24, 24))


def test_the_defaults_are_those_of_the_released_script():
    settings = settings_for(load_model(), protocol="realesrgan")
    assert (settings.tile, settings.overlap, settings.color_fix) == (WHOLE, 10, "none")
    assert settings_for(load_model(), protocol="realesrgan", tile=200).overlap == 10
    assert PROTOCOLS["realesrgan"].fixed
    with pytest.raises(ValueError, match="protocol 'realesrgan' has no color fix"):
        UpscaleSettings(protocol="realesrgan", tile=64, color_fix="adain")
