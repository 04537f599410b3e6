"""Checkpoints and `framer-jax port`: there and back, and one clear line for what cannot be read."""

import json
import pickle
import sys
import types

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from framer_jax import cli
from framer_jax.checkpoints.networks import load_network
from framer_jax.porting.files import sha256_of
from framer_jax.porting.maps import to_flax
from framer_jax.porting.table import MAPS, read_torch
from framer_jax.porting.torch_files import read_state, write_state
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.trees import flatten_names
from tests.support.checkpoints import small_states
from tests.support.tiny import config


@pytest.fixture(scope="module")
def states(fixtures):
    return small_states(fixtures)


# --- files ------------------------------------------------------------------------------------------------------------


def port(*words):
    return cli.main(["port", *map(str, words)])


def refused(capsys, *patterns):
    """One line on standard error that holds all the patterns."""
    (line,) = capsys.readouterr().err.splitlines()
    for pattern in patterns:
        assert pattern in line, line


@pytest.fixture(scope="module")
def checkpoint(states, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "vq.safetensors"
    write_state(path, states["vq_f4"])
    return path


def test_there_and_back_on_the_command_line(states, checkpoint, tmp_path, capsys):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    assert port(checkpoint, ours, "--model", "vq_f4") == 0
    printed = capsys.readouterr().out
    assert "parameters   2,894,782" in printed and "source 1     vq.safetensors  " in printed and "sha256" in printed
    _, metadata = load_weights(ours)
    assert (metadata["model"], metadata["parameters"]) == ("vq_f4", 2_894_782)
    assert port(ours, back, "--model", "vq_f4", "--to", "torch") == 0
    tensors = load_file(back)
    assert tensors.keys() == states["vq_f4"].keys()
    assert all(np.array_equal(tensors[key], value) for key, value in states["vq_f4"].items())
    for path in (checkpoint, ours):  # both can be loaded by path
        model = load_network("vq_f4", path)
        assert model.module.codes == 256 and model.module.attention_levels == (2,)
        assert model.params["codebook"].shape == (256, 3)


def test_json_has_numbers_and_lists(checkpoint, tmp_path, capsys):
    ours = tmp_path / "ours.safetensors"
    assert port(checkpoint, ours, "--model", "vq_f4", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["written"], facts["model"], facts["parameters"]) == (str(ours), "vq_f4", 2_894_782)
    assert facts["sources"] == [{"file": "vq.safetensors", "sha256": sha256_of(checkpoint)}]
    assert facts["sha256"] == sha256_of(ours)
    assert facts["arguments"]["codes"] == 256
    assert port(ours, tmp_path / "back.safetensors", "--model", "vq_f4", "--to", "torch", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["parameters"], facts["tensors"]) == (2_894_782, len(load_file(checkpoint)))
    assert facts["sources"] == [{"file": ours.name, "sha256": sha256_of(ours)}]


def test_json_has_what_was_assumed_and_the_notes_on_it(states, tmp_path, capsys):
    source, ours = tmp_path / "in.safetensors", tmp_path / "ours.safetensors"
    write_state(source, states["swinir"])
    assert port(source, ours, "--model", "swinir", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["assumed"] == {name: facts["arguments"][name] for name in ("value_range", "image_size")}
    assert port(ours, tmp_path / "back.safetensors", "--model", "swinir", "--to", "torch", "--json") == 0
    back = json.loads(capsys.readouterr().out)
    assert (back["assumed"], back["stated"].items() >= facts["assumed"].items()) == (facts["assumed"], True)
    for notes in (facts["notes"], back["notes"]):
        assert any(note.startswith("assumed, as in published models") for note in notes)


def test_nothing_is_replaced_without_the_flag(checkpoint, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    assert port(checkpoint, out, "--model", "vq_f4") == 2
    refused(capsys, "exists", "--overwrite")
    assert out.read_bytes() == b"precious"
    assert port(checkpoint, out, "--model", "vq_f4", "--overwrite") == 0
    assert load_weights(out)[1]["model"] == "vq_f4"


def save_trained(path, states, **changes):
    """The Swin U-Net as the denoiser of a training run."""
    params, arguments, _ = to_flax(MAPS["resshift_unet"], states["resshift_unet"], "")
    settings = config("recipe.denoiser.name=resshift_unet")
    network = settings["recipe"]["denoiser"]["resshift_unet"]
    network |= {name: value for name, value in arguments.items() if name in network} | changes
    save_weights(path, {"denoiser": params}, {"config": settings})


def test_a_trained_denoiser_goes_back_to_pytorch(states, tmp_path):
    save_trained(tmp_path / "trained.safetensors", states)
    words = (tmp_path / "trained.safetensors", tmp_path / "out.safetensors", "--model", "resshift_unet")
    assert port(*words, "--to", "torch") == 0
    tensors = load_file(tmp_path / "out.safetensors")
    assert len(tensors) == len(states["resshift_unet"]) + 14 + 4  # index tables of 7 layers' blocks, masks of 2 levels
    assert tensors["input_blocks.1.1.blocks.0.attn.relative_position_index"].dtype == np.int64


def test_a_model_with_correct_masks_is_refused(states, tmp_path, capsys):
    save_trained(tmp_path / "trained.safetensors", states, variant="correct")
    words = (tmp_path / "trained.safetensors", tmp_path / "out.safetensors", "--model", "resshift_unet")
    assert port(*words, "--to", "torch") == 2
    refused(capsys, "trained.safetensors", "variant 'correct'", "'released'")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_trained_model_keeps_its_nominal_side(states, tmp_path, capsys):
    """It decides which levels shift their windows, and no tensor depends on it."""
    for side, name in ((32, "wide"), (64, "wider")):
        save_trained(tmp_path / f"{name}.safetensors", states, image_size=side, condition_size=side)
        words = (tmp_path / f"{name}.safetensors", tmp_path / f"{name}_torch.safetensors", "--model", "resshift_unet")
        assert port(*words, "--to", "torch") == 0
        note = "its latents are those of wavelet, its chain is residual: the released samplers do not run such a model"
        assert note in capsys.readouterr().out
        assert read_torch("resshift_unet", tmp_path / f"{name}_torch.safetensors").arguments["image_size"] == side


def test_info_of_a_ported_file(checkpoint, tmp_path, capsys):
    assert port(checkpoint, tmp_path / "ours.safetensors", "--model", "vq_f4") == 0
    capsys.readouterr()
    assert cli.main(["info", str(tmp_path / "ours.safetensors"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["parameters"], facts["arguments"]["codes"]) == ("vq_f4", 2_894_782, 256)
    assert facts["source"]["files"][0]["file"] == "vq.safetensors"


def test_swinir_goes_there_and_back_and_says_which_variant_it_is(states, tmp_path, capsys):
    constants = MAPS["swinir"].buffers(states["swinir"], {"window": 8, "image_size": 32})
    state = states["swinir"] | constants  # as published: with the constants of an input of 32 pixels
    write_state(tmp_path / "in.safetensors", state)
    words = ("--model", "swinir")
    assert port(tmp_path / "in.safetensors", tmp_path / "ours.safetensors", *words) == 0
    printed = capsys.readouterr().out
    assert "variant      SwinIR, x4 (head nearest+conv, 24 channels, 2+2 blocks, 2 heads, window 8, 3conv)" in printed
    assert "dropped      6 constants" in printed
    assert port(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", *words, "--to", "torch") == 0
    tensors = load_file(tmp_path / "back.safetensors")
    assert tensors.keys() == state.keys()
    for key, value in state.items():
        assert tensors[key].dtype == value.dtype
        np.testing.assert_array_equal(tensors[key], value)
    for path in ("in", "ours"):
        model = load_network("swinir", tmp_path / f"{path}.safetensors", scale=4, drop_path=0.0).module
        assert (model.image_size, model.residual, model.drop_path) == (32, "3conv", 0.0)


@pytest.mark.parametrize(
    ("demand", "fault"),
    [
        ({"scale": 2}, r"unexpected \(2\): head/up_2/bias"),
        ({"head": "pixelshuffle"}, "missing"),
        ({"channels": 60}, "of another shape"),
    ],
)
def test_another_variant_than_the_demanded_one_is_named(states, tmp_path, demand, fault):
    write_state(tmp_path / "in.safetensors", states["swinir"])
    named = r"in.safetensors, a checkpoint of SwinIR, x4 \(head nearest\+conv, 24 channels.*"
    with pytest.raises(ValueError, match=named + fault):
        load_network("swinir", tmp_path / "in.safetensors", **demand)


def test_trunk_and_heads_may_lie_in_two_files(states, tmp_path):
    """As torchvision and the lpips package publish them."""
    state = states["lpips_alex"]
    numbers = {key: key.split(".")[2] for key in state if key.startswith("net.")}
    trunk = {f"features.{number}.{key.rsplit('.', 1)[1]}": state[key] for key, number in numbers.items()}
    trunk["classifier.1.weight"] = np.zeros((2, 2), np.float32)
    heads = {key: value for key, value in state.items() if key.startswith("lin")}
    write_state(tmp_path / "alexnet.safetensors", trunk)
    write_state(tmp_path / "alex.safetensors", heads)
    both = (tmp_path / "alexnet.safetensors", tmp_path / "alex.safetensors")
    network = load_network("lpips_alex", *both)
    expected = flatten_names(to_flax(MAPS["lpips_alex"], state, "")[0])[0]
    for name, leaf in flatten_names(network.params)[0].items():
        np.testing.assert_array_equal(leaf, expected[name])
    with pytest.raises(ValueError, match=r"missing \(5\): lin0\.model\.1\.weight"):
        load_network("lpips_alex", both[0])
    with pytest.raises(ValueError, match="of another file again"):
        read_torch("lpips_alex", both[1], both[1])


def test_prefixes_are_removed_and_half_precision_is_widened(states, tmp_path):
    state = {f"module._orig_mod.{key}": value for key, value in states["vq_f4"].items()}
    state["module._orig_mod.quant_conv.bias"] = np.asarray([1, 2, 0.1], ml_dtypes.bfloat16)
    state["module._orig_mod.post_quant_conv.bias"] = np.asarray([1, 2, 0.1], np.float16)
    save_file(state, tmp_path / "wrapped.safetensors")
    tensors, removed = read_state(tmp_path / "wrapped.safetensors")
    assert tensors.keys() == states["vq_f4"].keys()
    assert removed == "module."
    np.testing.assert_array_equal(tensors["quant_conv.bias"], np.float32([1, 2, 0.10009765625]))
    assert tensors["post_quant_conv.bias"].dtype == np.float32


# --- bad input --------------------------------------------------------------------------------------------------------


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


WRONG = {
    "unknown names": (
        lambda unet, vq: unet | {"input_blocks.1.0.extra.weight": np.zeros(3, np.float32)},
        "1 of 375 names are unknown to it: input_blocks.1.0.extra.weight: name another model, or save the file without",
    ),
    "a layer is missing": (
        lambda unet, vq: without(unet, "middle_block.2.in_layers.2.bias"),
        "missing (1): middle_block.2.in_layers.2.bias: take the complete file",
    ),
    "the first layer is missing": (
        lambda unet, vq: without(unet, "input_blocks.0.0.weight"),
        "lacks 'input_blocks.0.0.weight'",
    ),
    "another shape": (
        lambda unet, vq: unet | {"out.0.bias": np.zeros(5, np.float32)},
        "out.0.bias (5,) instead of (32,)",
    ),
    "another type": (lambda unet, vq: unet | {"out.0.bias": np.zeros(32, int)}, "'out.0.bias' is int64, not a float"),
    "no numbers": (
        lambda unet, vq: unet | {"out.0.bias": np.full(32, np.nan, np.float32)},
        "'out.0.bias' holds 32 values that are not finite",
    ),
    "another model": (lambda unet, vq: vq, "this is a vq_f4 checkpoint, not resshift_unet"),
    "a LoRA": (
        lambda unet, vq: {"unet.down.0.to_q.lora_A.weight": np.zeros((4, 8), np.float32)},
        "a LoRA alone: name the model that it is added to before it",
    ),
    "SwinIR": (
        lambda unet, vq: {
            "conv_first.weight": np.zeros((60, 3, 3, 3), np.float32),
            "layers.0.residual_group.blocks.0.attn.qkv.weight": np.zeros((180, 60), np.float32),
        },
        "this is a swinir checkpoint, not resshift_unet",
    ),
    "DINOv2": (
        lambda unet, vq: {"blocks.0.attn.qkv.weight": np.zeros((1152, 384), np.float32)},
        "this is a dinov2 checkpoint, not resshift_unet",
    ),
    "CLIP": (
        lambda unet, vq: {"encoder.layers.0.self_attn.q_proj.weight": np.zeros((384, 384), np.float32)},
        "1 of 1 names are unknown to it: encoder.layers.0.self_attn.q_proj.weight",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_not_the_model_is_one_clear_line(states, case, tmp_path, capsys):
    make, message = WRONG[case]
    save_file(make(states["resshift_unet"], states["vq_f4"]), tmp_path / "in.safetensors")
    assert port(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--model", "resshift_unet") == 2
    refused(capsys, "in.safetensors", message)
    assert not (tmp_path / "out.safetensors").exists()


def test_files_that_cannot_be_read_are_one_clear_line(checkpoint, tmp_path, capsys):
    whole = checkpoint.read_bytes()
    damaged = {
        "short.safetensors": (whole[:-100], "cut short"),
        "header.safetensors": (whole[:1000], "cut short within its header"),
        "zip.pth": (b"PK\x03\x04" + bytes(200), "cut short (204 bytes)"),
        "page.pth": (b"<html>Not found</html>", "neither a PyTorch file nor"),
        "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        "empty.pth": (b"", "an empty file"),
        "empty.safetensors": (b"", "an empty file"),
    }
    for name, (content, message) in damaged.items():
        (tmp_path / name).write_bytes(content)
        assert port(tmp_path / name, tmp_path / "out.safetensors", "--model", "vq_f4") == 2
        refused(capsys, name, message)
    assert port(tmp_path / "none.pth", tmp_path / "out.safetensors", "--model", "vq_f4") == 2
    refused(capsys, "no such checkpoint")


def test_files_of_ours_are_not_mistaken_for_pytorchs(states, checkpoint, tmp_path, capsys):
    ours = tmp_path / "ours.safetensors"
    assert port(checkpoint, ours, "--model", "vq_f4") == 0
    capsys.readouterr()
    with pytest.raises(ValueError, match="file of framer_jax already"):
        read_state(ours)
    assert port(ours, tmp_path / "out.safetensors", "--model", "resshift_unet") == 2
    refused(capsys, "holds vq_f4, not resshift_unet")
    assert port(ours, tmp_path / "out.safetensors", "--model", "resshift_unet", "--to", "torch") == 2
    refused(capsys, "holds vq_f4, not resshift_unet")
    assert port(checkpoint, tmp_path / "out.safetensors", "--model", "vq_f4", "--to", "torch") == 2
    refused(capsys, "of another program")
    with pytest.raises(ValueError, match=r"\*\.pth"):
        write_state(tmp_path / "out.npz", states["vq_f4"])


# --- pickles, with a stand-in for PyTorch -----------------------------------------------------------------------------


@pytest.fixture
def torch_that_loads(monkeypatch):
    """A stand-in for torch whose `load` returns a given result; it insists on the safe loader."""

    def install(result):
        def load(path, map_location, weights_only):
            assert weights_only is True and map_location == "cpu"
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))

    return install


@pytest.fixture
def pth(tmp_path):
    path = tmp_path / "in.pth"
    path.write_bytes(pickle.dumps({}))
    return path


@pytest.mark.parametrize("wrapper", ["state_dict", "params", "params_ema"])
def test_wrapped_state_dicts(states, torch_that_loads, pth, wrapper):
    state = {f"module.{key}": value for key, value in states["vq_f4"].items()}
    torch_that_loads({"params": {}} | {wrapper: state, "iters_start": 300_000})
    tensors, removed = read_state(pth)
    assert tensors.keys() == states["vq_f4"].keys()
    assert removed == f"{wrapper}, module."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.UnpicklingError("Weights only load failed.\nUse weights_only=False"), "no other is used"),
        (RuntimeError("PytorchStreamReader failed reading zip archive\nmore"), "reading zip archive); fetch it again"),
        ({"epoch": 3, "rate": 0.1}, "not a state dict of tensors (it holds epoch, rate)"),
        ({"epoch": 3, "optimizer": {}}, "the state of an optimizer or a trainer, not weights"),
        ({}, "it holds nothing"),
        ([1, 2], "holds a list"),
    ],
    ids=["objects", "damaged", "no tensors", "optimizer", "empty", "list"],
)
def test_pickles_that_hold_something_else(torch_that_loads, pth, content, message, capsys):
    torch_that_loads(content)
    assert port(pth, pth.with_name("out.safetensors"), "--model", "vq_f4") == 2
    refused(capsys, "in.pth", message)


def test_pickles_without_pytorch_say_what_to_install(monkeypatch, pth, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert port(pth, pth.with_name("out.safetensors"), "--model", "vq_f4") == 2
    refused(capsys, "framer_jax[torch]")


def test_metadata_says_where_the_weights_came_from(checkpoint, tmp_path):
    assert port(checkpoint, tmp_path / "ours.safetensors", "--model", "vq_f4") == 0
    metadata = load_weights(tmp_path / "ours.safetensors")[1]
    assert [file["file"] for file in metadata["source"]["files"]] == ["vq.safetensors"]
    assert len(metadata["source"]["files"][0]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(metadata)
