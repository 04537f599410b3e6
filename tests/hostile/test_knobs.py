"""Every knob of every method, driven with values that make no sense, through `--set` and through plain dictionaries."""

import ast
import math
import re
import warnings

import pytest

from framer_jax.commands import info
from framer_jax.config import ConfigError, check_config, default, knob_table, override_config
from framer_jax.knobs import legal_values
from framer_jax.recipes.table import METHODS
from tests.support.hostile import contents, refused, run

TEXTS = (
    *("many", "None", "True", "b'x'", "''", "", "[]", "()", "{}", "[1]", "(1, 'x')", "[[1, 2]]", "{'a': 1}", "(", "\\"),
    *("-1", "0", "1", "1.5", "-0.001", "2", "1e400", "-1e400", "inf", "nan", "1e39", "1e-50", "1" + 400 * "0"),
    *(
        "9" * 5000,
        str(2**31),
        str(2**32),
        str(2**63),
        "-" + 400 * "9",
        "[" * 500,
        "(0, 0)",
        "(-1, -1)",
        "(1e400, 1)",
        "(8.5, 8)",
    ),
    *("a\0b", "\0", " ", "(((", "*", "[a-", "(1, 1, 1, 1, 1, 1, 1)", "('', '')", "0.9999999999", "1.0000000001"),
)
"""Values as `--set` takes them: Python literals or plain strings."""

VALUES = (
    *(math.nan, math.inf, -math.inf, -1, 0, 1.5, 2, 10**400, 1e39, 1e-50, "", "a\0b", "(", b"x", object(), True),
    *((), [], {}, (1,), (math.nan,), (math.nan, 1), (1.5, "x"), {"a": 1}, {"a": {"a": {}}}, None, {1, 2}, 1j),
)
"""Values as a configuration file, or a caller of `train_from_config`, may give them."""

BELOW_ZERO = {
    "recipe.space.shift",
    "recipe.resshift.channel_weight_power",
}
"""Numbers that may be negative."""

WITHOUT_UPPER_BOUND = {
    "framer.ramp_steps",
    "framer.start_step",
    "recipe.dtkd.ramp_steps",
    *(f"training.{name}" for name in ("checkpoint_every", "clip_norm", "fsdp_min_size", "log_every", "steps")),
    *(f"training.{name}" for name in ("stop_after", "validate_every", "warmup_steps", "decay_every")),
    *(f"training.{name}" for name in ("stop_after_minutes", "checkpoint_minutes", "profile_step")),
}
"""Numbers as large as an int32 or float32."""


def all_knobs():
    """Every knob of every method, once: full name → (method, knob)."""
    knobs = {}
    for method in METHODS:
        for name, knob in knob_table(method.name):
            knobs.setdefault(name, (method.name, knob))
    return knobs


KNOBS = all_knobs()


@pytest.fixture(scope="module")
def configurations():
    """Method → its default configuration."""
    return {method.name: default(method.name) for method in METHODS}


def in_range(knob, value):
    """Whether a number, a string or a flag is a legal value: written down independently of framer_jax.knobs."""
    kind = knob.item if knob.type is tuple else knob.type
    if type(value) not in {int: (int,), float: (int, float), str: (str,), bool: (bool,)}[kind]:
        return False
    if knob.choices:
        return value in knob.choices
    if kind is str:
        return "\0" not in value and (knob.empty or value != "") and (not knob.regex or compiles(value))
    if kind is bool:
        return True
    if kind is int:
        fits = abs(value) < 2**31 or knob.at_most is not None
    else:
        try:
            fits = abs(float(value)) < 3.41e38
        except OverflowError:
            fits = False
    bounds = (
        knob.at_least is None or value >= knob.at_least,
        knob.at_most is None or value <= knob.at_most,
        knob.above is None or value > knob.above + 1.17e-38 * (kind is float),  # below it, float32 is 0
        knob.below is None or value < knob.below - 3e-8 * (kind is float),  # the next float32
    )
    return fits and all(bounds)


def compiles(pattern):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.compile(pattern) is not None
        except re.error:
            return False


