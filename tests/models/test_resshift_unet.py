"""ResShift's denoiser: masks, shifts, sizes, precision. Its parity fixtures are in test_check_parity.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.swin import WindowAttention, from_windows, relative_index, shifted_window_mask, to_windows
from framer_jax.porting.resshift import registered_mask
from framer_jax.porting.swin import relative_position_index, textbook_mask
from tests.support.drawn import drawn

TINY = SwinUNet(
    channels=32, multipliers=(1, 2), blocks=(1, 1), swin_channels=32, head_channels=16, image_size=16, condition_size=16
)


def inputs(model=TINY, height=16, width=32):
    keys = jax.random.split(jax.random.key(0), 2)
    sides = (height * model.downsampling, width * model.downsampling)
    image = jax.random.uniform(keys[1], (2, *sides, 3))
    return jax.random.normal(keys[0], (2, height, width, 3)), jnp.asarray([0, 14]), {"image": image}


def outputs(model, *arguments):
    """Shapes of the prediction and the taps, without computing them."""
    return jax.eval_shape(model.init_with_output, jax.random.key(0), *arguments)[0]


def test_one_tap_per_block_in_order_of_depth():
    prediction, taps = outputs(TINY.clone(dtype=jnp.bfloat16), *inputs())
    assert prediction.shape == (2, 16, 32, 3)
    assert prediction.dtype == jnp.float32
    shapes = [(2, 16, 32, 32), (2, 8, 16, 64), (2, 8, 16, 64), (2, 8, 16, 64), (2, 16, 32, 32)]
    assert [tap.shape for tap in taps] == shapes  # down 0, down 1, middle, up 1, up 0
    assert {tap.dtype for tap in taps} == {jnp.dtype(jnp.bfloat16)}


def test_the_published_configuration_has_nine_taps():
    model = SwinUNet()
    assert model.size_multiple == 64
    shapes = outputs(model, *inputs(model, 64, 128))[1]
    assert [tap.shape[1:] for tap in shapes[:5]] == [
        *((64, 128, 160), (32, 64, 320), (16, 32, 320), (8, 16, 640), (8, 16, 640))
    ]
    assert len(shapes) == 9


def test_the_condition_may_come_with_its_local_contrast():
    plain, rich = TINY, TINY.clone(contrast=4.0)
    arguments = inputs()
    shapes = jax.eval_shape(rich.init, jax.random.key(0), *arguments)["params"]
    assert shapes["conv_in"]["kernel"].shape == (3, 3, 9, 32)
    tree = drawn(rich.init, jax.random.key(0), *arguments)
    flat = (*arguments[:2], {"image": jnp.full_like(arguments[2]["image"], 0.5)})  # has no contrast
    kernel = tree["params"]["conv_in"]["kernel"]
    poor = {"params": {**tree["params"], "conv_in": {**tree["params"]["conv_in"], "kernel": kernel[:, :, :6]}}}
    np.testing.assert_allclose(
        jax.jit(rich.apply)(tree, *flat)[0], jax.jit(plain.apply)(poor, *flat)[0], rtol=1e-4, atol=1e-5
    )


def test_bfloat16_stays_close_to_float32():
    """Root mean square of the difference: less than 3 % of the prediction's, and so of each tap's."""
    model = TINY.clone(multipliers=(1,), blocks=(1,))
    arguments = inputs(model, 16, 16)
    tree = drawn(model.init, jax.random.key(0), *arguments)
    rough, exact = (jax.jit(model.clone(dtype=dtype).apply)(tree, *arguments) for dtype in (jnp.bfloat16, jnp.float32))
    for mine, reference in zip(jax.tree.leaves(rough), jax.tree.leaves(exact), strict=True):
        error = np.asarray(mine, np.float32) - reference
        assert 1e-4 < np.sqrt(np.mean(error**2) / np.mean(np.square(reference))) < 0.03


def test_a_finer_condition_is_downsampled_to_the_grid_of_the_latents():
    model = TINY.clone(condition_size=64)
    assert (TINY.downsampling, model.downsampling) == (1, 4)
    arguments = inputs(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]
    kernels = {name: layer["kernel"].shape for name, layer in shapes["condition"].items()}
    assert kernels == {
        "conv_0": (3, 3, 3, 16),
        "to_coarse_2": (3, 3, 16, 32),
        "conv_3": (3, 3, 32, 32),
        "to_coarse_5": (3, 3, 32, 64),
    }
    assert shapes["conv_in"]["kernel"].shape == (3, 3, 3 + 64, 32)


@pytest.mark.parametrize("height", [16, 32])
@pytest.mark.parametrize(("nominal", "shifted"), [(16, {"down_1", "up_2"}), (32, {"down_1", "up_2"} | {"coarse"})])
def test_the_nominal_side_decides_which_levels_shift(nominal, shifted, height):
    """Whatever the side of the input: second blocks of a layer shift where the nominal side exceeds the window."""
    shifts = {}

    def record(call, arguments, options, context):
        if isinstance(context.module, WindowAttention):
            shifts["/".join(context.module.path[:2])] = context.module.shift
        return call(*arguments, **options)

    model = TINY.clone(image_size=nominal, condition_size=nominal)
    with nn.intercept_methods(record):
        outputs(model, *inputs(model, height, 16))
    coarse = {"down_3", "middle_1", "up_0"}
    expected = (shifted - {"coarse"}) | (coarse if "coarse" in shifted else set())
    assert {name for name, shift in shifts.items() if shift} == {
        f"{layer}{'' if 'middle' in layer else '_swin'}/block_1" for layer in expected
    }
    assert len(shifts) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "none"}, "variant .* one of released, correct"),
        ({"blocks": (1,)}, "blocks .* for each of the levels"),
        ({"channels": 48}, "channels is 48: .* multiple of the 32 groups"),
        ({"head_channels": 7}, "swin_channels is .* multiple of head_channels"),
        ({"condition_size": 24}, "power of two"),
        ({"condition_size": 8}, "power of two"),
        ({"swin_levels": (0, 9)}, "swin_levels .* levels from 0 to"),
        ({"resampling": "none"}, "resampling .* one of conv, block, plain"),
        ({"time": "none"}, "time .* one of scale_shift, add"),
        ({"condition_channels": 5}, "condition_channels .* one of 3, 4"),
        ({"mlp_ratio": 0.001}, "mlp_ratio is 0.001"),
    ],
)
def test_contradictory_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**changes)


def test_a_mask_is_demanded_and_not_taken_unasked():
    x, t, condition = inputs(TINY, 16, 16)
    masked = {"image": jnp.concatenate([condition["image"], condition["image"][..., :1]], axis=-1)}
    for model, other, words in (
        (TINY.clone(condition_channels=4), condition, "add the mask"),
        (TINY, masked, "colors"),
    ):
        with pytest.raises(ValueError, match=rf"condition_channels is \d, .* {words}"):
            jax.eval_shape(model.init, jax.random.key(0), x, t, other)


def test_sides_that_do_not_fit_are_errors():
    x, t, condition = inputs()
    half = {"image": condition["image"][:, :8]}
    for faulty in ((x[:, :8], t, half), (x, t, half)):
        with pytest.raises(ValueError, match=r"multiples of 16|need a condition image"):
            jax.eval_shape(TINY.init, jax.random.key(0), *faulty)


# --- windows and masks ------------------------------------------------------------------------------------------------


def textbook(rows, columns, window, shift):
    """Regions by slices of the rolled map, as the Swin paper's Figure 4 cuts it."""
    region = np.zeros((rows * window, columns * window), int)
    slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (height, width) in enumerate((h, w) for h in slices for w in slices):
        region[height, width] = number
    cut = np.asarray(to_windows(jnp.asarray(region)[None, :, :, None], window))[0, :, :, :, 0]  # [R, S, N]
    return cut[..., :, None] != cut[..., None, :]


