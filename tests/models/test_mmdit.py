"""Stable Diffusion 3's transformer: sizes, taps, knobs, precision. Its parity fixture is in test_check_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.joint_inputs import centred_positions
from framer_jax.models.layers import attention
from framer_jax.models.mmdit import REMAT, MMDiT, match_block_layout, scanned_segments, stack_blocks, unstack_blocks
from tests.models.published import PUBLISHED
from tests.support.drawn import drawn

TINY = MMDiT(
    channels=4,
    depth=4,
    heads=2,
    head_width=8,
    dual_blocks=2,
    qk_norm=True,
    context_width=12,
    pooled_width=10,
    position_grid=8,
    position_base=4,
)


def inputs(model=TINY, height=8, width=12, batch=2):
    keys = jax.random.split(jax.random.key(3), 3)
    return (
        jax.random.normal(keys[0], (batch, height, width, model.channels)),
        jnp.linspace(20.0, 900.0, batch),
        {
            "text": jax.random.normal(keys[1], (batch, 5, model.context_width)),
            "pooled_text": jax.random.normal(keys[2], (batch, model.pooled_width)),
        },
    )


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


@pytest.mark.parametrize(
    ("name", "count"), [("sd3_medium", 2_028_328_000), ("sd35_medium", 2_243_171_520), ("sd35_large", 8_056_627_520)]
)
def test_published_models_have_their_parameters(name, count):
    params, prediction, taps = shapes(MMDiT(**PUBLISHED[name], scan=True), 64, 64)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert prediction.shape == (2, 64, 64, 16)
    assert len(taps) == len(jax.tree.leaves(taps)) == (38 if "large" in name else 24)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("sides", [(8, 12), (16, 2)])
def test_one_tap_per_block(sides, scan):
    rows, columns = (side // 2 for side in sides)
    model = TINY.clone(dtype=jnp.bfloat16, scan=scan)
    _, prediction, taps = shapes(model, *sides)
    assert (prediction.shape, prediction.dtype) == ((2, *sides, 4), jnp.float32)
    assert [(tap.shape, tap.dtype) for tap in taps] == [((2, rows, columns, 16), jnp.bfloat16)] * 4
    _, _, taps = shapes(model.clone(taps="prediction"), *sides)
    assert [(tap.shape, tap.dtype) for tap in taps] == [((2, *sides, 4), jnp.float32)] * 4


def test_prediction_taps_end_with_the_prediction(tree, result):
    prediction, taps = jax.jit(TINY.clone(taps="prediction").apply)(tree, *inputs())
    np.testing.assert_allclose(prediction, result[0], atol=1e-5)
    np.testing.assert_array_equal(taps[-1], prediction)
    shallow = TINY.clone(depth=1, dual_blocks=1)  # its one block is the last, which does not write the text
    params = {name: tree["params"][name] for name in ("tokens", "condition", "context", "head", "block_0")}
    params = params | {"block_0": {k: dict(v) for k, v in params["block_0"].items() if k != "mlp_text"}}
    del params["block_0"]["attention"]["out_text"]
    kernel, bias = (params["block_0"]["modulation_text"][name] for name in ("kernel", "bias"))
    shift_and_scale = {"kernel": kernel[:, :32], "bias": bias[:32]}  # in the opposite order in a last block
    params["block_0"]["modulation_text"] = {k: np.roll(v, 16, axis=-1) for k, v in shift_and_scale.items()}
    np.testing.assert_allclose(taps[0], jax.jit(shallow.apply)({"params": params}, *inputs())[0], atol=1e-5)


def gradients(model, tree, arguments):
    def loss(tree):
        prediction, taps = model.apply(tree, *arguments)
        return jnp.square(prediction).mean() + sum(jnp.square(tap).mean() for tap in taps)

    return jax.jit(jax.grad(loss))(tree)


def close(mine, reference, relative):
    for path, leaf in jax.tree_util.tree_leaves_with_path(mine):
        other = reference
        for key in path:
            other = other[key.key if hasattr(key, "key") else key.idx]
        np.testing.assert_allclose(leaf, other, rtol=0, atol=relative * max(np.abs(other).max(), 1e-3))


def test_scan_and_rematerialisation_change_nothing(tree, result):
    plain = gradients(TINY, tree, inputs())
    model = TINY.clone(scan=True, remat="attention")
    folded = {"params": stack_blocks(tree["params"], TINY)}
    assert folded["params"].keys() >= {"blocks_dual", "blocks_single", "block_3"}
    close(jax.jit(model.apply)(folded, *inputs()), result, 1e-5)
    close({"params": unstack_blocks(gradients(model, folded, inputs())["params"], TINY)}, plain, 1e-4)
    unread = ("query_text", "norm_query_text")  # of the last block: the original's layers too, without a use
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        last = name.startswith("params/block_3/") and name.split("/")[-2] in unread
        assert np.isfinite(leaf).all() and (np.abs(leaf).max() == 0) == last, name


def test_stacked_parameters_are_those_of_a_scan(tree):
    other = {"dual_blocks": 0, "dual_layers": (0, 2)}
    for changes in ({}, {"dual_blocks": 4}, {"dual_blocks": 0}, {"depth": 1, "dual_blocks": 1}, other):
        model = TINY.clone(**changes)
        params = shapes(model, 8, 8)[0]
        folded = jax.eval_shape(lambda params, model=model: stack_blocks(params, model), params)
        assert folded == shapes(model.clone(scan=True), 8, 8)[0]
        assert jax.eval_shape(lambda params, model=model: unstack_blocks(params, model), folded) == params


def test_runs_of_equal_blocks_are_scanned_in_their_order():
    def runs(depth, dual):
        return {name: list(blocks) for name, blocks in scanned_segments(depth, dual).items()}

    assert runs(4, {0, 1}) == {"dual": [0, 1], "single": [2]}
    assert runs(6, {1, 2, 4}) == {"single": [0], "dual": [1, 2], "single_1": [3], "dual_1": [4]}
    assert runs(3, {2}) == {"single": [0, 1]} and runs(2, {0, 1}) == {"dual": [0]} and runs(1, {0}) == {}


@pytest.mark.slow
def test_a_scan_of_any_set_of_dual_blocks_changes_nothing():
    model = TINY.clone(depth=5, dual_blocks=0, dual_layers=(1, 3))
    tree = drawn(model.init, jax.random.key(0), *inputs())
    folded = {"params": stack_blocks(tree["params"], model)}
    assert folded["params"].keys() >= {"blocks_single", "blocks_dual", "blocks_single_1", "blocks_dual_1", "block_4"}
    close(jax.jit(model.clone(scan=True).apply)(folded, *inputs()), jax.jit(model.apply)(tree, *inputs()), 1e-5)


def test_parts_of_the_parameters_get_the_layout_of_the_model(tree):
    scanning = TINY.clone(scan=True)
    params = {name: {"modulation": block["modulation"]} for name, block in tree["params"].items() if "block" in name}
    folded = match_block_layout(params, scanning)
    assert set(folded) == {"blocks_dual", "blocks_single", "block_3"}
    assert jax.tree.all(jax.tree.map(np.array_equal, match_block_layout(folded, TINY), params))
    assert jax.tree.all(jax.tree.map(np.array_equal, match_block_layout(folded, scanning), folded))
    assert match_block_layout({}, scanning) == {} and match_block_layout({"head": 1}, TINY) == {"head": 1}
    lacking = {name: part for name, part in params.items() if name != "block_1"}
    for other in (lacking, params | {"block_1": {}}):
        with pytest.raises(ValueError, match="block_0 and block_1 hold different parameters"):
            stack_blocks(other, TINY)
    with pytest.raises(ValueError, match="blocks_dual holds 2 blocks instead of 3"):
        unstack_blocks(folded, TINY.clone(dual_blocks=3))


def test_rematerialisation_stores_less_for_the_gradient(tree):
    def stored(remat):
        model = TINY.clone(remat=remat)
        backwards = jax.eval_shape(lambda tree: jax.vjp(lambda tree: model.apply(tree, *inputs())[0], tree)[1], tree)
        return sum(leaf.size for leaf in jax.tree.leaves(backwards))

    everything, attention_again, nothing = (stored(name) for name in ("everything", "attention", "none"))
    assert everything < attention_again < nothing
    assert set(REMAT) == {"none", "everything", "attention"}


def test_bfloat16_stays_close_to_float32(tree, result):
    rough = jax.jit(TINY.clone(dtype=jnp.bfloat16, attention="manual").apply)(tree, *inputs())
    for mine, reference in zip(jax.tree.leaves(rough), jax.tree.leaves(result), strict=True):
        error = np.asarray(mine, np.float32) - reference
        assert 1e-4 < np.sqrt(np.mean(error**2) / np.mean(np.square(reference))) < 0.03


def test_parameters_may_be_bfloat16(tree):
    model = TINY.clone(dtype=jnp.bfloat16)
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)
    prediction, _ = jax.eval_shape(model.apply, small, *inputs())
    assert prediction.dtype == jnp.float32


def test_examples_do_not_see_each_other(tree, result):
    alone = jax.jit(TINY.apply)(tree, *jax.tree.map(lambda value: value[1:], inputs()))
    close(alone, (result[0][1:], tuple(tap[1:] for tap in result[1])), 1e-5)


# --- attention --------------------------------------------------------------------------------------------------------


def test_implementations_of_attention_agree():
    query, key, value = (jax.random.normal(jax.random.key(n), (2, 7 - n, 3, 8)) for n in (0, 1, 1))

    def run(kind):
        loss = jax.value_and_grad(lambda *parts: jnp.square(attention(*parts, kind)).sum(), argnums=(0, 1, 2))
        return jax.jit(loss)(query, key, value)

    assert attention(query, key, value, "manual").shape == query.shape
    for mine, reference in zip(jax.tree.leaves(run("manual")), jax.tree.leaves(run("xla")), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-5)


# --- positions --------------------------------------------------------------------------------------------------------


def test_positions_are_those_of_the_reference(fixtures):
    with np.load(fixtures / "sd35_medium_tiny.npz") as archive:
        table = archive["buf/pos_embed.pos_embed"][0].reshape(24, 24, 64)
    np.testing.assert_allclose(centred_positions((24, 24), 24, 8, 64).reshape(24, 24, 64), table, atol=1e-6)
    centre = centred_positions((6, 9), 24, 8, 64).reshape(6, 9, 64)
    np.testing.assert_allclose(centre, table[9:15, 7:16], atol=1e-6)


def test_a_table_of_positions_replaces_the_computed_ones(tree, result):
    model = TINY.clone(positions="table")
    table = centred_positions((8, 8), 8, 4, 16)
    assert shapes(model, 8, 12)[0]["tokens"]["positions"].shape == (1, 64, 16)
    tokens = tree["params"]["tokens"] | {"positions": table[None]}
    output = jax.jit(model.apply)({"params": tree["params"] | {"tokens": tokens}}, *inputs())
    close(output, result, 1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taps": "all"}, "taps .* one of hidden, prediction"),
        ({"attention": "flash"}, "auto, xla, cudnn, splash, manual"),
        ({"attention": "cudnn"}, "bfloat16 or float16"),
        ({"remat": "all"}, "none, everything, attention"),
        ({"positions": "learnt"}, "sine, table"),
        ({"heads": 3, "head_width": 2}, "is 6: it must be a multiple of 4"),
        ({"dual_blocks": 5}, r"from 0 to depth \(4\)"),
        ({"dual_layers": (1,)}, "dual_blocks must be 0 with it, not 2"),
        ({"dual_blocks": 0, "dual_layers": (2, 1)}, "ascending indices of blocks, 0 to 3"),
        ({"dual_blocks": 0, "dual_layers": (1, 4)}, "ascending indices of blocks, 0 to 3"),
        ({"position_base": 0}, "position_base is 0"),
    ],
)
def test_contradictory_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (2, 8, 9, 4)}, r"\[B, H, W, 4\], .* multiples of 2"),
        ({"x": (2, 8, 8, 3)}, r"\[B, H, W, 4\]"),
        ({"x": (2, 8, 18, 4)}, "more than 8 tokens per side"),
        ({"text": (2, 5, 11)}, r"\[2, T, 12\] and pooled text \[2, 10\]"),
        ({"pooled_text": (1, 10)}, r"\[2, 10\]"),
    ],
)
def test_inputs_that_do_not_fit_are_errors(changes, message):
    x, t, condition = inputs()
    arguments = {"x": x, **condition} | {name: jnp.zeros(shape) for name, shape in changes.items()}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TINY.init, jax.random.key(0), arguments.pop("x"), t, arguments)


@pytest.mark.parametrize("name", ["text", "pooled_text"])
def test_a_condition_that_lacks_an_entry_is_an_error(name):
    x, t, condition = inputs()
    with pytest.raises(ValueError, match=f"lacks '{name}'"):
        jax.eval_shape(TINY.init, jax.random.key(0), x, t, {key: condition[key] for key in condition if key != name})
