"""DiT4SR's transformer: faults of the released code and their correction, the start of training, sizes.

Its parity fixture is in test_check_parity.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.dit4sr_transformer import (
    ControlledAttention,
    DepthwiseConv,
    DiT4SRTransformer,
    with_control,
    without_control,
)
from framer_jax.models.mmdit import MMDiT, stack_blocks
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from framer_jax.trees import check_same_structure, flatten_names, nest_names
from tests.support.drawn import drawn
from tools.parity.cases import load_case
from tools.parity.transformers import network_inputs, port_transformer

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
        {
            "text": jax.random.normal(keys[1], (batch, 5, 12)),
            "pooled_text": jax.random.normal(keys[2], (batch, 10)),
            "lr_latent": jax.random.normal(keys[3], (batch, height, width, 4)),
        },
    )


def with_lr_latent(change):
    """Inputs with a changed LR latent."""
    x, t, condition = inputs()
    return x, t, condition | {"lr_latent": change(condition["lr_latent"])}


def expected(model, *arguments):
    return jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]


@pytest.mark.parametrize(("variant", "count"), [("released", 2_716_814_144), ("correct", 2_594_049_216)])
def test_the_published_size_has_its_parameters(variant, count):
    """The correct variant lacks the 122,764,928 parameters of the unused text layers of the second attention."""
    latent, t, text, pooled = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 64, 48, 16), (1,), (1, 154, 4096), (1, 2048))
    )
    condition = {"text": text, "pooled_text": pooled, "lr_latent": latent}
    params = expected(DiT4SRTransformer(variant=variant, scan=True), latent, t, condition)
    leaves = flatten_names(params)[0]
    assert sum(leaf.size for leaf in leaves.values()) == count
    assert sum(leaf.size for name, leaf in leaves.items() if "control" in name) == 350_877_696


# --- the released code's faults ---------------------------------------------------------------------------------------


def gradient_of_fixture(fixtures, variant):
    """(gradients by the original's keys, the keys that have none in the original)."""
    file = fixtures / "dit4sr_sd35_tiny.npz"
    case = load_case(file)
    params, model = port_transformer(case, "dit4sr_transformer")
    model = model.clone(variant=variant)
    values = network_inputs(case)
    known = flatten_names(expected(model, *values))[0]
    params = nest_names({name: leaf for name, leaf in flatten_names(params)[0].items() if name in known})

    def loss(params):
        return jnp.square(model.apply({"params": params}, *values)[0]).mean()

    gradient = to_torch(MAPS["dit4sr_transformer"], jax.jit(jax.grad(loss))(params), "gradient")
    with np.load(file) as archive:
        without = set(json.loads(str(archive["meta"]))["parameters_without_gradient"])
    return gradient, without


def test_the_released_variant_discards_the_keys_of_the_lr_tokens(fixtures):
    gradient, without = gradient_of_fixture(fixtures, "released")
    last = {
        f"transformer_blocks.2.attn.{name}" for name in ("add_q_proj.weight", "add_q_proj.bias", "norm_added_q.weight")
    }
    # The reference has gradients of zero for the last block's text queries, and none for the others.
    assert {key for key, leaf in gradient.items() if not leaf.any()} - last == without
    assert {key for key in without if "control" in key} == {key for key in gradient if "to_k_control" in key}


def test_in_the_correct_variant_all_control_layers_learn(fixtures):
    gradient, _ = gradient_of_fixture(fixtures, "correct")
    assert not any("attn2.add" in key or "attn2.to_add" in key for key in gradient)
    control = [key for key in gradient if "control" in key]
    assert len(control) == 3 * (2 * 4 + 2) + 2 * 8
    assert all(gradient[key].any() for key in control)


@pytest.mark.parametrize("variant", ["correct", "released"])
def test_attention_to_lr_tokens_by_hand(variant):
    def softmax(logits):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    image, text = (np.asarray(jax.random.normal(jax.random.key(n), (1, n, 8))) for n in (6, 5))
    layer = ControlledAttention(1, True, variant=variant, lr_attention="joint")
    tree = drawn(layer.init, jax.random.key(0), image, text)
    params = tree["params"]

    def linear(x, name):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def norm(x, name):
        return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6) * params[name]["scale"]

    noise, lr, words = image[0, :3], image[0, 3:], text[0]
    keys = norm(linear(noise, "key"), "norm_key")
    lr_keys = keys if variant == "released" else linear(linear(lr, "key"), "key_control")
    keys = [keys, norm(lr_keys, "norm_key"), norm(linear(words, "key_text"), "norm_key_text")]
    lr_queries = norm(linear(linear(lr, "query"), "query_control"), "norm_query")
    text_queries = norm(linear(words, "query_text"), "norm_query_text")
    queries = [norm(linear(noise, "query"), "norm_query"), lr_queries, text_queries]
    values = [linear(noise, "value"), linear(linear(lr, "value"), "value_control"), linear(words, "value_text")]

    def attend(query, parts):
        key, value = (np.concatenate([streams[part] for part in parts]) for streams in (keys, values))
        return softmax(queries[query] @ key.T / np.sqrt(8)) @ value

    for lr_attention in ("joint", "added"):
        outputs = layer.clone(lr_attention=lr_attention).apply(tree, image, text)
        attended = [attend(query, (0, 1, 2)) for query in range(3)]
        if lr_attention == "added":
            attended = [attend(0, (0, 2)) + attend(0, (1,)), attended[1], attend(2, (0, 2)) + attend(2, (1,))]
        image_output = np.concatenate([linear(attended[0], "out"), linear(attended[1] + lr, "out_control")])
        np.testing.assert_allclose(outputs[0][0], image_output, atol=1e-5)
        np.testing.assert_allclose(outputs[1][0], linear(attended[2], "out_text"), atol=1e-5)


