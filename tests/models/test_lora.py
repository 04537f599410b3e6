"""LoRA adapters: properties, on a toy network of a dense layer and two convolutions."""

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.dit4sr_transformer import DepthwiseConv
from framer_jax.models.lora import (
    Lora,
    apply_adapters,
    init_lora,
    low_rank_kernel,
    make_lora,
    merge,
    with_adapters,
)
from tests.support.drawn import drawn

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 6, 5, 3))


class Toy(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), (2, 2), name="conv_in")(x)
        x = x + nn.silu(Inner(name="block")(x))
        return nn.Conv(4, (1, 1), use_bias=False, name="conv_out")(x)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="query")(nn.LayerNorm(name="norm")(x))


def params():
    return drawn(Toy().init, KEY, X)["params"]


def trained(pattern=".", rank=2, alpha=4.0, seed=1):
    """An adapter none of whose values is zero."""
    lora = init_lora(KEY, params(), pattern, rank, alpha)
    rng = np.random.default_rng(seed)
    return lora.replace(
        factors=jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), lora.factors)
    )


def leaves(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def close(mine, reference, **tolerance):
    assert leaves(mine).keys() == leaves(reference).keys()
    for name, leaf in leaves(mine).items():
        np.testing.assert_allclose(leaf, leaves(reference)[name], err_msg=name, **tolerance)


def test_a_new_adapter_changes_nothing_and_has_the_named_kernels():
    lora = init_lora(KEY, params(), ("conv_in", r"query$"), 2, 4.0)
    assert lora.alphas == (("block/query", 4.0), ("conv_in", 4.0))
    assert {name: leaf.shape for name, leaf in leaves(lora.factors).items()} == {
        "block/query/down": (8, 2),
        "block/query/up": (2, 8),
        "conv_in/down": (3, 3, 3, 2),
        "conv_in/up": (1, 1, 2, 8),
    }
    close(merge(params(), {"new": lora}), params(), rtol=0)
    wide = init_lora(KEY, {"layer": {"kernel": np.zeros((100, 200))}}, "layer", 16, 16.0)
    assert np.std(wide.factors["layer"]["down"]) == pytest.approx(1 / 16, rel=0.05)


def test_a_module_draws_the_same_whatever_its_neighbours():
    alone, together = (init_lora(KEY, params(), pattern, 2, 4.0) for pattern in ("query", "."))
    np.testing.assert_array_equal(alone.factors["block"]["query"]["down"], together.factors["block"]["query"]["down"])


@hypothesis.given(rank=st.integers(1, 6), alpha=st.floats(0.5, 64), scale=st.floats(-2, 2))
@hypothesis.settings(deadline=None, max_examples=15)
def test_merging_can_be_undone(rank, alpha, scale):
    loras = {"a": trained(rank=rank, alpha=alpha), "b": trained("query", rank=3, seed=2)}
    scales = {"a": scale, "b": 0.5}
    merged = merge(params(), loras, scales)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(merged))
    opposite = {name: -scale for name, scale in scales.items()}
    close(merge(merged, loras, opposite), params(), atol=4e-7 * largest)
    factors, kernel = loras["a"].factors["conv_in"], params()["conv_in"]["kernel"]
    one = np.einsum("hwir,ro->hwio", factors["down"], factors["up"][0, 0])
    np.testing.assert_allclose(merged["conv_in"]["kernel"], kernel + scale * alpha / rank * one, atol=1e-6 * largest)


@hypothesis.given(count=st.integers(1, 4), rank=st.integers(1, 5), seed=st.integers(0, 99))
@hypothesis.settings(deadline=None, max_examples=15)
def test_a_stack_of_factors_is_the_factors_of_a_stack(count, rank, seed):
    """Matrices and convolutions of blocks that a scan stacks: as if each block were by itself."""
    rng = np.random.default_rng(seed)

    def block():
        shapes = {"query": (8, 5), "conv": (3, 3, 4, 6)}
        return {name: {"kernel": rng.standard_normal(shape).astype(np.float32)} for name, shape in shapes.items()}

    blocks = [block() for _ in range(count)]
    loras = [init_lora(jax.random.key(index), blocks[0], ".", rank, 3.0) for index in range(count)]
    loras = [
        lora.replace(
            factors=jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), lora.factors)
        )
        for lora in loras
    ]
    alone = [merge(tree, {"a": lora}) for tree, lora in zip(blocks, loras, strict=True)]
    stack, factors = (
        jax.tree.map(lambda *parts: np.stack(parts), *trees) for trees in (blocks, [x.factors for x in loras])
    )
    fresh = init_lora(KEY, stack, ".", rank, 3.0)
    assert jax.tree.map(jnp.shape, fresh.factors) == jax.tree.map(jnp.shape, factors)
    close(merge(stack, {"a": fresh}), stack, rtol=0)
    downs = [leaf for name, leaf in leaves(fresh.factors).items() if name.endswith("down")]
    assert all(np.abs(down[0] - other).max() > 0 for down in downs for other in down[1:])
    merged = merge(stack, {"a": make_lora(factors, 3.0)})
    close(merged, jax.tree.map(lambda *parts: np.stack(parts), *alone), rtol=1e-5, atol=1e-5)
    close(merge(merged, {"a": make_lora(factors, 3.0)}, {"a": -1.0}), stack, atol=2e-5)


