"""Draws of degradation parameters: the presets' numbers and their sources, distributions, keys."""

from dataclasses import replace
from math import pi

import jax
import numpy as np
import pytest
from scipy import stats

from framer_jax.degradations import presets
from framer_jax.degradations.draw import draw, draw_kernel, stack
from framer_jax.degradations.presets import PRESETS, odd_sizes
from framer_jax.degradations.resize import MODES
from tests.support.degradation_images import within

TWO_STAGES = sorted(name for name, preset in PRESETS.items() if preset.first is not None)


def test_drawing_is_keyed():
    preset = presets.FRAMER_PAPER
    drawn, again, other = (draw(np.random.default_rng(seed), preset) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    assert (drawn.first.noise_seed != other.first.noise_seed).any()
    types = {name: (np.shape(value), np.asarray(value).dtype.name) for name, value in drawn.first._asdict().items()}
    assert types == {
        "blurs": ((), "bool"),
        "kernel": ((21, 21), "float32"),
        "scale": ((), "float32"),
        "resize_mode": ((), "int32"),
        "noise_kind": ((), "int32"),
        "noise_level": ((), "float32"),
        "noise_gray": ((), "bool"),
        "noise_seed": ((2,), "uint32"),
        "jpeg_quality": ((), "float32"),
    }
    assert jax.tree.map(np.shape, drawn.second) == jax.tree.map(np.shape, drawn.first)
    assert (drawn.low_pass.shape, drawn.low_pass.dtype) == ((21, 21), np.float32)
    assert {np.asarray(flag).dtype.name for flag in (drawn.has_second, drawn.low_pass_first, drawn.low_passes)} == {
        "bool"
    }


def uniform(values, low, high):
    return stats.kstest((np.asarray(values, np.float64) - low) / (high - low), "uniform").pvalue > 1e-4


def isotropic(kernels):
    return np.isclose(kernels, np.rot90(kernels, axes=(1, 2)), atol=1e-7).all(axis=(1, 2))


def support(kernels):
    """Half the side of the smallest centered square that holds a kernel."""
    reach = np.maximum(*np.abs(np.mgrid[-10:11, -10:11]))
    return np.max((kernels != 0) * reach, axis=(1, 2))


def check_blur(stage, preset, count):
    """Check the kernels of one stage."""
    assert within(stage.blurs.sum(), count, preset.blur.probability)
    drawn = stage.kernel[stage.blurs]
    np.testing.assert_allclose(drawn.sum(axis=(1, 2)), 1, atol=1e-5)
    # A circular low-pass has negative values (except perhaps for 3 x 3 and 5 x 5); every other kernel is positive.
    low_pass = (drawn < -1e-7).any(axis=(1, 2))
    if min(preset.blur.sizes) >= 7:
        assert within(low_pass.sum(), len(drawn), preset.blur.low_pass)
        mixture = drawn[~low_pass]
    else:
        mixture = drawn[~low_pass & (support(drawn) >= 2)]
    probability = sum(probability for kind, probability in preset.blur.kinds if kind.startswith("isotropic"))
    assert within(isotropic(mixture).sum(), len(mixture), probability)
    supports = support(drawn)
    assert set(np.unique(supports[low_pass])) <= {size // 2 for size in preset.blur.sizes}
    assert supports.max() == max(preset.blur.sizes) // 2


def check_stage(stage, preset, count):
    """Check the probabilities and ranges of the draws of one stage."""
    if preset.blur is None:
        assert not stage.blurs.any()
    else:
        check_blur(stage, preset, count)

    low, high = preset.resize.range
    up, down = stage.scale > 1, stage.scale < 1
    assert within(up.sum(), count, preset.resize.up)
    assert within(down.sum(), count, preset.resize.down)
    assert within((stage.scale == 1).sum(), count, preset.resize.keep)
    assert uniform(stage.scale[up], 1, high)
    assert uniform(stage.scale[down], low, 1)
    for mode in range(len(MODES)):
        assert within((stage.resize_mode == mode).sum(), count, 1 / 3)

    gaussian = stage.noise_kind == 1
    poisson = stage.noise_kind == 2
    noisy = gaussian | poisson
    assert within(noisy.sum(), count, preset.noise.probability)
    assert within(gaussian.sum(), noisy.sum(), preset.noise.gaussian)
    assert uniform(stage.noise_level[gaussian] * 255, *preset.noise.sigma)
    assert uniform(stage.noise_level[poisson], *preset.noise.poisson_scale)
    assert within(stage.noise_gray[noisy].sum(), noisy.sum(), preset.noise.gray)
    assert not stage.noise_level[~noisy].any() and not stage.noise_gray[~noisy].any()
    for word in stage.noise_seed.T:
        assert uniform(word, 0, 2**32)
    assert uniform(stage.jpeg_quality, *preset.jpeg_quality)


@pytest.mark.parametrize("name", TWO_STAGES)
def test_ten_thousand_draws_follow_the_preset(name):
    count, preset = 10_000, PRESETS[name]
    rng = np.random.default_rng(7)
    drawn = stack([draw(rng, preset) for _ in range(count)])
    check_stage(drawn.first, preset.first, count)
    check_stage(drawn.second, preset.second, count)
    assert within(drawn.has_second.sum(), count, preset.second_probability)
    assert within(drawn.low_pass_first.sum(), count, 0.5)
    assert within(drawn.low_passes.sum(), count, preset.low_pass.probability)
    assert support(drawn.low_pass[drawn.low_passes]).max() == max(preset.low_pass.sizes) // 2
    assert not support(drawn.low_pass[~drawn.low_passes]).any()
    for mode in range(3):
        assert within((drawn.last_resize_mode == mode).sum(), count, 1 / 3)
    # The stages are independent of each other.
    assert abs(np.corrcoef(drawn.first.noise_level, drawn.second.noise_level)[0, 1]) < 0.05


def test_ten_thousand_draws_of_one_stage():
    count, preset = 10_000, presets.LIGHT_ONE_STAGE
    rng = np.random.default_rng(5)
    drawn = stack([draw(rng, preset) for _ in range(count)])
    stage = drawn.second
    assert drawn.has_second.all()
    assert (stage.scale == 1).all()
    assert not drawn.low_passes.any()
    assert not drawn.first.blurs.any()
    assert within(isotropic(stage.kernel).sum(), count, 9 / 14)
    gaussian = stage.noise_kind == 1
    assert uniform(stage.noise_level[gaussian] * 255, 1, 10)
    assert uniform(stage.noise_level[~gaussian], 0.05, 1)
    assert uniform(stage.jpeg_quality, 60, 95)


def test_every_kind_of_the_mixture_is_drawn():
    """Kernels of each kind, with parameters over their whole range."""
    rng = np.random.default_rng(0)
    for kind, _ in presets.KERNEL_KINDS:
        preset = replace(presets.BlurPreset(), kinds=((kind, 1.0),), low_pass=0.0, sizes=(21,))
        drawn = np.stack([draw_kernel(rng, preset) for _ in range(500)])
        assert isotropic(drawn).all() == kind.startswith("isotropic")
        peaks = drawn[:, 10, 10]
        assert peaks.max() > 0.5  # sigma near 0.2
        assert peaks.min() < 0.03  # sigma near 3
    flat_top = replace(presets.BlurPreset(), kinds=(("isotropic_plateau", 1.0),), low_pass=0.0)
    betas = [beta_of_plateau(draw_kernel(rng, flat_top)) for _ in range(300)]
    # Half of the plateau kernels have beta exactly 1: U(1, 1).
    assert within(sum(abs(beta - 1) < 1e-3 for beta in betas), 300, 0.5)


def beta_of_plateau(kernel):
    """β of 1 / (1 + (r / sigma)^(2 β)), from three of its values."""
    center = kernel[10, 10].astype(np.float64)
    a, b = center / kernel[10, 11] - 1, center / kernel[10, 12] - 1
    return np.log(b / a) / np.log(4.0)


def numbers(blur, resize, noise, jpeg):
    return (blur.sizes, blur.sigma, blur.low_pass, blur.probability), resize, noise, jpeg


def stage(preset):
    resize, noise = preset.resize, preset.noise
    share = () if noise.probability == 1 else (noise.probability,)
    return numbers(
        preset.blur or replace(presets.BlurPreset(), probability=0.0),
        ((resize.up, resize.down, resize.keep), resize.range),
        (noise.gaussian, noise.sigma, noise.poisson_scale, noise.gray, *share),
        preset.jpeg_quality,
    )


UP, SECOND_UP = (0.2, 0.7, 0.1), (0.3, 0.4, 0.3)
HEAVY = ((0.5, (1, 30), (0.05, 3), 0.4), (0.5, (1, 25), (0.05, 2.5), 0.4))

TABLE = {
    # (first stage, second stage, (its probability, sinc sizes and probability, sharpened target))
    "real_esrgan": (
        ((odd_sizes(7, 21), (0.2, 3), 0.1, 1), (UP, (0.15, 1.5)), HEAVY[0], (30, 95)),
        ((odd_sizes(7, 21), (0.2, 1.5), 0.1, 0.8), (SECOND_UP, (0.3, 1.2)), HEAVY[1], (30, 95)),
        (1, odd_sizes(7, 21), 0.8, True),
    ),
    "resshift": (
        ((odd_sizes(3, 19), (0.2, 3), 0.1, 1), (UP, (0.15, 1.5)), HEAVY[0], (30, 95)),
        ((odd_sizes(3, 13), (0.2, 1.5), 0.1, 0.8), (SECOND_UP, (0.3, 1.2)), HEAVY[1], (30, 95)),
        (0.5, odd_sizes(3, 13), 0.8, False),
    ),
    "resshift_testing": (
        ((odd_sizes(3, 11), (0.2, 0.8), 0.1, 1), (UP, (0.5, 1.5)), (0.5, (1, 15), (0.05, 0.3), 0.4), (70, 95)),
        ((odd_sizes(3, 5), (0.2, 0.5), 0, 0.2), (SECOND_UP, (0.8, 1.2)), (0.5, (1, 10), (0.05, 0.2), 0.4), (80, 100)),
        (0, odd_sizes(3, 5), 0.2, False),
    ),
    "framer_paper": (
        ((odd_sizes(7, 21), (0.2, 3), 0.1, 1), (UP, (0.15, 1.5)), HEAVY[0], (30, 95)),
        ((odd_sizes(7, 11), (0.2, 1.5), 0.1, 0.8), (SECOND_UP, (0.3, 1.2)), HEAVY[1], (30, 95)),
        (1, odd_sizes(7, 21), 0.8, False),
    ),
    "framer_released": (
        ((odd_sizes(7, 21), (0.2, 3), 0.1, 1), (UP, (0.3, 1.5)), (0.5, (1, 15), (0.05, 2), 0.4), (60, 95)),
        ((odd_sizes(7, 21), (0.2, 1.5), 0.1, 0.5), (SECOND_UP, (0.6, 1.2)), (0.5, (1, 12), (0.05, 1), 0.4), (60, 100)),
        (1, odd_sizes(7, 21), 0.8, False),
    ),
    "camera": (
        ((odd_sizes(7, 21), (0.6, 2.8), 0.1, 1), (UP, (0.5, 1.2)), (0.5, (1, 8), (0.05, 1), 0.4, 0.5), (75, 95)),
        (
            (odd_sizes(7, 21), (0.2, 1.5), 0.1, 0.5),
            (SECOND_UP, (0.6, 1.2)),
            (0.5, (1, 6), (0.05, 0.5), 0.4, 0.5),
            (60, 100),
        ),
        (1, odd_sizes(7, 21), 0.8, False),
    ),
    "lens": (
        (
            (odd_sizes(7, 21), (1, 2.2), 0.05, 1),
            ((0.1, 0.2, 0.7), (0.7, 1.2)),
            (0.5, (1, 5), (0.05, 0.5), 0.4, 0.5),
            (80, 98),
        ),
        (
            (odd_sizes(7, 21), (0.2, 3), 0.1, 0),  # never
            ((0.1, 0.15, 0.75), (0.8, 1.2)),
            (0.5, (1, 3), (0.05, 0.2), 0.4, 0.2),
            (75, 100),
        ),
        (1, odd_sizes(7, 21), 0.2, False),
    ),
}


@pytest.mark.parametrize("name", TWO_STAGES)
def test_presets_have_the_numbers_of_their_sources(name):
    preset = PRESETS[name]
    first, second, (second_probability, sizes, low_pass, sharpen) = TABLE[name]
    assert stage(preset.first) == first
    assert stage(preset.second) == second
    assert preset.second_probability == second_probability
    assert (preset.low_pass.sizes, preset.low_pass.probability) == (sizes, low_pass)
    assert preset.low_pass.cutoff == (pi / 3, pi)
    assert preset.low_pass_first == 0.5
    assert preset.sharpen_target == sharpen
    assert preset.scale == 4
    for stage_preset in (preset.first, preset.second):
        assert stage_preset.resize.modes == MODES
        if stage_preset.blur is None:
            continue
        assert stage_preset.blur.low_pass_cutoff_small == (pi / 3, pi)
        assert stage_preset.blur.low_pass_cutoff_large == (pi / 5, pi)
        if name in ("resshift_testing", "lens"):
            assert [probability for _, probability in stage_preset.blur.kinds] == [0.6, 0.4]
        else:
            assert [probability for _, probability in stage_preset.blur.kinds] == [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
            assert (stage_preset.blur.generalized_beta, stage_preset.blur.plateau_beta) == ((0.5, 4), (1, 2))


def test_other_presets_and_the_table_of_presets():
    light = presets.LIGHT_ONE_STAGE.second
    assert light.blur.sizes == odd_sizes(7, 21)
    assert light.blur.sigma == (0.2, 2.0)
    assert sum(probability for _, probability in light.blur.kinds) == pytest.approx(1)
    assert light.noise == presets.NoisePreset(gaussian=0.5, sigma=(1, 10), poisson_scale=(0.05, 1), gray=0.4)
    assert light.jpeg_quality == (60, 95)
    assert set(PRESETS) == {*TABLE, "bicubic", "light_one_stage"}
    assert all(preset.name == name and preset.source for name, preset in PRESETS.items())
