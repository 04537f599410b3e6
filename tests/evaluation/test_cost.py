import dataclasses
import json
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from framer_jax import cli
from framer_jax.checkpoints.networks import autoencoder_shapes
from framer_jax.checkpoints.open import build_recipe
from framer_jax.config import shipped, to_dict
from framer_jax.evaluation.cost import CostSettings, trace
from framer_jax.inference.model import load_model
from framer_jax.macs import macs_by_kind, macs_by_module, products
from framer_jax.models.layers import attention
from framer_jax.models.swin import WindowAttention
from framer_jax.models.swinir import SwinIR
from framer_jax.recipes.base import expected_params
from tests.support.paths import CONFIGS
from tests.support.tiny import config, ported, weights


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def products_of(function, *inputs):
    return list(products(jax.make_jaxpr(function)(*inputs)))


def products_of_module(module, *inputs):
    """Products of a flax module that is only traced; initialising its parameters has no products."""
    return products_of(module.init_with_output, jax.random.key(0), *inputs)


# --- single layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Dense(5), (2, 7, 3), 2 * 7 * 3 * 5),
        (nn.Conv(8, (3, 3)), (2, 6, 5, 4), 2 * 6 * 5 * 9 * 4 * 8),  # including the zero padding
        (nn.Conv(8, (3, 3), padding="VALID"), (2, 6, 5, 4), 2 * 4 * 3 * 9 * 4 * 8),
        (nn.Conv(8, (4, 4), strides=2), (1, 8, 8, 4), 4 * 4 * 16 * 4 * 8),
        (nn.Conv(8, (3, 3), feature_group_count=4), (1, 6, 5, 4), 6 * 5 * 9 * 1 * 8),
        (nn.ConvTranspose(8, (2, 2), strides=(2, 2)), (1, 6, 5, 4), 6 * 5 * 4 * 4 * 8),
    ],
    ids=["dense", "conv", "valid", "strided", "depthwise", "transposed"],
)
def test_one_layer(module, shape, macs):
    (product,) = products_of_module(module, floats(*shape))
    assert (product.macs, product.module) == (macs, type(module).__name__)
    assert product.kind == ("matrix" if isinstance(module, nn.Dense) else "convolution")


def test_attention():
    batch, tokens, others, heads, width = 2, 9, 5, 3, 4
    listed = products_of(attention, *(floats(batch, count, heads, width) for count in (tokens, others, others)))
    assert [product.kind for product in listed] == ["batched matrix"] * 2
    assert [product.macs for product in listed] == [batch * heads * tokens * others * width] * 2


def test_modules_have_their_paths():
    channels, side, window = 6, 8, 4
    listed = products_of_module(
        WindowAttention(heads=2, window=window, shift=2, variant="correct"), floats(1, side, side, channels)
    )
    pixels = side * side
    assert macs_by_module(listed) == {
        "WindowAttention/qkv": pixels * channels * 3 * channels,
        "WindowAttention": 2 * pixels * window**2 * channels,
        "WindowAttention/project": pixels * channels * channels,
    }


# --- control flow and transformations ---------------------------------------------------------------------------------


def square(x):
    return x @ x


custom = jax.custom_vjp(square)
custom.defvjp(lambda x: (square(x), x), lambda x, g: (g @ x.T + x.T @ g,))

EIGHT = floats(8, 8)


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (jax.jit(square), 1),
        (jax.checkpoint(square), 1),
        (lambda x: jax.lax.scan(lambda y, _: (square(y), None), x, None, length=5)[0], 5),
        (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.fori_loop(0, 4, lambda _, z: square(z), y), x), 12),
        (lambda x: jax.lax.cond(x[0, 0] > 0, square, lambda y: square(square(y)), x), 2),
        (lambda x: jax.lax.switch(1, [lambda y: y, square], x), 1),
        (jax.nn.relu6, 0),  # a custom derivative without products
        (custom, 1),
        (lambda x: jax.vmap(square)(jnp.stack([x, x])), 2),
        (lambda x: jax.grad(lambda y: square(y).sum())(x), 3),
    ],
    ids=["jit", "checkpoint", "scan", "nested", "cond", "switch", "nothing", "custom", "vmap", "grad"],
)
def test_control_flow(function, times):
    listed = products_of(function, EIGHT)
    assert sum(product.macs for product in listed) == times * 8**3
    assert all(product.bounded for product in listed)


def test_loops_of_unknown_length_are_marked():
    listed = products_of(
        lambda x: jax.lax.while_loop(lambda y: square(y).sum() < 9, lambda y: square(square(y)), x), EIGHT
    )
    assert [(product.macs, product.bounded) for product in listed] == [(8**3, False)] * 3


def test_paths_through_loops_and_transformations():
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.twice(nn.Dense(8, use_bias=False, name="first")(x))

        @nn.compact
        def twice(self, x):
            return jnp.einsum("ij,jk->ik", x, x) + nn.Dense(8, use_bias=False, name="second")(x)

    module = Inner()
    params = jax.eval_shape(module.init, jax.random.key(0), EIGHT)

    def steps(params, x):
        return jax.lax.scan(lambda y, _: (jax.vmap(lambda z: module.apply(params, z))(y[None])[0], None), x, None, 4)[0]

    # neither einsum nor a method adds to the path
    assert macs_by_module(products_of(steps, params, EIGHT)) == dict.fromkeys(
        ("Inner/first", "Inner", "Inner/second"), 4 * 8**3
    )


