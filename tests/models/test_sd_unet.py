"""Stable Diffusion 2's U-Net: size, taps, knobs, precision. Its parity fixtures are in test_check_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.denoiser import denoise
from framer_jax.models.lora import apply_adapters, init_lora, make_lora, merge, with_adapters
from framer_jax.models.sd_blocks import REMAT
from framer_jax.models.sd_unet import ControlResiduals, SDUNet
from tests.support.drawn import drawn
from tests.support.tiny import TINY as ARGUMENTS

TINY = SDUNet(**ARGUMENTS["sd_unet"], attention="manual")


def inputs(model=TINY, height=4, width=6, batch=2):
    keys = jax.random.split(jax.random.key(3), 2)
    x = jax.random.normal(keys[0], (batch, height, width, model.out_channels))
    text = jax.random.normal(keys[1], (batch, 5, model.context_width))
    return x, jnp.linspace(20.0, 900.0, batch), {"text": text}


def control(scale=1.0, batch=2):
    """Residuals for `inputs`."""
    sizes = ((4, 6, 8), (4, 6, 8), (2, 3, 8), (2, 3, 16), (2, 3, 16))
    draws = [scale * jax.random.normal(jax.random.key(index), (batch, *size)) for index, size in enumerate(sizes)]
    return ControlResiduals(tuple(draws[:-1]), draws[-1])


def shapes(model, *sides):
    """Shapes of the parameters, the prediction and the taps, without computing them."""
    arguments = jax.eval_shape(lambda: inputs(model, *sides))
    (prediction, taps), tree = jax.eval_shape(model.init_with_output, jax.random.key(0), *arguments)
    return tree["params"], prediction, taps


@pytest.fixture(scope="module")
def tree():
    return drawn(TINY.init, jax.random.key(0), *inputs())


@pytest.fixture(scope="module")
def result(tree):
    return jax.jit(TINY.apply)(tree, *inputs())


def close(mine, reference, relative):
    for leaf, other in zip(jax.tree.leaves(mine), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=relative * max(np.abs(other).max(), 1e-3))


def test_the_published_network_has_its_parameters_and_nine_taps():
    model = SDUNet()
    params, prediction, taps = shapes(model, 64, 64)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 865_910_724
    assert prediction.shape == (2, 64, 64, 4)
    sides, widths = (32, 16, 8, 8, 8, 16, 32, 64, 64), (320, 640, 1280, 1280, 1280, 1280, 1280, 640, 320)
    assert [tap.shape for tap in taps] == [(2, side, side, width) for side, width in zip(sides, widths, strict=True)]
    assert (len(taps), model.size_multiple, model.downsampling) == (model.tap_count, 8, 1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_taps_are_the_outputs_of_the_blocks(dtype):
    _, prediction, taps = shapes(TINY.clone(dtype=dtype), 4, 6)
    assert (prediction.shape, prediction.dtype) == ((2, 4, 6, 4), jnp.float32)
    expected = [(2, 2, 3, 8), (2, 2, 3, 16), (2, 2, 3, 16), (2, 4, 6, 16), (2, 4, 6, 8)]
    assert [(tap.shape, tap.dtype) for tap in taps] == [(shape, dtype) for shape in expected]
    assert TINY.taps == "hidden" and TINY.tap_count == len(expected)


def test_levels_may_have_attention_or_none():
    names = set(shapes(TINY.clone(attention_levels=()), 4, 6)[0])
    assert "middle_attention_0" in names and not any("0_attention" in name for name in names)
    names = set(shapes(TINY.clone(attention_levels=(1,)), 4, 6)[0])
    assert {"down_1_attention_0", "up_0_attention_1"} <= names
    assert "down_0_attention_0" not in names and "up_1_attention_0" not in names


def test_time_may_be_integers_and_text_matters(tree, result):
    x, _, condition = inputs()
    whole = jax.jit(TINY.apply)(tree, x, jnp.asarray([20, 900], jnp.int32), condition)
    close(whole, result, 1e-6)
    other, _ = jax.jit(TINY.apply)(tree, x, jnp.asarray([20.0, 900.0]), {"text": -condition["text"]})
    assert np.abs(other - result[0]).max() > 1e-3
    close(denoise(TINY, tree["params"], *inputs()), result, 1e-5)


def test_examples_do_not_see_each_other(tree, result):
    alone = jax.jit(TINY.apply)(tree, *jax.tree.map(lambda value: value[1:], inputs()))
    close(alone, jax.tree.map(lambda value: value[1:], result), 1e-5)


# --- residuals of a ControlNet ---------------------------------------------------------------------------------------


def test_residuals_reach_the_way_up_alone(tree, result):
    with_control = jax.jit(TINY.apply)(tree, *inputs(), control())
    close(with_control[1][:3], result[1][:3], 1e-6)  # the way down and the middle block do not see them
    assert all(
        np.abs(ours - theirs).max() > 1e-2 for ours, theirs in zip(with_control[1][3:], result[1][3:], strict=True)
    )
    close(jax.jit(TINY.apply)(tree, *inputs(), control(0.0)), result, 1e-6)


def test_every_residual_changes_the_prediction(tree):
    def predict(residuals):
        return TINY.apply(tree, *inputs(), residuals)[0]

    gradient = jax.jit(jax.grad(lambda residuals: jnp.square(predict(residuals)).mean()))(control())
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda each: each._replace(down=each.down[1:]), "control holds 3 residuals for 4 skip connections"),
        (lambda each: each._replace(down=each.down[::-1]), r"control\.down\[0\] is \(2, 2, 3, 16\), .* \(2, 4, 6, 8\)"),
        (
            lambda each: each._replace(middle=each.middle[:1]),
            r"control\.middle is \(1, 2, 3, 16\).*: use the ControlNet",
        ),
    ],
)
def test_residuals_of_another_network_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TINY.init, jax.random.key(0), *inputs(), change(control()))


# --- precision and memory --------------------------------------------------------------------------------------------


def gradients(model, tree):
    def loss(tree):
        prediction, taps = model.apply(tree, *inputs())
        return jnp.square(prediction).mean() + sum(jnp.square(tap).mean() for tap in taps)

    return jax.jit(jax.grad(loss))(tree)


def test_rematerialisation_changes_nothing(tree):
    plain = gradients(TINY, tree)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain))
    close(gradients(TINY.clone(remat="attention"), tree), plain, 1e-4)


def test_rematerialisation_stores_less_for_the_gradient(tree):
    def stored(remat):
        model = TINY.clone(remat=remat)
        backwards = jax.eval_shape(lambda tree: jax.vjp(lambda tree: model.apply(tree, *inputs())[0], tree)[1], tree)
        return sum(leaf.size for leaf in jax.tree.leaves(backwards))

    everything, attention_again, nothing = (stored(name) for name in ("everything", "attention", "none"))
    assert everything < attention_again < nothing
    assert set(REMAT) == {"none", "everything", "attention"}


def test_bfloat16_stays_close_to_float32(tree, result):
    rough = jax.jit(TINY.clone(dtype=jnp.bfloat16).apply)(tree, *inputs())
    for mine, reference in zip(jax.tree.leaves(rough), jax.tree.leaves(result), strict=True):
        error = np.asarray(mine, np.float32) - reference
        assert 1e-4 < np.sqrt(np.mean(error**2) / np.mean(np.square(reference))) < 0.03


def test_parameters_may_be_bfloat16(tree):
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)
    prediction, _ = jax.eval_shape(TINY.clone(dtype=jnp.bfloat16).apply, small, *inputs(), control())
    assert prediction.dtype == jnp.float32


def test_implementations_of_attention_agree(tree, result):
    close(jax.jit(TINY.clone(attention="xla").apply)(tree, *inputs()), result, 1e-5)


# --- LoRA ------------------------------------------------------------------------------------------------------------


def test_adapters_of_convolutions_and_linear_layers(tree):
    """As in PiSA-SR: all layers but the time embedding, its projections, and the norms."""
    patterns = ("conv", "skip$", "project", "query", "key", "value", "out$", "mlp", "sample$")
    lora = init_lora(jax.random.key(1), tree["params"], patterns, rank=2, alpha=4)
    adapted = {path for path, _ in lora.alphas}
    assert {"conv_in", "conv_out", "up_0_upsample", "down_1_block_0/skip", "down_0_attention_0/project_in"} <= adapted
    assert not any("time" in path or "film" in path for path in adapted)
    factors = jax.tree.map(lambda leaf: 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), lora.factors)
    adapters = {"pix": make_lora(factors, 4.0)}

    def predict(variables):
        with apply_adapters():
            return TINY.clone(remat="everything").apply(variables, *inputs())

    added = jax.jit(predict)(with_adapters(tree["params"], adapters))
    merged = jax.jit(TINY.apply)({"params": merge(tree["params"], adapters)}, *inputs())
    close(added, merged, 2e-5)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "flash"}, "auto, xla, cudnn, splash, manual"),
        ({"attention": "cudnn"}, "bfloat16 or float16"),
        ({"remat": "all"}, "none, everything, attention"),
        ({"heads": (2,)}, r"heads is \(2,\): it must hold one number for each of the 2 levels"),
        ({"heads": (2, 3)}, "3 heads do not divide the width of their level, 16"),
        ({"groups": 5}, r"groups is 5: it must divide all channels, \(8, 16\)"),
        ({"attention_levels": (2,)}, r"attention_levels is \(2,\): it must hold ascending levels, 0 to 1"),
        ({"attention_levels": (1, 0)}, "ascending levels"),
        ({"channels": ()}, "channels"),
    ],
)
def test_contradictory_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": (2, 4, 5, 4)},
            r"the U-Net needs latents \[B, H, W, 4\] with sides that are multiples of 2, got \(2, 4, 5",
        ),
        ({"x": (2, 4, 6, 3)}, r"latents \[B, H, W, 4\].*: pad the image, or choose tiles"),
        ({"x": (2, 4, 6)}, "needs latents"),
        ({"text": (2, 5, 11)}, r"text tokens \[2, T, 16\], got \(2, 5, 11\): use the text encoder"),
        ({"text": (1, 5, 16)}, r"2 latents need text tokens \[2, T, 16\]"),
        ({"text": (2, 16)}, r"\[2, T, 16\], got \(2, 16\)"),
    ],
)
def test_inputs_that_do_not_fit_are_errors(changes, message):
    x, t, condition = inputs()
    arguments = {"x": x, **condition} | {name: jnp.zeros(shape) for name, shape in changes.items()}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TINY.init, jax.random.key(0), arguments.pop("x"), t, arguments)


def test_a_condition_without_text_is_an_error():
    x, t, _ = inputs()
    with pytest.raises(ValueError, match="lacks 'text'"):
        jax.eval_shape(TINY.init, jax.random.key(0), x, t, {})
