import importlib
import math

import jax
import jax.numpy as jnp
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.train import train_from_config
from framer_jax.config import load_config, to_dict
from framer_jax.data.settings import degradation_preset
from framer_jax.diffusion.noise import noise_field
from framer_jax.inference.model import load_model
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.framer import add_framer
from framer_jax.recipes.table import METHODS
from framer_jax.training.settings import TrainingSettings
from tests.support.logs import read_json_lines
from tests.support.paths import CONFIGS
from tests.support.tiny import named_weights, overrides, photos, ported, shipped_configuration

FILES = sorted(path for path in CONFIGS.glob("*.py") if path.stem != "__init__")
SAME_PROGRAM = {"resshift_v2": "resshift_v1", "resshift_bicubic": "resshift_v3"}
"""Configurations that differ from another one in the length of training, or in its data, alone."""

TRAINED = {*SAME_PROGRAM, *map(shipped_configuration, METHODS)}
"""Configurations that tests/recipes/test_methods.py trains, or one with the same program."""

COVERED = {
    *("resshift_v1_framer", "resshift_v3", "resshift_narrow", "resshift_dit", "sinsr_narrow", "dtkd_swinir_small"),
    *("flow_dit_released", "framer_d_small", "framer_tsd_sr_sd3", "quickstart_framer", "dtkd_narrow"),
    *("framer_d_sd35", "dit4sr_taesd3_small", "realesrgan_narrow", "framer_u_pisa_sr", "supresdiffgan_taesd_small"),
    *("framer_u_supresdiffgan", "framer_u_multistep", "multistep_taesd_small"),
    *("framer_u_taesd_small", "framer_d_taesd3_small", "pisa_sr_taesd_small", "hf_diff_narrow"),
}
"""Configurations whose methods, networks and variants of FRAMER are trained by others here: one step of them is a slow
check."""


VARIANTS = [
    f"{path.stem}:{name}"
    for path in FILES
    for table in ("STAGES", "VARIANTS", "WEIGHTS")
    for name in getattr(importlib.import_module(f"{CONFIGS.name}.{path.stem}"), table, ())
]
"""The configurations that a file has besides its default."""


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A file of the autoencoder VQ-f4 at its full size."""
    return ported(tmp_path_factory.mktemp("autoencoder") / "autoencoder.safetensors", "vq_f4")


def test_framer_d_compares_what_its_variant_compares():
    """The paper compares hidden maps, the released code predictions; the rest is the same."""
    paper, released = (to_dict(load_config(f"framer_d_sd35{name}")) for name in ("", ":released"))
    taps = [config["recipe"]["denoiser"]["dit4sr_transformer"].pop("taps") for config in (paper, released)]
    assert taps == ["hidden", "prediction"]
    assert [config["framer"].pop("variant") for config in (paper, released)] == ["paper", "released"]
    assert paper == released
    for config in (paper, released):
        assert (config["training"]["global_batch"], config["training"]["learning_rate"]) == (256, 5e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_and_stages_load(name):
    config = load_config(name)
    assert config.recipe.name == load_config(name.partition(":")[0]).recipe.name
    assert config.training.steps > 0


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.stem in SAME_PROGRAM else (), id=path.stem) for path in FILES],
)
def test_as_it_is(path, autoencoder):
    """The whole configuration gives a recipe that samples and valid settings; its docstring has all parts."""
    config = to_dict(load_config(path))
    space = config["recipe"].get("space", {}).get("name")
    if space == "vq_f4":
        config["recipe"]["space"]["checkpoint"] = str(autoencoder)
    purpose = "description" if space in ("kl", "taesd", "taesd3") else "inference"  # its weights are large
    recipe = add_framer(build_recipe(config["recipe"], purpose), config["framer"])
    assert config["data"]["crop"] % (recipe.scale * recipe.lr_multiple) == 0
    degradation_preset(config["data"], recipe.scale)
    settings = TrainingSettings(**config["training"])
    assert settings.steps > 0
    side = 4 * recipe.lr_multiple
    lr = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    assert (recipe.mean is None) == (config["recipe"]["name"] in ("sinsr", "hf_diff", "tsd_sr", "pisa_sr", "osediff"))
    for sampler in filter(None, (recipe.sample, recipe.mean) if purpose == "inference" else ()):
        sr = jax.eval_shape(sampler, expected_params(recipe), recipe.frozen, lr, noise_field(jax.random.key(0), 1))
        assert sr.shape == (1, side * recipe.scale, side * recipe.scale, 3)
    head = path.read_text(encoding="utf-8").split('"""')[1]
    assert f"framer-jax train --config {path.stem}" in head
    if path.stem != "default":
        assert all(word in head for word in ("Command:", "Hardware:", "Expected time:", "Expected:"))


@pytest.mark.parametrize(("name", "other"), SAME_PROGRAM.items())
def test_what_differs_in_length_and_data_alone(name, other):
    one, two = (to_dict(load_config(CONFIGS / f"{stem}.py")) for stem in (name, other))
    assert one["recipe"] == two["recipe"]
    assert one["framer"] == two["framer"]
    assert one != two


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.slow if path.stem in COVERED else (), id=path.stem)
        for path in FILES
        if path.stem not in TRAINED
    ],
)
def test_one_step(path, tmp_path):
    crop = 64 if path.stem == "standard" else 32  # a window of its term against patterns of texture
    folder = photos(tmp_path / "photos", size=(crop + 8, crop + 16))
    changes = [f"data.train={folder}", f"data.validation={folder}", "training.stop_after=1", f"data.crop={crop}"]
    changes += named_weights(tmp_path / "run", path)
    if path.stem != "default":
        changes.append("data.validation_count=0")  # two more programs each
    config = to_dict(load_config(path, overrides(*changes, base=path)))
    result = train_from_config(config, tmp_path / "run")
    assert result.step == 1
    losses = [value for name, value in result.scalars.items() if name.split("/")[-1] == "loss"]
    assert losses and all(map(math.isfinite, losses))
    framed = config["framer"]["variant"] != "none"
    assert any(name.endswith("framer_ratio") for name in result.scalars) == framed
    assert ("framer_heads" in result.state.params) == framed
    if path.stem == "default":
        logged = {name for line in read_json_lines(tmp_path / "run" / "metrics.jsonl") for name in line}
        assert {"loss", *(f"validation/{name}/psnr-y" for name in ("mean", "sample", "bicubic"))} <= logged
    model = load_model(tmp_path / "run")
    assert set(model.params) == set(model.recipe.exported) and "framer_heads" not in model.params
    assert model.metadata["step"] == 1
