"""TSD-SR from files and through the command line: its authors' LoRAs, captions of photographs, training, upscaling."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from framer_jax import cli
from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.precompute.embeddings import embed_captions, write_text
from framer_jax.commands.precompute.work import Work
from framer_jax.commands.train import initial_weights, train_from_config
from framer_jax.commands.training_data import open_training
from framer_jax.config import ConfigError
from framer_jax.data.captions import Caption
from framer_jax.data.pipeline import make_batches, prepare_for
from framer_jax.data.records import RecordFiles
from framer_jax.degradations.lookup import preset_by_name
from framer_jax.inference.model import load_model, save_model
from framer_jax.porting.lora import LoraLayers, read_layers, write_layers
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import read_state, write_state
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.components.one_step import ENCODER, STUDENT
from framer_jax.recipes.components.text import text_sizes
from framer_jax.recipes.tsd_sr.weights import PUBLISHED_LORAS
from tests.support.drawn import drawn
from tests.support.paths import CONFIGS
from tests.support.texts import encoder
from tests.support.tiny import config, overrides, random_weights
from tests.support.tsd_sr_files import batch, knobs, make_files, recipe_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("tsd_sr"))


def test_its_authors_loras_are_weights_and_a_start(folder, tmp_path, capsys):
    """A folder with a file of PEFT for each model, as they publish it."""
    recipe = recipe_of(*knobs(folder), "recipe.tsd_sr.perceptual_weight=0.0")
    params = drawn(recipe.init, jax.random.key(1), batch(), spread=0.2)
    published = tmp_path / "tsdsr"
    published.mkdir()
    for group, (file, name, network) in PUBLISHED_LORAS.items():
        downs = [path for path in flatten_dict(params[group], sep="/") if path.endswith("/down")]
        layers = LoraLayers(params[group], {path.removesuffix("/down"): 2.0 for path in downs})
        state = write_layers(MAPS[name], recipe.frozen[network], {"": layers})
        state = {key: value for key, value in state.items() if not key.endswith(".alpha")}  # PEFT's files have none
        write_state(published / file, state)
    settings = config(*knobs(folder))
    model = load_model(published, settings)
    jax.tree.map(np.testing.assert_array_equal, model.params, {name: params[name] for name in (STUDENT, ENCODER)})
    half = load_model(published, config(*knobs(folder), "recipe.tsd_sr.lora_scale=2.0"))
    np.testing.assert_array_equal(
        half.params[STUDENT]["tokens"]["embed"]["up"], params[STUDENT]["tokens"]["embed"]["up"] / 2
    )
    initial, digest = initial_weights(recipe, settings["recipe"], str(published))
    jax.tree.map(np.testing.assert_array_equal, initial, model.params)
    assert len(digest) == 2 * 64 + 1
    base = CONFIGS / "tsd_sr_sd3.py"
    changes = [word for change in overrides(*knobs(folder), base=base) for word in ("--set", change)]
    recipe_words = ["--recipe", str(base), *changes]
    words = ["upscale", str(folder / "photos" / "photo_0.png"), str(tmp_path / "large.png"), "--protocol", "tsd_sr"]
    assert cli.main([*words, "--weights", str(published), *recipe_words, "--tile", "16"]) == 0
    sidecar = json.loads((tmp_path / "large.png.json").read_text())
    assert digest in json.dumps(sidecar)
    assert cli.main([*words[:2], str(tmp_path / "never.png"), "--weights", str(published)]) == 2
    assert "name one with --recipe, such as tsd_sr_sd3" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"transformer\.safetensors: its rank is 2: set recipe\.tsd_sr\.lora_rank=2"):
        load_model(published, config(*knobs(folder), "recipe.tsd_sr.lora_rank=3"))
    with pytest.raises(ValueError, match=r"vae\.safetensors is not a LoRA of mmdit"):
        load_model(published / "vae.safetensors", config(*knobs(folder), "recipe.tsd_sr.encoder_lora_modules="))


def test_the_lora_of_a_run_is_written_with_its_scale(folder, tmp_path):
    """Its factors, read as a LoRA of their rank, are those of the run times `lora_scale`."""
    settings = config(*knobs(folder), "recipe.tsd_sr.lora_scale=3.0", "recipe.tsd_sr.perceptual_weight=0.0")
    recipe, run, output = build_recipe(settings["recipe"]), tmp_path / "run.safetensors", tmp_path / "lora.safetensors"
    shapes = jax.eval_shape(recipe.init, jax.random.key(0), batch())
    save_model(run, recipe, random_weights(shapes), {"config": settings, "step": 0})
    assert cli.main(["port", str(run), str(output), "--model", "mmdit", "--to", "lora"]) == 0
    base, _ = load_weights(folder / "base.safetensors")
    (layers,) = read_layers(MAPS["mmdit"], base, read_state(output)[0], "lora").values()
    read, trained = layers.factors["block_1"]["mlp"]["dense_0"], load_weights(run)[0][STUDENT]
    product = np.asarray(read["down"]) @ np.asarray(read["up"])
    product *= layers.alphas["block_1/mlp/dense_0"] / read["down"].shape[-1]
    factors = trained["block_1"]["mlp"]["dense_0"]
    np.testing.assert_allclose(product, 3.0 * factors["down"] @ factors["up"], rtol=1e-4, atol=1e-6)


def test_photographs_come_with_the_embeddings_of_their_captions(folder, tmp_path):
    settings = (
        *knobs(folder),
        f"data.train={folder}/photos",
        "recipe.text.condition=captions",
        "training.stop_after=1",
    )
    sizes = text_sizes(config(*settings)["recipe"])
    encoders = {name: encoder(name, sizes) for name in ("clip_l", "clip_g", "t5")}
    captions = {f"photo_{index}.png": Caption(f"photo_{index}.png", "", f"Number {index}.") for index in range(3)}
    embed_captions(captions, encoders, tmp_path / "embeddings", Work(3, 2), sizes)
    write_text(tmp_path / "null.safetensors", "", encoders, sizes)
    settings += (f"recipe.text.null_embedding={tmp_path}/null.safetensors", f"data.embeddings={tmp_path}/embeddings")
    source = open_training(config(*settings, "data.caption_dropout=0.0"))
    preset = preset_by_name("bicubic", 4)
    raw = next(make_batches(source, 32, preset, 4, 0, num_threads=0))
    stored = RecordFiles(tmp_path / "embeddings")
    for record, prompt in zip(raw["record"], raw["text"], strict=True):
        np.testing.assert_array_equal(prompt, stored[int(record)]["prompt"])
    prepared = prepare_for(source, preset)(raw)
    assert prepared.keys() == {"hr", "lr", "text", "pooled_text"}
    assert {leaf.dtype for leaf in prepared.values()} == {jnp.dtype("float32")}
    without = next(
        make_batches(open_training(config(*settings, "data.caption_dropout=1.0")), 32, preset, 4, 0, num_threads=0)
    )
    np.testing.assert_array_equal(without["hr"], raw["hr"])
    assert len({prompt.tobytes() for prompt in without["text"]}) == 1
    assert open_training(config(*settings)).names != source.names  # a run notices
    with pytest.raises(ConfigError, match=r"holds records: recipe\.name tsd_sr needs photographs"):
        open_training(config(*settings, f"data.train={tmp_path}/embeddings"))


@pytest.mark.slow  # tests/recipes/test_methods.py trains every method
def test_it_trains_goes_on_and_upscales(folder, tmp_path):
    data = [f"data.{part}={folder}/photos" for part in ("train", "validation")]
    changes = (*data, "recipe.tsd_sr.perceptual_weight=0.0", "training.best_metric=sample/psnr-y")  # compiled sooner
    settings = (*knobs(folder), *changes)
    train_from_config(config(*settings, "training.stop_after=1"), tmp_path / "run")
    result = train_from_config(config(*settings), tmp_path / "run")
    assert result.step == 2
    assert all(np.isfinite(result.scalars[f"{name}/loss"]) for name in ("student", "regulariser"))
    assert {"student/latent_mse", "student/distillation", "regulariser/latent_mse"} <= result.scalars.keys()
    params, metadata = load_weights(tmp_path / "run" / "weights.safetensors")
    assert params.keys() == {STUDENT, ENCODER}
    needed = {
        f"recipe.{name}"
        for name in ("space.checkpoint", "tsd_sr.base_checkpoint", "text.null_embedding", "text.prompt_embedding")
    }
    assert needed | {"recipe.tsd_sr.teacher_lora_checkpoint", "recipe.lpips.checkpoint"} == metadata["weights"].keys()
    card = (tmp_path / "run" / "card.md").read_text(encoding="utf-8")
    assert (
        "for the student, one prompt (recipe.text.prompt_embedding); for its teacher, of each example, the same" in card
    )
    for name in ("vae", "base", "null", "prompt"):  # what upscaling needs, and no teacher
        (tmp_path / "run" / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    model = load_model(tmp_path / "run")
    assert model.params.keys() == expected_params(model.recipe).keys() == {STUDENT, ENCODER}
    words = ["upscale", str(folder / "photos" / "photo_0.png"), str(tmp_path / "large.png"), "--tile", "16"]
    assert cli.main([*words, "--overlap", "4", "--weights", str(tmp_path / "run")]) == 0
    assert (tmp_path / "large.png").is_file()
