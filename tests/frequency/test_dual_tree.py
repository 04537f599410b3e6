"""The dual-tree complex wavelet transform against the dtcwt package (fixture) and by its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.frequency.dual_tree import ANGLES, SHIFT_LOW, dual_tree
from framer_jax.frequency.wavelets import haar_decompose

compiled = jax.jit(dual_tree, static_argnums=1)


def test_fixture(fixtures):
    """Against dtcwt 0.14.0 in float64 (near_sym_a, qshift_a): three levels of a 16 x 24 image."""
    case = np.load(fixtures / "dtcwt.npz", allow_pickle=False)
    bands = compiled(case["in/img"].transpose(0, 2, 3, 1), 3)
    assert bands.low.dtype == jnp.float32 and bands.details[0].dtype == jnp.complex64
    np.testing.assert_allclose(bands.low[0, :, :, 0], case["out/low"], atol=2e-6)
    for level, detail in zip((3, 2, 1), bands.details, strict=True):
        np.testing.assert_allclose(detail[:, 0, :, :, 0], case[f"out/level{level}"], atol=2e-6)


def test_the_quarter_shift_filter_is_orthonormal():
    gram = [SHIFT_LOW[: len(SHIFT_LOW) - lag] @ SHIFT_LOW[lag:] for lag in range(0, 10, 2)]
    np.testing.assert_allclose(gram, [1, 0, 0, 0, 0], atol=1e-9)
    assert SHIFT_LOW.sum() == pytest.approx(np.sqrt(2), abs=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_energy_is_nearly_preserved(levels):
    image = np.random.default_rng(0).standard_normal((2, 32, 48, 3)).astype(np.float32)
    low, details = compiled(image, levels)
    energy = np.square(low).sum() + sum(np.square(np.abs(detail)).sum() for detail in details)
    assert energy == pytest.approx(np.square(image).sum(), rel=0.02)


def test_each_orientation_responds_to_its_own_waves():
    """A wave with crests at 45 degrees is strongest in one of the six bands."""
    rows, columns = np.mgrid[:64, :64]
    for sign, angle in ((1, 45), (-1, -45)):
        wave = np.cos(0.4 * np.pi * (rows + sign * columns)).astype(np.float32)[None, :, :, None]
        magnitudes = np.abs(compiled(wave, 2).details[0]).mean(axis=(1, 2, 3, 4))
        assert ANGLES[int(np.argmax(magnitudes))] == angle
        assert np.sort(magnitudes)[-1] > 2 * np.sort(magnitudes)[-2]


def test_a_small_shift_moves_little_energy_between_levels():
    edges = [
        np.broadcast_to(np.arange(64) >= 32 + shift, (1, 64, 64)).astype(np.float32)[..., None] for shift in range(4)
    ]

    def spread(coarsest):
        energies = [sum(np.square(np.abs(band)).sum() for band in coarsest(edge)) for edge in edges]
        return np.std(energies) / np.mean(energies)

    assert spread(lambda edge: compiled(edge, 2).details[0]) < 0.15
    assert spread(lambda edge: haar_decompose(edge, 2).details[0]) > 0.5


def test_unsupported_shapes_and_dtypes_are_errors():
    with pytest.raises(ValueError, match="multiples of 4"):
        dual_tree(jnp.zeros((1, 8, 10, 1)), 2)
    with pytest.raises(ValueError, match="uint8"):
        dual_tree(jnp.zeros((1, 8, 8, 1), jnp.uint8), 1)
