"""What tensors do not tell comes from config.json, a header, a file next to a pickle or an option, or is printed."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from framer_jax.commands import port_check
from framer_jax.porting.diffusers_folder import find_model
from framer_jax.porting.kl_autoencoder import config_of_arguments
from framer_jax.porting.maps import to_flax
from framer_jax.porting.mmdit import TABLE, mmdit_config
from framer_jax.porting.stated import (
    ARGUMENTS_KEY,
    Statement,
    settle,
    sidecar_of,
    stated_by_files,
    statement_of,
    write_sidecar,
)
from framer_jax.porting.table import MAPS, read_ported, read_torch
from framer_jax.porting.torch_files import write_state
from framer_jax.porting.weights import read_metadata
from tests.commands.test_port import port, refused
from tests.support.checkpoints import small_states

ASSUMED = "assumed, as in published models, since the tensors do not tell: "


@pytest.fixture(scope="module")
def states(fixtures):
    states = small_states(fixtures)
    # Transformers without norms of queries, and DiT4SR's without a second attention.
    plain = {
        key: value[: 384 if "norm1.linear" in key and "blocks.2" not in key else None]
        for key, value in states["dit4sr_transformer"].items()
        if "attn2" not in key and ".norm_" not in key
    }
    base = {key: value for key, value in plain.items() if "control" not in key}
    return {**states, "mmdit": base, "dit4sr_transformer": plain}


OPEN = {
    "mmdit": ({"heads": 1, "head_width": 64, "position_grid": 192, "position_base": 64}, {"head_width": 16}),
    "dit4sr_transformer": (
        {
            "heads": 1,
            "head_width": 64,
            "position_grid": 192,
            "position_base": 64,
            "variant": "released",
            "lr_attention": "auto",
            "control_scale": 1.2,
        },
        {"variant": "correct"},
    ),
    "kl_autoencoder": ({"groups": 16, "scaling": 0.18215, "shift": 0.0}, {"scaling": 0.13025}),
    "swinir": ({"value_range": 1.0, "image_size": 64}, {"value_range": 255.0}),
    "resshift_unet": ({"image_size": 32}, {"image_size": 64}),
    "dinov2": ({"heads": 1, "position_offset": 0.1, "position_antialias": False}, {"heads": 3}),
}
"""Weight map → what its tensors leave open in `states`, with the assumed values; and a value to state instead."""


SLOW = ("mmdit", "resshift_unet")
"""Those whose shapes take longest to trace."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in OPEN])
def test_every_open_argument_is_printed_or_stated_and_goes_there_and_back(states, name, tmp_path, capsys):
    assumed, other = OPEN[name]
    ours, back, again = (tmp_path / f"{word}.safetensors" for word in ("ours", "back", "again"))
    write_state(tmp_path / "in.safetensors", states[name])
    assert port(tmp_path / "in.safetensors", ours, "--model", name) == 0
    printed = capsys.readouterr().out
    assert ASSUMED + ", ".join(f"{key} {value!r}" for key, value in assumed.items()) + "; state others" in printed
    assert read_metadata(ours)["source"]["assumed"] == list(assumed)

    options = [word for key, value in other.items() for word in ("--set", f"{key}={value}")]
    assert port(tmp_path / "in.safetensors", ours, "--model", name, *options, "--overwrite") == 0
    capsys.readouterr()
    assert port(ours, back, "--model", name, "--to", "torch") == 0
    (key, value), *_ = other.items()
    assert f"{key} {value!r}" in capsys.readouterr().out
    assert port(back, again, "--model", name) == 0
    left = read_metadata(again)
    assert left["source"]["assumed"] == []
    assert left["arguments"] == read_metadata(ours)["arguments"]
    assert {key: left["arguments"][key] for key in other} == other
    assert ASSUMED not in capsys.readouterr().out