def test_adapters_add_up_and_scales_are_linear():
    loras = {"a": trained(), "b": trained("conv", rank=1, seed=3)}
    both = merge(params(), loras, {"a": 0.5, "b": 2.0})
    close(merge(merge(params(), {"a": loras["a"]}, {"a": 0.5}), {"b": loras["b"]}, {"b": 2.0}), both, atol=1e-5)
    close(merge(params(), loras, {"a": 0.0, "b": 0.0}), params(), rtol=0)


def test_the_convolution_of_the_sum_is_the_sum_of_the_convolutions():
    lora, tree = trained("conv_in", rank=3, alpha=6.0), params()["conv_in"]
    factors = lora.factors["conv_in"]

    def conv(x, kernel, stride):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)

    way = conv(conv(X, factors["down"], 2), factors["up"], 1)
    merged = conv(X, merge({"conv_in": tree}, {"a": lora})["conv_in"]["kernel"], 2)
    np.testing.assert_allclose(merged, conv(X, tree["kernel"], 2) + 2.0 * way, atol=2e-5)
    assert low_rank_kernel(factors["down"], factors["up"]).shape == (3, 3, 3, 8)


def test_gradients_reach_the_factors_and_scales():
    lora = trained()

    @jax.jit
    def gradients(tree, lora, scale):
        def loss(tree, lora, scale):
            return jnp.square(
                Toy().apply({"params": merge(jax.lax.stop_gradient(tree), {"a": lora}, {"a": scale})}, X)
            ).mean()

        return jax.grad(loss, argnums=(0, 1, 2))(tree, lora, scale)

    of_params, of_lora, of_scale = gradients(params(), lora, jnp.float32(0.7))
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_params))
    assert isinstance(of_lora, Lora) and len(jax.tree.leaves(of_lora)) == 6
    assert all(leaf.any() for leaf in jax.tree.leaves(of_lora)) and of_scale != 0
    of_new = gradients(params(), init_lora(KEY, params(), ".", 2, 4.0), jnp.float32(1))[1].factors["conv_in"]
    assert not of_new["down"].any() and of_new["up"].any()  # as at any start of a LoRA


def test_parameters_keep_their_type_and_others_their_value():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params())
    merged = merge(half, {"a": trained("query")})
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(merged))
    np.testing.assert_array_equal(merged["block"]["norm"]["scale"], half["block"]["norm"]["scale"])
    assert (merged["block"]["query"]["kernel"] != half["block"]["query"]["kernel"]).any()


