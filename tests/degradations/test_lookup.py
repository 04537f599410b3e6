"""Presets by name, and mixtures of them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from framer_jax.degradations.draw import draw, stack
from framer_jax.degradations.lookup import MIXTURE_EXAMPLE, preset_by_name, with_second_kernel_sizes
from framer_jax.degradations.pipeline import apply
from framer_jax.degradations.presets import BICUBIC, CAMERA, FRAMER_RELEASED, LENS, REAL_ESRGAN, RESSHIFT
from tests.support.degradation_images import photo_like, within

MIXED = "camera:3,resshift:1"


def test_a_name_is_a_preset_with_its_scale_and_geometry():
    assert preset_by_name("bicubic") == BICUBIC
    assert preset_by_name("resshift", scale=2) == replace(RESSHIFT, scale=2)
    assert preset_by_name("camera", geometry="aligned") == replace(CAMERA, geometry="aligned")
    assert preset_by_name("real_esrgan", sharpen_target=False) == replace(REAL_ESRGAN, sharpen_target=False)


def test_a_mixture_has_the_bounds_of_all_its_presets():
    preset = preset_by_name("real_esrgan:0.3,resshift:0.5,camera:0.2", 2, "aligned", sharpen_target=False)
    assert [(part.name, share) for part, share in preset.parts] == [
        ("real_esrgan", 0.3),
        ("resshift", 0.5),
        ("camera", 0.2),
    ]
    assert (preset.name, preset.scale, preset.geometry) == ("real_esrgan:0.3,resshift:0.5,camera:0.2", 2, "aligned")
    assert preset == preset_by_name("real_esrgan:3,resshift:5e0,camera:2.0", 2, "aligned", sharpen_target=False)
    assert preset == preset_by_name(preset.name, 2, "aligned", sharpen_target=False)
    assert not preset.sharpen_target
    assert preset.first.resize.range == (0.15, 1.5)
    assert preset.first.blur.sizes == tuple(range(3, 23, 2))
    assert preset.first.blur.probability == 1.0
    assert 0 < preset.second.blur.probability < 1  # 0.8, 0.8 and 0.5: both branches
    assert 0 < preset.second_probability < 1  # 1, 0.5 and 1
    assert preset.low_pass.sizes == tuple(range(3, 23, 2))


def test_a_preset_may_omit_steps_that_others_of_the_mixture_have():
    assert LENS.second.blur is None
    preset = preset_by_name("lens:1,framer_released:1")
    assert preset.second.blur.sizes == FRAMER_RELEASED.second.blur.sizes
    assert 0 < preset.second.blur.probability < 1


def test_every_record_is_drawn_from_one_preset_of_the_mixture():
    mixed, count, from_first = preset_by_name(MIXED), 2000, 0
    for seed in range(count):
        drawn, rng = draw(np.random.default_rng(seed), mixed), np.random.default_rng(seed)
        is_first = rng.uniform() < 0.75
        jax.tree.map(np.testing.assert_array_equal, drawn, draw(rng, CAMERA if is_first else RESSHIFT))
        from_first += is_first
    assert within(from_first, count, 0.75)


@pytest.mark.parametrize("others", [RESSHIFT, LENS], ids=lambda preset: preset.name)
def test_a_record_of_a_mixture_is_degraded_as_by_its_own_preset(others):
    """Up to the rounding of another program, which may change a JPEG coefficient."""
    mixed, count = preset_by_name(f"camera:1,{others.name}:1"), 6
    hr = photo_like(0, 48, 64, count)
    drawn = [draw(np.random.default_rng(seed), mixed) for seed in range(count)]
    is_first = np.array([np.random.default_rng(seed).uniform() < 0.5 for seed in range(count)])
    assert 0 < is_first.sum() < count
    lr = np.asarray(jax.jit(lambda *inputs: apply(*inputs, mixed))(stack(drawn), hr))
    for preset, of_preset in ((CAMERA, is_first), (others, ~is_first)):
        numbers = np.flatnonzero(of_preset)
        program = jax.jit(lambda *inputs, preset=preset: apply(*inputs, preset))
        alone = np.asarray(program(stack([drawn[i] for i in numbers]), hr[numbers]))
        assert np.abs(alone - lr[numbers]).mean() < 0.1 / 255
        assert (np.abs(alone - lr[numbers]).max(axis=(1, 2, 3)) > 1.01 / 255).sum() <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heavy", r"unknown degradation preset 'heavy': choose one of bicubic, camera, .* or a mixture such as"),
        ("camera:0.5,heavy:0.5", "unknown degradation preset 'heavy'"),
        ("camera:0.5, resshift:0.5", "unknown degradation preset ' resshift'"),
        ("camera:0.5,resshift", r"has 'resshift', which is not NAME:SHARE with a finite share above 0: write it as"),
        ("camera:0.5,", "has '', which is not NAME:SHARE"),
        ("camera:0,resshift:1", "has 'camera:0'"),
        ("camera:nan,resshift:1", "has 'camera:nan'"),
        ("camera:inf,resshift:1", "has 'camera:inf'"),
        ("camera:1e999,resshift:1", "has 'camera:1e999'"),
        ("camera:1_0,resshift:1", "has 'camera:1_0'"),
        ("camera:1e308,resshift:1e308", "has a share below 1e-06 of their sum"),
        ("camera:1e-9,resshift:1", "has a share below 1e-06 of their sum"),
        ("camera:1,camera:2", "names 'camera' twice: give it one share"),
        ("camera:1", "has one preset only: leave out its share"),
        ("camera:1,bicubic:1", r"bicubic cannot be part of a mixture, .* JPEG: choose from camera, framer_paper"),
        ("light_one_stage:1,camera:1", "light_one_stage cannot be part of a mixture"),
        (
            "camera:1,real_esrgan:1",
            r"real_esrgan sharpens the HR images, .* leave it out, or set sharpen_target for all of them",
        ),
    ],
)
def test_bad_names_and_mixtures_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        preset_by_name(name)


@pytest.mark.parametrize("number", range(5))
def test_messages_are_short_and_one_line(number):
    name = (5000 * "x", "\n\0:1", f"camera:{5000 * '9'}", 900 * "camera:1,", "camera:1,\nresshift:1")[number]
    with pytest.raises(ValueError, match="mixture") as caught:
        preset_by_name(name)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_scales_and_geometries_are_checked():
    with pytest.raises(ValueError, match="choose one of 2, 3, 4, 8"):
        preset_by_name("resshift", scale=5)
    with pytest.raises(ValueError, match="choose one of released, aligned"):
        preset_by_name("resshift", geometry="straight")


def test_the_second_kernel_sizes_of_a_mixture_or_without_a_second_blur_are_refused():
    with pytest.raises(ValueError, match="is a mixture of presets"):
        with_second_kernel_sizes(preset_by_name(MIXTURE_EXAMPLE), 7, 21)
    with pytest.raises(ValueError, match="lens has no second blur: use a preset whose second stage blurs"):
        with_second_kernel_sizes(LENS, 7, 21)
