"""LoRA files with keys of PEFT, of kohya and of PiSA-SR, with an autoencoder as the base model."""

import jax
import numpy as np
import pytest

from framer_jax.models.lora import init_lora, make_lora, merge
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.lora import LoraLayers, read_layers, write_layers
from framer_jax.porting.maps import Rule, WeightMap, to_flax, to_torch
from framer_jax.porting.torch_files import read_state, write_state
from framer_jax.trees import flatten_names
from tools.parity.cases import load_case
from tools.parity.drawn_weights import named_weight

RANK = 4


@pytest.fixture(scope="module")
def base(fixtures):
    """The base model in PyTorch's names, and in ours."""
    state = load_case(fixtures / "vae_sd2_tiny.npz").weights["model"]
    return state, to_flax(KL_AUTOENCODER, state, "base")[0]


def drawn_layers(params, *patterns, alpha=8.0):
    lora = init_lora(jax.random.key(0), params, patterns, RANK, alpha)
    factors = {name: named_weight(name, leaf.shape) for name, leaf in flatten_names(lora.factors)[0].items()}
    nested = jax.tree.unflatten(jax.tree.structure(lora.factors), [factors[name] for name in sorted(factors)])
    return LoraLayers(nested, dict(lora.alphas))


def same(mine, reference):
    assert mine.alphas == reference.alphas
    ours, theirs = flatten_names(mine.factors)[0], flatten_names(reference.factors)[0]
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name])


LAYERS = (r"encoder/conv_in", r"middle/attention_1/(query|project)", r"up_1_to_fine", r"after_encoder")


@pytest.mark.parametrize(
    ("style", "prefix", "key"),
    [
        ("peft", "vae", "vae.decoder.up_blocks.1.upsamplers.0.conv.lora_A.weight"),
        ("peft", "", "encoder.mid_block.attentions.0.to_out.0.lora_B.weight"),
        ("peft", "base_model.model", "base_model.model.quant_conv.alpha"),
        ("kohya", "lora_vae", "lora_vae_encoder_mid_block_attentions_0_to_q.lora_down.weight"),
        ("kohya", "lora_unet", "lora_unet_encoder_conv_in.alpha"),
    ],
)
def test_files_survive_a_round_trip(base, tmp_path, style, prefix, key):
    _, params = base
    layers = drawn_layers(params, *LAYERS)
    state = write_layers(KL_AUTOENCODER, params, {"": layers}, style, prefix)
    assert key in state and len(state) == 3 * 7
    write_state(tmp_path / "lora.safetensors", state)
    adapters = read_layers(KL_AUTOENCODER, params, read_state(tmp_path / "lora.safetensors")[0], "lora")
    assert adapters.keys() == {""}
    same(adapters[""], layers)


def test_the_sum_is_the_same_on_both_sides(base):
    """W + (alpha / r) B A in PyTorch's layout, as PEFT merges it: linear layers and convolutions."""
    state, params = base
    layers = drawn_layers(params, ".")
    lora = write_layers(KL_AUTOENCODER, params, {"": layers}, prefix="")
    merged = to_torch(KL_AUTOENCODER, merge(params, {"a": make_lora(*layers)}), "merged")
    for key, weight in state.items():
        module = key.removesuffix(".weight")
        if f"{module}.lora_A.weight" not in lora:
            np.testing.assert_array_equal(merged[key], weight)
            continue
        down, up = lora[f"{module}.lora_A.weight"], lora[f"{module}.lora_B.weight"]
        assert down.shape == (RANK, *weight.shape[1:]) and up.shape[:2] == (weight.shape[0], RANK)
        addition = np.einsum("or,r...->o...", up.reshape(up.shape[:2]), down)
        np.testing.assert_allclose(merged[key], weight + 2.0 * addition, atol=2e-5, err_msg=key)


def test_several_adapters_become_one(base):
    """PiSA-SR: three adapters each (encoder, decoder, others) make two; the file holds no alphas."""
    _, params = base
    parts = {"encoder": r"encoder/conv_in", "decoder": r"up_1_to_fine", "others": r"attention_1"}
    state = {}
    for name in ("pix", "sem"):
        for part, pattern in parts.items():
            state |= write_layers(
                KL_AUTOENCODER, params, {f"default_{part}_{name}": drawn_layers(params, pattern)}, prefix=""
            )
    assert "encoder.conv_in.lora_A.default_encoder_pix.weight" in state
    plain = {key: value for key, value in state.items() if not key.endswith("alpha")}
    adapters = read_layers(
        KL_AUTOENCODER, params, plain, "pisa", alpha=8.0, adapter_name=lambda adapter: adapter.rpartition("_")[2]
    )
    assert adapters.keys() == {"pix", "sem"}
    for layers in adapters.values():
        same(layers, drawn_layers(params, *parts.values()))
    with pytest.raises(ValueError, match="keep the adapters apart"):
        read_layers(KL_AUTOENCODER, params, plain, "pisa", adapter_name=lambda adapter: "all")
    by_rank = read_layers(KL_AUTOENCODER, params, plain, "pisa")
    assert len(by_rank) == 6 and set(by_rank["default_others_sem"].alphas.values()) == {4.0}