def test_heads_follow_from_each_other(states):
    def settled(*statements):
        arguments = MAPS["mmdit"].arguments(states["mmdit"])
        result = settle(MAPS["mmdit"], states["mmdit"], arguments, statements, "file")
        return result.arguments["heads"], result.arguments["head_width"], result.assumed

    for values in ({"heads": 4}, {"head_width": 16}, {"heads": 4, "head_width": 16}):
        assert settled(Statement("--set", values, strict=True)) == (4, 16, ("position_grid", "position_base"))
    for values, words in (
        ({"heads": 3}, "do not divide the width of the tokens, 64"),
        ({"heads": 4, "head_width": 8}, "4 heads of width 8 do not make the width"),
        ({"depth": 4}, r"--set contradicts the tensors \(depth 4 and 3\)"),
        ({"head_size": 8}, "no argument 'head_size' of mmdit: did you mean"),
        ({"heads": 4.5}, "heads is 4.5: it must be of the type of 1"),
        ({"heads": True}, "heads is True"),
    ):
        with pytest.raises(ValueError, match=words):
            settled(Statement("--set", values, strict=True))


def test_config_next_to_a_file_states_what_it_lacks(states, tmp_path, capsys):
    arguments = MAPS["mmdit"].arguments(states["mmdit"]) | {"heads": 4, "head_width": 16, "position_grid": 24}
    write_state(tmp_path / "weights.safetensors", states["mmdit"])
    config = mmdit_config(arguments | {"position_base": 8})
    (tmp_path / "config.json").write_text(json.dumps(config))
    ported = read_torch("mmdit", tmp_path / "weights.safetensors")
    assert (ported.arguments["heads"], ported.arguments["position_grid"], ported.source["assumed"]) == (4, 24, [])
    for changes, words in (
        ({"num_layers": 7}, "config.json next to it is of another model (config.json and the tensors are not of one"),
        ({"_class_name": "FluxTransformer2DModel"}, "describes a FluxTransformer2DModel, not an SD3Transformer2DModel"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        ported = read_torch("mmdit", tmp_path / "weights.safetensors")
        assert ported.arguments["heads"] == 1
        note, assumption = ported.source["notes"]
        assert words in note and "is not used" in note and ASSUMED in assumption
    (tmp_path / "config.json").write_text("[")  # anything may lie next to a file
    assert ASSUMED in read_torch("mmdit", tmp_path / "weights.safetensors").source["notes"][0]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mmdit", {"out_channels": 8}, "out_channels 8 is not supported, only 16"),
        ("mmdit", {"caption_projection_dim": 8}, "caption_projection_dim 8 is not supported"),
        ("mmdit", {"qk_norm": "layer_norm"}, "qk_norm 'layer_norm' is not supported, only None and 'rms_norm'"),
        ("mmdit", {"pos_embed_max_size": None}, "pos_embed_max_size None"),
        ("mmdit", {"patch_size": 0}, "config.json is not that of a mmdit"),
        ("mmdit", {"_class_name": "SD3ControlNetModel"}, "describes a SD3ControlNetModel"),
        ("kl_autoencoder", {"act_fn": "relu"}, "act_fn 'relu' is not supported, only 'silu'"),
    ],
)
def test_a_folder_with_other_settings_is_refused_by_their_names(states, name, changes, words, tmp_path):
    weights = MAPS[name]
    config = weights.make_config(weights.arguments(states[name]))
    folder = tmp_path / weights.folder
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_file(states[name], folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        read_torch(name, tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_diffusers_folders_state_what_their_settings_do_not(states, tmp_path, capsys):
    name = "dit4sr_transformer"
    write_state(tmp_path / "in.safetensors", states[name])
    sets = ("--set", "variant=correct", "--set", "control_scale=1.0", "--set", "heads=4")
    assert port(tmp_path / "in.safetensors", tmp_path / "ours.safetensors", "--model", name, *sets) == 0
    assert port(tmp_path / "ours.safetensors", tmp_path / "out", "--model", name, "--to", "diffusers") == 0
    ported = read_torch(name, tmp_path / "out")
    values = {key: ported.arguments[key] for key in ("variant", "control_scale", "heads", "lr_attention")}
    assert values == {"variant": "correct", "control_scale": 1.0, "heads": 4, "lr_attention": "auto"}
    assert ported.source["assumed"] == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [key for key in config if key.startswith("_")] == [
        "_class_name",
        f"_{ARGUMENTS_KEY}",
    ]  # diffusers drops both


def test_a_pickle_has_its_arguments_next_to_it(states, tmp_path):
    weights, state = MAPS["swinir"], states["swinir"]
    arguments = weights.arguments(state) | {"value_range": 255.0}
    path = tmp_path / "x.pth"
    path.touch()
    write_sidecar(path, statement_of(weights, state, arguments))
    statements, notes = stated_by_files(weights, find_model(path), {}, False)
    assert [dict(statement.values) for statement in statements] == [{"value_range": 255.0, "image_size": 64}]
    assert not notes
    assert stated_by_files(MAPS["resshift_unet"], find_model(path), {}, False)[0] == []  # of another network
    for text in ("[]", "{", '{"model": "swinir"}'):  # another program's
        sidecar_of(path).write_text(text)
        assert stated_by_files(weights, find_model(path), {}, False)[0] == []
        write_sidecar(path, {})
        assert sidecar_of(path).read_text() == text
    write_sidecar(path, {"model": "swinir", "arguments": {}})
    write_sidecar(path, {})
    assert not sidecar_of(path).exists()


def test_a_config_of_ours_states_values_of_networks_that_have_none(states, tmp_path):
    write_state(tmp_path / "in.safetensors", states["swinir"])
    stated = {"model": "swinir", "arguments": {"value_range": 255.0, "channels": 7}}  # the tensors tell the channels
    (tmp_path / "config.json").write_text(json.dumps(stated))
    ported = read_torch("swinir", tmp_path / "in.safetensors")
    assert (ported.arguments["value_range"], ported.arguments["channels"]) == (255.0, 24)
    assert ported.source["assumed"] == ["image_size"]


def test_a_header_states_no_more_than_the_tensors_leave_open(states, tmp_path):
    name = "swinir"
    constants = MAPS[name].buffers(states[name], {"window": 8, "image_size": 32})
    write_state(tmp_path / "in.safetensors", states[name] | constants)
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    assert port(tmp_path / "in.safetensors", ours, "--model", name) == 0
    assert read_metadata(ours)["source"]["assumed"] == ["value_range"]
    assert port(ours, back, "--model", name, "--to", "torch") == 0
    with safe_open(back, framework="numpy") as file:
        stated = json.loads(file.metadata()[ARGUMENTS_KEY])
    assert stated == {"model": name, "arguments": {"value_range": 1.0, "image_size": 32}}
    assert load_file(back).keys() == states[name].keys() | constants.keys()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--set", "value_range"), "cannot read --set 'value_range': write NAME=VALUE"),
        (("--set", "=3"), "cannot read --set '=3'"),
        (("--set", "value_range=1", "--set", "value_range=2"), "--set value_range is given twice"),
        (("--set", "value_range=inf"), "value_range"),
        (("--set", "value_range=1e999"), "value_range is inf: it must be a finite number"),
        (("--set", "value_range=-1"), "value_range"),
        (("--set", "value_range=[1]"), "value_range is [1]"),
        (("--set", "image_size=0"), "image_size"),
        (("--set", "heads=3"), "--set contradicts the tensors (heads 3 and 2)"),
        (("--set", "range=3"), "no argument 'range' of swinir: did you mean 'value_range'?"),
    ],
)
def test_bad_values_are_one_line(states, words, fault, tmp_path, capsys):
    write_state(tmp_path / "in.safetensors", states["swinir"])
    assert port(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--model", "swinir", *words) == 2
    refused(capsys, fault)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["swinir", "mmdit", "kl_autoencoder", "resshift_unet"])
