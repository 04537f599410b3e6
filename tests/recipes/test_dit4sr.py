"""DiT4SR as a recipe: what is trained and what stays, the flow's loss, texts, guidance, and weights by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from framer_jax import cli
from framer_jax.checkpoints.autoencoder import read_kl_autoencoder
from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.precompute.embeddings import embed_captions, write_text
from framer_jax.commands.precompute.latents import precompute_latents
from framer_jax.commands.precompute.work import Work
from framer_jax.commands.train import train_from_config
from framer_jax.data.captions import Caption
from framer_jax.diffusion import flow
from framer_jax.diffusion.noise import noise_field
from framer_jax.images.decode import read_image
from framer_jax.inference.model import load_model
from framer_jax.losses.framer import paper, released
from framer_jax.models.dit4sr_transformer import DiT4SRTransformer
from framer_jax.models.mmdit import MMDiT
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.components.base_model import BASE, split_params
from framer_jax.recipes.components.text import TEXTS, text_sizes
from framer_jax.recipes.dit4sr.recipe import DENOISER, LORA, merge_params
from framer_jax.recipes.dit4sr.settings import Dit4srSettings
from framer_jax.recipes.framer import framer
from framer_jax.recipes.method import TEACHER_OUTPUTS
from tests.support.drawn import drawn
from tests.support.texts import encoder
from tests.support.tiny import config, photos, ported, text

SMALL = ("recipe.name=dit4sr",)

KL = (*SMALL, "recipe.space.name=kl")

ALONE = (*SMALL, "recipe.text.condition=zero", "recipe.dit4sr.trainable=", "recipe.space.statistics=image")
"""Without any file."""

STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that DiT4SR is trained with."""
    place = tmp_path_factory.mktemp("dit4sr")
    ported(place / "vae.safetensors", "kl_autoencoder")
    ported(place / "taesd.safetensors", "taesd")
    ported(place / "base.safetensors", "mmdit")
    for seed, name in enumerate(("null", "prompt", "negative")):
        text(place / f"{name}.safetensors", seed=seed)
    photos(place / "photos")
    return place


def knobs(folder):
    return (
        *KL,
        f"recipe.space.checkpoint={folder}/vae.safetensors",
        f"recipe.dit4sr.base_checkpoint={folder}/base.safetensors",
        f"recipe.text.null_embedding={folder}/null.safetensors",
        "recipe.text.condition=null",
    )


def recipe_of(*changes, purpose="training", data="photos"):
    return build_recipe(config(*changes)["recipe"], purpose, data)


def batch(count=2, side=8):
    hr = jax.random.uniform(jax.random.key(0), (count, 4 * side, 4 * side, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, side, 4, side, 4, 3).mean(axis=(2, 4))}


def started(recipe, data):
    """Parameters as training starts with them."""
    return {**drawn(recipe.init, jax.random.key(1), data), **recipe.initial_params}


def run(recipe, params, data, key=3):
    return jax.jit(recipe.updates[0].loss)(params, recipe.frozen, {}, data, jax.random.key(key), STEP)


