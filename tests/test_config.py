import copy
import json
import re
import sys

import pytest
from ml_collections import ConfigDict

from framer_jax.checkpoints.migration import SCHEMA
from framer_jax.config import (
    ConfigError,
    check_config,
    default,
    is_config,
    load_config,
    shipped,
    split_variant,
    to_dict,
    with_later_knobs,
    with_method,
)
from framer_jax.recipes.table import METHODS, method_named
from framer_jax.training.settings import TrainingSettings
from tests.support.paths import CONFIGS

DEFAULT = CONFIGS / "default.py"

OVERLAY = """
from framer_jax.config import default
def get_config():
    config = default()
    {line}
    return config
"""


def overlay(folder, line):
    path = folder / "overlay.py"
    path.write_text(OVERLAY.format(line=line))
    return path


def value(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def test_an_overlay_changes_its_own_knobs_only(tmp_path):
    config = to_dict(load_config(overlay(tmp_path, "config.training.steps = 700")))
    unchanged = to_dict(load_config(DEFAULT))
    assert config["training"].pop("steps") == 700
    assert unchanged["training"].pop("steps") == 2000
    assert config == unchanged


def test_a_knob_that_follows_another_one_has_its_value():
    distilled = load_config(DEFAULT, ["recipe.name=dtkd", "training.steps=700"])
    assert to_dict(distilled)["recipe"]["dtkd"]["ramp_steps"] == 700
    distilled = load_config(DEFAULT, ["recipe.name=dtkd", "training.steps=700", "recipe.dtkd.ramp_steps=3"])
    assert to_dict(distilled)["recipe"]["dtkd"]["ramp_steps"] == 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("training.steps=500", 500),
        ("training.learning_rate=1", 1.0),  # a whole number for a float
        ("training.learning_rate=5e-4", 5e-4),
        ("training.clip_norm=None", None),
        ("training.schedule=constant", "constant"),
        ("data.train=my folder/with = signs", "my folder/with = signs"),
        ("data.train=123", "123"),  # a name stays a name
        ("recipe.denoiser.unet.channels=(8, 16)", (8, 16)),
        ("recipe.denoiser.unet.channels=[8, 16]", (8, 16)),
        ("recipe.resshift.residual=False", False),
        ("recipe.resshift.sampling_steps=2", 2),  # knobs that are None until set
        ("framer.radius=1", 1.0),
        ("recipe.denoiser.resshift_unet.mlp_ratio=1.5", 1.5),  # whose default is a whole number
        ("framer.objective=contrastive", "contrastive"),
        ("framer.faw=True", True),
        ("framer.faw=None", None),
        ("training.best_metric=None", None),
        ("training.best_metric=sample/psnr-y", "sample/psnr-y"),
        ("data.train=None", "None"),
        ("training.sharding_rules=[('out/kernel', ('fsdp',))]", (("out/kernel", ("fsdp",)),)),
        ("logging.tensorboard=True", True),
    ],
)
def test_overrides_on_the_command_line(change, expected):
    key = change.split("=")[0]
    result = value(load_config(DEFAULT, [change]), key)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("on_the_command_line", [True, False])
def test_updates_have_their_own_optimizer_settings(tmp_path, on_the_command_line):
    settings = "{'main': {'learning_rate': 0.5, 'clip_norm': None}}"
    if on_the_command_line:
        config = load_config(DEFAULT, [f"training.updates={settings}", "training.updates.main.learning_rate=0.25"])
    else:
        path = overlay(tmp_path, f"config.training.updates = {settings}")
        config = load_config(path, ["training.updates.main.learning_rate=0.25"])
    training = to_dict(config)["training"]
    assert training["updates"] == {"main": {"learning_rate": 0.25, "clip_norm": None}}
    main = TrainingSettings(**training).for_update("main")
    assert (main.learning_rate, main.clip_norm, main.steps) == (0.25, None, 2000)


def test_files_may_set_fractions_where_the_default_is_a_whole_number(tmp_path):
    config = load_config(overlay(tmp_path, "config.recipe.denoiser.resshift_unet.mlp_ratio = 1.5"))
    assert config.recipe.denoiser.resshift_unet.mlp_ratio == 1.5


def test_a_variant_of_a_file(tmp_path):
    path = tmp_path / "several.py"
    path.write_text(
        "from framer_jax.config import default\n\n\ndef get_config(seed='0'):\n    config = default()\n"
        "    config.training.seed = int(seed)\n    return config\n"
    )
    assert [load_config(name).training.seed for name in (path, f"{path}:7")] == [0, 7]
    with pytest.raises(ConfigError, match=r"several\.py: .*'many'"):
        load_config(f"{path}:many")
    with pytest.raises(ConfigError, match=r"starter\.py has no variants: omit ':7'"):
        load_config(f"{CONFIGS / 'starter.py'}:7")
    with pytest.raises(ConfigError, match=r"no configuration file 'gone\.py'"):
        load_config("gone.py:7")