def test_check_is_not_built_from_an_assumption(states, name, tmp_path, monkeypatch, capsys):
    write_state(tmp_path / "in.safetensors", states[name])
    words = (tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--model", name, "--check", tmp_path)
    assert port(*words) == 2
    first = port_check.ORIGINALS[name].built_from[0]
    refused(
        capsys, f"{first} ", "is assumed, and the original would be built from the same assumption", f"--set {first}="
    )

    def run(name, state, arguments, inputs, folder):
        raise ValueError(f"built with {[arguments[key] for key in port_check.ORIGINALS[name].built_from]}")

    monkeypatch.setattr(port_check, "_run_original", run)
    values = OPEN[name][0] | OPEN[name][1]
    values |= {"heads": 4} if name == "mmdit" else {}
    assert port(*words, *(word for key, value in values.items() for word in ("--set", f"{key}={value}"))) == 2
    refused(capsys, f"built with {[values[key] for key in port_check.ORIGINALS[name].built_from]}")


def test_a_table_of_positions_is_compared_as_a_whole(states):
    """One entry in the middle differs: it is kept as it is."""
    arguments = MAPS["mmdit"].arguments(states["mmdit"]) | {"position_grid": 12, "position_base": 6}
    table = MAPS["mmdit"].buffers(states["mmdit"], arguments)[TABLE]
    assert to_flax(MAPS["mmdit"], states["mmdit"] | {TABLE: table}, "")[1]["positions"] == "sine"
    table = table.copy()
    table[0, 70, 3] += 2e-3
    params, kept, _ = to_flax(MAPS["mmdit"], states["mmdit"] | {TABLE: table}, "")
    assert kept["positions"] == "table"
    np.testing.assert_array_equal(params["tokens"]["positions"], table)
    with pytest.raises(ValueError, match="143 positions, which make no square"):
        to_flax(MAPS["mmdit"], states["mmdit"] | {TABLE: table[:, :143]}, "file")


def test_weights_with_unused_layers_are_not_of_the_variant_without(fixtures):
    state = small_states(fixtures)["dit4sr_transformer"]
    weights = MAPS["dit4sr_transformer"]
    arguments = weights.arguments(state)
    assert "variant" in weights.assumed(state, arguments)  # dit4sr_r1 has the same tensors
    with pytest.raises(ValueError, match="it is 'released'"):
        settle(weights, state, arguments, [Statement("--set", {"variant": "correct"}, strict=True)], "file")


def test_a_configuration_of_an_autoencoder_is_compared_with_its_tensors(states):
    weights, state = MAPS["kl_autoencoder"], states["kl_autoencoder"]
    arguments = weights.arguments(state)
    config = weights.read_config(config_of_arguments(arguments | {"blocks": 3}), "config.json")
    statement = Statement("config.json", config, strict=True, is_config=True)
    with pytest.raises(ValueError, match=r"not of one model: \(blocks 3 and 2\)"):
        settle(weights, state, arguments, [statement], "vae")


def test_what_a_recipe_expects_is_weaker_than_what_files_state(states, tmp_path, capsys):
    """It fills in what was assumed, so that a file of another size is still refused as one."""
    expected, other = Statement("the configuration", {"heads": 4}), Statement("the configuration", {"heads": 3})
    write_state(tmp_path / "in.safetensors", states["mmdit"])

    def heads(path, *statements):
        read = read_torch if path.name == "in.safetensors" else read_ported
        ported = read("mmdit", path, statements=statements)
        return ported.arguments["heads"], "heads" in ported.source["assumed"]

    assert heads(tmp_path / "in.safetensors", expected) == (4, False)
    assert heads(tmp_path / "in.safetensors", other) == (1, True)  # three do not divide the width
    assert port(tmp_path / "in.safetensors", tmp_path / "assumed.safetensors", "--model", "mmdit") == 0
    assert heads(tmp_path / "assumed.safetensors") == (1, True)
    assert heads(tmp_path / "assumed.safetensors", expected) == (4, False)
    words = (tmp_path / "in.safetensors", tmp_path / "stated.safetensors", "--model", "mmdit", "--set", "heads=2")
    assert port(*words) == 0
    assert heads(tmp_path / "stated.safetensors", expected) == (2, False)
    assert heads(tmp_path / "stated.safetensors", Statement("--set", {"heads": 8}, strict=True)) == (8, False)
    config = MAPS["mmdit"].make_config(MAPS["mmdit"].arguments(states["mmdit"]) | {"heads": 2, "head_width": 32})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert heads(tmp_path / "in.safetensors", expected) == (2, False)
