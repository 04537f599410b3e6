"""The distance of images by bands: the fixture, the transforms' properties, gradients, bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.frequency.wavelets import haar_reconstruct
from framer_jax.losses.wavelet_kd import (
    GROUPS,
    TRANSFORMS,
    WaveletKdSettings,
    dtkd_total,
    mean_wavelet_kd,
    wavelet_bands,
    wavelet_kd,
    white_noise_ratio,
)
from tests.support.wavelets import reconstruct

compiled = jax.jit(wavelet_kd, static_argnums=2)

SETTINGS = {
    "haar": WaveletKdSettings(),
    "haar one level": WaveletKdSettings(levels=1),
    "haar l2 mean": WaveletKdSettings(norm="l2", band_reduction="mean"),
    "db2": WaveletKdSettings(wavelet="db2"),
    "dual tree": WaveletKdSettings("dual_tree"),
    "fourier": WaveletKdSettings("fourier", levels=3),
    "fourier l2": WaveletKdSettings("fourier", norm="l2"),
    "pixel": WaveletKdSettings("pixel"),
}

every_setting = pytest.mark.parametrize("kd_settings", SETTINGS.values(), ids=SETTINGS)


def draw(seed=0, shape=(3, 16, 24, 2)):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def means_of(bands):
    """Mean size of each band, [bands, B] float64."""
    return np.stack([np.abs(np.asarray(band, np.float64)).mean(axis=(1, 2, 3)) for band in bands])


@pytest.mark.parametrize("name", ["haar_symmetric", "haar_periodization", "db2_symmetric", "db2_periodization"])
def test_groups_are_the_fixtures_bands(fixtures, name):
    """Against zero, the bands of the difference are the image's."""
    case = np.load(fixtures / "dwt_pywt.npz", allow_pickle=False)
    image = case["in/img"].transpose(0, 2, 3, 1)
    wavelet, padding_mode = name.split("_")
    distance = compiled(image, np.zeros_like(image), WaveletKdSettings(wavelet=wavelet, padding_mode=padding_mode))
    details = ("horizontal", "vertical", "diagonal")
    expected = {
        "low": means_of([case[f"out/{name}/level2/LL"]]).sum(axis=0),
        "middle": means_of([case[f"out/{name}/level2/{band}"] for band in details]).sum(axis=0),
        "high": means_of([case[f"out/{name}/level1/{band}"] for band in details]).sum(axis=0),
    }
    assert distance.groups.keys() == expected.keys()
    for group, value in expected.items():
        np.testing.assert_allclose(distance.groups[group], value, rtol=2e-6)
    np.testing.assert_allclose(distance.values, expected["low"] + 2 * expected["middle"] + expected["high"], rtol=2e-6)


@pytest.mark.parametrize(("wavelet", "levels"), [("haar", 4), ("haar", 1), ("sym4", 2), ("bior2.2", 3), ("coif1", 2)])
def test_any_wavelet_equals_pywt(wavelet, levels):
    shape = (1, 48, 50, 1) if wavelet != "haar" else (1, 32, 48, 1)
    student, teacher = draw(1, shape), draw(2, shape)
    low, *details = pywt.wavedec2(student.astype(np.float64) - teacher, wavelet, "symmetric", levels, axes=(1, 2))
    means = [means_of(detail).sum(axis=0) for detail in details]
    distance = compiled(student, teacher, WaveletKdSettings(wavelet=wavelet, levels=levels))
    expected = means_of([low])[0] + 2 * sum(means[:-1]) + means[-1]
    np.testing.assert_allclose(distance.values, expected, rtol=2e-5)


def test_haar_by_slices_is_haar_by_the_library():
    image = draw()
    odd = np.pad(image, ((0, 0), (0, 1), (0, 1), (0, 0)))  # no multiple of 4: goes through the library
    for sample in (image, odd):
        low, *details = pywt.wavedec2(sample, "haar", "symmetric", 2, axes=(1, 2))
        bands = wavelet_bands(jnp.asarray(sample), WaveletKdSettings())
        np.testing.assert_allclose(bands.low, low, atol=2e-6)
        np.testing.assert_allclose(bands.details[1].diagonal, details[1][2], atol=2e-6)


