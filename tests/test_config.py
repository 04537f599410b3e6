import json
import re

import pytest
from ml_collections import ConfigDict

from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.training.settings import TrainingSettings
from tests.support.paths import CONFIGS

DEFAULT = CONFIGS / "default.py"

OVERLAY = """
from configs import default
def get_config():
    config = default.get_config()
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
    config = to_dict(load_config(overlay(tmp_path, "config.training.steps = 7")))
    default = to_dict(load_config(DEFAULT))
    assert config["training"].pop("steps") == 7
    assert default["training"].pop("steps") == 2000
    ramps = [side["recipe"]["dtkd"].pop("ramp_steps") for side in (config, default)]
    assert ramps == [7, 2000]  # the one knob that follows another
    assert config == default


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("training.steps=500", 500),
        ("training.learning_rate=1", 1.0),  # a whole number where a float is wanted
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
        ("framer.objective=contrastive", "contrastive"),
        ("framer.adaptive_weight=True", True),
        ("framer.adaptive_weight=None", None),
        ("training.best_metric=None", None),
        ("training.best_metric=sample/psnr-y", "sample/psnr-y"),
        ("data.train=None", "None"),
        ("training.sharding_rules=[('out/kernel', ('fsdp',))]", (("out/kernel", ("fsdp",)),)),
        ("logging.tensorboard=True", True),
    ],
)
def test_changes_on_the_command_line(change, expected):
    key = change.split("=")[0]
    found = value(load_config(DEFAULT, [change]), key)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("of_the_command_line", [True, False])
def test_updates_have_optimiser_fields_of_their_own(tmp_path, of_the_command_line):
    own = "{'main': {'learning_rate': 0.5, 'clip_norm': None}}"
    if of_the_command_line:
        config = load_config(DEFAULT, [f"training.updates={own}", "training.updates.main.learning_rate=0.25"])
    else:
        path = overlay(tmp_path, f"config.training.updates = {own}")
        config = load_config(path, ["training.updates.main.learning_rate=0.25"])
    training = to_dict(config)["training"]
    assert training["updates"] == {"main": {"learning_rate": 0.25, "clip_norm": None}}
    main = TrainingSettings(**training).for_update("main")
    assert (main.learning_rate, main.clip_norm, main.steps) == (0.25, None, 2000)


def test_a_variant_of_a_file(tmp_path):
    path = tmp_path / "several.py"
    path.write_text(
        "from configs import default\n\n\ndef get_config(seed='0'):\n    config = default.get_config()\n"
        "    config.training.seed = int(seed)\n    return config\n"
    )
    assert [load_config(name).training.seed for name in (path, f"{path}:7")] == [0, 7]
    with pytest.raises(ConfigError, match=r"several\.py: .*'many'"):
        load_config(f"{path}:many")
    with pytest.raises(ConfigError, match=r"default\.py has no variants: leave ':7' out"):
        load_config(f"{DEFAULT}:7")
    with pytest.raises(ConfigError, match=r"no configuration file 'gone\.py'"):
        load_config("gone.py:7")


def test_later_changes_win():
    assert load_config(DEFAULT, ["training.steps=1", "training.steps=2"]).training.steps == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.stepz=5", "unknown key 'training.stepz': training has b1, .*, steps, "),
        (
            "trainings.steps=5",
            "unknown key 'trainings.steps': the configuration has data, framer, logging, recipe, training",
        ),
        ("training.steps.x=5", "unknown key 'training.steps.x': training.steps has nothing"),
        ("=5", "unknown key ''"),
        ("training.steps", "cannot read the change 'training.steps': write key=value"),
        ("training.steps=many", "training.steps=many: .*'str'.* 'int'"),
        ("training.steps=1.5", "training.steps=1.5: .*'float'.* 'int'"),
        ("training.steps=None", "training.steps=None: it needs a value; the knobs that may have none say so in"),
        ("data.crop=None", "data.crop=None: it needs a value"),
        ("training.steps=True", "training.steps=True: it must be of type int"),
        ("training.learning_rate=True", "training.learning_rate=True: it must be of type float"),
        ("recipe.resshift.residual=1", "recipe.resshift.residual=1: .*'int'.* 'bool'"),
        ("recipe.denoiser.unet.channels=8", "recipe.denoiser.unet.channels=8: .*'int'.* 'tuple'"),
        ("training.updates=5", "training.updates=5: .*dict"),
        ("framer.start_step=1.5", "framer.start_step=1.5: .*'float'.* 'int'"),
        ("training.mesh={'data': 8}", "training.mesh is a section: set one of its keys, data, fsdp"),
    ],
)
def test_bad_changes_name_the_key_and_what_exists(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(DEFAULT, [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.training.stepz = 5", '"stepz" does not exist .*steps'),
        ("config.trainings = 5", '"trainings" does not exist'),
        ("config.training.stepz", "stepz"),
        ("config.training.steps = 'many'", "'str'.* 'int'"),
        ("raise ValueError('not today')", "not today"),
        ("import there_is_no_such_module", "there_is_no_such_module"),
        ("this is no python", "invalid syntax"),
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
        ("from ml_collections import ConfigDict\nget_config = ConfigDict", "gives no recipe, framer, data, training"),
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
