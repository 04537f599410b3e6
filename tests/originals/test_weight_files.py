"""Pickles as trainers write them, and diffusers' own conversion of Stability's files."""

import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.porting.maps import to_torch
from framer_jax.porting.swinir import SWINIR
from framer_jax.porting.table import LAYOUTS
from framer_jax.porting.weights import load_weights
from framer_jax.trees import flatten_names
from tests.commands.test_port import port, refused
from tests.porting.test_stability import PARTS
from tests.support.checkpoints import small_states
from tests.support.originals import torch
from tests.support.tiny import TINY, random_weights

ARGUMENTS = TINY["swinir"] | {"depths": (1,)}


@pytest.fixture(scope="module")
def swinir():
    """(a state dict of tensors, the same doubled, our parameters of the second)."""
    params = random_weights(network_shapes("swinir", build_network("swinir", ARGUMENTS)), None)
    state = {key: torch.from_numpy(np.array(value)) for key, value in to_torch(SWINIR, params, "", ARGUMENTS).items()}
    doubled = {key: 2 * value if value.is_floating_point() else value for key, value in state.items()}
    return state, doubled, {name: 2 * leaf for name, leaf in flatten_names(params)[0].items()}


def optimizer_state():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    return optimizer.state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


TRAINERS = {
    "BasicSR": (lambda last, mean: {"params": last, "params_ema": mean}, "took params_ema, not params"),
    "Lightning": (
        lambda last, mean: {
            "epoch": 1,
            "pytorch-lightning_version": "2.0",
            "state_dict": prefixed("model.net_g.", last) | {"loss.vgg.weight": torch.ones(2)},
            "optimizer_states": [optimizer_state()],
            "callbacks": {"EMA": {"ema_state_dict": prefixed("model.net_g.", mean)}},
        },
        "took callbacks / EMA / ema_state_dict / model.net_g., not state_dict / model.net_g.",
    ),
    "mmagic": (
        lambda last, mean: {
            "meta": {"iter": 3},
            "state_dict": prefixed("generator.", last)
            | prefixed("generator_ema.", mean)
            | {"discriminator.x": torch.ones(2)},
        },
        "left out discriminator (1 tensors)",
    ),
    "float64": (lambda last, mean: {k: v.double() if v.is_floating_point() else v for k, v in mean.items()}, "float64"),
    "bfloat16": (lambda last, mean: {k: v.bfloat16() if v.is_floating_point() else v for k, v in mean.items()}, ""),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_trainers_file_is_read_and_what_was_taken_is_said(swinir, tmp_path, capsys, trainer, legacy):
    last, mean, expected = swinir
    make, note = TRAINERS[trainer]
    torch.save(make(last, mean), tmp_path / "in.pth", _use_new_zipfile_serialization=not legacy)
    assert port(tmp_path / "in.pth", tmp_path / "out.safetensors", "--model", "swinir") == 0
    assert note in capsys.readouterr().out
    for name, leaf in flatten_names(load_weights(tmp_path / "out.safetensors")[0])[0].items():
        tolerance = 1e-2 if trainer == "bfloat16" else 0
        np.testing.assert_allclose(leaf, expected[name], rtol=tolerance, err_msg=name)


class Linear(torch.nn.Module):
    """A module that can be scripted."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


REFUSED = {
    "optimizer.bin": (lambda last: optimizer_state(), ("the state of an optimizer", "such as model.pth")),
    "net.state": (lambda last: {"iter": 5, "optimizers": [optimizer_state()]}, ("the state of an optimizer",)),
    "sparse.pth": (lambda last: last | {"conv_first.bias": last["conv_first.bias"].to_sparse()}, ("dense float32",)),
    "complex.pth": (lambda last: last | {"conv_first.bias": last["conv_first.bias"] * 1j}, ("complex64",)),
    "nan.pth": (lambda last: last | {"conv_first.bias": last["conv_first.bias"] * np.nan}, ("not finite",)),
    "tensor.pth": (lambda last: torch.ones(2), ("holds a Tensor",)),
    "object.pth": (lambda last: {"net": Linear()}, ("no other is used",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_is_refused_by_name(swinir, tmp_path, capsys, name):
    make, words = REFUSED[name]
    torch.save(swinir[0], tmp_path / "model.pth")
    torch.save(make(swinir[0]), tmp_path / name)
    assert port(tmp_path / name, tmp_path / "out.safetensors", "--model", "swinir") == 2
    refused(capsys, name, *words)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_program_is_refused(tmp_path, capsys):
    torch.jit.script(Linear()).save(tmp_path / "program.pt")
    assert port(tmp_path / "program.pt", tmp_path / "out.safetensors", "--model", "swinir") == 2
    refused(capsys, "program.pt", "a TorchScript program")


def test_stabilitys_transformer_is_converted_as_diffusers_converts_it(fixtures):
    """Tensor for tensor."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    inverse, prefix, _ = PARTS["mmdit"]
    state = inverse(small_states(fixtures)["mmdit"])
    width = state["x_embedder.proj.weight"].shape[0]
    state["pos_embed"] = np.random.default_rng(0).standard_normal((1, 16, width)).astype(np.float32)
    tensors = {f"{prefix}{key}": torch.from_numpy(np.array(value)) for key, value in state.items()}
    theirs = convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    ours = LAYOUTS["mmdit"].to_diffusers(state, "")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value.numpy(), err_msg=key)


def test_stabilitys_autoencoder_is_converted_as_diffusers_converts_it(fixtures):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    inverse, prefix, _ = PARTS["kl_autoencoder"]
    state = inverse(small_states(fixtures)["kl_autoencoder"])
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("decoder.up."))
    config = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    tensors = {f"{prefix}{key}": torch.from_numpy(np.array(value)) for key, value in state.items()}
    theirs = convert_ldm_vae_checkpoint(tensors, config)
    ours = LAYOUTS["kl_autoencoder"].to_diffusers(state, "")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value.numpy(), err_msg=key)