# --- published figures ------------------------------------------------------------------------------------------------


def published_macs(listed):
    """MACs with 9 taps for a convolution after nearest-neighbor upsampling, as others count it; we compute 4."""
    return sum(product.macs * (9 if UPSAMPLING.search(product.module) else 4) for product in listed) / 4


UPSAMPLING = re.compile(r"/up_\d+(_to_fine)?$")


@pytest.mark.parametrize(
    ("arguments", "gmacs"),
    [
        ({"channels": 180, "depths": (6,) * 6, "head": "pixelshuffle"}, 53.56),
        ({"head": "pixelshuffledirect"}, 4.36),
        ({"channels": 240, "depths": (6,) * 9, "heads": 8, "residual": "3conv"}, 125.6),
        ({"head": "pixelshuffle"}, 7.53),
    ],
    ids=["classical", "lightweight", "real-world L", "small pixelshuffle"],
)
def test_published_swinir_macs(arguments, gmacs):
    listed = products_of_module(SwinIR(**arguments), floats(1, 64, 64, 3))
    digits = len(str(gmacs).split(".")[1])
    assert round(published_macs(listed) / 1e9, digits) == gmacs


def test_swinir_small_has_the_published_10_087_gmacs():
    """DTKD's 10.087 GFLOPs are the sum of ptflops' "MACs" (0.7.5: 9.333194752 G) and the products of attention."""
    listed = products_of_module(SwinIR(), floats(1, 64, 64, 3))
    kinds = macs_by_kind(listed)
    pixels, blocks, width = 64 * 64, 24, 60
    dense = (3 + 1 + 2 + 2) * width * width
    assert kinds["matrix"] == blocks * pixels * dense
    assert kinds["batched matrix"] == blocks * pixels * 2 * 64 * width
    upsampling = (4 + 16) * pixels * 64 * 64
    head = pixels * width * 64 + 16 * pixels * 64 * 64 + 16 * pixels * 64 * 3
    assert kinds["convolution"] == 9 * (pixels * (3 * width + 5 * width * width) + head) + 4 * upsampling
    kinds["convolution"] += 5 * upsampling  # as others compute it
    biases = pixels * (blocks * (3 + 1 + 2 + 1) * width + 6 * width + 64 + (4 + 16 + 16) * 64 + 16 * 3)
    assert sum(kinds.values()) + biases == 9_999_597_568  # ptflops with backend 'aten', exactly
    others = {
        "biases": biases,
        "norms": (2 * blocks + 2) * pixels * width,
        "leaky ReLU": (1 + 4 + 16 + 16) * pixels * 64,
        "GELU, as a module and as a function": 2 * blocks * pixels * 2 * width,
        "softmax": blocks * pixels * 6 * 64,
        "nearest-neighbor upsampling": (4 + 16) * pixels * 64,
    }
    ptflops = kinds["convolution"] + kinds["matrix"] + sum(others.values())
    assert ptflops == 9_333_194_752  # ptflops with backend 'pytorch', exactly
    assert ptflops + kinds["batched matrix"] == pytest.approx(10.087e9, rel=2e-4)


def test_resshift_v1_is_counted_with_all_its_steps():
    recipe_config = to_dict(shipped("resshift_v1"))["recipe"]
    recipe = build_recipe(recipe_config, "description")
    traced = trace(recipe, expected_params(recipe), autoencoder_shapes(recipe_config), CostSettings())
    totals = dict.fromkeys(("SwinUNet", "VQAutoencoder"), 0)
    for product in products(traced.jaxpr):
        if product.module:
            totals[product.module.split("/")[0]] += published_macs([product])
    assert round(totals["SwinUNet"] / 15 / 1e9, 1) == 50.7  # as measured on the original implementation
    assert round(totals["VQAutoencoder"] / 1e9) == 508


# --- XLA's count ------------------------------------------------------------------------------------------------------


def xla_flops(function, *inputs):
    return jax.jit(function).lower(*inputs).compile().cost_analysis()["flops"]


def test_xla_counts_two_flops_for_a_mac():
    assert xla_flops(square, EIGHT) == 2 * 8**3


def test_xla_does_not_count_zero_padding():
    convolution = nn.Conv(8, (3, 3), use_bias=False)
    inputs = (jax.eval_shape(convolution.init, jax.random.key(0), floats(1, 6, 5, 4)), floats(1, 6, 5, 4))
    assert xla_flops(convolution.apply, *inputs) == 2 * (3 * 6 - 2) * (3 * 5 - 2) * 4 * 8