def test_the_correct_mask_is_the_textbooks():
    np.testing.assert_array_equal(shifted_window_mask(3, 2, 8, 4, "correct"), textbook(3, 2, 8, 4))


def test_the_released_mask_keeps_token_columns_apart_in_the_last_row_of_windows():
    mask = np.broadcast_to(shifted_window_mask(3, 2, 8, 4, "released"), (3, 2, 64, 64)).reshape(3, 2, 8, 8, 8, 8)
    assert not mask[:2].any()
    assert mask[2, :, :, :4, :, 4:].all() and mask[2, :, :, 4:, :, :4].all()
    assert not mask[2, :, :, :4, :, :4].any() and not mask[2, :, :, 4:, :, 4:].any()


def test_porting_registers_what_the_model_computes():
    np.testing.assert_array_equal(relative_position_index(8), relative_index(8))
    mask = np.broadcast_to(shifted_window_mask(4, 4, 8, 4, "released"), (4, 4, 64, 64)).reshape(16, 64, 64)
    np.testing.assert_array_equal(registered_mask(4, 8), np.where(mask, -100, 0))
    mask = np.broadcast_to(shifted_window_mask(4, 4, 7, 3, "correct"), (4, 4, 49, 49)).reshape(16, 49, 49)
    np.testing.assert_array_equal(textbook_mask(4, 7), np.where(mask, -100, 0))


def test_only_the_correct_mask_keeps_the_ends_of_the_map_apart():
    x = jax.random.normal(jax.random.key(1), (1, 16, 16, 8))

    def influence(variant):
        """How far the last row and column feel the first token: the shift puts them into one window."""
        layer = WindowAttention(heads=2, window=8, shift=4, variant=variant)
        tree = drawn(layer.init, jax.random.key(0), x, spread=1.0)
        change = layer.apply(tree, x.at[0, 0, 0].add(1.0)) - layer.apply(tree, x)
        return np.abs(change).max(axis=(0, 3))

    released, correct = influence("released"), influence("correct")
    assert correct[:4, :4].all() and not correct[4:].any() and not correct[:, 4:].any()
    assert released[12:, :4].all() and not released[:, 12:].any()


def test_relative_index_tells_the_offset_of_two_tokens():
    index = relative_index(8)
    assert index[0, 0] == index[63, 63] == 7 * 15 + 7
    assert index[8, 0] - index[0, 0] == 15 and index[1, 0] - index[0, 0] == 1
    assert (index.min(), index.max()) == (0, 224)


def test_windows_are_cut_and_put_back():
    x = jnp.arange(2 * 16 * 24 * 3, dtype=jnp.float32).reshape(2, 16, 24, 3)
    cut = to_windows(x, 8)
    assert cut.shape == (2, 2, 3, 64, 3)
    np.testing.assert_array_equal(cut[1, 1, 2], x[1, 8:, 16:].reshape(64, 3))
    np.testing.assert_array_equal(from_windows(cut, 8), x)
