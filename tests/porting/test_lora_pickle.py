"""The pickles of LoRAs that OSEDiff and PiSA-SR publish: their content as the safe loader returns it."""

import numpy as np
import pytest

from framer_jax.porting.lora_pickle import adapters_of, lora_pickle, read_lora_pickle, whole_layers
from framer_jax.porting.maps import to_flax
from framer_jax.porting.sd_unet import SD_UNET
from framer_jax.trees import flatten_names
from tools.parity.cases import load_case


@pytest.fixture(scope="module")
def case(fixtures):
    return load_case(fixtures / "unet_sd2_tiny_duallora.npz")


@pytest.fixture(scope="module")
def params(case):
    """The U-Net that the fixture's adapters lie on."""
    return to_flax(SD_UNET, dict(case.weights["base"]), "base")[0]


@pytest.fixture
def content(case):
    """pisa_sr.pkl, with arrays in the place of tensors."""
    lora = {key: np.asarray(value) for key, value in case.weights["lora"].items()}
    lists: dict[str, set[str]] = {}
    for key in lora:
        module, _, rest = key.partition(".lora_")
        part, kind = rest.split(".")[1].removeprefix("default_").split("_")
        lists.setdefault(f"unet_lora_{part}_modules_{kind}", set()).add(module)
    base = case.weights["base"]
    lora |= {f"conv_in.base_layer.{name}": np.asarray(base[f"conv_in.{name}"]) for name in ("weight", "bias")}
    ranks = dict.fromkeys(("lora_rank_unet_pix", "lora_rank_unet_sem"), 4)
    return {**{name: 2 * sorted(modules) for name, modules in lists.items()}, **ranks, "state_dict_unet": lora}


def test_pisa_srs_adapters_and_its_whole_layer(content, params):
    pickle = lora_pickle(content, "pisa_sr.pkl")
    assert len(pickle.modules) == 6 and set(pickle.ranks.values()) == {4}
    adapters = adapters_of(pickle, "unet", SD_UNET, params, lambda adapter: adapter.rpartition("_")[2])
    assert adapters.keys() == {"pix", "sem"}
    for kind, layers in adapters.items():
        assert set(layers.alphas.values()) == {8.0} and len(layers.alphas) == 258
        down = content["state_dict_unet"][f"conv_in.lora_A.default_encoder_{kind}.weight"]
        np.testing.assert_array_equal(layers.factors["conv_in"]["down"], np.moveaxis(down, (0, 1), (-1, -2)))
    whole = whole_layers(pickle, "unet", SD_UNET, params)
    assert whole.keys() == {"conv_in/kernel", "conv_in/bias"}
    for name, leaf in whole.items():
        np.testing.assert_array_equal(leaf, flatten_names(params)[0][name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"optimizer_state": {"lr": 1.0}},
            "not a file of LoRAs as OSEDiff and PiSA-SR .* optimizer_state$",
        ),
        ({"lora_rank_unet_pix": "4"}, "it holds lora_rank_unet_pix$"),
        ({"state_dict_unet": [1]}, "it holds state_dict_unet$"),
        ({"unet_lora_encoder_modules_pix": [3]}, "it holds unet_lora_encoder_modules_pix$"),
        (
            {"unet_lora_encoder_modules_pix": ["conv_in", "gone"]},
            "lists of modules and state_dict_unet differ: ",
        ),
        ({"lora_rank_unet_pix": 8, "lora_rank_unet_sem": 8}, "has shape .4, .*, and the file states the rank 8;"),
    ],
)
def test_any_other_content_is_refused_in_one_line(content, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        lora_pickle({**content, **change}, "file.pkl")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("file.pkl: ")


def test_what_does_not_fit_the_network_is_refused(content, params):
    pickle = lora_pickle(content, "file.pkl")
    with pytest.raises(ValueError, match="it has no state_dict_vae, so no LoRA on that network"):
        adapters_of(pickle, "vae", SD_UNET, params, str)
    state = content["state_dict_unet"]
    extra = {"state_dict_unet": {**state, "conv_in.base_layer.scale": np.ones(3, np.float32)}}
    with pytest.raises(ValueError, match=r"'conv_in.base_layer.scale' in state_dict_unet is no tensor of sd_unet"):
        whole_layers(lora_pickle({**content, **extra}, "file.pkl"), "unet", SD_UNET, params)
    short = {"state_dict_unet": {**state, "conv_in.base_layer.bias": np.ones(3, np.float32)}}
    with pytest.raises(ValueError, match=r"'conv_in.base_layer.bias' has shape \(3,\) in our layout"):
        whole_layers(lora_pickle({**content, **short}, "file.pkl"), "unet", SD_UNET, params)


def test_a_missing_file_and_another_kind_of_file_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of LoRAs"):
        read_lora_pickle(tmp_path / "osediff.pkl")
    (tmp_path / "osediff.pkl").write_text("<html>")
    with pytest.raises(ValueError, match="neither a PyTorch file nor"):
        read_lora_pickle(tmp_path / "osediff.pkl")
