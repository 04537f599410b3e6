"""MATLAB's bicubic resizing: fixture, algebra, and the classical LR files bitwise (slow)."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.degradations.matlab_bicubic import bicubic_matrix, matlab_bicubic


def test_half_size_matches_the_reference(fixtures):
    with np.load(fixtures / "niqe.npz") as case:
        plane, expected = case["out/y_rounded"][:192, :192] / np.float32(255), case["out/half_size_192"]
    half = matlab_bicubic(jnp.asarray(plane)[None, ..., None], scale=0.5)
    np.testing.assert_allclose(half[0, ..., 0], expected, atol=2e-6)


def test_known_values_of_a_ramp():
    # imresize(reshape(0:15, 4, 4)', [3 3]), as printed in the documentation of a MATLAB-checked implementation
    ramp = jnp.arange(16, dtype=jnp.float32).reshape(1, 4, 4, 1)
    expected = [[0.7506, 2.1004, 3.4503], [6.1505, 7.5, 8.8495], [11.5497, 12.8996, 14.2494]]
    np.testing.assert_allclose(matlab_bicubic(ramp, size=(3, 3))[0, ..., 0], expected, atol=6e-4)


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 40), new=st.integers(1, 60))
def test_rows_sum_to_one_and_are_symmetric(size, new):
    matrix = bicubic_matrix(size, new, new / size)
    assert matrix.shape == (new, size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


def test_scale_and_size_agree_and_shapes_round_up():
    image = jnp.asarray(np.random.default_rng(0).random((2, 12, 8, 3)), jnp.float32)
    np.testing.assert_array_equal(matlab_bicubic(image, scale=0.25), matlab_bicubic(image, size=(3, 2)))
    assert matlab_bicubic(image, scale=0.3).shape == (2, 4, 3, 3)
    np.testing.assert_allclose(matlab_bicubic(image, scale=1.0), image, atol=1e-6)


def test_eight_bit_gives_levels_and_starts_with_the_smaller_scale():
    image = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 1)), jnp.float32)
    levels = np.asarray(matlab_bicubic(image, size=(8, 4), eight_bit=True)) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    first = matlab_bicubic(image, size=(16, 4), eight_bit=True)
    np.testing.assert_array_equal(levels, np.asarray(matlab_bicubic(first, size=(8, 4), eight_bit=True)) * 255)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [((8, 8, 3), {"scale": 0.5}), ((1, 8, 8, 3), {}), ((1, 8, 8, 3), {"scale": 0.5, "size": (4, 4)})],
)
def test_bad_arguments(shape, arguments):
    with pytest.raises(ValueError, match="matlab_bicubic takes"):
        matlab_bicubic(jnp.zeros(shape), **arguments)
    with pytest.raises(ValueError, match="positive"):
        matlab_bicubic(jnp.zeros((1, 8, 8, 3)), scale=-1.0)
    with pytest.raises(ValueError, match="positive"):
        matlab_bicubic(jnp.zeros((1, 8, 8, 3)), size=(0, 4))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_set5_is_reproduced_bitwise(shared, scale):
    from framer_jax.evaluation.files import image_files, read_pixels

    for path in image_files(shared / "data/eval/Set5/HR").paths:
        expected = read_pixels(shared / f"data/eval/Set5/LR_bicubic/X{scale}/{path.stem}x{scale}.png")
        height, width = expected.shape[:2]
        image = jnp.asarray(read_pixels(path)[None, : height * scale, : width * scale])
        lr = matlab_bicubic(image, scale=1 / scale, eight_bit=True)[0]
        assert np.abs(np.asarray(lr) - expected).max() * 255 < 0.5, path.stem