@pytest.mark.parametrize(
    ("text", "file", "variant"),
    [
        ("a.py:b", "a.py", ("b",)),
        ("x:y/a.py:b", "x:y/a.py", ("b",)),
        ("name:final_0.1", "name", ("final_0.1",)),
        ("x:y/a.py", "x:y/a.py", ()),
        ("x:a.py", "x:a.py", ()),
        ("/x/y:z", "/x/y:z", ()),
        ("name", "name", ()),
    ],
)
def test_colons_in_paths_are_not_taken_for_variants(text, file, variant):
    path, read_variant = split_variant(text)
    assert (str(path), read_variant) == (file, variant)


def test_an_existing_folder_is_not_taken_for_a_shipped_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_config("sinsr")
    (tmp_path / "sinsr").mkdir()
    assert not is_config("sinsr")
    assert load_config("sinsr").recipe.name == "sinsr"


def test_the_configuration_of_another_method_is_a_copy():
    config = load_config("resshift_v1", ["training.seed=7"])
    changed = with_method(config, "sinsr")
    assert changed.recipe.name == "sinsr"
    assert to_dict(changed)["recipe"]["denoiser"] == to_dict(config)["recipe"]["denoiser"]
    assert changed.training.seed == 7
    changed.training.seed, changed.recipe.space.levels, changed.training.best_metric = 8, 1, None
    assert (config.training.seed, config.recipe.space.levels) == (7, 2)
    assert config.training.best_metric == "sample/psnr-y"
    with pytest.raises(ConfigError, match=r"unknown method recipe\.name 'sinrs'"):
        with_method(config, "sinrs")


def test_the_knobs_of_a_published_teacher_are_checked():
    config = to_dict(shipped("dtkd_swinir_small"))
    published = config["recipe"]["teacher"]["published"]
    check_config(config)
    for change, message in (
        ({"scale": None}, r"recipe\.teacher\.published\.scale is None: it must be a whole number"),
        ({"name": "sinsr"}, r"recipe\.teacher\.published\.name is 'sinsr', and the sections are those of another"),
        ({"resshift": {"steps": 0}}, r"recipe\.teacher\.published\.resshift\.steps is 0: .* from 2 to 10000"),
    ):
        config["recipe"]["teacher"]["published"] = {**published, **change}
        with pytest.raises(ConfigError, match=message):
            check_config(config)
    override = "recipe.teacher.published.space.checkpont=a"
    with pytest.raises(ConfigError, match=r"did you mean 'recipe\.teacher\.published\.space\.checkpoint'"):
        load_config("dtkd_swinir_small", [override])


def write_as_before(folder, line=""):
    """A configuration file as the version before wrote them."""
    path = folder / "as_before.py"
    path.write_text(
        OVERLAY.format(line=line).replace("framer_jax.config", "configs").replace("default()", "default.get_config()")
    )
    return path


def test_a_file_that_imports_from_configs_loads_in_a_clone(tmp_path):
    config = load_config(write_as_before(tmp_path, "config.training.steps = 700"))
    assert to_dict(config) == to_dict(load_config(DEFAULT, ["training.steps=700"]))


def test_a_file_that_imports_from_configs_says_what_to_write_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "configs", None)  # as if there were no such package
    with pytest.raises(ConfigError, match=r"as_before\.py: .*write `from framer_jax\.config import default, shipped`"):
        load_config(write_as_before(tmp_path))


@pytest.mark.parametrize("name", ["framer_u_taesd_small", "framer_u_taesd_small:lambda_0.01"])
def test_shipped_configurations_load_by_name_and_variant(name):
    stem, *variant = name.split(":")
    path = ":".join([str(CONFIGS / f"{stem}.py"), *variant])
    config = to_dict(load_config(name))
    assert config == to_dict(load_config(path))
    assert config["framer"]["weight"] == (0.01 if variant else 0.1)
    assert is_config(name) and is_config(path)


def test_bad_names_and_variants_name_those_that_exist():
    with pytest.raises(ConfigError, match="no configuration named 'sinsrr': did you mean 'sinsr'"):
        load_config("sinsrr")
    with pytest.raises(ConfigError, match=r"there is no variant 'lambda_1': choose one of lambda_0\.1"):
        load_config("framer_u_taesd_small:lambda_1")
    with pytest.raises(ConfigError, match=r"unknown method recipe\.name 'sinrs': did you mean 'sinsr'"):
        default("sinrs")
    assert not is_config("sinsrr")


