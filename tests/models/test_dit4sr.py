"""DiT4SR beside its fixture (test_check_parity.py): its faults and their mending, the start of training, sizes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.dit4sr_transformer import (
    ControlledAttention,
    DepthwiseConv,
    DiT4SRTransformer,
    divided,
    united,
    with_control,
)
from framer_jax.models.mmdit import MMDiT, stacked
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from framer_jax.trees import check_same_structure, flatten_names, nest_names
from tests.support.drawn import drawn
from tools.parity.cases import channels_last, load_case
from tools.parity.transformers import carried_over, texts

SIZES = {
    "channels": 4,
    "depth": 3,
    "heads": 2,
    "head_width": 8,
    "dual_blocks": 1,
    "qk_norm": True,
    "context_width": 12,
    "pooled_width": 10,
    "position_grid": 8,
}

BASE = MMDiT(**SIZES)
TINY = DiT4SRTransformer(**SIZES)


def inputs(height=6, width=10, batch=2):
    keys = jax.random.split(jax.random.key(3), 4)
    return (
        jax.random.normal(keys[0], (batch, height, width, 4)),
        jnp.linspace(20.0, 900.0, batch),
        jax.random.normal(keys[1], (batch, 5, 12)),
        jax.random.normal(keys[2], (batch, 10)),
        jax.random.normal(keys[3], (batch, height, width, 4)),
    )


def expected(model, *arguments):
    return jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]


@pytest.mark.parametrize(("compatibility", "count"), [("released", 2_716_814_144), ("correct", 2_594_049_216)])
def test_the_published_size_has_its_parameters(compatibility, count):
    """The mended one lacks the 122,764,928 of the second attention's text layers, which nothing uses."""
    latent, *rest = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 64, 48, 16), (1,), (1, 154, 4096), (1, 2048))
    )
    params = expected(DiT4SRTransformer(compatibility=compatibility, scan=True), latent, *rest, latent)
    leaves = flatten_names(params)[0]
    assert sum(leaf.size for leaf in leaves.values()) == count
    assert sum(leaf.size for name, leaf in leaves.items() if "control" in name) == 350_877_696


# --- the released code's faults ---------------------------------------------------------------------------------------


def gradient_of_fixture(fixtures, compatibility):
    """(gradients by the original's keys, the keys that have none in the original)."""
    file = fixtures / "dit4sr_sd35_tiny.npz"
    case = load_case(file)
    params, arguments = carried_over(case, "dit4sr")
    model = DiT4SRTransformer(**arguments | {"compatibility": compatibility})
    values = (channels_last(case.arrays["in/x"]), *texts(case), channels_last(case.arrays["in/lr"]))
    known = flatten_names(expected(model, *values))[0]
    params = nest_names({name: leaf for name, leaf in flatten_names(params)[0].items() if name in known})

    def loss(params):
        return jnp.square(model.apply({"params": params}, *values)[0]).mean()

    gradient = to_torch(MAPS["dit4sr_transformer"], jax.jit(jax.grad(loss))(params), "gradient")
    with np.load(file) as archive:
        without = set(json.loads(str(archive["meta"]))["parameters_without_gradient"])
    return gradient, without


def test_the_released_fault_throws_the_keys_of_the_lr_tokens_away(fixtures):
    gradient, without = gradient_of_fixture(fixtures, "released")
    last = {
        f"transformer_blocks.2.attn.{name}" for name in ("add_q_proj.weight", "add_q_proj.bias", "norm_added_q.weight")
    }
    # The reference has gradients of zero for the last block's text queries, and none for the others.
    assert {key for key, leaf in gradient.items() if not leaf.any()} - last == without
    assert {key for key in without if "control" in key} == {key for key in gradient if "to_k_control" in key}


def test_mended_all_control_layers_learn(fixtures):
    gradient, _ = gradient_of_fixture(fixtures, "correct")
    assert not any("attn2.add" in key or "attn2.to_add" in key for key in gradient)
    control = [key for key in gradient if "control" in key]
    assert len(control) == 3 * (2 * 4 + 2) + 2 * 8
    assert all(gradient[key].any() for key in control)


@pytest.mark.parametrize("compatibility", ["correct", "released"])
def test_attention_of_both_readings_by_hand(compatibility):
    def softmax(logits):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    image, text = (np.asarray(jax.random.normal(jax.random.key(n), (1, n, 8))) for n in (6, 5))
    layer = ControlledAttention(1, True, compatibility=compatibility, reading="joint")
    tree = drawn(layer.init, jax.random.key(0), image, text)
    params = tree["params"]

    def linear(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def norm(x, name):
        return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6) * params[name]["scale"]

    noise, lr, words = image[0, :3], image[0, 3:], text[0]
    keys = norm(linear(noise, "key"), "norm_key")
    lr_keys = keys if compatibility == "released" else linear(linear(lr, "key"), "key_control")
    keys = [keys, norm(lr_keys, "norm_key"), norm(linear(words, "key_text"), "norm_key_text")]
    lr_queries = norm(linear(linear(lr, "query"), "query_control"), "norm_query")
    text_queries = norm(linear(words, "query_text"), "norm_query_text")
    queries = [norm(linear(noise, "query"), "norm_query"), lr_queries, text_queries]
    values = [linear(noise, "value"), linear(linear(lr, "value"), "value_control"), linear(words, "value_text")]

    def read(query, places):
        key, value = (np.concatenate([part[place] for place in places]) for part in (keys, values))
        return softmax(queries[query] @ key.T / np.sqrt(8)) @ value

    for reading in ("joint", "added"):
        found = layer.clone(reading=reading).apply(tree, image, text)
        whole = [read(query, (0, 1, 2)) for query in range(3)]
        if reading == "added":
            whole = [read(0, (0, 2)) + read(0, (1,)), whole[1], read(2, (0, 2)) + read(2, (1,))]
        of_image = np.concatenate([linear(whole[0], "out"), linear(whole[1] + lr, "out_control")])
        np.testing.assert_allclose(found[0][0], of_image, atol=1e-5)
        np.testing.assert_allclose(found[1][0], linear(whole[2], "out_text"), atol=1e-5)


