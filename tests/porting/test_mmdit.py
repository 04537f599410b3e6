"""Folders of Diffusers, tables of positions, and the recognition of transformers."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from framer_jax.models.joint_inputs import centred_positions
from framer_jax.models.mmdit import MMDiT
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.mmdit import TABLE, mmdit_arguments_of_config, mmdit_config, mmdit_variant
from framer_jax.porting.table import MAPS, read_torch
from framer_jax.trees import flatten_names
from tests.models.published import PUBLISHED
from tests.support.checkpoints import small_states

WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def states(fixtures):
    return small_states(fixtures)


@pytest.fixture(scope="module")
def config(fixtures):
    with np.load(fixtures / "sd35_medium_tiny.npz") as archive:
        return json.loads(str(archive["meta"]))["config"]


def write(folder, state, config, parts=1):
    """A model as Diffusers saves it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if parts == 1:
        save_file(state, folder / f"{WEIGHTS}.safetensors")
        return
    names = {key: f"{WEIGHTS}-{number % parts + 1:05}-of-{parts:05}.safetensors" for number, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == name}, folder / name)
    (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def refused(path, *words, name="mmdit", error=ValueError):
    with pytest.raises(error) as caught:
        read_torch(name, path)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mmdit", "dit4sr_transformer"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_pipelines_folder_is_read(states, config, tmp_path, name, parts):
    write(tmp_path / "transformer", states[name], config, parts)
    ported = read_torch(name, tmp_path)
    assert ported.arguments["position_grid"] == 24  # which the tensors do not tell without their table
    assert ported.arguments["position_base"] == 8
    assert len(ported.source["files"]) == parts + 1
    expected = flatten_names(to_flax(MAPS[name], states[name], name)[0])[0]
    leaves = flatten_names(ported.params)[0]
    assert leaves.keys() == expected.keys()
    assert all(np.array_equal(leaf, expected[key]) for key, leaf in leaves.items())
    assert read_torch(name, tmp_path / "transformer").arguments == ported.arguments


def test_a_missing_shard_is_named(states, config, tmp_path):
    write(tmp_path / "transformer", states["mmdit"], config, 3)
    shard = tmp_path / "transformer" / f"{WEIGHTS}-00002-of-00003.safetensors"
    moved = shard.rename(tmp_path / "elsewhere")
    refused(tmp_path, "lacks 1 of 3 shards", shard.name, "fetch", error=FileNotFoundError)
    moved.rename(shard)
    save_file({"other": np.zeros(2, np.float32)}, shard)
    refused(tmp_path, shard.name, "of other shards: fetch them together")


def test_faulty_folders_are_named(states, config, tmp_path):
    refused(tmp_path, "lacks config.json", error=FileNotFoundError)
    folder = tmp_path / "transformer"
    write(folder, states["mmdit"], config)
    (folder / f"{WEIGHTS}.safetensors").rename(folder / f"{WEIGHTS}-copy.safetensors")
    refused(tmp_path, "lacks", f"it holds {WEIGHTS}-copy.safetensors", error=FileNotFoundError)
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    for faulty in ("[]", "{", '{"weight_map": {"a": "../a"}}', '{"weight_map": {"a": 3}}', "{}"):
        index.write_text(faulty)
        refused(tmp_path, index.name, "fetch it again")


def test_a_configuration_of_another_model_is_told(states, config, tmp_path):
    """Weights of SD3 with the configuration of SD3.5, and vice versa."""
    plain = {
        key: value[: 384 if "norm1.linear" in key and "blocks.2" not in key else None]
        for key, value in states["mmdit"].items()
        if "attn2" not in key and ".norm_" not in key
    }
    old = config | {"qk_norm": None, "dual_attention_layers": []}
    write(tmp_path / "old" / "transformer", plain, old)
    assert read_torch("mmdit", tmp_path / "old").arguments["heads"] == 4  # only the configuration has it
    write(tmp_path / "mixed" / "transformer", plain, config)
    words = ("config.json", "3 blocks, 2 with dual", "3 blocks, 0 with dual", "qk_norm True and False")
    refused(tmp_path / "mixed", "not of one model", *words)
    write(tmp_path / "turned" / "transformer", states["mmdit"], old)
    refused(tmp_path / "turned", "not of one model", "dual_blocks 0 and 2")
    write(tmp_path / "unlike" / "transformer", states["mmdit"], {"sample_size": 64})
    refused(tmp_path / "unlike", "config.json is not that of a mmdit", "patch_size")


def test_the_two_transformers_are_not_taken_for_each_other(states, config, tmp_path):
    write(tmp_path / "base", states["mmdit"], config)
    refused(tmp_path / "base", "incomplete as dit4sr_transformer", "to_q_control", name="dit4sr")
    write(tmp_path / "sr", states["dit4sr_transformer"], config)
    refused(tmp_path / "sr", "this is a dit4sr_transformer checkpoint, not mmdit")
    refused(tmp_path / "sr", "a folder, and there are no folders of swinir", name="swinir")


# --- arguments from tensors ------------------------------------------------------------------------------------------


def test_dit4sr_weights_tell_whether_they_are_the_released_ones(states):
    state = states["dit4sr_transformer"]
    assert MAPS["dit4sr_transformer"].arguments(state)["variant"] == "released"
    mended = {key: value for key, value in state.items() if "attn2.add" not in key and "attn2.to_add" not in key}
    assert MAPS["dit4sr_transformer"].arguments(mended)["variant"] == "correct"


def test_any_set_of_blocks_may_have_dual_attention(states):
    state = {key: value for key, value in states["mmdit"].items() if "blocks.0.attn2" not in key}
    arguments = MAPS["mmdit"].arguments(state)
    assert (arguments["dual_blocks"], arguments["dual_layers"]) == (0, (1,))
    assert mmdit_variant(arguments).startswith("an MMDiT (3 blocks, 1 with dual attention (1), with")
    config = mmdit_config(arguments)
    assert config["dual_attention_layers"] == [1]
    assert mmdit_arguments_of_config(config | {"dual_attention_layers": (1, 7)}, "")["dual_layers"] == (1,)  # a tuple


@pytest.mark.parametrize(("side", "base"), [(24, 8), (24, 2), (20, 20), (20, 40)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_table_of_positions_tells_how_it_was_computed(states, side, base, dtype):
    table = centred_positions((side, side), side, base, 64)[None].astype(dtype).astype(np.float32)
    params, arguments, dropped = to_flax(MAPS["mmdit"], states["mmdit"] | {TABLE: table}, "file")
    assert (arguments["position_grid"], arguments["position_base"], arguments["positions"]) == (side, base, "sine")
    assert "positions" not in params["tokens"]
    assert dropped == [TABLE]
    back = to_torch(MAPS["mmdit"], params, "ours", arguments)
    np.testing.assert_allclose(back[TABLE], table, atol=1e-6 if dtype is np.float32 else 5e-3)


def test_another_table_is_carried_over_as_it_is(states):
    table = centred_positions((24, 24), 24, 8, 64)[None] + np.float32(0.1)
    params, arguments, dropped = to_flax(MAPS["mmdit"], states["mmdit"] | {TABLE: table}, "file")
    assert arguments["positions"] == "table"
    assert not dropped
    np.testing.assert_array_equal(params["tokens"]["positions"], table)
    np.testing.assert_array_equal(to_torch(MAPS["mmdit"], params, "ours", arguments)[TABLE], table)


@pytest.mark.parametrize(
    ("name", "words"),
    [("sd3_medium", "SD3-medium ("), ("sd35_medium", "SD3.5-medium ("), ("sd35_large", "SD3.5-large")],
)
def test_variants_have_names(name, words):
    model = MMDiT(**PUBLISHED[name])
    assert mmdit_variant({key: getattr(model, key) for key in ("depth", "heads", "dual_blocks", "qk_norm")}).startswith(
        words
    )