def test_xla_counts_the_body_of_a_loop_once():
    def chain(x):
        return jax.lax.scan(lambda y, _: (square(y), None), x, None, length=50)[0]

    assert xla_flops(chain, EIGHT) < 2 * 2 * 8**3
    assert sum(product.macs for product in products_of(chain, EIGHT)) == 50 * 8**3


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training directory with the weights of a tiny student."""
    folder = tmp_path_factory.mktemp("run")
    weights(folder / "weights.safetensors", base=CONFIGS / "swinir_small.py")
    return folder


def fails(capsys, *words):
    assert cli.main(["info", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_cost_of_a_model(folder, capsys):
    words = ["info", str(folder), "--cost", "--size", "16x8", "--batch", "2", "--runs", "3"]
    assert cli.main([*words, "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    model = load_model(folder)
    listed = list(products(trace(model.recipe, model.params, {}, CostSettings(16, 8)).jaxpr))
    assert cost["macs"] == sum(product.macs for product in listed)  # per image, whatever the batch
    assert cost["macs_by_module"] == macs_by_module(listed)
    assert cost["macs_by_kind"] == macs_by_kind(listed)
    assert cost["flops"] == 2 * cost["macs"]
    assert 0.5 * cost["flops"] < cost["xla_flops"] < 2 * cost["flops"]
    assert cost["unbounded_macs"] == 0
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params))
    assert cost["parameters"] == {"student": numbers}
    assert cost["frozen_parameters"] == {}
    assert cost["argument_bytes"] >= 4 * (numbers + 2 * 16 * 8 * 3)
    assert cost["output_bytes"] == 4 * 2 * 64 * 32 * 3
    assert cost["temporary_bytes"] > 0
    assert cost["settings"] == {"height": 16, "width": 8, "batch": 2, "runs": 3, "mode": "sample"}
    seconds = cost["seconds"]
    assert 0 < seconds["quartiles"][0] <= seconds["median"] <= seconds["quartiles"][1]
    assert (seconds["runs"], cost["device"]) == (3, "cpu: cpu")
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert re.search(rf"^GMACs per image +{cost['macs'] / 1e9:.3f} \(convolution ", text, re.MULTILINE)
    assert re.search(r"^  SwinIR/group_0/block_0 +\d", text, re.MULTILINE)
    assert re.search(r"^latency +median .* of 3 calls$", text, re.MULTILINE)


def test_cost_of_a_configuration_without_any_weights(tmp_path, capsys):
    path = tmp_path / "tiny.py"
    settings = config("recipe.resshift.steps=4")
    path.write_text(
        f"from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({settings!r})\n"
    )
    assert cli.main(["info", str(path), "--cost", "--size", "16", "--runs", "1", "--json"]) == 0
    modules = json.loads(capsys.readouterr().out)["macs_by_module"]
    recipe = build_recipe(settings["recipe"])
    once = macs_by_module(products(trace(recipe, expected_params(recipe), {}, CostSettings(16, 16, mode="mean")).jaxpr))
    assert {name: macs for name, macs in modules.items() if name} == {
        name: 4 * macs for name, macs in once.items() if name
    }


def test_shapes_of_an_autoencoder_need_no_weights():
    shapes = autoencoder_shapes(to_dict(shipped("resshift_v1"))["recipe"])
    assert set(shapes) == {"autoencoder"}
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    assert autoencoder_shapes(to_dict(shipped("swinir_small"))["recipe"]) == {}


def test_bad_requests_are_one_line(folder, tmp_path, capsys):
    assert "--cost needs a model: name a weights file" in fails(capsys, "--cost")
    assert "--size belongs to --cost: add --cost" in fails(capsys, folder, "--size", "16")
    assert "--runs belongs to --cost: add --cost" in fails(capsys, "--runs", "3")
    for size in ("16by8", "-8", "8x", "x", "8.5"):
        assert f"--size '{size}': give LR pixels as HEIGHTxWIDTH" in fails(capsys, folder, "--cost", f"--size={size}")
    assert "width must be at least 1, got 0" in fails(capsys, folder, "--cost", "--size", "8x0")
    assert "runs must be at least 1, got 0" in fails(capsys, folder, "--cost", "--runs", "0")
    assert "batch must be at least 1, got -1" in fails(capsys, folder, "--cost", "--batch", "-1")
    line = fails(capsys, "starter", "--cost", "--size", "64x30")
    assert re.search(r"LR size 64x30: the recipe resshift needs multiples of \d+$", line)
    line = fails(capsys, ported(tmp_path / "ours.safetensors", "resshift_unet"), "--cost")
    assert "a ported resshift_unet carries no recipe: name a configuration that uses it" in line
    assert "no such weight file" in fails(capsys, tmp_path / "nothing", "--cost")
    assert "no configuration file" in fails(capsys, tmp_path / "nothing.py", "--cost")


def test_modes():
    recipe = dataclasses.replace(build_recipe(config()["recipe"]), mean=None)
    with pytest.raises(ValueError, match="the recipe resshift has no one-step mean: use mode 'sample'"):
        trace(recipe, expected_params(recipe), {}, CostSettings(mode="mean"))
    with pytest.raises(ValueError, match="mode must be one of sample, mean"):
        CostSettings(mode="both")