@given(rows=st.integers(1, 3), columns=st.integers(1, 3), levels=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=12)
def test_haar_is_inverted_and_keeps_the_energy(rows, columns, levels, seed):
    image = draw(seed, (2, rows * 2**levels, columns * 2**levels, 1))
    bands = wavelet_bands(jnp.asarray(image), WaveletKdSettings(levels=levels))
    np.testing.assert_allclose(haar_reconstruct(bands), image, atol=2e-6)
    energy = sum(float(np.square(band).sum()) for band in jax.tree.leaves(bands))
    assert energy == pytest.approx(float(np.square(image).sum()), rel=1e-5)


@pytest.mark.parametrize("wavelet", ["db2", "sym4", "coif1"])
def test_orthonormal_wavelets_on_a_periodic_border_do_too(wavelet):
    image = draw(3, (1, 32, 48, 2))
    bands = wavelet_bands(jnp.asarray(image), WaveletKdSettings(wavelet=wavelet, padding_mode="periodization"))
    np.testing.assert_allclose(reconstruct(bands, wavelet, (32, 48), "periodization"), image, atol=1e-5)
    energy = sum(float(np.square(band).sum()) for band in jax.tree.leaves(bands))
    assert energy == pytest.approx(float(np.square(image).sum()), rel=1e-5)


def test_fourier_groups_partition_the_energy():
    """Squared magnitudes: their sum over all coefficients is the image's energy (Parseval)."""
    image = draw(4, (1, 16, 24, 1))
    distance = compiled(image, np.zeros_like(image), WaveletKdSettings("fourier", norm="l2"))
    counts = {
        "low": 5 * 7,
        "middle": 9 * 13 - 5 * 7,
        "high": 16 * 24 - 9 * 13,
    }  # bins up to N / 8, up to N / 4, the rest
    energy = sum(counts[name] * float(value[0]) for name, value in distance.groups.items())
    assert energy == pytest.approx(float(np.square(image).sum()), rel=1e-5)


def test_fourier_rings_hold_the_documented_frequencies():
    columns = np.arange(32)
    for cycles, group in ((0, "low"), (4, "low"), (5, "middle"), (8, "middle"), (9, "high"), (16, "high")):
        wave = np.broadcast_to(np.cos(2 * np.pi * cycles * columns / 32), (1, 32, 32)).astype(np.float32)[..., None]
        groups = compiled(wave, np.zeros_like(wave), WaveletKdSettings("fourier")).groups
        assert max(groups, key=lambda name: float(groups[name][0])) == group


# --- properties of all settings ---------------------------------------------------------------------------------------


@every_setting
def test_one_value_per_example_zero_for_equal_images_and_symmetric(kd_settings):
    student, teacher = draw(1), draw(2)
    distance = compiled(student, teacher, kd_settings)
    assert distance.values.shape == (3,) and distance.values.dtype == jnp.float32
    assert (np.asarray(distance.values) > 0).all()
    np.testing.assert_array_equal(compiled(student, student, kd_settings).values, np.zeros(3))
    np.testing.assert_allclose(compiled(teacher, student, kd_settings).values, distance.values, rtol=1e-6)
    alone = compiled(student[1:2], teacher[1:2], kd_settings).values
    np.testing.assert_allclose(alone, distance.values[1:2], rtol=1e-5)
    half = compiled(jnp.asarray(student, jnp.bfloat16), jnp.asarray(teacher), kd_settings)
    assert half.values.dtype == jnp.float32
    np.testing.assert_allclose(half.values, distance.values, rtol=0.02)


@given(
    name=st.sampled_from(sorted(SETTINGS)),
    factor=st.floats(0.125, 8.0, width=32),
    offset=st.floats(-1.0, 1.0, width=32),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=25)
def test_distances_scale_and_only_the_difference_counts(name, factor, offset, seed):
    kd_settings, student, teacher = SETTINGS[name], draw(seed), draw(seed + 1000)
    value = np.asarray(compiled(student, teacher, kd_settings).values)
    power = 2 if kd_settings.norm == "l2" else 1
    scaled = compiled(np.float32(factor) * student, np.float32(factor) * teacher, kd_settings).values
    np.testing.assert_allclose(scaled, value * np.float32(factor) ** power, rtol=1e-4)
    moved = compiled(student + np.float32(offset), teacher + np.float32(offset), kd_settings).values
    np.testing.assert_allclose(moved, value, rtol=1e-4)
    if power == 1:
        third = draw(seed + 2000)
        around = compiled(student, third, kd_settings).values + compiled(third, teacher, kd_settings).values
        assert (value <= np.asarray(around) * 1.0001).all()


