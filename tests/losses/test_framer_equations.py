"""FRAMER's equations, each against its formula in NumPy on cosines and magnitudes drawn here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.frequency.bands import disc_mask
from framer_jax.losses.framer import (
    fam,
    fam_alignment,
    faw,
    framer_layer_loss,
    framer_total,
    inter_cl,
    intra_cl,
)

LAYERS, IMAGES = 3, 4


def draw(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_equation_1(temperature):
    positive, negative = draw(LAYERS, IMAGES), draw(LAYERS, IMAGES, seed=1)
    up, down = np.exp(positive / temperature), np.exp(negative / temperature)
    np.testing.assert_allclose(
        intra_cl(positive, negative, temperature), -np.log(up / (up + down)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(intra_cl(positive, np.full_like(negative, -np.inf)), np.zeros((LAYERS, IMAGES)))


@pytest.mark.parametrize("count", [1, IMAGES])
def test_equation_2(count):
    positive, negatives = draw(LAYERS, IMAGES), draw(LAYERS, IMAGES, count, seed=1)
    others = draw(LAYERS, IMAGES, IMAGES, seed=2)
    others[:, np.arange(IMAGES), np.arange(IMAGES)] = -np.inf
    up = np.exp(positive)
    total = up + np.exp(negatives).sum(axis=-1) + np.exp(others).sum(axis=-1)
    np.testing.assert_allclose(inter_cl(positive, negatives, others), -np.log(up / total), rtol=1e-5, atol=1e-6)


def test_equations_3_to_5():
    height, width = 6, 5
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((LAYERS + 1, IMAGES, height, width, 2))
    magnitude = np.abs(np.fft.fft2(maps, axes=(2, 3)))
    half = jnp.asarray(magnitude[..., : width // 2 + 1, :], jnp.float32)
    disc, full = disc_mask((height, width), 0.5), disc_mask((height, width), 0.5, "full")
    mean = magnitude[:, :, full].mean(axis=(2, 3))  # [LAYERS + 1, IMAGES]
    student, teacher = mean[:-1], mean[-1:]
    for relative_to, base in {"teacher": teacher, "student": student, "absolute": 1.0}.items():
        weight = faw(half[:-1], half[-1:], jnp.asarray(disc)[None, None, ..., None], width, relative_to=relative_to)
        np.testing.assert_allclose(weight, 1 / (1 + np.abs(student - teacher) / base), rtol=1e-5)
    mask = jnp.asarray(disc)[None, None, ..., None]
    slopes = jax.jit(jax.grad(lambda *sides: faw(*sides, mask, width).sum(), (0, 1)))(half[:-1], half[-1:])
    assert not any(np.any(slope) for slope in slopes)  # a constant


def test_equations_6_to_8():
    cosine, weight = jnp.asarray(draw(LAYERS, IMAGES)), jnp.asarray(np.abs(draw(LAYERS, IMAGES, seed=1)))
    np.testing.assert_array_equal(fam_alignment(cosine), np.maximum(cosine, 0))
    np.testing.assert_array_equal(fam(weight, fam_alignment(cosine)), weight * np.maximum(cosine, 0))
    assert not np.asarray(jax.grad(lambda c: fam_alignment(c).sum())(cosine)).any()  # a constant


def test_equations_9_and_10():
    low_weight, low, high_weight, high = (draw(LAYERS, IMAGES, seed=seed) for seed in range(4))
    layers = framer_layer_loss(*map(jnp.asarray, (low_weight, low, high_weight, high)))
    np.testing.assert_allclose(layers, low_weight * low + high_weight * high, rtol=1e-5, atol=1e-7)
    base, term = draw(IMAGES, seed=5), np.asarray(layers).sum(axis=0)
    np.testing.assert_allclose(framer_total(base, term, jnp.float32(0.1)), base + 0.1 * term, rtol=1e-5, atol=1e-7)