def test_control_layers_are_trained_and_the_base_stays(folder):
    recipe = recipe_of(*knobs(folder))
    assert [(update.name, update.groups) for update in recipe.updates] == [(DENOISER, (DENOISER,))]
    params = started(recipe, batch())
    trained, frozen = (flatten_dict(tree, sep="/") for tree in (params[DENOISER], recipe.frozen[BASE]))
    assert all("control" in path for path in trained) and not any("control" in path for path in frozen)
    base = flatten_dict(load_weights(folder / "base.safetensors")[0], sep="/")
    assert frozen.keys() == base.keys()
    for path, leaf in base.items():
        np.testing.assert_array_equal(frozen[path], leaf)
    assert recipe.exported == (DENOISER,) and recipe.lr_multiple == 4
    assert set(recipe.frozen) == {"autoencoder", BASE, TEXTS}
    gradient = jax.jit(jax.grad(lambda params: run(recipe, params, batch()).values.mean()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    # What passes through zero layers moves from the second step on.
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_untrained_it_samples_as_its_base(folder):
    recipe, data = recipe_of(*knobs(folder)), batch()
    sr = jax.jit(recipe.sample)(started(recipe, data), recipe.frozen, data["lr"], noise_field(jax.random.key(7), 2))
    assert sr.shape == (2, 32, 32, 3)
    base, _ = load_weights(folder / "base.safetensors")
    arguments = {**config(*KL)["recipe"]["denoiser"]["dit4sr_transformer"], "context_width": 16, "pooled_width": 12}
    names = ("depth", "heads", "head_width", "dual_blocks", "qk_norm", "context_width", "pooled_width", "position_grid")
    module = MMDiT(channels=4, **{name: arguments[name] for name in names})
    null = recipe.frozen[TEXTS]["null"].as_condition()
    text = {name: np.repeat(part[None], 2, axis=0) for name, part in null.items()}
    z = jax.random.normal(jax.random.key(9), (2, 4, 4, 4), jnp.float32)
    time = jnp.full((2,), 500.0, jnp.float32)
    expected, _ = jax.jit(lambda z: module.apply({"params": base}, z, time, text))(z)
    # the same through the recipe's parameters
    denoiser = DiT4SRTransformer(channels=4, **arguments)
    merged = merge_params(started(recipe, data), recipe.frozen, Dit4srSettings())
    condition = {**text, "lr_latent": z * 0.5}
    velocity, _ = jax.jit(lambda z: denoiser.apply({"params": merged}, z, time, condition))(z)
    np.testing.assert_allclose(velocity, expected, atol=1e-4)


def test_the_loss_is_the_error_of_the_clean_latent():
    recipe, data = recipe_of(*ALONE), batch()
    params = started(recipe, data)
    loss = run(recipe, params, data)
    assert loss.values.shape == (2,) and loss.values.dtype == jnp.float32
    latents = {
        "hr_latent": jax.random.normal(jax.random.key(5), (2, 8, 8, 48), jnp.float32),
        "lr_latent": jax.random.normal(jax.random.key(6), (2, 8, 8, 48), jnp.float32),
    }
    text = {"text": jnp.ones((2, 3, 16), jnp.float16), "pooled_text": jnp.ones((2, 12), jnp.float16)}
    on_latents = recipe_of(*ALONE, data="latents")
    precomputed = run(on_latents, params, {**latents, **text})  # no images at all
    key_sigma, key_noise = jax.random.split(jax.random.key(3))
    sigma = flow.draw_sigma(key_sigma, 2)
    noise = jax.random.normal(key_noise, (2, 8, 8, 48), jnp.float32)
    x = flow.forward(latents["hr_latent"], sigma, noise)
    arguments = {**config(*ALONE)["recipe"]["denoiser"]["dit4sr_transformer"], "context_width": 16, "pooled_width": 12}
    denoiser = DiT4SRTransformer(channels=48, **arguments)
    condition = {name: value.astype(jnp.float32) for name, value in text.items()} | {"lr_latent": latents["lr_latent"]}
    velocity, taps = jax.jit(lambda x: denoiser.apply({"params": params[DENOISER]}, x, 1000 * sigma, condition))(x)
    error = np.square(velocity - flow.velocity(latents["hr_latent"], noise)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(precomputed.values, np.square(sigma) * error, rtol=1e-4)
    np.testing.assert_allclose(precomputed.taps[0], taps[0], rtol=1e-4, atol=1e-4)
    zeros = {name: jnp.zeros_like(value) for name, value in text.items()}
    plain = run(on_latents, params, {**latents, **zeros})
    assert np.any(np.abs(plain.values - precomputed.values) > 0)  # the text counts


def test_guidance_goes_from_the_negative_prompt_to_the_prompt(folder):
    files = (f"recipe.text.{name}_embedding={folder}/{name}.safetensors" for name in ("prompt", "negative"))
    files = (*knobs(folder), *files)
    lr, noise = batch()["lr"], noise_field(jax.random.key(7), 2)

    def sample(*changes):
        recipe = recipe_of(*files, "recipe.dit4sr.sampling_steps=1", *changes)
        return np.asarray(jax.jit(recipe.sample)(started(recipe, batch()), recipe.frozen, lr, noise))

    plain, same = sample(), sample("recipe.dit4sr.guidance=1.0")
    np.testing.assert_array_equal(plain, same)
    none = sample("recipe.dit4sr.guidance=0.0")
    only = sample(f"recipe.text.prompt_embedding={folder}/negative.safetensors")
    np.testing.assert_allclose(none, only, atol=1e-4)
    assert np.abs(plain - none).max() > 1e-4
    assert np.abs(sample("recipe.dit4sr.guidance=4.0") - plain).max() > 1e-4


def test_a_lora_in_addition_to_the_control_layers_or_instead_of_them(folder):
    data = batch()
    lora = ("recipe.dit4sr.lora_modules=attention/(query|key|value|out)$", "recipe.dit4sr.lora_rank=2")
    both = recipe_of(*knobs(folder), *lora)
    params = started(both, data)
    assert both.exported == (DENOISER, LORA) and both.updates[0].groups == (DENOISER, LORA)
    factors = flatten_dict(params[LORA], sep="/")
    assert {path.rpartition("/")[2] for path in factors} == {"down", "up"}
    assert not any("control" in path or "_text" in path for path in factors)
    plain = recipe_of(*knobs(folder))
    # its second factors are zero: nothing has changed yet
    zero = {**params, LORA: jax.tree.map(np.array, both.init(jax.random.key(1), data)[LORA])}
    np.testing.assert_allclose(
        run(both, zero, data).values, run(plain, {DENOISER: params[DENOISER]}, data).values, rtol=1e-5
    )
    gradient = jax.jit(jax.grad(lambda params: run(both, params, data).values.mean()))(params)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient[LORA]))
    alone = recipe_of(*knobs(folder), *lora, "recipe.dit4sr.trainable=nothing")
    assert started(alone, data)[DENOISER] == {}
    with pytest.raises(ValueError, match=r"'nothing' matches none of the \d+ parameters, and there is no LoRA"):
        recipe_of(*knobs(folder), "recipe.dit4sr.trainable=nothing")


@pytest.mark.parametrize("taps", ["hidden", "prediction"])
def test_framer_on_top(taps):
    base, data = recipe_of(*ALONE, f"recipe.denoiser.dit4sr_transformer.taps={taps}"), batch()
    assert base.tap_kind == taps
    recipe = framer(base, paper(weight=0.5))
    params = drawn(recipe.init, jax.random.key(1), data)
    assert params["framer_heads"] == {}
    framed, plain = run(recipe, params, data), run(base, params, data)
    np.testing.assert_allclose(framed.values, plain.values + framed.metrics["framer_term"], rtol=1e-5)
    assert recipe.sample is base.sample
    if taps == "prediction":
        loss = run(framer(base, released()), params, data)
        assert np.isfinite(loss.values).all() and np.all(loss.metrics["framer_term"] > 0)
        np.testing.assert_allclose(loss.taps[-1].shape, (2, 8, 8, 48))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.text.condition=none", "recipe.text.condition is 'none': it must be one of captions, null, zero"),
        ("recipe.text.null_embedding=", "recipe.text.null_embedding is empty: .*set recipe.text.condition=zero"),
        ("recipe.text.condition=zero", "'zero' takes no embeddings: leave recipe.text.null_embedding empty"),
        ("recipe.text.null_embedding=gone.safetensors", "text.null_embedding: gone.safetensors: there is no such file"),
        ("recipe.text.t5_length=4", r"null.safetensors has text embeddings of shape \(3, 16\), .* \(5, 16\): make"),
        ("recipe.dit4sr.base_checkpoint=gone", "recipe.dit4sr.base_checkpoint: there is no file 'gone'"),
        (
            "recipe.denoiser.dit4sr_transformer.depth=3",
            "an MMDiT .*, was made with recipe.denoiser.dit4sr_transformer.depth 2, not 3",
        ),
        ("recipe.dit4sr.trainable=(", r"recipe.dit4sr.trainable is '\(': it must be a regular expression"),
        ("recipe.dit4sr.lora_modules=(", r"recipe.dit4sr.lora_modules is '\(': it must be a regular expression"),
        ("recipe.dit4sr.base_checkpoint=", "recipe.dit4sr.base_checkpoint is empty"),
        ("recipe.space.checkpoint=", "recipe.space.checkpoint is empty: .*Stable Diffusion's autoencoder"),
    ],
)
def test_bad_settings_are_named(folder, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe_of(*knobs(folder), change)


def test_only_guidance_needs_texts_of_one_length(folder, tmp_path):
    longer = text(tmp_path / "longer.safetensors", length=4)
    texts = (*knobs(folder), f"recipe.text.prompt_embedding={longer}")
    assert recipe_of(*texts, "recipe.dit4sr.guidance=1.0").name == "dit4sr"
    for guidance in ("2.0", "4.0"):
        with pytest.raises(ValueError, match=r"prompt_embedding has 4 tokens, .*negative_embedding .* has 3: make"):
            recipe_of(*texts, f"recipe.dit4sr.guidance={guidance}")


def test_records_of_a_teacher_are_refused(folder):
    with pytest.raises(ValueError, match=r"dit4sr has no teacher: set data\.train to photographs or"):
        recipe_of(*ALONE, data=TEACHER_OUTPUTS)


@pytest.mark.slow  # tests/recipes/test_methods.py trains every method
def test_training_goes_on_from_what_it_wrote_and_upscales(folder, tmp_path, capsys):
    data = [f"data.{part}={folder}/photos" for part in ("train", "validation")]
    settings = config(*knobs(folder), *data, "framer.variant=paper")
    result = train_from_config(settings, tmp_path / "run")
    assert result.step == 2 and np.isfinite(result.scalars["loss"])
    params, metadata = load_weights(tmp_path / "run" / "weights.safetensors")
    assert all("control" in path for path in flatten_dict(params[DENOISER], sep="/"))
    names = {"dit4sr.base_checkpoint", "space.checkpoint", "text.null_embedding"}
    assert metadata["weights"].keys() == {f"recipe.{name}" for name in names}
    with pytest.raises(FileNotFoundError, match=r"needs the (autoencoder 'vae|base model 'base).*put it next to"):
        load_model(tmp_path / "run")
    for name in ("vae", "base", "null"):
        (tmp_path / "run" / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    model = load_model(tmp_path / "run")
    assert model.params.keys() == expected_params(model.recipe).keys() == {DENOISER}
    words = ["upscale", str(folder / "photos" / "photo_0.png"), str(tmp_path / "large.png"), "--tile", "16"]
    words += ["--overlap", "4", "--weights", str(tmp_path / "run"), "--preview-decoder", f"{folder}/taesd.safetensors"]
    assert cli.main(words) == 2
    assert "--preview-decoder decodes previews: give --preview N too" in capsys.readouterr().err
    assert cli.main([*words, "--preview", "1"]) == 0
    images = [read_image(tmp_path / f"large{step}.png").pixels for step in ("", "_step_1")]
    assert images[0].shape == images[1].shape and not np.array_equal(*images)


def test_training_on_latents_and_captions(folder, tmp_path, capsys, caplog):
    """As for the published model: latents and embeddings from disk, both made by the commands' functions."""
    sizes = text_sizes(config(*KL)["recipe"])
    captions = {f"photo_{index}.png": Caption(f"photo_{index}.png", "", f"Number {index}.") for index in range(3)}
    encoders = {name: encoder(name, sizes) for name in ("clip_l", "clip_g", "t5")}
    embed_captions(captions, encoders, tmp_path / "embeddings", Work(3, 2), sizes)
    write_text(tmp_path / "null.safetensors", "", encoders, sizes)
    changes = (
        *knobs(folder),
        f"data.train={folder}/photos",
        f"data.validation={folder}/photos",
        f"recipe.text.null_embedding={tmp_path}/null.safetensors",
        "recipe.text.condition=captions",
    )
    vae = read_kl_autoencoder(folder / "vae.safetensors")
    precompute_latents(config(*changes), vae, tmp_path / "latents", Work(9, 8))
    run = (*changes, f"data.train={tmp_path}/latents", f"data.embeddings={tmp_path}/embeddings")
    run += (f"data.validation_preview={folder}/taesd.safetensors",)
    result = train_from_config(config(*run), tmp_path / "run")
    assert result.step == 2 and np.isfinite(result.scalars["loss"])
    assert "text: captions, the null text for 20% of the examples" in capsys.readouterr().err
    assert "validation images and scores are of previews" in caplog.text
    _, metadata = load_weights(tmp_path / "run" / "weights.safetensors")
    assert metadata["config"]["data"]["embeddings"] == "embeddings"
    assert metadata["config"]["data"]["validation_preview"] == "taesd.safetensors"
    for change, message in (
        (("data.embeddings=",), "needs data.embeddings: write the embeddings with"),
        (("recipe.text.t5_length=4",), r"null\.safetensors has text embeddings of shape \(3, 16\)"),
        (("data.crop=64",), r"made with data\.crop 32, this run has 64"),
    ):
        with pytest.raises(ValueError, match=message):
            train_from_config(config(*run, *change), tmp_path / "never")


def test_parameters_are_divided_by_path():
    matching, others = split_params({"a": {"control": 1, "b": 2}, "c": {"d": 3}}, "control|^c/")
    assert (matching, others) == ({"a": {"control": 1}, "c": {"d": 3}}, {"a": {"b": 2}})
    assert split_params({}, "") == ({}, {})


def test_a_scanned_base_is_stored_as_bfloat16(folder):
    one, two = (
        recipe_of(*knobs(folder), *changes)
        for changes in ((), ("recipe.denoiser.dit4sr_transformer.scan=True", "recipe.dit4sr.base_dtype=bfloat16"))
    )
    for index, name in enumerate(("blocks_dual", "blocks_single")):
        if name not in two.frozen[BASE]:
            continue
        kernel = two.frozen[BASE][name]["attention"]["query"]["kernel"]
        assert kernel.dtype == jnp.bfloat16
        first = one.frozen[BASE][f"block_{index}"]["attention"]["query"]["kernel"]
        np.testing.assert_allclose(kernel[0].astype(np.float32), first, rtol=1e-2)
    assert set(two.frozen[BASE]) & {"blocks_dual", "blocks_single"}
    assert {leaf.dtype for leaf in jax.tree.leaves(two.initial_params)} == {np.dtype("float32")}
    with pytest.raises(ValueError, match=r"base_dtype is 'float16': it must be one of float32, bfloat16"):
        Dit4srSettings(base_dtype="float16")