def test_linear_layers_may_be_written_as_convolutions(base):
    _, params = base
    layers = drawn_layers(params, "attention_1/query", "after_encoder")
    state = write_layers(KL_AUTOENCODER, params, {"": layers})
    turned = {
        key: value if not value.ndim else value[:, :, 0, 0] if value.ndim == 4 else value[:, :, None, None]
        for key, value in state.items()
    }
    same(read_layers(KL_AUTOENCODER, params, turned, "lora")[""], layers)


def test_wrong_files_are_errors_of_one_line(base):
    _, params = base
    layers = drawn_layers(params, "conv_in")
    state = write_layers(KL_AUTOENCODER, params, {"": layers}, prefix="vae")

    def refused(message, changed):
        with pytest.raises(ValueError, match=message) as caught:
            read_layers(KL_AUTOENCODER, params, changed, "file")
        assert "\n" not in str(caught.value)

    refused(
        "not a LoRA of kl_autoencoder: 1 of 7 keys are unknown to it: text_encoder",
        state | {"text_encoder.q.lora_A.weight": np.ones((4, 8), np.float32)},
    )
    refused("unknown to it: vae.encoder.conv_in.dora_scale", state | {"vae.encoder.conv_in.dora_scale": np.ones(3)})
    refused("0 of 0 keys", {})
    up, down = (f"vae.encoder.conv_in.lora_{factor}.weight" for factor in "BA")
    refused("lacks one of the factors of 'encoder/conv_in'", {down: state[down]})
    refused("of another size of the model", state | {up: state[up][:-1]})
    with pytest.raises(ValueError, match="unknown LoRA style"):
        write_layers(KL_AUTOENCODER, params, {"": layers}, "loha")
    with pytest.raises(ValueError, match="hold one LoRA"):
        write_layers(KL_AUTOENCODER, params, {"a": layers, "b": layers}, "kohya")
    with pytest.raises(ValueError, match="adapters differ in the alpha"):
        write_layers(KL_AUTOENCODER, params, {"a": layers, "b": drawn_layers(params, "conv_in", alpha=1.0)})
    with pytest.raises(ValueError, match="is not a layer of kl_autoencoder"):
        write_layers(KL_AUTOENCODER, {"encoder": params["encoder"]}, {"": layers})


@pytest.mark.slow
def test_every_key_of_pisa_srs_adapters_is_understood(shared):
    """With a base model whose rules are its keys: reading a LoRA does not need the U-Net itself."""
    case = load_case(shared / "parity" / "unet_sd2_tiny_duallora.npz")
    kernels = [key.removesuffix(".weight") for key, value in case.weights["base"].items() if value.ndim > 1]
    weights = WeightMap("unet", tuple(Rule(name, name.replace(".", "/")) for name in kernels), lambda state: {})
    known = {key: value for key, value in case.weights["base"].items() if key.rpartition(".")[0] in kernels}
    params = to_flax(weights, known, "base")[0]
    adapters = read_layers(
        weights,
        params,
        case.weights["lora"],
        "pisa",
        alpha=8.0,
        adapter_name=lambda adapter: adapter.rpartition("_")[2],
    )
    assert adapters.keys() == {"pix", "sem"}
    for layers in adapters.values():
        leaves = flatten_names(layers.factors)[0]
        assert len(leaves) == 1032 // 2
        assert sum(leaf.size for leaf in leaves.values()) == 167_840
    merged = merge(params, {name: make_lora(*layers) for name, layers in adapters.items()})
    lora = case.weights["lora"]
    for key in (key for key in lora if ".lora_A.default_" in key and key.endswith("_pix.weight")):
        module, _, adapter = key.removesuffix(".weight").partition(".lora_A.")
        reference = case.weights["base"][f"{module}.weight"].astype(np.float64)
        for name in (adapter, adapter.replace("_pix", "_sem")):
            up, down = (lora[f"{module}.lora_{factor}.{name}.weight"].astype(np.float64) for factor in "BA")
            reference += 2.0 * np.einsum("or,r...->o...", up.reshape(up.shape[:2]), down)
        mine = flatten_names(merged)[0][f"{module.replace('.', '/')}/kernel"]
        np.testing.assert_allclose(np.moveaxis(mine, (-1, -2), (0, 1)), reference, atol=1e-5, err_msg=module)