@every_setting
def test_gradients_are_those_of_finite_differences(kd_settings):
    """Along a direction near the gradient, where few of the absolute values cross zero within the step."""
    student, teacher, other = draw(1)[:1], draw(2)[:1], draw(3)[:1] - 0.5
    total = jax.jit(lambda x: wavelet_kd(x, teacher, kd_settings).values.sum())
    gradient = np.asarray(jax.jit(jax.grad(total))(student))
    direction = gradient / np.abs(gradient).max() + 0.3 * other
    step = np.float32(2e-3)
    ahead, behind = (float(total(student + sign * step * direction)) for sign in (1, -1))
    assert (ahead - behind) / (2 * float(step)) == pytest.approx(float(np.vdot(gradient, direction)), rel=5e-3)


@every_setting
def test_no_gradient_reaches_the_teacher_and_none_is_nan(kd_settings):
    student, teacher = draw(1), draw(2)
    loss = jax.jit(jax.grad(lambda *images: wavelet_kd(*images, kd_settings).values.sum(), argnums=(0, 1)))
    of_student, of_teacher = loss(student, teacher)
    assert np.abs(of_student).max() > 0
    np.testing.assert_array_equal(of_teacher, 0.0)
    assert all(np.isfinite(leaf).all() for leaf in loss(student, student))  # a magnitude has no slope at zero


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_weights_choose_the_groups(transform):
    student, teacher = draw(1), draw(2)
    whole = compiled(student, teacher, WaveletKdSettings(transform, weights=(1.0, 2.0, 3.0)))
    total = sum(weight * np.asarray(whole.groups[name]) for weight, name in zip((1, 2, 3), GROUPS, strict=True))
    np.testing.assert_allclose(whole.values, total, rtol=1e-5)
    middle = compiled(student, teacher, WaveletKdSettings(transform, weights=(0.0, 1.0, 0.0)))
    np.testing.assert_allclose(middle.values, whole.groups["middle"], rtol=1e-6)
    mean = compiled(student, teacher, WaveletKdSettings(transform, band_reduction="mean"))
    bands = {"dwt": 3, "dual_tree": 6, "fourier": 1}[transform]
    np.testing.assert_allclose(bands * np.asarray(mean.groups["high"]), whole.groups["high"], rtol=1e-5)
    one = compiled(student, teacher, WaveletKdSettings(transform, levels=1))
    assert one.groups.keys() == {"low", "high"}


def test_several_teacher_outputs_are_averaged():
    student, teachers = draw(1), np.stack([draw(2), draw(3)], axis=1)
    mean = jax.jit(mean_wavelet_kd, static_argnums=2)(student, teachers, WaveletKdSettings())
    single = [compiled(student, teachers[:, k], WaveletKdSettings()) for k in range(2)]
    np.testing.assert_allclose(mean.values, (single[0].values + single[1].values) / 2, rtol=1e-6)
    for group in GROUPS:
        np.testing.assert_allclose(
            mean.groups[group], (single[0].groups[group] + single[1].groups[group]) / 2, rtol=1e-6
        )


def test_the_total_adds_the_weighted_distance():
    pixel, wavelet = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 5.0])
    np.testing.assert_array_equal(dtkd_total(pixel, wavelet, jnp.float32(0.5)), [2.5, 4.5])


