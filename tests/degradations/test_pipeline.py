"""The whole degradation: keyed per record, independent of batch, execution, canvas and device."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.degradations import kernels, presets
from framer_jax.degradations.blur import blur
from framer_jax.degradations.draw import draw, stack
from framer_jax.degradations.jpeg import jpeg
from framer_jax.degradations.matlab_bicubic import downsample_eight_bit, matlab_bicubic
from framer_jax.degradations.pipeline import apply
from framer_jax.degradations.presets import PRESETS
from framer_jax.degradations.resize import MODES, resize
from tests.support.degradation_images import assert_blocks_close, embedded, photo_like, planes_like, reference_weights

LIGHT, PAPER, RESSHIFT = presets.LIGHT_ONE_STAGE, presets.FRAMER_PAPER, presets.RESSHIFT

BATCH, HEIGHT, WIDTH = 8, 32, 48
"""Shapes of most tests: a degradation takes long to compile, and equal shapes share one program."""


@cache
def degrade(preset, execution=None):
    return jax.jit(lambda parameters, hr, key=None, size=None: apply(parameters, hr, preset, key, size, execution))


def records(number, preset, seed=0):
    return stack([draw(np.random.default_rng([seed, i]), preset) for i in range(number)])


def select(parameters, indices):
    return jax.tree.map(lambda leaf: leaf[indices], parameters)


@pytest.mark.parametrize("preset", [LIGHT, RESSHIFT], ids=lambda preset: preset.name)
def test_a_record_gives_the_same_image_at_any_position_of_any_batch(preset):
    hr, parameters = photo_like(0, HEIGHT, WIDTH, BATCH), records(BATCH, preset)
    batch = np.asarray(degrade(preset)(parameters, hr))
    assert batch.shape == (BATCH, HEIGHT // 4, WIDTH // 4, 3)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, np.round(batch * 255) / 255, rtol=0, atol=1e-7)
    assert batch.min() >= 0
    assert batch.max() <= 1
    assert len({image.tobytes() for image in batch}) == BATCH
    reversed_batch = np.asarray(degrade(preset)(select(parameters, slice(None, None, -1)), hr[::-1]))[::-1]
    np.testing.assert_array_equal(reversed_batch, batch)
    if preset is LIGHT:  # another program
        alone = degrade(preset)(select(parameters, slice(3, 4)), hr[3:4])
        np.testing.assert_array_equal(alone[0], batch[3])


@pytest.mark.parametrize("name", [pytest.param("framer_paper", marks=pytest.mark.slow), "resshift"])
def test_sequential_and_batched_execution_agree(name):
    """One image after another on fitting canvases (CPU), and all images at once on one canvas (accelerators)."""
    preset = PRESETS[name]
    sequential, batched = [], []
    for seed in range(3):
        hr, parameters = photo_like(seed, HEIGHT, WIDTH, BATCH), records(BATCH, preset, seed)
        sequential += list(np.asarray(degrade(preset)(parameters, hr)))  # the default on a CPU
        batched += list(np.asarray(degrade(preset, "batched")(parameters, hr)))
    sequential, batched = np.stack(sequential), np.stack(batched)
    # The blocks of the first JPEG lie on another grid than those of the LR image: count images instead.
    different = np.abs(sequential - batched).max(axis=(1, 2, 3)) > 1.01 / 255
    assert different.sum() <= 2
    assert np.abs(sequential - batched).mean() < 0.1 / 255


def test_degradation_on_several_devices_needs_no_communication():
    hr, parameters = photo_like(0, HEIGHT, WIDTH, BATCH), records(BATCH, PAPER)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    run = jax.shard_map(lambda *inputs: apply(*inputs, PAPER), mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    sharded = jax.jit(run)
    np.testing.assert_array_equal(sharded(parameters, hr), degrade(PAPER)(parameters, hr))
    assert "all-gather" not in sharded.lower(parameters, hr).compile().as_text()


@pytest.mark.parametrize(
    "name", [pytest.param("framer_paper", marks=pytest.mark.slow), "resshift", "light_one_stage", "bicubic"]
)
def test_pixels_outside_the_valid_size_are_not_read(name):
    preset = PRESETS[name]
    parameters = records(BATCH, preset)
    sizes = np.int32([(24, 48), (32, 24), (20, 20), (32, 48), (12, 28), (4, 4), (4, 48), (28, 44)])
    small = [planes_like(i, *size) for i, size in enumerate(sizes)]

    def canvases(fill):
        return np.stack([embedded(planes, HEIGHT, WIDTH, fill).transpose(1, 2, 0) for planes in small])

    clean, poisoned = (np.asarray(degrade(preset)(parameters, canvases(fill), None, sizes)) for fill in (0.5, -1e20))
    np.testing.assert_array_equal(poisoned, clean)
    for lr, (height, width) in zip(clean, sizes // 4, strict=True):
        assert lr[:height, :width].std() > 0 or height * width == 1
        assert not lr[height:].any()
        assert not lr[:, width:].any()


def test_the_canvas_does_not_change_the_image():
    """Up to rounding, which may change a JPEG coefficient."""
    parameters, planes = records(BATCH, PAPER, seed=3), planes_like(4, HEIGHT, WIDTH)
    hr = np.broadcast_to(planes.transpose(1, 2, 0), (BATCH, HEIGHT, WIDTH, 3))
    sizes = np.tile(np.int32([HEIGHT, WIDTH]), (BATCH, 1))
    exact, valid = (np.asarray(degrade(PAPER)(parameters, hr, None, size)) for size in (None, sizes))
    assert (np.abs(exact - valid).max(axis=(1, 2, 3)) > 1.01 / 255).sum() <= 1


def test_a_key_changes_the_noise_and_nothing_else():
    hr, parameters = photo_like(0, 32, 32, 2), records(2, LIGHT)
    second = parameters.second._replace(noise_kind=np.int32([1, 0]))
    parameters = parameters._replace(second=second)
    first, other, again = (np.asarray(degrade(LIGHT)(parameters, hr, key)) for key in (None, jax.random.key(1), None))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).any()
    np.testing.assert_array_equal(first[1], other[1])


def without_jpeg(preset):
    return replace(preset, second=replace(preset.second, jpeg_quality=None))


def test_gray_noise_is_gray():
    hr = np.full((2, 32, 32, 3), 0.5, np.float32)
    parameters = records(2, LIGHT)
    second = parameters.second._replace(noise_kind=np.int32([1, 2]), noise_gray=np.ones(2, bool))
    lr = np.asarray(degrade(without_jpeg(LIGHT))(parameters._replace(second=second), hr))
    np.testing.assert_array_equal(lr, lr[..., :1].repeat(3, axis=-1))
    assert (lr.std(axis=(1, 2)) > 0).all()


# The order of the steps, compared with explicit compositions


def neutral_parameters(preset, **changes):
    """No blur, no noise, scale 1, JPEG at quality 100; changes of a stage are named stage__field."""
    parameters = draw(np.random.default_rng(0), preset)
    neutral = {"blurs": np.bool_(False), "kernel": kernels.delta(), "noise_kind": np.int32(0), "scale": np.float32(1)}
    neutral |= {"resize_mode": np.int32(2), "jpeg_quality": np.float32(100)}
    parameters = parameters._replace(
        first=parameters.first._replace(**neutral),
        second=parameters.second._replace(**neutral),
        has_second=np.bool_(True),
        low_passes=np.bool_(False),
        low_pass=kernels.delta(),
        low_pass_first=np.bool_(False),
        last_resize_mode=np.int32(0),
    )
    for name, value in changes.items():
        stage, _, field = name.rpartition("__")
        value = np.asarray(value, np.asarray(getattr(getattr(parameters, stage) if stage else parameters, field)).dtype)
        inner = getattr(parameters, stage)._replace(**{field: value}) if stage else value
        parameters = parameters._replace(**{stage or field: inner})
    return parameters


def degraded(preset, parameters, planes):
    """One image, as planes."""
    batch = np.broadcast_to(planes.transpose(1, 2, 0), (BATCH, *planes.shape[1:], 3))
    return np.moveaxis(np.asarray(degrade(preset)(stack([parameters] * BATCH), batch))[0], 2, 0)


def composition(planes, *steps):
    for step in steps:
        planes = step(planes)
    return np.round(np.clip(np.asarray(planes), 0, 1) * 255) / 255


def resized(height, width, mode, step=None):
    def run(planes):
        old = planes.shape[1:]
        return resize(planes, jnp.int32(mode), (height, width), old, (height, width), step, min(1, height / old[0]))

    return jax.jit(run)


def compressed(quality):
    return lambda planes: jax.jit(jpeg)(jnp.clip(planes, 0, 1), jnp.float32(quality))


def filtered(kernel):
    return lambda planes: jax.jit(blur)(planes, kernel)


SOFT = kernels.on_canvas(kernels.gaussian(9, (1.4, 0.8), 0.3))
RINGING = kernels.on_canvas(kernels.circular_low_pass(13, 1.3))


@pytest.mark.parametrize("low_pass_first", [False, True])
def test_the_order_with_a_second_stage(low_pass_first):
    planes = planes_like(6, HEIGHT, WIDTH)
    parameters = neutral_parameters(
        RESSHIFT,
        first__blurs=True,
        first__kernel=SOFT,
        first__scale=1.25,
        first__resize_mode=1,
        first__jpeg_quality=45,
        second__blurs=True,
        second__kernel=SOFT,
        second__scale=0.8,
        second__jpeg_quality=60,
        low_passes=True,
        low_pass=RINGING,
        low_pass_first=low_pass_first,
    )
    ours = degraded(RESSHIFT, parameters, planes)
    last = [compressed(60), resized(8, 12, 0), filtered(RINGING)]
    if low_pass_first:
        last = [*last[1:], last[0]]
    expected = composition(
        planes,
        filtered(SOFT),
        resized(40, 60, 1, jnp.float32(1 / 1.25)),
        compressed(45),
        filtered(SOFT),
        resized(6, 9, 2),
        *last,
    )
    assert_blocks_close(ours, expected, 1.01 / 255, allowed=1)


@pytest.mark.parametrize("low_pass_first", [False, True])
def test_the_order_without_a_second_stage(low_pass_first):
    planes = planes_like(7, HEIGHT, WIDTH)
    parameters = neutral_parameters(
        RESSHIFT,
        first__blurs=True,
        first__scale=0.7,
        first__jpeg_quality=50,
        second__blurs=True,
        second__kernel=SOFT,
        second__scale=0.5,
        second__jpeg_quality=35,
        has_second=False,
        low_passes=True,
        low_pass=RINGING,
        low_pass_first=low_pass_first,
    )
    ours = degraded(RESSHIFT, parameters, planes)
    last = [compressed(35), resized(8, 12, 0), filtered(RINGING)]
    if low_pass_first:
        last = [*last[1:], last[0]]
    expected = composition(planes, resized(22, 33, 2, jnp.float32(1 / 0.7)), compressed(50), *last)
    assert_blocks_close(ours, expected, 1.01 / 255, allowed=1)


def test_every_canvas_gives_the_same_result():
    """Scales on both sides of each canvas's bound, with the resizings alone."""
    preset = replace(
        PAPER,
        first=replace(PAPER.first, blur=None, noise=None, jpeg_quality=None),
        second=replace(PAPER.second, blur=None, noise=None, jpeg_quality=None),
        low_pass=None,
    )
    scales = np.float32([0.15, 0.24, 0.26, 0.37, 0.38, 0.5, 0.51, 0.75, 0.76, 1.0, 1.01, 1.25, 1.26, 1.5])
    modes = [(scale, mode) for scale in scales for mode in range(3)]
    parameters = stack(
        [neutral_parameters(preset, first__scale=scale, first__resize_mode=mode) for scale, mode in modes]
    )
    planes = planes_like(8, 64, 80).astype(np.float64)
    hr = np.broadcast_to(planes.astype(np.float32).transpose(1, 2, 0), (len(modes), 64, 80, 3))
    for ours, (scale, mode) in zip(np.asarray(degrade(preset)(parameters, hr)), modes, strict=True):
        expected = planes
        for kind, size, step in (
            (MODES[mode], [int(np.float32(side) * scale) for side in (64, 80)], np.float32(1) / scale),
            ("bicubic", (16, 20), None),
        ):
            rows, columns = (
                reference_weights(kind, old, new, old / new if step is None else step)
                for old, new in zip(expected.shape[1:], size, strict=True)
            )
            expected = np.clip(rows @ expected @ columns.T, 0, 1)
        np.testing.assert_allclose(np.moveaxis(ours, 2, 0), expected, atol=0.51 / 255, err_msg=f"{scale} {mode}")


