"""Errors of latents and images: weights of channels, SinSR's three terms, SwinIR's distances, AugKD's consistency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.losses.latent import channel_weights, latent_error, latent_mse
from framer_jax.losses.one_step_distillation import (
    OneStepTerms,
    consistency_error,
    distillation_error,
    inverse_error,
    one_step_distillation,
)
from framer_jax.losses.pixel import (
    CHECKERBOARD_CELLS,
    CHECKERBOARD_TEXTURE_CELLS,
    checkerboard_error,
    checkerboard_texture_error,
    label_consistency,
    pixel_errors,
    pixel_l1,
    pixel_mse,
)


def draw(seed, shape=(2, 4, 4, 3)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_channel_weights_have_mean_1():
    scale = np.asarray([1.0, 2.0, 4.0], np.float32)
    np.testing.assert_allclose(channel_weights(scale, 1.0), scale / scale.mean(), rtol=1e-6)
    np.testing.assert_allclose(channel_weights(scale, 2.0), scale**2 / (scale**2).mean(), rtol=1e-6)
    np.testing.assert_array_equal(channel_weights(scale, 0.0), np.ones(3, np.float32))
    assert channel_weights(scale, 0.5).dtype == np.float32


def test_latent_errors():
    prediction, target, weights = draw(0), draw(1), np.asarray([0.5, 1.0, 1.5], np.float32)
    square = np.square(prediction - target)
    np.testing.assert_allclose(latent_error(prediction, target, weights), (square * weights).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(latent_mse(prediction, target), square.mean((1, 2, 3)), rtol=1e-5)


def test_one_step_distillation_weights_its_terms():
    prediction, target, weights = draw(0), draw(1), np.asarray([0.5, 1.0, 1.5], np.float32)
    for term in (distillation_error, inverse_error, consistency_error):
        np.testing.assert_array_equal(term(prediction, target, weights), latent_error(prediction, target, weights))
    terms = OneStepTerms(*(jnp.asarray([value, 2 * value]) for value in (1.0, 10.0, 100.0)))
    np.testing.assert_allclose(one_step_distillation(terms, (1.0, 0.5, 2.0)), [206.0, 412.0])


def test_pixel_errors():
    prediction, target = draw(2), draw(3)
    np.testing.assert_allclose(pixel_l1(prediction, target), np.abs(prediction - target).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(pixel_mse(prediction, target), np.square(prediction - target).mean((1, 2, 3)), rtol=1e-5)
    errors = pixel_errors(prediction, target)
    assert list(errors) == ["pixel_l1", "pixel_mse"]
    np.testing.assert_array_equal(errors["pixel_l1"], pixel_l1(prediction, target))


def test_label_consistency_averages_over_the_teachers_samples():
    student, teachers = draw(4), np.stack([draw(5), draw(6)], axis=1)
    expected = (pixel_l1(student, teachers[:, 0]) + pixel_l1(student, teachers[:, 1])) / 2
    np.testing.assert_allclose(label_consistency(student, teachers), expected, rtol=1e-5)


@pytest.mark.parametrize("period", [2, 3, 4])
def test_the_checkerboard_error_is_what_repeats_with_the_grid(period):
    side = 2 * CHECKERBOARD_CELLS * period
    target = draw(7, (2, side + 1, side, 3))
    cell = draw(8, (period, period, 3))
    cell -= cell.mean((0, 1))
    checkerboard = np.tile(cell, (side // period + 1, side // period, 1))[: side + 1]
    with_pattern = checkerboard_error(target + checkerboard, target, period)
    np.testing.assert_allclose(with_pattern, np.full(2, np.abs(cell).mean()), rtol=1e-4)
    np.testing.assert_allclose(checkerboard_error(target + np.float32(0.5), target, period), np.zeros(2), atol=1e-6)
    noise = draw(9, (2, side, side, 3)) * np.abs(cell).mean()  # as large, and averaged over 64 cells
    np.testing.assert_array_less(
        checkerboard_error(target[:, :side] + noise, target[:, :side], period), 0.2 * with_pattern
    )


@pytest.mark.parametrize("error", [checkerboard_error, checkerboard_texture_error])
def test_the_gradient_of_the_checkerboard_errors_is_that_of_finite_differences(error):
    prediction, target = (draw(seed, (1, 32, 32, 3)) for seed in (10, 11))
    gradient = jax.grad(lambda image: error(image, target, 2)[0])(prediction)
    direction = gradient / np.abs(gradient).max()

    def along(step):
        return error(prediction + step * direction, target, 2)[0]

    slope = jax.jvp(along, (jnp.float32(0),), (jnp.float32(1),))[1]
    np.testing.assert_allclose(slope, (along(np.float32(1e-3)) - along(np.float32(-1e-3))) / 2e-3, rtol=2e-2)
    np.testing.assert_allclose(slope, (gradient * direction).sum(), rtol=1e-4)


def test_images_without_a_whole_window_have_no_checkerboard_error():
    with pytest.raises(ValueError, match="images of 31 x 32 are smaller than a window of 32 x 32 pixels"):
        checkerboard_error(draw(0, (1, 31, 32, 3)), draw(1, (1, 31, 32, 3)), 4)


def test_texture_that_is_stronger_at_the_same_pixels_of_every_cell_is_an_error():
    period, side = 4, 2 * CHECKERBOARD_TEXTURE_CELLS * 4
    target = np.full((2, side, side, 3), 0.5, np.float32)
    noise = 0.1 * np.random.default_rng(0).standard_normal(target.shape).astype(np.float32)
    stronger = 1 + np.cos(np.pi / 2 * np.arange(side)).astype(np.float32)[:, None, None]  # 2, 1, 0, 1 by row
    evenly, by_row = (
        checkerboard_texture_error(target + texture, target, period) for texture in (noise, stronger * noise)
    )
    np.testing.assert_array_less(4 * evenly, by_row)
    np.testing.assert_array_less(checkerboard_error(target + stronger * noise, target, period), 0.5 * by_row)
    np.testing.assert_allclose(
        checkerboard_texture_error(target + noise, target + noise, period), np.zeros(2), atol=1e-7
    )


def test_the_texture_error_is_that_of_numpy():
    period, side = 2, CHECKERBOARD_TEXTURE_CELLS * 2
    images = [draw(seed, (1, side + 1, side, 1)) for seed in (13, 14)]
    strength = []
    for image in images:
        padded = np.pad(image[0, :, :, 0], 1, mode="edge").astype(np.float64)
        center = padded[1:-1, 1:-1]
        mean = sum(padded[y : y + side + 1, x : x + side] for y in range(3) for x in range(3)) / 9
        strength.append([abs(padded[1:-1, 2:] - center), abs(padded[2:, 1:-1] - center), abs(center - mean)])
    patterns = []
    for prediction, target in zip(*strength, strict=True):
        cell = np.array(
            [[(prediction - target)[y:side:period, x::period].mean() for x in range(period)] for y in range(period)]
        )
        patterns.append(abs(cell - cell.mean()).mean())
    np.testing.assert_allclose(checkerboard_texture_error(*images, period), [np.mean(patterns)], rtol=1e-4)


def test_images_without_a_whole_window_have_no_texture_error():
    with pytest.raises(ValueError, match="images of 64 x 63 are smaller than a window of 64 x 64 pixels"):
        checkerboard_texture_error(draw(0, (1, 64, 63, 3)), draw(1, (1, 64, 63, 3)), 4)