def is_legal(knob, value):
    if value is None:
        return knob.optional
    if knob.type is dict:
        return value == {}
    if knob.type is not tuple:
        return in_range(knob, value)
    if knob.item is None:
        return value in ((), [])
    if not isinstance(value, list | tuple) or len(value) not in ((knob.length,) if knob.length else range(100)):
        return False
    return (bool(value) or knob.empty) and all(in_range(knob, part) for part in value)


def read(knob, text):
    """The value that a text of `--set` means."""
    if knob.type is str and not ((knob.optional or knob.empty) and text == "None"):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def check_refusal(error, name, knob, legal):
    """The refusal is one line; of an illegal value it names the knob and what is legal."""
    message = str(error)
    assert "\n" not in message and "\0" not in message and len(message) < 700
    if not legal:
        assert message.startswith(name), message
        if knob.item or knob.type not in (tuple, dict):  # the values of the others have rules of their own
            assert message.startswith(f"{name} is "), message
            assert legal_values(knob).removesuffix(", or None") in message, message
    else:  # by a rule that joins several knobs: it starts with one of them
        assert message.split(" ")[0].rstrip(":").startswith(("recipe.", "framer.", "training.", "data.")), message


def accepted(config, name, knob, text):
    """Set one knob; whether it was accepted."""
    legal = is_legal(knob, read(knob, text))
    try:
        override_config(config, [f"{name}={text}"])
    except ConfigError as error:
        check_refusal(error, name, knob, legal)
        return False
    assert legal, (name, text)
    return True


