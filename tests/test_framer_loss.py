"""The FRAMER term: the released fixture, an independent NumPy reading of the paper's formulas, gradients and switches."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from framer_jax.frequency.bands import disc_mask, full_layout, quantile_mask, spectrum
from framer_jax.losses import framer
from framer_jax.losses.framer import FramerSettings, clean_from_velocity, draw_negatives, framer_loss, paper, released


def draw_taps(count=4, shape=(3, 6, 5, 2), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(shape)  # taps are alike, so that FAM's gates are open
    return tuple(jnp.asarray((shared + 0.7 * rng.standard_normal(shape)).astype(dtype)) for _ in range(count))


def cycle(count):
    return jnp.asarray((np.arange(count) + 1) % count, jnp.int32)


run = jax.jit(framer_loss, static_argnums=2)


@pytest.fixture(scope="module")
def case(fixtures):
    arrays = np.load(fixtures / "framer_loss_B3.npz", allow_pickle=False)
    return json.loads(str(arrays["meta"])), {key: arrays[key] for key in arrays.files if key != "meta"}


def channels_last(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def test_released_equals_the_fixture(case):
    meta, arrays = case
    layers = meta["config"]["layers"]
    reading = released(quantile=meta["config"]["cutoff"], temperature=meta["config"]["tau"])
    noisy, sigma = channels_last(arrays["in/noisy"]), jnp.asarray(arrays["in/sigmas"].reshape(-1))
    velocities = [channels_last(arrays[f"in/student_{i}"]) for i in range(layers)]
    teacher = channels_last(arrays["in/teacher"])
    negatives = jnp.asarray(arrays["in/neg_idx"], jnp.int32)

    @jax.jit
    def loss(velocities):
        taps = tuple(clean_from_velocity(noisy, velocity, sigma) for velocity in (*velocities, teacher))
        result = framer_loss(taps, negatives, reading)
        return result.values.mean(), result.diagnostics

    (value, diagnostics), gradients = jax.value_and_grad(loss, has_aux=True)(velocities)
    magnitude = jnp.abs(spectrum(clean_from_velocity(noisy, teacher, sigma)))
    low = full_layout(quantile_mask(magnitude, teacher.shape[2], reading.quantile), teacher.shape[2])
    mine = {
        "out/loss": value,
        "out/avg_w_low": diagnostics["factor_low"].mean(),
        "out/avg_w_high": diagnostics["factor_high"].mean(),
        "out/teacher_magnitude": jnp.fft.fftshift(full_layout(magnitude, teacher.shape[2]), (1, 2)).transpose(0, 3, 1, 2),
        **{f"grad/student_{i}": gradient.transpose(0, 3, 1, 2) for i, gradient in enumerate(gradients)},
    }
    for key, array in mine.items():
        error = np.abs(np.asarray(array) - arrays[key]).max()
        assert error <= meta["float32_vs_float64"][key]["atol"], (key, error)
    shifted = np.fft.fftshift(np.asarray(low), (1, 2)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(shifted, arrays["out/low_mask"])
    np.testing.assert_array_equal(~shifted, arrays["out/high_mask"])