# MATLAB's downsampling


@pytest.mark.parametrize("geometry", presets.GEOMETRIES)
def test_where_the_lr_pixels_of_a_ramp_lie(geometry):
    """A ramp shows positions: aligned LR pixels have the value of their HR pixels' center; released ones are stretched
    by scale · side / floor(scale · side), as BasicSR's are, which takes the first result for the whole image."""
    side, scale = 64, 0.39  # 24.96 pixels, of which 24 are computed: they cover 61.5 of 64
    keep = presets.ResizePreset(up=0.0, down=0.0, keep=1.0, range=(1.0, 1.0), modes=("bilinear",))
    bare = presets.StagePreset(blur=None, resize=replace(keep, range=(0.3, 1.5)), noise=None, jpeg_quality=None)
    preset = replace(
        PAPER, first=bare, second=replace(bare, resize=keep), low_pass=None, low_pass_first=0.0, geometry=geometry
    )
    parameters = records(1, preset)
    parameters = parameters._replace(first=parameters.first._replace(scale=np.float32([scale])))
    centers = (np.arange(side, dtype=np.float32) + 0.5) / side
    rows = np.broadcast_to(centers[:, None, None], (side, side, 3))
    for hr in (rows, rows.swapaxes(0, 1)):
        lr = np.asarray(degrade(preset)(parameters, hr[None]))[0, ..., 0]
        profile = lr[:, 8] if hr[0, 0, 0] == hr[0, 1, 0] else lr[8]
        expected = (np.arange(16) + 0.5) * 4 / side * (24 / 24.96 if geometry == "released" else 1.0)
        np.testing.assert_allclose(profile[1:-1], expected[1:-1], rtol=0, atol=0.6 / 255)  # the ends repeat edges