# --- the start of training --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    return drawn(BASE.init, jax.random.key(0), *inputs())["params"]


@pytest.fixture(scope="module")
def base_outputs(base):
    return jax.jit(BASE.apply)({"params": base}, *inputs())


@pytest.mark.parametrize("variant", ["correct", "released"])
def test_untrained_control_layers_fit_the_model(base, variant):
    model = TINY.clone(variant=variant)
    params = with_control(base, variant)
    check_same_structure(params, expected(model, *inputs()))
    layer = params["block_0"]["attention"]
    same = np.array_equal(layer["out_control"]["kernel"], layer["out"]["kernel"])
    assert same == (variant == "correct")
    alone = ControlledAttention(2, True, variant=variant)
    first = jax.jit(alone.init)(jax.random.key(0), jnp.zeros((1, 4, 16)))["params"]
    for name in ("query_control", "key_control", "value_control"):
        np.testing.assert_array_equal(layer[name]["kernel"], first[name]["kernel"])
        np.testing.assert_array_equal(layer[name]["bias"], first[name]["bias"])
    assert not any(leaf.any() for leaf in params["block_0"]["mlp"]["conv_control"].values())
    with pytest.raises(ValueError, match="have control layers already"):
        with_control(params)


def test_the_untrained_model_is_the_base_model(base, base_outputs):
    def loss(params):
        outputs = TINY.apply({"params": params}, *inputs())
        return jnp.square(outputs[0]).mean(), outputs

    gradient, model_outputs = jax.jit(jax.grad(loss, has_aux=True))(with_control(base))
    for mine, reference in zip(jax.tree.leaves(model_outputs), jax.tree.leaves(base_outputs), strict=True):
        np.testing.assert_allclose(mine, reference, atol=2e-5)
    gradient = flatten_names(gradient)[0]
    moved = {name.split("/")[-2] for name, leaf in gradient.items() if "control" in name and np.abs(leaf).max() > 1e-6}
    assert moved == {"value_control", "conv_control"}


def test_the_untrained_released_variant_differs_from_the_base_though_it_ignores_the_lr_image(base, base_outputs):
    model = TINY.clone(variant="released")
    apply, params = jax.jit(model.apply), {"params": with_control(base, "released")}
    one, other = (apply(params, *with_lr_latent(change))[0] for change in (lambda lr: lr, lambda lr: 3 * lr + 1))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.sqrt(np.mean(np.square(one - base_outputs[0])) / np.mean(np.square(base_outputs[0]))) > 0.05


def test_control_layers_without_an_effect_can_be_removed(base):
    params = with_control(base)
    leaves, expected_leaves = flatten_names(without_control(params, "added"))[0], flatten_names(base)[0]
    assert leaves.keys() == expected_leaves.keys()
    assert all(np.array_equal(leaf, expected_leaves[name]) for name, leaf in leaves.items())
    with pytest.raises(ValueError, match="LR tokens take weight in the softmax"):
        without_control(params, "joint")
    params["block_0"]["mlp"]["conv_control"]["bias"] = np.ones(64, np.float32)
    with pytest.raises(ValueError, match="block_0/mlp/conv_control/bias is not zero"):
        without_control(params, "added")


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
    scanned, taps = jax.jit(model.apply)({"params": stack_blocks(params, TINY)}, *inputs())
    np.testing.assert_allclose(scanned, plain, atol=2e-5)
    assert [tap.shape for tap in taps] == [(2, 6, 10, 4)] * 3
    changed = jax.jit(TINY.apply)({"params": params}, *with_lr_latent(lambda lr: lr + 1))[0]
    assert np.abs(changed - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"variant": "fixed"}, "correct, released"), ({"lr_attention": "both"}, "auto, joint, added")],
)
def test_unknown_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**changes)


def test_an_lr_latent_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"equal shape.*; got \(2, 6, 10, 4\) and \(2, 6, 8, 4\)"):
        jax.eval_shape(TINY.init, jax.random.key(0), *with_lr_latent(lambda lr: lr[:, :, :8]))


def test_a_condition_without_the_lr_latent_is_an_error():
    x, t, condition = inputs()
    del condition["lr_latent"]
    with pytest.raises(ValueError, match="lacks 'lr_latent'"):
        jax.eval_shape(TINY.init, jax.random.key(0), x, t, condition)