def value_of(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def set_value(config, name, value):
    *sections, last = name.split(".")
    for part in sections:
        config = config[part]
    config[last] = value


@pytest.mark.parametrize("name", [name for name, (_, knob) in KNOBS.items() if knob.type is not dict])
def test_set_takes_legal_values_of_every_knob_and_no_others(name, configurations):
    method, knob = KNOBS[name]
    config = configurations[method]
    present = value_of(config, name)
    for text in TEXTS:
        accepted(config, name, knob, text)
        set_value(config, name, present)


@pytest.mark.parametrize("name", KNOBS)
def test_plain_configurations_are_checked_alike(name, configurations):
    method, knob = KNOBS[name]
    config = configurations[method].to_dict()
    present = value_of(configurations[method], name)
    for value in VALUES:
        legal = is_legal(knob, value)
        try:
            set_value(config, name, value)
            check_config(config)
        except ConfigError as error:
            check_refusal(error, name, knob, legal)
        else:
            assert legal, value
        set_value(config, name, present)


def test_every_number_has_a_range():
    """A knob without a bound is listed, so that a new one cannot be left open by oversight."""
    numbers = {name: knob for name, (_, knob) in KNOBS.items() if (knob.item or knob.type) in (int, float)}
    numbers = {name: knob for name, knob in numbers.items() if not knob.choices}
    assert len(numbers) > 90
    open_above = {name for name, knob in numbers.items() if knob.at_most is None and knob.below is None}
    assert open_above == WITHOUT_UPPER_BOUND
    lower = {name: knob.above if knob.at_least is None else knob.at_least for name, knob in numbers.items()}
    assert all(bound is not None for bound in lower.values())
    assert {name for name, bound in lower.items() if bound < 0} == BELOW_ZERO


RESSHIFT_UNET = "recipe.denoiser.name=resshift_unet recipe.denoiser.resshift_unet"

TOGETHER = {
    "resshift": {
        "recipe.resshift.sampling_steps=5": "recipe.resshift.sampling_steps is 5: .* from 2 to the chain's steps .4.",
        "recipe.resshift.min_noise_level=2.0": "recipe.resshift.min_noise_level is 2.0: .* must be below etas_end",
        "recipe.space.levels=3": "recipe.space.levels is 3: it must be 2",
        "recipe.denoiser.name=dit recipe.denoiser.dit.heads=5": "recipe.denoiser.dit: width is 96: .* heads .5",
        "recipe.denoiser.name=dit recipe.denoiser.dit.width=98": "recipe.denoiser.dit: width is 98: .* multiple of 4",
        f"{RESSHIFT_UNET}.blocks=(2, 2)": "blocks is .2, 2.: .* for each of the levels",
        f"{RESSHIFT_UNET}.channels=48": "channels is 48: .* the 32 groups",
        f"{RESSHIFT_UNET}.head_channels=7": "swin_channels is 192: .* .7",
        f"{RESSHIFT_UNET}.condition_size=96": "condition_size is 96",
        "framer.variant=paper framer.teacher=middle framer.teacher_layer=5": "framer.teacher_layer is 5: .* 0 to 4, or",
        "framer.variant=paper recipe.denoiser.unet.channels=(8,)": "framer.variant: .* at least two taps, .* has 1",
        "framer.variant=paper framer.start_step=2000": "framer.start_step is 2000: FRAMER would never start",
        "training.warmup_steps=3000": "training.warmup_steps is 3000: it must not exceed steps, 2000",
        "training.final_learning_rate=0.1": "training.final_learning_rate is 0.1: .* must not exceed learning_rate",
        "training.checkpoint_every=300": "training.checkpoint_every is 300: .* multiple of validate_every, 500",
        "training.mesh.data=0": "training.mesh.data is 0: .* at least 1, or -1",
        "training.mesh.fsdp=-1": "training.mesh.data is -1, and so is mesh.fsdp",
        "training.mesh.data=1.5": "training.mesh.data is '1.5'",
        "training.sharding_rules=[('(', ('fsdp',))]": r"sharding_rules has '\(': .* regular expression \(missing",
        "training.sharding_rules=[('a', ('model',))]": "training.sharding_rules has the axes .*: .* data, fsdp or None",
        "training.sharding_rules=['a']": "training.sharding_rules has 'a': a rule is a pair",
        "training.updates={'a': {'b1': 2}}": "training.updates.a.b1 is 2: .* at least 0 and below 1",
        "training.updates={'a': {'steps': 2}}": "training.updates.a.steps cannot be set",
        "training.updates={'a': 3}": "training.updates.a is 3: it must be a section of learning_rate",
    },
    "sinsr": {
        " ".join(
            f"recipe.sinsr.{name}_weight=0" for name in ("distillation", "inverse", "consistency")
        ): "at least one",
    },
    "dit4sr": {
        "recipe.dit4sr.trainable=(": r"recipe.dit4sr.trainable is '\(': .* regular expression \(missing \)",
        "recipe.text.width=100": "recipe.text.clip_widths is .768, 1280.: the sum must not exceed width .100",
        "recipe.text.clip_widths=(1, 2, 3)": "clip_widths is .1, 2, 3.: it must be a list of 2 whole numbers",
        "recipe.denoiser.dit4sr_transformer.heads=3 recipe.denoiser.dit4sr_transformer.head_width=3": "multiple of 4",
        "recipe.denoiser.dit4sr_transformer.dual_blocks=25": "dual_blocks is 25: it must be from 0 to depth .24",
        "recipe.denoiser.dit4sr_transformer.attention=cudnn": "attention is cudnn: it needs dtype bfloat16",
        "framer.variant=paper framer.teacher=middle framer.teacher_layer=24": "framer.teacher_layer is 24: .* 0 to 23",
    },
    "tsd_sr": {
        "recipe.tsd_sr.lora_modules=": "recipe.tsd_sr.lora_modules is '': .* regular expression that is not empty",
        " ".join(f"recipe.tsd_sr.{name}_weight=0" for name in ("distillation", "latent", "perceptual")): "at least one",
    },
    "pisa_sr": {
        "recipe.pisa_sr.lora_modules=(": r"recipe.pisa_sr.lora_modules is '\(': .* regular expression",
        "recipe.pisa_sr.pixel_weight=0": "recipe.pisa_sr.pixel_weight is 0: it must be .* above 0",
        "recipe.denoiser.sd_unet.heads=(3, 10, 20, 20)": "3 heads do not divide the width of their level, 320",
    },
    "osediff": {
        "recipe.osediff.lora_modules=": "recipe.osediff.lora_modules is '': .* regular expression that is not empty",
        " ".join(f"recipe.osediff.{name}_weight=0" for name in ("distillation", "pixel", "perceptual")): "at least one",
    },
    "multistep_sd": {
        "recipe.multistep_sd.trainable=(": r"recipe.multistep_sd.trainable is '\(': .* regular expression",
        "recipe.multistep_sd.eta=0.5": "recipe.multistep_sd.eta is 0.5: it is of sampler 'ddim' only",
        "recipe.denoiser.controlled_sd_unet.control=latent": "it must hold one width with control 'latent'",
    },
    "supervised_l1": {
        "recipe.student.swinir.heads=7": "recipe.student.swinir: channels is 60: .* multiple of heads .7",
        "recipe.student.swinir.residual=3conv recipe.student.swinir.channels=66": "channels is 66: .* of 4 for 3conv",
        "recipe.student.swinir.image_size=4": "image_size is 4: it must be at least the window .8",
        "recipe.student.swinir.head=none": "recipe.student.swinir: scale is 4: with head none it must be one of 1",
    },
    "dtkd": {
        "recipe.dtkd.levels=4 data.crop=8": "recipe.dtkd.levels is 4: images of .8, 8. pixels allow 3 of haar",
        "recipe.dtkd.transform=fourier recipe.dtkd.levels=4 data.crop=8": "recipe.dtkd.levels is 4: .* allow 3;",
        "recipe.dtkd.transform=dual_tree recipe.dtkd.levels=4 data.crop=40": "recipe.dtkd.levels is 4: .* of 16, ",
        "recipe.dtkd.levels=1 recipe.dtkd.weights=(0,2,0)": "recipe.dtkd.weights is .*no middle group",
        "recipe.dtkd.weights=(0, 0, 0)": "recipe.dtkd.weights is 0 for all groups",
        "recipe.dtkd.wavelet=haa": "recipe.dtkd.wavelet is 'haa': unknown wavelet",
    },
    "augkd": {"data.crop=8": "data.crop is 8: with recipe.augkd.zoom_out .* at least 16"},
}
"""Method → overrides, separated by spaces → the refusal of values that are legal by themselves."""


@pytest.mark.parametrize("method", TOGETHER)
def test_values_that_do_not_fit_together_are_refused(method):
    for changes, message in TOGETHER[method].items():
        with pytest.raises(ConfigError, match=message) as caught:
            override_config(default(method), re.split(r" (?=[a-z])", changes))
        assert "\n" not in str(caught.value)


def test_sections_must_be_sections():
    config = default().to_dict()
    for section in ("recipe", "framer", "data", "training", "logging"):
        for value in (5, None, "x", []):
            with pytest.raises(ConfigError, match=f"^{section} is .*: it must be a section of the configuration$"):
                check_config({**config, section: value})
    for path in ("recipe.resshift", "recipe.denoiser", "recipe.denoiser.unet", "recipe.space"):
        config = default().to_dict()
        set_value(config, path, 5)
        with pytest.raises(ConfigError, match=f"^{path}"):
            check_config(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("degrade", "in", "out", "--preset", "bicubic", "--batch", "1" + 400 * "0"),
            "--batch is 1000.*: it must be at",
        ),
        (("upscale", "in", "out", "--tile", str(2**31)), "--tile is 2147483648: it must be at most 2147483647"),
        (("upscale", "in", "out", "--guidance", "nan"), "--guidance is nan: it must be a finite number"),
        (("upscale", "in", "out\0x"), r"output is 'out\\x00x': it has a null character"),
        (
            ("precompute", "embeddings", "--null", "--widths", "1", "2", "9" * 30),
            "--widths is 999.*: it must be at most",
        ),
        (("train", "--config", "default", "--workdir", "run\0"), r"--workdir is 'run\\x00': it has a null character"),
    ],
)
def test_options_that_mean_nothing_are_named(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(run(capsys, *words)))
    assert not contents(tmp_path)


def test_arithmetic_errors_say_where_to_look(capsys, monkeypatch):
    monkeypatch.setattr(info, "run", lambda arguments: 1 // 0)
    refused(run(capsys, "info"), "by zero: a number among the options or the knobs is out of range")