def test_the_bicubic_preset_equals_matlabs_downsampling_bitwise():
    hr = np.round(photo_like(3, 32, 40) * 255).astype(np.float32) / 255
    lr = degrade(presets.BICUBIC)(records(1, presets.BICUBIC), hr)
    np.testing.assert_array_equal(lr, matlab_bicubic(hr, 0.25, eight_bit=True))


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_downsampling_by_integer_factors_equals_matlabs(factor):
    hr = np.random.default_rng(0).integers(0, 256, (1, 8 * factor, 5 * factor, 3)).astype(np.float32) / 255
    ours = jax.jit(downsample_eight_bit, static_argnums=1)(hr[0].transpose(2, 0, 1), factor)
    expected = matlab_bicubic(hr, 1 / factor, eight_bit=True)[0]
    different = np.abs(np.asarray(ours).transpose(1, 2, 0) - expected) > 1e-6
    assert different.mean() < (
        0.01 if factor == 3 else 1e-9
    )  # the weights for 1 / 3 are inexact: halves may be rounded either way


# Bad input


def test_bad_shapes_are_errors():
    with pytest.raises(ValueError, match="multiples"):
        apply(records(1, LIGHT), photo_like(0, 30, 32), LIGHT)
    with pytest.raises(ValueError, match="RGB"):
        apply(records(1, LIGHT), photo_like(0, 32, 32)[..., :1], LIGHT)