def test_wrong_adapters_are_errors():
    lora = trained("query")
    with pytest.raises(ValueError, match="'attn' finds no kernel"):
        init_lora(KEY, params(), ("conv", "attn"), 2, 4.0)
    with pytest.raises(ValueError, match="rank is 0"):
        init_lora(KEY, params(), "conv", 0, 4.0)
    for shape in ((3,), (2, 3, 3, 3, 4, 5)):
        with pytest.raises(ValueError, match=r"\): LoRA takes matrices, 2-D convolutions, and stacks"):
            init_lora(KEY, {"heads": {"kernel": np.zeros(shape)}}, "heads", 2, 4.0)
    with pytest.raises(ValueError, match=r"adapters \['a'\] and scales \['b'\] differ"):
        merge(params(), {"a": lora}, {"b": 1.0})
    with pytest.raises(ValueError, match=r"kernel \(8, 8\) at 'block/query', but there is no kernel"):
        merge({"other": params()}, {"a": lora})
    with pytest.raises(ValueError, match=r"there is one of shape \(8, 9\)"):
        merge({"block": {"query": {"kernel": np.zeros((8, 9), np.float32)}}}, {"a": lora})
    with pytest.raises(ValueError, match="needs the factors"):
        make_lora({"layer": {"down": np.zeros((3, 2))}}, 1.0)
    for down, up in (
        ((3, 2), (3, 4)),
        ((5, 3, 2), (4, 2, 4)),
        ((5, 3, 2), (2, 4)),
        ((3, 3, 3, 2), (2, 4)),
        ((2,), (2,)),
    ):
        with pytest.raises(ValueError, match="which make no kernel"):
            make_lora({"layer": {"down": np.zeros(down), "up": np.zeros(up)}}, 1.0)
    with pytest.raises(ValueError, match="'block/query' has no alpha"):
        make_lora(lora.factors, {"other": 1.0})


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_adapters_compute_the_same_as_merged_weights(scale):
    sets = {"first": trained(rank=2), "second": trained("query|conv_out", rank=3, alpha=1.0, seed=2)}
    scales = {"first": scale, "second": -2.0}

    def adapted(sets, x):
        with apply_adapters():
            return Toy().apply(with_adapters(params(), sets, scales), x)

    def merged(sets, x):
        return Toy().apply({"params": merge(params(), sets, scales)}, x)

    close(jax.jit(adapted)(sets, X), jax.jit(merged)(sets, X), rtol=1e-4, atol=1e-3)
    mine, theirs = (jax.jit(jax.grad(lambda sets, call=call: call(sets, X).sum()))(sets) for call in (adapted, merged))
    close(mine, theirs, rtol=1e-3, atol=1e-2)
    with apply_adapters():  # without sets they are the module
        plain = Toy().apply(with_adapters(params(), {}), X)
    close(plain, Toy().apply({"params": params()}, X))
    with pytest.raises(ValueError, match="'first' needs a kernel"):
        with_adapters({"conv_in": params()["conv_in"]}, sets)


class Unsupported(nn.Module):
    """Layers with kernels that are neither matrices nor whole convolutions, within a module named like a factor."""

    @nn.compact
    def __call__(self, x):
        return Kinds(name="down")(x)


class Kinds(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, name="dense")(x)
        x = nn.Conv(6, (3, 3), feature_group_count=3, name="grouped")(x)
        x = nn.ConvTranspose(3, (2, 2), name="transposed")(x)
        return DepthwiseConv(name="depthwise")(x)


@pytest.mark.parametrize(
    ("layer", "kind"), [("grouped", "Conv"), ("transposed", "ConvTranspose"), ("depthwise", "DepthwiseConv")]
)
def test_layers_whose_adapters_would_have_no_effect_are_refused(layer, kind):
    tree = drawn(Unsupported().init, KEY, X)["params"]
    with apply_adapters():
        for pattern in ("dense", layer):
            variables = with_adapters(tree, {"a": init_lora(KEY, tree, pattern, 2, 4.0)})
            if pattern == "dense":
                close(Unsupported().apply(variables, X), Unsupported().apply({"params": tree}, X))
                continue
            with pytest.raises(ValueError, match=rf"LoRA layer 'down/{layer}' is a {kind}: .* leave it out of the pat"):
                Unsupported().apply(variables, X)


def test_a_small_addition_is_not_lost_next_to_weights_of_two_bytes():
    """As it would be where their sum is rounded to the weights' grid."""
    rng = np.random.default_rng(0)
    weights = {"query": {"kernel": jnp.asarray(rng.standard_normal((64, 64)), jnp.bfloat16)}}
    lora = make_lora({"query": {"down": rng.standard_normal((64, 4)), "up": 1e-4 * rng.standard_normal((4, 64))}}, 4.0)
    lora = lora.replace(factors=jax.tree.map(lambda leaf: leaf.astype(np.float32), lora.factors))
    x = jnp.asarray(rng.standard_normal((8, 64)), jnp.float32)

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(64, use_bias=False, dtype=jnp.float32, name="query")(x)

    plain = Layer().apply({"params": weights}, x)
    effect = np.asarray(x) @ np.asarray(lora.factors["query"]["down"] @ lora.factors["query"]["up"])
    with apply_adapters():
        separate = Layer().apply(with_adapters(weights, {"": lora}), x) - plain
    merged = Layer().apply({"params": merge(weights, {"": lora})}, x) - plain
    spread = np.std(effect)
    assert np.std(separate - effect) < 0.02 * spread < 0.5 * spread < np.std(merged - effect)