def test_pixels_are_the_plain_distance():
    student, teacher = draw(1), draw(2)
    absolute, squared = (
        compiled(student, teacher, WaveletKdSettings("pixel", norm=norm)).values for norm in ("l1", "l2")
    )
    np.testing.assert_allclose(absolute, np.abs(student - teacher).mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(squared, np.square(student - teacher).mean(axis=(1, 2, 3)), rtol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (partial(WaveletKdSettings, wavelet="daub77"), "unknown wavelet 'daub77'"),
        (partial(WaveletKdSettings, wavelet="morl"), "use a discrete one"),
        (partial(WaveletKdSettings, transform="dct"), "dwt, dual_tree, fourier, pixel"),
        (partial(WaveletKdSettings, padding_mode="periodic"), "symmetric, reflect, zero, periodization"),
        (partial(WaveletKdSettings, norm="l3"), "l1, l2"),
        (partial(WaveletKdSettings, band_reduction="max"), "sum, mean"),
        (partial(WaveletKdSettings, levels=5), "levels is 5.*1 to 4"),
        (partial(WaveletKdSettings, levels=0), "levels is 0.*1 to 4"),
        (partial(WaveletKdSettings, weights=(1.0, 2.0)), "a list of 3 numbers"),
        (partial(WaveletKdSettings, weights=(1.0, -2.0, 1.0)), "numbers from 0"),
        (lambda: wavelet_kd(draw(), draw()[:, :8], WaveletKdSettings()), r"\(3, 16, 24, 2\) and \(3, 8, 24, 2\)"),
        (lambda: wavelet_kd(draw()[0], draw()[0], WaveletKdSettings()), r"\[B, H, W, C\]"),
        (lambda: wavelet_kd(*[np.zeros((1, 8, 8, 3), np.uint8)] * 2, WaveletKdSettings()), "uint8"),
        (lambda: wavelet_kd(*[draw()[:, :8]] * 2, WaveletKdSettings(levels=4)), "levels is 4: .* allow 3 of haar"),
        (lambda: wavelet_kd(*[draw()] * 2, WaveletKdSettings(wavelet="db4")), "levels is 2: .* allow 1 of db4"),
        (partial(WaveletKdSettings, weights=(0.0, 0.0, 0.0)), "weights is 0 for all groups"),
        (partial(WaveletKdSettings, levels=1, weights=(0.0, 2.0, 0.0)), r"weights is .*levels=1 there is no middle"),
        (lambda: wavelet_kd(*[draw()[:, :6]] * 2, WaveletKdSettings("dual_tree")), "^levels is 2: .* multiples of 4"),
        (lambda: wavelet_kd(*[draw()[:, :6]] * 2, WaveletKdSettings("fourier", levels=3)), "levels is 3: .* allow 2"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_middle_group_alone_is_a_distance_where_there_is_one():
    for knobs in ({"levels": 2}, {"levels": 1, "transform": "pixel"}):
        WaveletKdSettings(**knobs, weights=(0.0, 2.0, 0.0))
    for weights in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)):
        assert np.all(compiled(draw(1), draw(2), WaveletKdSettings(levels=1, weights=weights)).values > 0)


@pytest.mark.parametrize(
    ("knobs", "ratio"),
    [
        ({}, 10.0),  # 1 + 2 * 3 + 3 orthonormal bands
        pytest.param({"levels": 4}, 22.0, marks=pytest.mark.slow),
        pytest.param({"levels": 1, "weights": (1.0, 1.0, 1.0)}, 4.0, marks=pytest.mark.slow),
        pytest.param({"norm": "l2", "wavelet": "db2"}, 10.0, marks=pytest.mark.slow),
        pytest.param({"band_reduction": "mean"}, 4.0, marks=pytest.mark.slow),
        ({"transform": "fourier"}, 4 * np.pi / 2**1.5),  # mean magnitudes of complex and of real normal numbers
        ({"transform": "pixel"}, 1.0),
    ],
)
def test_white_noise_has_pixel_distance_one_if_normalised(knobs, ratio):
    kd_settings = WaveletKdSettings(**knobs, normalise_to_pixel=True)
    np.testing.assert_allclose(white_noise_ratio(kd_settings), ratio, rtol=5e-3)
    noise = jax.random.normal(jax.random.key(0), (2, 32, 32, 3), jnp.float32)
    plain = wavelet_kd(noise, jnp.zeros_like(noise), WaveletKdSettings(**knobs))
    normalised = jax.jit(lambda noise: wavelet_kd(noise, jnp.zeros_like(noise), kd_settings))(noise)
    np.testing.assert_allclose(normalised.values * white_noise_ratio(kd_settings), plain.values, rtol=1e-5)
    for name, values in plain.groups.items():  # logged as they are
        np.testing.assert_allclose(normalised.groups[name], values, rtol=1e-5)
