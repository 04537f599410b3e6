"""Which tensors of a trainer's checkpoint are the model: entries, prefixes, averaged weights."""

import re

import numpy as np
import pytest

from framer_jax.porting.maps import key_test
from framer_jax.porting.state_dicts import is_optimizer, select
from framer_jax.porting.swinir import SWINIR

KEYS = (
    "conv_first.weight",
    "patch_embed.norm.weight",
    "layers.0.residual_group.blocks.0.attn.qkv.weight",
    "layers.0.residual_group.blocks.0.norm1.weight",
    "norm.weight",
    "conv_last.weight",
)

IS_KNOWN = key_test(SWINIR)


def model(value, prefix="", keys=KEYS):
    return {f"{prefix}{key}": np.full((2, 2), value, np.float32) for key in keys}


def taken(content, is_known=IS_KNOWN):
    """(the value of the tensors that were taken, what was removed, notes)."""
    selection = select(content, "file.pth", is_known)
    assert set(selection.tensors) == set(KEYS)
    (value,) = {float(tensor[0, 0]) for tensor in selection.tensors.values()}
    return value, selection.removed, "; ".join(selection.notes)


AVERAGED = (
    *("params_ema", "model_ema", "ema", "generator_ema", "ema_state_dict", "state_dict_ema", "net_g_ema", "g_ema"),
    *("ema_model", "model-ema", "swa_state_dict", "averaged_model"),
)


@pytest.mark.parametrize("name", AVERAGED)
@pytest.mark.parametrize("other", ["params", "model", "state_dict", "generator", "g"])
def test_averaged_weights_are_taken_and_named(name, other):
    """As an entry, whichever comes first, and as a prefix next to another or to none."""
    note = f"took {name}, not {other}"
    assert taken({other: model(1), name: model(2)}) == (2, name, note)
    assert taken({name: model(2), other: model(1), "iter": 3}) == (2, name, note)
    note = f"took {name}., not {other}."
    assert taken(model(1, f"{other}.") | model(2, f"{name}.")) == (2, f"{name}.", note)
    value, removed, notes = taken(model(1) | model(2, f"{name}."))
    assert (value, removed) == (2, f"{name}.") and "not the weights without prefix" in notes


def test_averages_of_a_part_are_not_taken():
    value, removed, notes = taken({"params": model(1), "params_ema": model(2, keys=KEYS[:4])})
    assert (value, removed) == (1, "params")
    assert notes == "took params, not params_ema (params_ema holds 4 of its 6 tensors)"


def test_averages_whose_names_lack_dots():
    """Latent diffusion's code."""
    short = {f"model_ema.{key.replace('.', '')}": value for key, value in model(2).items()}
    counters = {"model_ema.decay": np.float32(0.9), "model_ema.num_updates": np.int64(3)}
    for prefix in ("", "model."):
        value, removed, notes = taken(model(1, prefix) | short | counters)
        assert value == 2 and removed.startswith("model_ema") and "took model_ema" in notes


PREFIXES = (
    *("module.", "_orig_mod.", "module._orig_mod.", "model.net_g.", "generator.", "model.", "net_g.module."),
    *("model.diffusion_model.", "network.backbone."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("entries", [(), ("state_dict",), ("checkpoint", "model")])
def test_prefixes_are_found_by_the_names_behind_them(prefix, entries):
    content = model(1, prefix) | {"discriminator.conv_first.weight": np.zeros(3), "loss.vgg.0.weight": np.zeros(3)}
    for name in reversed(entries):
        content = {name: content, "epoch": 7, "optimizer_states": [{"state": {}}]}
    value, removed, notes = taken(content)
    plain = prefix.replace("_orig_mod.", "")
    assert value == 1 and removed == ", ".join(part for part in (*entries, plain) if part)
    assert notes == "left out discriminator (1 tensors), loss (1 tensors)"


def test_parts_of_a_trainer_between_the_names_are_left_out():
    extra = {"discriminator.0.weight": np.zeros(3), "n_averaged": np.int64(3), "logvar": np.zeros(())}
    assert taken(model(1) | extra) == (
        1,
        "",
        "left out discriminator (1 tensors), n_averaged (1 tensors), logvar (1 tensors)",
    )
    kept = select(model(1) | {"strange.weight": np.zeros(3)}, "file.pth", IS_KNOWN)
    assert "strange.weight" in kept.tensors  # the weight map refuses it by name


def test_parts_that_compiling_or_sharding_renamed():
    renamed = {
        key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): value for key, value in model(1).items()
    }
    assert taken({key.replace("layers.0.", "layers.0._orig_mod."): value for key, value in renamed.items()})[0] == 1


def test_two_models_that_fit_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"several models in it fit: net_a \(6 tensors\), net_b \(6 tensors\)"
    ) as error:
        select({"net_a": model(1), "net_b": model(2)}, "file.pth", IS_KNOWN)
    assert "save the one you mean as a file of its own" in str(error.value) and "\n" not in str(error.value)
    larger = model(2) | model(2, keys=[f"layers.{group}.conv.weight" for group in range(5)])
    with pytest.raises(ValueError, match="several models"):
        select({"small": model(1), "large": larger}, "file.pth", IS_KNOWN)
    assert taken({"teacher": larger, "student": model(1)})[:2] == (1, "student")
    assert taken({"params": model(1), "weights": model(2)}) == (1, "params", "took params, not weights")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it holds nothing"),
        (
            {"epoch": 3, "rate": 0.1},
            "not a state dict of tensors (it holds epoch, rate); known wrappers are params_ema",
        ),
        ({"shadow_params": [np.zeros(3)], "decay": 0.9}, "averaged weights without names (shadow_params, decay)"),
        ({"a": {"b": {"c": 1}}}, "it holds a"),
    ],
)
def test_files_without_named_tensors(content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        select(content, "file.pth", IS_KNOWN)


def test_states_of_optimizers_are_recognised():
    assert is_optimizer({"state": {0: {"exp_avg": np.zeros(3)}}, "param_groups": [{"lr": 0.1}]})
    assert is_optimizer({"epoch": 1, "iter": 2, "optimizers": [{}], "schedulers": [{}]})
    assert not is_optimizer({"optimizer": {}, "model": model(1)})
    assert not is_optimizer({"epoch": 3})


def test_without_a_known_model_one_entry_is_taken():
    assert taken({"optimizer": {}, "params": model(1), "params_ema": model(2)}, None)[:2] == (2, "params_ema")
    assert taken({"model": model(1, "module.module.")}, None)[:2] == (1, "model, module.module.")