# --- the start of training --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    return drawn(BASE.init, jax.random.key(0), *inputs()[:4])["params"]


@pytest.fixture(scope="module")
def of_base(base):
    return jax.jit(BASE.apply)({"params": base}, *inputs()[:4])


@pytest.mark.parametrize("compatibility", ["correct", "released"])
def test_untrained_control_layers_fit_the_model(base, compatibility):
    model = TINY.clone(compatibility=compatibility)
    params = with_control(base, compatibility)
    check_same_structure(params, expected(model, *inputs()))
    layer = params["block_0"]["attention"]
    same = np.array_equal(layer["out_control"]["kernel"], layer["out"]["kernel"])
    assert same == (compatibility == "correct")
    alone = ControlledAttention(2, True, compatibility=compatibility)
    first = jax.jit(alone.init)(jax.random.key(0), jnp.zeros((1, 4, 16)))["params"]
    for name in ("query_control", "key_control", "value_control"):
        np.testing.assert_array_equal(layer[name]["kernel"], first[name]["kernel"])
        np.testing.assert_array_equal(layer[name]["bias"], first[name]["bias"])
    assert not any(leaf.any() for leaf in params["block_0"]["mlp"]["conv_control"].values())
    with pytest.raises(ValueError, match="have control layers already"):
        with_control(params)


def test_the_untrained_model_is_the_base_model(base, of_base):
    def loss(params):
        outputs = TINY.apply({"params": params}, *inputs())
        return jnp.square(outputs[0]).mean(), outputs

    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(with_control(base))
    for mine, reference in zip(jax.tree.leaves(found), jax.tree.leaves(of_base), strict=True):
        np.testing.assert_allclose(mine, reference, atol=2e-5)
    gradient = flatten_names(gradient)[0]
    moved = {name.split("/")[-2] for name, leaf in gradient.items() if "control" in name and np.abs(leaf).max() > 1e-6}
    assert moved == {"value_control", "conv_control"}


def test_as_released_the_untrained_model_is_not_the_base_model_though_it_does_not_see_the_lr_image(base, of_base):
    model = TINY.clone(compatibility="released")
    apply, params = jax.jit(model.apply), {"params": with_control(base, "released")}
    one, other = (apply(params, *inputs()[:4], lr)[0] for lr in (inputs()[4], 3 * inputs()[4] + 1))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.sqrt(np.mean(np.square(one - of_base[0])) / np.mean(np.square(of_base[0]))) > 0.05


def test_what_is_trained_is_divided_from_the_base(base):
    params = with_control(base)
    trained, rest = divided(params)
    check_same_structure(rest, base)
    assert all("control" in name for name in flatten_names(trained)[0])
    check_same_structure(united(trained, rest), params)


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_the_depthwise_convolution_is_one_on_any_rectangle():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 6))
    layer = DepthwiseConv()
    tree = drawn(layer.init, jax.random.key(0), x)
    kernel, bias = tree["params"]["kernel"], tree["params"]["bias"]
    reference = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=6
    )
    np.testing.assert_allclose(layer.apply(tree, x), reference + bias.reshape(1, 1, 1, 6), atol=1e-5)


def test_scan_and_taps_of_a_rectangle():
    params = drawn(TINY.init, jax.random.key(0), *inputs())["params"]
    plain, taps = jax.jit(TINY.apply)({"params": params}, *inputs())
    assert [tap.shape for tap in taps] == [(2, 3, 5, 16)] * 3
    model = TINY.clone(scan=True, remat="attention", taps="prediction")
    found, taps = jax.jit(model.apply)({"params": stacked(params, TINY)}, *inputs())
    np.testing.assert_allclose(found, plain, atol=2e-5)
    assert [tap.shape for tap in taps] == [(2, 6, 10, 4)] * 3
    changed = jax.jit(TINY.apply)({"params": params}, *inputs()[:4], inputs()[4] + 1)[0]
    assert np.abs(changed - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"compatibility": "fixed"}, "correct, released"), ({"reading": "both"}, "auto, joint, added")],
)
def test_unknown_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**changes)


def test_an_lr_latent_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"alike; got \(2, 6, 10, 4\) and \(2, 6, 8, 4\)"):
        jax.eval_shape(TINY.init, jax.random.key(0), *inputs()[:4], inputs(6, 8)[4])
