"""OSEDiff from files and through the command line: its authors' file, merging a run, bad files."""

import jax
import numpy as np
import pytest

from framer_jax import cli
from framer_jax.checkpoints.networks import read_network
from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.train import initial_weights
from framer_jax.inference.model import load_model, save_model
from framer_jax.models.lora import make_lora, merge
from framer_jax.porting import lora_pickle
from framer_jax.porting.lora import read_layers
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import read_state
from framer_jax.recipes.components.adapters import merge_factors
from framer_jax.recipes.components.base_model import BASE
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.one_step import ENCODER, STUDENT
from framer_jax.recipes.osediff.recipe import DENOISER
from tests.support.drawn import drawn
from tests.support.osediff_files import batch, knobs, make_files, published
from tests.support.paths import CONFIGS
from tests.support.tiny import config, overrides

PLAIN = "recipe.osediff.perceptual_weight=0.0"  # no LPIPS to read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("osediff"))


@pytest.fixture(scope="module")
def recipe(folder):
    return build_recipe(config(*knobs(folder), PLAIN)["recipe"])


@pytest.fixture(scope="module")
def params(recipe):
    """Parameters of a student after some training: no factor is zero."""
    drawn_params = drawn(recipe.init, jax.random.key(1), batch(), spread=0.1)
    return {name: drawn_params[name] for name in recipe.exported}


@pytest.fixture
def opened(monkeypatch, recipe, params, tmp_path):
    """(path of osediff.pkl, its content): PyTorch's loader, which is not installed here, is taken to return it."""
    path, content = tmp_path / "osediff.pkl", published(recipe, params)
    path.write_bytes(b"PK\x03\x04 and the rest of a pickle")
    monkeypatch.setattr(lora_pickle, "read_pickle", lambda path: content)
    return path, content


def test_its_authors_file_is_weights_and_a_start(folder, recipe, params, opened, tmp_path):
    path, _ = opened
    settings = config(*knobs(folder))
    model = load_model(path, settings)
    assert model.params.keys() == {STUDENT, DENOISER, ENCODER}
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), model.params, params)
    half = load_model(path, config(*knobs(folder), "recipe.osediff.lora_scale=4.0"))
    conv_in = [each.params[STUDENT]["conv_in"]["up"] for each in (half, model)]
    np.testing.assert_allclose(2 * conv_in[0], conv_in[1], rtol=1e-6)
    initial, digest = initial_weights(recipe, settings["recipe"], str(path))
    jax.tree.map(np.testing.assert_array_equal, initial, model.params)
    assert len(digest) == 64
    base = CONFIGS / "osediff_sd21.py"
    changes = [word for change in overrides(*knobs(folder), base=base) for word in ("--set", change)]
    words = ["upscale", str(folder / "photos" / "photo_0.png"), str(tmp_path / "large.png"), "--protocol", "osediff"]
    assert cli.main([*words, "--weights", str(path), "--recipe", str(base), *changes, "--tile", "16"]) == 0
    assert digest in (tmp_path / "large.png.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.osediff.lora_rank=3", "its rank is 2: set recipe.osediff.lora_rank=2"),
        ("recipe.osediff.encoder_lora_rank=3", "its rank is 2: set recipe.osediff.encoder_lora_rank=2"),
        (
            "recipe.osediff.lora_modules=conv_in",
            r"the file has factors of '.*' \(\d+ modules differ\): set recipe.osediff.lora_modules to a pattern",
        ),
        (
            "recipe.osediff.lora_modules=conv|time|skip|sample|attention|mlp|project",
            "the file has no factors of '.*'.*: set recipe.osediff.lora_modules",
        ),
        ("recipe.osediff.encoder_lora_modules=", "a LoRA of the vae, and recipe.osediff.encoder_lora_modules is empty"),
        ("recipe.osediff.trainable=", "in it as a whole: conv_in; recipe.osediff.trainable '' names others"),
    ],
)
def test_a_file_of_another_rank_or_choice_of_modules_is_named(folder, opened, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_model(opened[0], config(*knobs(folder), change))
    assert "osediff.pkl" in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_becomes_a_whole_unet_and_autoencoder(folder, recipe, params, tmp_path, capsys):
    """Merged, they compute what the LoRAs on the base do."""
    run = tmp_path / "run.safetensors"
    save_model(run, recipe, params, {"config": config(*knobs(folder), PLAIN), "step": 0})
    expected = {
        "sd_unet": merge_factors({**recipe.frozen[BASE], **params[DENOISER]}, params[STUDENT], 2.0),
        "kl_autoencoder": merge_factors(recipe.frozen[AUTOENCODER], params[ENCODER], 2.0),
    }
    for model, whole in expected.items():
        assert cli.main(["port", str(run), str(tmp_path / model), "--model", model, "--to", "diffusers"]) == 0
        ours = read_network(model, tmp_path / model).params
        jax.tree.map(lambda leaf, other: np.testing.assert_allclose(leaf, other, atol=1e-5), ours, whole)
    output = tmp_path / "lora.safetensors"
    assert cli.main(["port", str(run), str(output), "--model", "sd_unet", "--to", "lora"]) == 0
    (layers,) = read_layers(MAPS["sd_unet"], recipe.frozen[BASE], read_state(output)[0], "lora").values()
    base = {**recipe.frozen[BASE], **params[DENOISER]}
    merged = merge(base, {"a": make_lora(*layers)})
    jax.tree.map(lambda leaf, other: np.testing.assert_allclose(leaf, other, atol=1e-5), merged, expected["sd_unet"])
    capsys.readouterr()
    assert cli.main(["port", str(run), str(tmp_path / "x"), "--model", "mmdit", "--to", "diffusers"]) == 2
    assert "a run of osediff becomes sd_unet or kl_autoencoder, not mmdit" in capsys.readouterr().err
