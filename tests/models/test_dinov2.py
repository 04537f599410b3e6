"""DINOv2 against the same layers in NumPy, its position embeddings against Pillow's interpolation, and its sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.models.dinov2 import MEAN, STANDARD_DEVIATION, DINOv2, normalise, resize_matrix, resize_positions
from framer_jax.porting.dinov2 import PUBLISHED
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tests.support.tiny import TINY, random_weights

ARGUMENTS = TINY["dinov2"]

RNG = np.random.default_rng(0)

IMAGE = RNG.random((2, 42, 70, 3), np.float32)  # 3 by 5 patches


def made(**changes):
    """(module, random parameters) of a tiny network."""
    module = build_network("dinov2", {**ARGUMENTS, **changes})
    return module, random_weights(network_shapes("dinov2", module))


def apply(module, params, *inputs, **options):
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs, **options))(params, *inputs)


# --- NumPy, from the authors' names of tensors ------------------------------------------------------------------------


def norm(x, state, name):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normal * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attended(x, state, name, heads):
    queries, keys, values = np.split(linear(x, state, f"{name}.qkv"), 3, axis=-1)
    width = x.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = queries[:, part] @ keys[:, part].T / np.sqrt(width)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        outputs.append(weights / weights.sum(-1, keepdims=True) @ values[:, part])
    return linear(np.concatenate(outputs, axis=-1), state, f"{name}.proj")


def mlp(x, state, name):
    if f"{name}.w12.weight" in state:
        gate, value = np.split(linear(x, state, f"{name}.w12"), 2, axis=-1)
        return linear(gate / (1 + np.exp(-gate)) * value, state, f"{name}.w3")
    h = linear(x, state, f"{name}.fc1")
    return linear(h * (1 + np.vectorize(math.erf)(h / np.sqrt(2))) / 2, state, f"{name}.fc2")


def by_pillow(table, rows, columns):
    """[G², W] → [rows · columns, W] by Pillow's antialiased bicubic interpolation, which is PyTorch's."""
    side = math.isqrt(len(table))
    channels = [
        np.asarray(Image.fromarray(table[:, c].reshape(side, side)).resize((columns, rows), Image.Resampling.BICUBIC))
        for c in range(table.shape[1])
    ]
    return np.stack(channels, axis=-1).reshape(rows * columns, -1)


def features(image, state, arguments):
    """All tokens before the last norm, of one image [H, W, 3] in [0, 1]."""
    patch, (height, width) = arguments["patch"], image.shape[:2]
    rows, columns = height // patch, width // patch
    x = (image - np.asarray(MEAN)) / np.asarray(STANDARD_DEVIATION)
    x = x.reshape(rows, patch, columns, patch, 3)
    tokens = np.einsum("hiwjc,ocij->hwo", x, state["patch_embed.proj.weight"]) + state["patch_embed.proj.bias"]
    positions = state["pos_embed"][0]
    tokens = tokens.reshape(rows * columns, -1) + by_pillow(positions[1:], rows, columns)
    first = [state["cls_token"][0] + positions[:1]]
    first += [state["register_tokens"][0]] if "register_tokens" in state else []
    tokens = np.concatenate([*first, tokens])
    for index in range(arguments["depth"]):
        block = f"blocks.{index}"
        h = attended(norm(tokens, state, f"{block}.norm1"), state, f"{block}.attn", arguments["heads"])
        tokens = tokens + h * state.get(f"{block}.ls1.gamma", 1.0)
        h = mlp(norm(tokens, state, f"{block}.norm2"), state, f"{block}.mlp")
        tokens = tokens + h * state.get(f"{block}.ls2.gamma", 1.0)
    return tokens


@pytest.mark.parametrize(
    "changes", [{}, {"registers": 0, "mlp": "gelu", "layer_scale": False}], ids=["registers_swiglu", "plain"]
)
def test_features_are_those_of_the_same_layers_in_numpy(changes):
    module, params = made(**changes)
    state = to_torch(MAPS["dinov2"], params, "", {**ARGUMENTS, **changes})
    ours = apply(module, params, IMAGE)
    registers = module.registers
    assert ours.cls.shape == (2, 24) and ours.patches.shape == (2, 15, 24)
    assert ours.registers.shape == (2, registers, 24) and ours.before_norm.shape == (2, 16 + registers, 24)
    expected = np.stack([features(image, state, {**ARGUMENTS, **changes}) for image in IMAGE])
    atol = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(ours.before_norm, expected, atol=atol)
    expected = norm(expected, state, "norm")
    np.testing.assert_allclose(ours.cls, expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(ours.registers, expected[:, 1 : 1 + registers], atol=1e-4)
    np.testing.assert_allclose(ours.patches, expected[:, 1 + registers :], atol=1e-4)


# --- positions --------------------------------------------------------------------------------------------------------


def test_the_native_grid_gets_the_stored_positions():
    table = jnp.asarray(RNG.standard_normal((1, 36, 8)), jnp.float32)
    assert resize_positions(table, 6, 6, 0.1, False) is table
    resized = resize_positions(table, 6, 12, 0.1, False)  # as many rows, but not the native grid: both are interpolated
    assert resized.shape == (1, 72, 8)
    assert not np.allclose(resized.reshape(6, 12, 8)[0, 0], table[0, 0], atol=1e-3)
    np.testing.assert_allclose(resize_matrix(6, 6), np.eye(6), atol=1e-12)
    np.testing.assert_allclose(resize_matrix(6, 6, antialias=True), np.eye(6), atol=1e-12)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [1, 3, 8, 16, 37, 50])
def test_interpolation_keeps_constants_and_places(size, antialias):
    matrix = resize_matrix(size, 37, 0.0 if antialias else 0.1, antialias)
    assert matrix.shape == (size, 37)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    inner = slice(size // 4, size - size // 4)  # a line is nearly kept too, away from the edges
    expected = (np.arange(size) + 0.5) * 37 / (size + (0.0 if antialias else 0.1)) - 0.5
    np.testing.assert_allclose((matrix @ np.arange(37.0))[inner], expected[inner], atol=0.3)


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (20, 9), (9, 20)])
def test_antialiased_interpolation_is_pillows(rows, columns):
    table = RNG.standard_normal((81, 2)).astype(np.float32)
    ours = resize_positions(jnp.asarray(table)[None], rows, columns, 0.0, True)[0]
    np.testing.assert_allclose(ours, by_pillow(table, rows, columns), atol=1e-5)


# --- the network ------------------------------------------------------------------------------------------------------


def test_images_are_normalised_inside():
    module, params = made()
    np.testing.assert_array_equal(
        apply(module, params, IMAGE).patches, apply(module, params, normalise(IMAGE), method="from_normalised").patches
    )
    np.testing.assert_allclose(normalise(jnp.full((1, 1, 3), 1.0))[0, 0], (1 - np.array(MEAN)) / STANDARD_DEVIATION)


def test_bfloat16_computes_nearly_the_same_and_returns_float32():
    module, params = made(layer_scale=False)
    exact, rough = apply(module, params, IMAGE), apply(module.clone(dtype=jnp.bfloat16), params, IMAGE)
    assert all(leaf.dtype == jnp.float32 for leaf in rough)
    for one, two in zip(exact, rough, strict=True):
        difference = np.abs(np.asarray(one) - np.asarray(two))
        assert 0 < difference.max() < 0.1 * np.abs(one).max()


def test_attention_implementations_agree():
    module, params = made()
    one, two = apply(module, params, IMAGE), apply(module.clone(attention="manual"), params, IMAGE)
    np.testing.assert_allclose(one.patches, two.patches, atol=1e-4)


def test_gradients_reach_the_image_and_every_parameter_but_the_mask_token():
    module, params = made()

    def loss(params, image):
        features_of_image = module.apply({"params": params}, image)
        return (
            jnp.square(features_of_image.before_norm).mean()
            + features_of_image.cls.sum()
            + features_of_image.patches.mean()
        )

    gradients, of_image = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, IMAGE)
    assert np.abs(of_image).max() > 0
    zero = {name for name, leaf in gradients.items() if not any(np.abs(part).max() for part in jax.tree.leaves(leaf))}
    assert zero == {"mask_token"}


def test_masked_patches_are_the_mask_token():
    module, params = made()
    everything = np.ones((2, 15), bool)
    one, two = apply(module, params, IMAGE, everything), apply(module, params, 1 - IMAGE, everything)
    np.testing.assert_array_equal(one.patches, two.patches)
    none = apply(module, params, IMAGE, ~everything)
    np.testing.assert_array_equal(none.patches, apply(module, params, IMAGE).patches)


COUNTS = {"vit_small": 22_056_576, "vit_base": 86_580_480, "vit_large": 304_368_640, "vit_giant2": 1_136_480_768}
"""Numbers of parameters of the released files."""


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    shapes = network_shapes("dinov2", DINOv2(**PUBLISHED[name]))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == COUNTS[name]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 42, 64, 3), r"multiples of 14, got \(42, 64\): resize or crop them, for example to \(42, 70\)"),
        ((1, 5, 28, 3), r"got \(5, 28\): resize or crop them, for example to \(14, 28\)"),
        ((1, 0, 28, 3), r"got \(0, 28\)"),
        ((1, 28, 28, 4), r"takes images \[B, H, W, 3\], got \(1, 28, 28, 4\)"),
        ((28, 28, 3), r"takes images \[B, H, W, 3\], got \(28, 28, 3\)"),
    ],
)
def test_other_shapes_are_refused_with_the_remedy(shape, words):
    module, params = made()
    with pytest.raises(ValueError, match=words):
        module.apply({"params": params}, jnp.zeros(shape, jnp.float32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 5}, "heads is 5: it must divide the width, 24"),
        ({"mlp": "relu"}, "mlp is 'relu': it must be one of gelu, swiglu"),
        ({"attention": "fast"}, "attention is 'fast'"),
        ({"image_size": 80}, r"image_size is 80: it must be a multiple of patch \(14\)"),
        ({"depth": 0}, "depth is 0: it must be at least 1"),
        ({"registers": -1}, "registers and position_offset must be at least 0"),
    ],
)
def test_impossible_arguments_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        build_network("dinov2", {**ARGUMENTS, **changes})