FORMER_KNOBS = {
    "resshift": {"data.framing=square": "data.crop_mode=square", "framer.reading=paper": "framer.variant=paper"},
    "rectified_flow": {
        "recipe.name=flow": "recipe.name=rectified_flow",
        "recipe.flow.density=uniform": "recipe.rectified_flow.timestep_sampling=uniform",
        "recipe.flow.shift=2.0": "recipe.rectified_flow.shift=2.0",
        "recipe.denoiser.resshift_unet.mask=correct": "recipe.denoiser.resshift_unet.variant=correct",
    },
    "dit4sr": {
        "recipe.denoiser.name=dit4sr": "recipe.denoiser.name=dit4sr_transformer",
        "recipe.denoiser.dit4sr.depth=13": "recipe.denoiser.dit4sr_transformer.depth=13",
        "recipe.dit4sr.base=a.safetensors": "recipe.dit4sr.base_checkpoint=a.safetensors",
    },
    "supervised_l1": {
        "recipe.name=swinir": "recipe.name=supervised_l1",
        "recipe.student.swinir.colours=1": "recipe.student.swinir.image_channels=1",
    },
    "dtkd": {"recipe.teacher.weights=a.pth": "recipe.teacher.checkpoint=a.pth"},
}
"""Method → knobs of the version before on the command line → the present ones."""


@pytest.mark.parametrize("method", FORMER_KNOBS)
def test_former_knob_names_are_accepted_with_a_note(method, caplog):
    former, present = FORMER_KNOBS[method], list(FORMER_KNOBS[method].values())
    config = load_config(f"{DEFAULT}:{method}", list(former))
    noted = [record.getMessage() for record in caplog.records]
    renamed = {old.split("=")[0]: new.split("=")[0] for old, new in former.items()}
    expected = [f"{old} is now {new}" for old, new in renamed.items() if old != new]
    assert [note.split(";")[0] for note in noted] == expected
    assert to_dict(config) == to_dict(load_config(f"{DEFAULT}:{method}", present))
    assert len(caplog.records) == len(expected)  # none for the present names


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_a_configuration_has_the_sections_of_its_own_method_only(method):
    record, config = method_named(method), default(method)
    assert set(config) == {"schema", "recipe", "framer", "data", "training", "logging"}
    assert config.schema == SCHEMA
    assert set(config.recipe) == {"name", "scale", "dtype", record.networks.section, *record.sections}
    assert set(config.recipe[record.networks.section]) == {"name", *record.networks.names}
    for section in record.sections:
        other = next(other for other in METHODS if section not in other.sections)
        with pytest.raises(ConfigError, match=f"unknown knob 'recipe.{section}.x'"):
            load_config(f"{DEFAULT}:{other.name}", [f"recipe.{section}.x=1"])
    network = record.networks.names[-1]
    plain = to_dict(load_config(f"{DEFAULT}:{method}", [f"recipe.{record.networks.section}.name={network}"]))
    assert set(plain["recipe"][record.networks.section]) == {"name", network}  # stored with the chosen one only


