"""Configurations and weights files that the version before wrote."""

import json

import pytest

from framer_jax.checkpoints.migration import SCHEMA, SchemaError, migrate, present_knob, present_knobs
from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.provenance import check_records, manifest_of
from framer_jax.config import ConfigError, check_config, load_config, to_dict, with_later_knobs
from framer_jax.inference.model import LAST, SHIPPED, load_model
from framer_jax.porting.table import RENAMED_ARGUMENTS, RENAMED_MODELS
from framer_jax.porting.weights import load_weights, read_metadata, save_weights
from framer_jax.recipes.components.networks import NETWORKS
from framer_jax.recipes.framer import add_framer
from framer_jax.recipes.table import METHODS, method_named
from tests.support.paths import FIXTURES
from tests.support.tiny import ported, weights

STORED = json.loads((FIXTURES / "configurations_schema_1.json").read_text(encoding="utf-8"))
"""Shipped configuration → what the version before stored of it: the sections of all methods, and no schema."""


def test_a_configuration_of_every_method_is_stored():
    names = {migrate(config)["recipe"]["name"] for config in STORED.values()}
    # which that schema did not have
    later = {"realesrgan", "hf_diff", "supresdiffgan", "pisa_sr", "osediff", "multistep_sd"}
    assert names == {method.name for method in METHODS} - later
    sections = {"denoiser", "student", "space", "text", "teacher", "resshift", "sinsr", "flow", "dit4sr", "lpips"}
    for config in STORED.values():
        assert "schema" not in config
        assert sections <= set(config["recipe"])


@pytest.mark.parametrize("name", STORED)
def test_a_stored_configuration_becomes_the_present_one(name):
    config = migrate(STORED[name])
    assert with_later_knobs(config) == to_dict(load_config(name))
    assert migrate(config) == config
    check_config(config)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_configuration_builds_its_recipe(name):
    config = migrate(STORED[name])
    recipe = add_framer(build_recipe(config["recipe"], "description"), config["framer"])
    framed = STORED[name]["framer"]["reading"] != "none"
    assert recipe.name == config["recipe"]["name"] + "+framer" * framed
    assert config["recipe"]["name"] in (STORED[name]["recipe"]["name"], "rectified_flow", "supervised_l1")
    if published := config["recipe"].get("teacher", {}).get("published"):
        teacher = build_recipe(published, "description")
        assert teacher.name == published["name"]
        method = method_named(teacher.name)
        assert set(published) == {"name", "scale", "dtype", method.networks.section, *method.sections}


def test_the_starter_of_the_version_before_loads():
    stored = read_metadata(SHIPPED["starter"])["config"]
    config = load_model(SHIPPED["starter"], purpose="description").metadata["config"]
    assert config == migrate(stored)
    present = to_dict(load_config("starter"))
    assert config["schema"] == SCHEMA
    config = with_later_knobs(config)
    assert config["recipe"] == present["recipe"]
    assert config["training"] == present["training"]
    assert config["framer"] == present["framer"]


def test_a_weights_file_of_the_version_before_loads(tmp_path):
    path = weights(tmp_path / LAST, "recipe.name=rectified_flow")
    params, metadata = load_weights(path)
    recipe = metadata["config"]["recipe"]
    former = {"name": "flow", "flow": dict(recipe["rectified_flow"])}
    former["flow"]["density"] = former["flow"].pop("timestep_sampling")
    former |= {key: value for key, value in recipe.items() if key not in ("name", "rectified_flow")}
    former["space"] = {**recipe["space"], "weights": ""}
    del former["space"]["checkpoint"]
    config = {key: value for key, value in metadata["config"].items() if key != "schema"}
    save_weights(path, params, {**metadata, "config": {**config, "recipe": former}, "weights": {}})
    model = load_model(path)
    assert model.recipe.name == "rectified_flow"
    assert model.metadata["config"]["recipe"] == recipe


def test_what_a_checkpoint_stores_with_the_configuration_is_migrated_too():
    weights = {
        "recipe.space.weights": "a",
        "recipe.teacher.weights": "b",
        "recipe.teacher.published.space.weights": "c",
    }
    stored = migrate({**STORED["dtkd_swinir_small"], "init": "d", "weights": weights})
    assert stored["init"] == "d"
    assert stored["weights"] == {
        "recipe.space.checkpoint": "a",
        "recipe.teacher.checkpoint": "b",
        "recipe.teacher.published.space.checkpoint": "c",
    }


@pytest.mark.parametrize("schema", [0, 3, "2", None])
def test_an_unknown_schema_is_refused_in_one_line(schema, tmp_path):
    config = {**STORED["starter"], "schema": schema}
    message = f"schema {schema!r}, and this version .* knows schemas 1 to 2: install the version that wrote it"
    with pytest.raises(SchemaError, match=message) as caught:
        migrate(config)
    assert "\n" not in str(caught.value)
    params, metadata = load_weights(weights(tmp_path / LAST))
    save_weights(tmp_path / LAST, params, {**metadata, "config": config})
    with pytest.raises(ValueError, match=rf"weights\.safetensors: .*{message}") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_records_of_the_version_before_are_taken(tmp_path):
    teacher = ported(tmp_path / "teacher.safetensors", "swinir")
    config = to_dict(load_config("augkd_swinir_small", [f"recipe.teacher.checkpoint={teacher}"]))
    manifest = json.loads(json.dumps(manifest_of(config, 1, 1, {})))
    published = "recipe.teacher.published"
    assert manifest["outputs"][f"{published}.dtype"] == "float32"
    (digest,) = manifest["weights"].values()
    # It wrote the sampler's knobs of all methods, and knobs by their former names.
    outputs = {**manifest["outputs"], f"{published}.resshift.centred_mean": True}
    outputs |= {f"{published}.resshift.sampling_steps": None}
    outputs[f"{published}.student.swinir.colours"] = outputs.pop(f"{published}.student.swinir.image_channels")
    stored = {**manifest, "outputs": outputs, "weights": {"recipe.teacher.weights": digest}}
    check_records(stored, config, "records")
    for change, message in (
        ({f"{published}.dtype": "bfloat16"}, "published.dtype 'bfloat16', this run has 'float32'"),
        ({"recipe.name": "dtkd"}, "recipe.name 'dtkd', this run has 'augkd'"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_records({**stored, "outputs": {**outputs, **change}}, config, "records")


def test_every_former_knob_has_a_present_one():
    for method in METHODS:
        for old, new in method.renamed_knobs.items():
            assert present_knob(f"recipe.{old}") == f"recipe.{new}"
            section, _, knob = new.partition(".")
            if section in method.sections:
                assert not knob or knob in method.sections[section].__dataclass_fields__
    former_names = {name: former for former, name in RENAMED_MODELS.items()}
    sections = {name: method.networks.section for method in METHODS for name in method.networks.names}
    for name, renamed in RENAMED_ARGUMENTS.items():
        section = f"recipe.{sections[name]}"
        for old, new in renamed.items():
            for network in (name, former_names.get(name, name)):
                assert present_knob(f"{section}.{network}.{old}") == f"{section}.{name}.{new}"
            assert new in NETWORKS[name].module.__dataclass_fields__
    published = "recipe.teacher.published.space.weights"
    assert present_knobs({published: "a", "training.steps": 1}) == {
        "recipe.teacher.published.space.checkpoint": "a",
        "training.steps": 1,
    }
