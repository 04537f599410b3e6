"""The alpha of a LoRA: in `.alpha` tensors, in headers, in adapter_config.json; and what is assumed without any."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from framer_jax.models.lora import make_lora, merge
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.lora import assumption, read_layers, write_layers
from framer_jax.porting.lora_files import RANK, StatedAlpha, is_lora, read_lora
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.torch_files import write_state
from tests.porting.test_lora import drawn_layers
from tools.parity.cases import load_case

MODULES = ("encoder.mid_block.attentions.0.to_q", "encoder.mid_block.attentions.0.to_k")


@pytest.fixture(scope="module")
def base(fixtures):
    state = load_case(fixtures / "vae_sd2_tiny.npz").weights["model"]
    return state, to_flax(KL_AUTOENCODER, state, "base")[0]


@pytest.fixture(scope="module")
def tensors(base):
    """A LoRA of rank 4 without alphas."""
    layers = drawn_layers(base[1], r"encoder/middle/attention_1/(query|key)")
    state = write_layers(KL_AUTOENCODER, base[1], {"": layers}, prefix="vae")
    return {key: value for key, value in state.items() if not key.endswith("alpha")}


def alphas(base, path, alpha=None, part="vae"):
    """(alpha of queries, alpha of keys) as they were read, and what was assumed."""
    file = read_lora(path, part)
    (layers,) = read_layers(KL_AUTOENCODER, base[1], file.tensors, str(path), alpha, file.stated).values()
    found = tuple(layers.alphas[f"encoder/middle/attention_1/{name}"] for name in ("query", "key"))
    return found, assumption(file.tensors, file.stated, alpha)


PATTERN = {"alpha_pattern": {"to_k": 3}}

HEADERS = {
    "diffusers, a pipeline": ({"lora_adapter_metadata": json.dumps({"vae.lora_alpha": 16, "vae.r": 4})}, (16, 16)),
    "diffusers, one model": ({"lora_adapter_metadata": json.dumps({"lora_alpha": 16, "r": 4})}, (16, 16)),
    "diffusers, another part": (
        {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 16, "text_encoder.lora_alpha": 2})},
        (16, 16),
    ),
    "diffusers, several parts": (
        {"lora_adapter_metadata": json.dumps({"vae.lora_alpha": 16, "unet.lora_alpha": 2})},
        (16, 16),
    ),
    "a pattern": (
        {"lora_adapter_metadata": json.dumps({f"vae.{k}": v for k, v in ({"lora_alpha": 16} | PATTERN).items()})},
        (16, 3),
    ),
    "by the root of the rank": (
        {"lora_adapter_metadata": json.dumps({"vae.lora_alpha": 16, "vae.use_rslora": True})},
        (32, 32),
    ),
    "flat": ({"transformer.lora_alpha": "16"}, (16, 16)),
    "kohya": ({"ss_network_alpha": "16.0", "ss_network_dim": "4"}, (16, 16)),
    "ours": ({"lora_alpha": RANK}, (4, 4)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_alpha_in_a_header(base, tensors, tmp_path, name):
    header, expected = HEADERS[name]
    write_state(tmp_path / "lora.safetensors", tensors, header)
    assert alphas(base, tmp_path / "lora.safetensors") == (expected, "")
    assert alphas(base, tmp_path / "lora.safetensors", alpha=1.0) == ((1, 1), "")


def test_alpha_of_its_own_key_comes_first(base, tensors, tmp_path):
    own = {f"vae.{MODULES[0]}.alpha": np.asarray(2, np.float32)}
    write_state(tmp_path / "lora.safetensors", tensors | own, {"vae.lora_alpha": "16"})
    assert alphas(base, tmp_path / "lora.safetensors") == ((2, 16), "")
    write_state(tmp_path / "lora.safetensors", tensors | own)
    assumed = "no alpha of 1 of 2 modules is stated: it was assumed to equal the rank, a scale of 1"
    assert alphas(base, tmp_path / "lora.safetensors") == ((2, 4), assumed)


def test_an_alpha_that_is_not_stated_is_said_to_be_assumed(base, tensors, tmp_path):
    write_state(tmp_path / "lora.safetensors", tensors)
    assumed = "no alpha is stated: it was assumed to equal the rank, a scale of 1"
    assert alphas(base, tmp_path / "lora.safetensors") == ((4, 4), assumed)
    assert alphas(base, tmp_path / "lora.safetensors", alpha=8.0) == ((8, 8), "")


def peft_folder(path, tensors, **settings):
    path.mkdir()
    state = {f"base_model.model.{key.removeprefix('vae.')}": value for key, value in tensors.items()}
    write_state(path / "adapter_model.safetensors", state)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | settings))
    return path


def test_folders_of_peft(base, tensors, tmp_path):
    folder = peft_folder(tmp_path / "peft", tensors, lora_alpha=16, alpha_pattern={r"^encoder\..*to_k": 3})
    assert alphas(base, folder) == ((16, 3), "")
    assert alphas(base, folder / "adapter_model.safetensors") == ((16, 3), "")
    assert [path.name for path in read_lora(folder).paths] == ["adapter_model.safetensors", "adapter_config.json"]
    assert is_lora(folder) and is_lora(folder / "adapter_model.safetensors") and not is_lora(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "renamed.safetensors")
    with pytest.raises(FileNotFoundError, match=r"peft: lacks adapter_model\.safetensors or pytorch_lora_weights"):
        read_lora(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "an adapter of kind LOHA"),
        ({"use_dora": True}, "a DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's weights"),
        ({"lora_alpha": "many"}, "cannot be read"),
        ({"lora_alpha": math.inf}, "is not finite"),
        ({"alpha_pattern": [1]}, "cannot be read"),
        ({"alpha_pattern": {"(": 1}}, "cannot be read"),
    ],
)
def test_adapters_that_are_something_else_are_refused(tensors, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        read_lora(peft_folder(tmp_path / "peft", tensors, **settings))
    assert "adapter_config.json" in str(error.value) and "\n" not in str(error.value)


def test_patterns_are_those_of_peft():
    stated = StatedAlpha(16, {"to_k": 3, "0.to_q": 2})
    assert [stated.of(name, 4) for name in ("a.to_k", "to_k", "a.to_kk", "a.0.to_q", "b10.to_q")] == [3, 3, 16, 2, 16]


def test_text_encoders_are_left_out_with_a_note(base, tensors, tmp_path):
    text = {
        "text_encoder.text_model.q_proj.lora_A.weight": np.ones((4, 8), np.float32),
        "lora_te1_text_model_q_proj.lora_up.weight": np.ones((8, 4), np.float32),
    }
    save_file(tensors | text, tmp_path / "lora.safetensors")
    file = read_lora(tmp_path / "lora.safetensors", "vae")
    assert file.tensors.keys() == tensors.keys()
    assert file.notes == ("left out 2 tensors of text encoders, such as 'lora_te1_text_model_q_proj.lora_up.weight'",)


@pytest.mark.parametrize("down", ["lora.down", "lora_linear_layer.down"])
def test_keys_of_older_versions_of_diffusers(base, tensors, tmp_path, down):
    older = {
        key.replace("lora_A", down).replace("lora_B", down.replace("down", "up")): value
        for key, value in tensors.items()
    }
    save_file(older, tmp_path / "lora.safetensors")
    assert alphas(base, tmp_path / "lora.safetensors")[0] == (4, 4)


def test_the_scale_of_a_merged_lora(base, tensors, tmp_path):
    """W + alpha / rank B A, in NumPy, with alpha from the configuration."""
    state, params = base
    file = read_lora(peft_folder(tmp_path / "peft", tensors, lora_alpha=32))
    (layers,) = read_layers(KL_AUTOENCODER, params, file.tensors, "peft", stated=file.stated).values()
    merged = to_torch(KL_AUTOENCODER, merge(params, {"": make_lora(*layers)}), "merged")
    for module in MODULES:
        product = tensors[f"vae.{module}.lora_B.weight"] @ tensors[f"vae.{module}.lora_A.weight"]
        np.testing.assert_allclose(merged[f"{module}.weight"], state[f"{module}.weight"] + 8 * product, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lora_A.weight", np.full((4, 32), np.nan, np.float32), "values that are not finite"),
        ("lora_A.weight", np.ones((4, 32), np.int64), "has dtype int64"),
        ("lora_A.weight", np.ones((), np.float32), "of another size"),
        ("alpha", np.float32([1, 2]), "is not one finite number"),
        ("alpha", np.float32(math.inf), "not finite"),
    ],
)
def test_factors_that_are_no_numbers_are_named(base, tensors, name, value, message):
    changed = tensors | {f"vae.{MODULES[0]}.{name}": np.asarray(value)}
    with pytest.raises(ValueError, match=message) as error:
        read_layers(KL_AUTOENCODER, base[1], changed, "lora.safetensors")
    assert "lora.safetensors" in str(error.value) and "\n" not in str(error.value)