def test_later_overrides_win():
    assert load_config(DEFAULT, ["training.steps=1", "training.steps=200"]).training.steps == 200
    assert load_config(DEFAULT, ["recipe.name=sinsr", "recipe.name=dtkd", "recipe.name=sinsr"]).recipe.name == "sinsr"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.stepz=5", "unknown knob 'training.stepz': did you mean 'training.steps'"),
        ("trainings.steps=5", "unknown knob 'trainings.steps': did you mean 'training.steps'"),
        ("training.steps.x=5", "unknown knob 'training.steps.x': did you mean 'training.steps'"),
        ("logging.qqqqqqqqqqqqqqq=5", "unknown knob 'logging.q+': logging has .*logging.tensorboard"),
        ("recipe.denoiser.name=unett", "recipe.denoiser.name is 'unett': it must be one of unet, dit, resshift_unet"),
        ("recipe.denoiser.nam=dit", "unknown knob 'recipe.denoiser.nam': did you mean 'recipe.denoiser.name'"),
        ("=5", "unknown knob '': see `framer-jax info METHOD --knobs`"),
        ("training.steps", "cannot read the override 'training.steps': write key=value"),
        ("training.steps=many", "training.steps is 'many': it must be a whole number of at least 1"),
        ("training.steps=1.5", "training.steps is 1.5: it must be a whole number"),
        ("training.steps=None", "training.steps is None: it must be a whole number of at least 1"),
        ("data.crop=None", "data.crop is None: it must be a whole number from 1 to 16384"),
        ("training.steps=True", "training.steps is True: it must be a whole number"),
        ("training.learning_rate=True", "training.learning_rate is True: it must be a number above 0"),
        ("recipe.resshift.residual=1", "recipe.resshift.residual is 1: it must be True or False"),
        ("recipe.denoiser.unet.channels=8", "recipe.denoiser.unet.channels is 8: it must be a list of whole numbers"),
        ("schema=3", "schema .*: it cannot be set"),
        ("training.updates=5", "training.updates is 5: it must be a section"),
        ("framer.start_step=1.5", "framer.start_step is 1.5: it must be a whole number of at least 0, or None"),
        ("training.mesh={'data': 8}", "training.mesh is a section: set one of its knobs, data, fsdp"),
    ],
)
def test_bad_overrides_name_the_knob_and_what_exists(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(DEFAULT, [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.training.stepz = 5", "unknown knob or section 'stepz': did you mean 'steps'"),
        ("config.trainings = 5", "unknown knob or section 'trainings': did you mean 'training'"),
        ("config.training.stepz", "unknown knob or section 'stepz': did you mean 'steps'"),
        ("config.framer.reading = 'paper'", "'reading': framer.reading is now framer.variant"),
        ("config.recipe.space.weights = 'a.pth'", "'weights': recipe.space.weights is now recipe.space.checkpoint"),
        ("config.recipe.sinsr.inverse_weight = 0.0", r"'sinsr': .*default\(METHOD\), or use with_method"),
        ("config.recipe.name = 'sinsr'", r"recipe.name is 'sinsr', .*default\('sinsr'\), or use with_method"),
        ("config.recipe.name = 'flow'", "recipe.name 'flow' is now 'rectified_flow'"),
        ("config.training.steps = 'many'", "steps is 'many': .*training.steps must be a whole number of at least 1"),
        (
            "config.recipe.denoiser.unet.channels = 8",
            "channels is '8': .*unet.channels must be a list of whole numbers",
        ),
        ("config.recipe.denoiser = 'dit'", "denoiser is 'dit': it is a section, so set one of its knobs"),
        ("config.training.steps = None", "training.steps is None: it must be a whole number of at least 1"),
        ("config.training.learning_rate = float('nan')", "training.learning_rate is nan: it must be a number above 0"),
        ("raise ValueError('not today')", "not today"),
        ("import there_is_no_such_module", "there_is_no_such_module"),
        ("this is no python", "invalid syntax"),
        ("config.training.steps = 1 // 0", "ZeroDivisionError .*by zero"),
        ("open('gone.txt')", "FileNotFoundError .*gone.txt"),
        ("assert config.training.steps == 1", "AssertionError"),
        ("import json; json.loads('')", "Expecting value"),
        ("config = ConfigDict()", "ConfigDict"),  # not imported
    ],
)
def test_bad_files_are_one_line(tmp_path, line, message):
    path = overlay(tmp_path, line)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CONFIG = 1", "get_config"),
        ("def get_config(): return {'training': 1}", "must return a ConfigDict, not dict"),
        (
            "from ml_collections import ConfigDict\nget_config = ConfigDict",
            "gives no schema, recipe, framer, data, training",
        ),
    ],
)
def test_files_without_a_configuration(tmp_path, text, message):
    path = tmp_path / "other.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: .*{message}"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file '.*nowhere\.py'"):
        load_config(tmp_path / "nowhere.py")


def test_to_dict_is_json():
    config = load_config(DEFAULT, ["recipe.denoiser.unet.channels=(8, 16)"])
    plain = to_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["recipe"]["denoiser"]["unet"]["channels"] == [8, 16]
    assert plain["framer"]["objective"] is None
    assert isinstance(config, ConfigDict)


def test_a_stored_configuration_gets_later_knobs_at_their_defaults():
    config = to_dict(default("sinsr"))
    earlier = copy.deepcopy(config)
    del earlier["data"]["degradation_geometry"], earlier["training"]["seed"]
    network = earlier["recipe"]["denoiser"]["name"]
    knob = next(iter(earlier["recipe"]["denoiser"][network]))
    del earlier["recipe"]["denoiser"][network][knob]
    assert with_later_knobs(earlier) == config
    earlier["training"]["seed"] = 7
    assert with_later_knobs(earlier)["training"]["seed"] == 7  # what is stored stays
