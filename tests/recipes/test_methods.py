"""What every method of the table promises, asked through its record alone."""

import math
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.port import port_to_jax, port_to_torch
from framer_jax.commands.train import train_from_config
from framer_jax.config import default, knob_table, load_config, to_dict
from framer_jax.inference.model import load_model, settings_for
from framer_jax.inference.upscaler import make_upscaler
from framer_jax.knobs import check_values, legal_values
from framer_jax.porting.table import MAPS
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.components.networks import NETWORKS
from framer_jax.recipes.table import METHODS
from framer_jax.trees import flatten_names
from tests.support.logs import read_json_lines
from tests.support.tiny import named_weights, overrides, photos, shipped_configuration, weights
from tests.support.training_toys import same

by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def saved_state(workdir):
    """The training state of the last checkpoint, by names."""
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        return reader.restore(workdir / "checkpoints" / "2" / "state")


LONG_CYCLES = {"hf_diff", "pisa_sr", "osediff", "tsd_sr", "multistep_sd", "supresdiffgan"}
"""Methods whose whole cycle is a slow check, of minutes: their terms are those of others, or their losses run through
an autoencoder and LPIPS. A small configuration of theirs is trained for a step in tests/test_configs.py, or the
gradient of every group is tested in their own file."""


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=pytest.mark.slow if method.name in LONG_CYCLES else (), id=method.name)
        for method in METHODS
    ],
)
def test_it_trains_resumes_exports_and_upscales(method, tmp_path):
    folder, path = photos(tmp_path / "photos"), Path(shipped_configuration(method))
    changes = [f"data.train={folder}", "data.validation=never_opened", "data.validation_count=0"]
    changes += [*named_weights(tmp_path / "weights", path), "training.best_metric=None", "framer.variant=none"]
    config = to_dict(load_config(path, overrides(*changes, base=path)))
    whole = train_from_config(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "1", tmp_path / "resumed" / "checkpoints" / "1")
    assert train_from_config(config, tmp_path / "resumed").step == whole.step == 2
    losses = [
        line for line in read_json_lines(tmp_path / "whole" / "metrics.jsonl") if any("loss" in key for key in line)
    ]
    assert losses and all(
        math.isfinite(value) for line in losses for key, value in line.items() if key.endswith("loss")
    )
    first, second = (
        flatten_names(load_weights(tmp_path / run / "weights.safetensors")[0])[0] for run in ("whole", "resumed")
    )
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    whole_state, resumed_state = (saved_state(tmp_path / run) for run in ("whole", "resumed"))
    assert same(whole_state, resumed_state), "everything that a step changes is resumed bit for bit"
    for file in (tmp_path / "weights").glob("*"):  # what the run was trained with
        shutil.copy(file, tmp_path / "whole" / file.name)
    model = load_model(tmp_path / "whole")
    assert set(whole_state["mutable"]) == set(model.recipe.init_state())
    assert set(model.params) == set(model.recipe.exported)
    side = 4 * model.recipe.lr_multiple
    settings = settings_for(model, tile=side, overlap=0)
    image = np.random.default_rng(0).random((side, side, 3), np.float32)
    result = make_upscaler(model.recipe, settings).run(model.params, image).pixels
    assert result.shape == (side * model.recipe.scale, side * model.recipe.scale, 3)
    assert np.isfinite(result).all()


@by_method
def test_its_networks_are_ported_both_ways(method, tmp_path):
    section = method.networks.section
    for name in (name for name in method.networks.names if name in MAPS and method.published_network):
        path = weights(tmp_path / f"{name}.safetensors", f"recipe.name={method.name}", f"recipe.{section}.name={name}")
        port_to_torch(name, [path], tmp_path / "torch.safetensors")
        port_to_jax(name, [tmp_path / "torch.safetensors"], tmp_path / f"{name}_again.safetensors")
        before, after = (load_weights(file)[0] for file in (path, tmp_path / f"{name}_again.safetensors"))
        jax.tree.map(np.testing.assert_array_equal, before[section], after)


@by_method
def test_its_default_configuration_is_that_of_its_settings(method):
    config = to_dict(default(method.name))
    recipe = build_recipe(config["recipe"], "description")
    assert recipe.name == method.name
    sections = {"name", "scale", "dtype", method.networks.section, *method.sections}
    assert set(config["recipe"]) == sections, "a method's configuration has its own sections only"
    for name, knob in knob_table(method.name):
        assert knob.meaning.endswith((".", ")")), name
        assert legal_values(knob), name
        if knob.default is not None:
            check_values([knob], {knob.name: knob.default}, name.rpartition(".")[0])


@by_method
def test_its_record_names_knobs_that_exist(method):
    names = {name for name, _ in knob_table(method.name)}
    known = names | {"recipe.name", *(f"recipe.{section}" for section in method.sections)}
    paths = [file.path for file in method.weight_files if "published" not in file.path]
    for path in (*paths, *method.sampling_overrides.values(), *method.identity, *method.sampler_knobs):
        assert ".".join(("recipe", *path)) in known, path
    for new in method.renamed_knobs.values():
        assert f"recipe.{new}" in known, new


def test_transformers_alone_see_every_position_from_every_other():
    every = {name for name, network in NETWORKS.items() if network.global_attention}
    assert every == {"dit", "mmdit", "dit4sr_transformer"}


def test_published_checkpoints_of_their_network_are_models_of_these_methods():
    methods = {method.name for method in METHODS if method.published_network}
    assert methods == {"resshift", "sinsr", "hf_diff", "supervised_l1", "dtkd", "augkd", "realesrgan", "supresdiffgan"}
