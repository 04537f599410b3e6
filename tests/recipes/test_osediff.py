"""OSEDiff as a recipe: its one step, its distillation in NumPy, its groups and texts, FRAMER, bad settings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.config import shipped, to_dict
from framer_jax.diffusion.ddpm import scaled_linear_schedule
from framer_jax.diffusion.noise import noise_field
from framer_jax.losses.framer import paper
from framer_jax.models.sd_unet import SDUNet
from framer_jax.porting.lora import KEY
from framer_jax.porting.maps import torch_names
from framer_jax.porting.table import MAPS
from framer_jax.recipes.base import Tiling
from framer_jax.recipes.components.adapters import merge_factors
from framer_jax.recipes.components.base_model import BASE
from framer_jax.recipes.components.latent_space import AUTOENCODER, LatentTask, from_model_range, upsample_bicubic
from framer_jax.recipes.components.one_step import ENCODER, REGULARISER, STUDENT, STUDENT_LATENT
from framer_jax.recipes.components.sd_base import build_space
from framer_jax.recipes.components.text import TEXTS
from framer_jax.recipes.framer import framer
from framer_jax.recipes.osediff.recipe import DENOISER
from tests.support.drawn import drawn
from tests.support.osediff_files import batch, knobs, make_files, recipe_of
from tests.support.tiny import SD_ENCODER, config, ported
from tools.parity.cases import load_case

STEP = jnp.int32(0)

LOSS = (
    "recipe.osediff.perceptual_weight=0.0",  # whose gradient takes long to compile
    "recipe.osediff.pixel_weight=0.5",
    "recipe.osediff.distillation_weight=2.0",
)

LEVEL = scaled_linear_schedule().alphas_cumprod


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("osediff"))


@pytest.fixture(scope="module")
def recipe(folder):
    return recipe_of(*knobs(folder), *LOSS)


@pytest.fixture(scope="module")
def network():
    denoiser = SDUNet(**SD_ENCODER)
    return jax.jit(lambda params, x, t, text: denoiser.apply({"params": params}, x, t, {"text": text}))


@pytest.fixture(scope="module")
def params(recipe):
    """Parameters of a student after some training: no factor is zero."""
    return drawn(recipe.init, jax.random.key(1), batch(), spread=0.1)


@pytest.fixture(scope="module")
def student(recipe):
    """The student's loss, compiled once: (params, batch)."""
    loss = jax.jit(recipe.updates[0].loss)
    return lambda params, data: loss(params, recipe.frozen, {}, data, jax.random.key(3), STEP)


@pytest.fixture(scope="module")
def space(folder):
    return build_space(config(*knobs(folder))["recipe"], "inference", READER)


@pytest.fixture(scope="module")
def encode_lr(space):
    task = LatentTask(space, 4, residual=False)
    return jax.jit(lambda frozen, lr: task.encode_lr(frozen, lr)[0])


def text_of(recipe, name, count=2):
    return np.repeat(recipe.frozen[TEXTS][name].tokens[None], count, axis=0)


def one_step(z, noise):
    """The clean latent that a prediction at the last time implies."""
    return (z - np.sqrt(1 - LEVEL[-1]) * noise) / np.sqrt(LEVEL[-1])


def test_three_loras_and_a_whole_layer(recipe):
    assert [(update.name, update.groups) for update in recipe.updates] == [
        ("student", (STUDENT, DENOISER, ENCODER)),
        ("regulariser", (REGULARISER,)),
    ]
    assert recipe.exported == (STUDENT, DENOISER, ENCODER) and recipe.mean is None
    assert set(recipe.frozen) == {AUTOENCODER, BASE, TEXTS}
    params = jax.eval_shape(recipe.init, jax.random.key(1), batch())
    assert params[DENOISER].keys() == {"conv_in"}
    for name, leaf in recipe.initial_params[DENOISER]["conv_in"].items():
        np.testing.assert_array_equal(leaf, recipe.frozen[BASE]["conv_in"][name])
    encoder = {path.rpartition("/")[0] for path in flatten_dict(params[ENCODER], sep="/")}
    assert {"after_encoder", "encoder/conv_in", "encoder/middle/attention_1/key"} <= encoder
    assert not any("decoder" in path for path in encoder)
    assert jax.tree.structure(params[STUDENT]) == jax.tree.structure(params[REGULARISER])


def test_the_default_modules_are_those_of_the_released_trainer(fixtures):
    """By the keys of a file of PEFT with the same patterns; the time embedding and the norms are left out."""
    case = load_case(fixtures / "unet_sd2_tiny_duallora.npz")
    lora = {match["module"] for key in case.weights["lora"] if (match := KEY.fullmatch(key))}
    recipe = build_recipe(to_dict(shipped("osediff_sd21"))["recipe"], "description")
    shapes = jax.eval_shape(recipe.init, jax.random.key(0), batch(1))
    modules = {name: len(jax.tree.leaves(factors)) // 2 for name, factors in shapes.items()}
    assert modules == {STUDENT: 258, REGULARISER: 258, ENCODER: 32, DENOISER: 1}
    paths = {path.rpartition("/")[0] for path in flatten_dict(shapes[STUDENT], sep="/")}
    assert len(paths) == len(lora) == modules[STUDENT]
    assert {_torch_name(path) for path in paths} == lora
    assert sum(leaf.size for leaf in jax.tree.leaves(recipe.frozen[BASE])) == 865_910_724
    trained = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round(trained / 1e6, 1) == 8.5  # millions, as the paper counts them


def _torch_name(path):
    tree = leaf = {}
    *parents, last = path.split("/")
    for part in parents:
        leaf = leaf.setdefault(part, {})
    leaf[last] = {"kernel": np.zeros((1, 1), np.float32)}
    ((key, _),) = torch_names(MAPS["sd_unet"], tree).values()
    return key.removesuffix(".weight")


def test_without_training_the_student_is_the_one_step_estimate_of_the_base(recipe, student, network, encode_lr):
    data = batch()
    untrained = {**jax.jit(recipe.init)(jax.random.key(1), data), **recipe.initial_params}
    z_lr = encode_lr(recipe.frozen, data["lr"])
    noise, taps = network(recipe.frozen[BASE], z_lr, jnp.full((2,), 999, jnp.int32), text_of(recipe, "prompt"))
    loss = student(untrained, data)
    np.testing.assert_allclose(loss.outputs[STUDENT_LATENT], one_step(z_lr, noise), rtol=1e-4, atol=1e-4)
    assert len(loss.taps) == 5
    for tap, other in zip(loss.taps, taps, strict=True):
        np.testing.assert_allclose(tap, other, atol=1e-4)


def _whole_unet(recipe, params):
    """The student's U-Net with everything merged."""
    return merge_factors({**recipe.frozen[BASE], **params[DENOISER]}, params[STUDENT], 2.0)


def test_the_student_computes_its_latent_in_one_step(recipe, student, params, network, space, encode_lr):
    data = batch()
    loss = student(params, data)
    encoder = {AUTOENCODER: merge_factors(recipe.frozen[AUTOENCODER], params[ENCODER], 2.0)}
    z_lr, plain = (encode_lr(frozen, data["lr"]) for frozen in (encoder, recipe.frozen))
    assert np.abs(z_lr - plain).max() > 1e-3
    last = jnp.full((2,), 999, jnp.int32)
    noise, _ = network(_whole_unet(recipe, params), z_lr, last, text_of(recipe, "prompt"))
    z = loss.outputs[STUDENT_LATENT]
    np.testing.assert_allclose(z, one_step(z_lr, noise), rtol=1e-3, atol=1e-3)
    sr = jax.jit(recipe.sample)(params, recipe.frozen, data["lr"], noise_field(jax.random.key(7), 2))
    image = jax.jit(space.decode)(recipe.frozen, z)
    np.testing.assert_allclose(sr, from_model_range(image), atol=1e-3)
    error = np.square(np.clip(image, -1, 1) - (data["hr"] * 2 - 1)).mean((1, 2, 3))
    np.testing.assert_allclose(loss.metrics["pixel_mse"], error, rtol=1e-3)
    total = 0.5 * loss.metrics["pixel_mse"] + 2.0 * loss.metrics["distillation"]
    np.testing.assert_allclose(loss.values, total, rtol=1e-5)


def test_the_distillation_is_the_formula_written_out(recipe, student, params, network):
    """VSD in NumPy: from the regulariser's estimate to the teacher's guided one, over the teacher's distance."""
    loss = student(params, batch())
    z = np.asarray(loss.outputs[STUDENT_LATENT], np.float64)
    key_time, key_noise = jax.random.split(jax.random.key(3))
    t = np.asarray(jax.random.randint(key_time, (2,), 20, 980))
    noise = np.asarray(jax.random.normal(key_noise, z.shape, "float32"))
    signal, sigma = (np.sqrt(part)[:, None, None, None] for part in (LEVEL[t], 1 - LEVEL[t]))
    x = signal * z + sigma * noise
    regulariser = merge_factors(recipe.frozen[BASE], params[REGULARISER], 2.0)

    def clean(weights, name):
        output, _ = network(weights, x.astype(np.float32), jnp.asarray(t), text_of(recipe, name))
        return (x - sigma * np.asarray(output, np.float64)) / signal

    negative, prompt = (clean(recipe.frozen[BASE], name) for name in ("negative", "prompt"))
    real = negative + 7.5 * (prompt - negative)
    fake = clean(regulariser, "prompt")
    direction = (fake - real) / np.abs(z - real).mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(loss.metrics["distillation"], np.square(direction).mean((1, 2, 3)), rtol=1e-3)


def test_every_group_learns_from_its_own_loss(recipe, params, network):
    data = batch()

    def distillation(params):
        loss = recipe.updates[0].loss(params, recipe.frozen, {}, data, jax.random.key(3), STEP)
        return loss.metrics["distillation"].sum()

    gradient = jax.jit(jax.grad(distillation))(params)
    for name in (STUDENT, DENOISER, ENCODER):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[name])), name
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient[REGULARISER]))

    z = jax.random.normal(jax.random.key(8), (2, 4, 4, 4), "float32")

    def regularisation(params):
        outputs = {**data, STUDENT_LATENT: z}
        loss = recipe.updates[1].loss(params, recipe.frozen, {}, outputs, jax.random.key(3), STEP)
        return loss.values.sum(), loss.values

    gradient, values = jax.jit(jax.grad(regularisation, has_aux=True))(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[REGULARISER]))
    others = (STUDENT, DENOISER, ENCODER)
    assert not any(np.any(leaf) for name in others for leaf in jax.tree.leaves(gradient[name]))
    key_time, key_noise = jax.random.split(jax.random.key(3))
    t = np.asarray(jax.random.randint(key_time, (2,), 0, 1000))  # all times, as in the released trainer
    noise = np.asarray(jax.random.normal(key_noise, z.shape, "float32"))
    signal, sigma = (np.sqrt(part)[:, None, None, None] for part in (LEVEL[t], 1 - LEVEL[t]))
    x = np.asarray(signal * z + sigma * noise, np.float32)
    regulariser = merge_factors(recipe.frozen[BASE], params[REGULARISER], 2.0)
    output, _ = network(regulariser, x, jnp.asarray(t), text_of(recipe, "prompt"))
    np.testing.assert_allclose(values, np.square(output - noise).mean((1, 2, 3)), rtol=1e-3)


def test_the_texts_of_examples_are_for_all_networks(recipe, student, params, folder):
    data = batch()
    captioned = recipe_of(*knobs(folder), *LOSS, data="captioned photos")
    loss = jax.jit(captioned.updates[0].loss)
    other = loss(params, recipe.frozen, {}, {**data, "text": jnp.ones((2, 3, 16))}, jax.random.key(3), STEP)
    plain = student(params, data)
    assert np.abs(plain.outputs[STUDENT_LATENT] - other.outputs[STUDENT_LATENT]).max() > 1e-3
    same = {**data, "text": jnp.asarray(text_of(recipe, "prompt"))}
    repeated = loss(params, recipe.frozen, {}, same, jax.random.key(3), STEP)
    np.testing.assert_allclose(repeated.values, plain.values, rtol=1e-5)


def test_sample_tiled_is_sample_where_an_image_fits_a_tile(recipe, params):
    """Larger images are computed in tiles, whose predictions are blended."""
    lr, noise = batch()["lr"], noise_field(jax.random.key(7), 2)
    sr = jax.jit(recipe.sample)(params, recipe.frozen, lr, noise)
    image = upsample_bicubic(lr, 4)
    sample_tiled = jax.jit(recipe.sample_tiled, static_argnums=4)
    one = sample_tiled(params, recipe.frozen, image, noise, Tiling(side=64, overlap=8))
    np.testing.assert_allclose(one, sr, atol=1e-3)
    parts = sample_tiled(params, recipe.frozen, image, noise, Tiling(side=16, overlap=0))
    assert parts.shape == one.shape and np.abs(parts - one).max() > 1e-5


def test_framer_on_the_student(recipe, student, params):
    framed = framer(recipe, paper(weight=0.5))
    assert framed.updates[0].groups[-1] == "framer_heads" and framed.updates[1] is recipe.updates[1]
    shapes = jax.eval_shape(framed.init, jax.random.key(0), batch())
    heads = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes["framer_heads"])
    assert heads.keys() == {"head_0", "head_1", "head_2", "head_3"}  # 5 taps, the last one the teacher
    with_heads = {**params, "framer_heads": heads}
    loss = jax.jit(framed.updates[0].loss)(with_heads, recipe.frozen, {}, batch(), jax.random.key(3), STEP)
    plain = student(params, batch())
    np.testing.assert_allclose(loss.values, plain.values + loss.metrics["framer_term"], rtol=1e-5)
    assert framed.sample is recipe.sample


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.osediff.base_checkpoint=", "base_checkpoint is empty: set it to the path of Stable Diffusion 2's U-N"),
        ("recipe.osediff.base_checkpoint=gone", "recipe.osediff.base_checkpoint: there is no file 'gone'"),
        ("recipe.denoiser.sd_unet.blocks=2", r"base.safetensors, .*, was made with .*sd_unet.blocks 1, not 2"),
        ("recipe.text.width=8", r"base.safetensors, .*recipe\.text\.width 16, not 8"),
        ("recipe.osediff.lora_modules=nothing", "the LoRA pattern 'nothing' finds no kernel among"),
        ("recipe.osediff.lora_modules=", "recipe.osediff.lora_modules is '': it must be a regular expression"),
        ("recipe.osediff.trainable=nothing", "recipe.osediff.trainable 'nothing' matches none of the"),
        ("recipe.space.name=wavelet", "recipe.osediff.base_checkpoint: this U-Net takes latents of 4 channels"),
        ("recipe.denoiser.name=dit", "recipe.denoiser.name is 'dit': it must be one of sd_unet"),
        ("recipe.lpips.checkpoint=", "recipe.lpips.checkpoint is empty"),
    ],
)
def test_bad_settings_are_named(folder, change, message):
    def build():
        jax.eval_shape(recipe_of(*knobs(folder), change).init, jax.random.key(0), batch())

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build()


def test_guidance_needs_two_texts(folder):
    same = [f"recipe.text.{name}_embedding=" for name in ("prompt", "negative")]
    message = "guidance 7.5 leads from the negative prompt to a prompt, and both are the null text: set recipe.text.pro"
    with pytest.raises(ValueError, match=message):
        recipe_of(*knobs(folder), *same)
    for change in ("osediff.guidance=1", "osediff.distillation_weight=0", "text.condition=captions"):
        recipe_of(*knobs(folder), *same, f"recipe.{change}")
    recipe_of(*knobs(folder), same[0])  # from the negative prompt to the null text


def test_a_base_that_predicts_the_velocity_is_refused(folder, tmp_path):
    pipeline = tmp_path / "stable-diffusion-2-1"
    (pipeline / "scheduler").mkdir(parents=True)
    (pipeline / "unet").mkdir()
    ported(pipeline / "unet" / "base.safetensors", "sd_unet")
    settings = pipeline / "scheduler" / "scheduler_config.json"
    changes = (*knobs(folder), f"recipe.osediff.base_checkpoint={pipeline}/unet/base.safetensors")
    settings.write_text(json.dumps({"prediction_type": "epsilon"}))
    recipe_of(*changes)
    settings.write_text(json.dumps({"prediction_type": "v_prediction"}))
    with pytest.raises(ValueError, match=r"base_checkpoint: .* predicts v_prediction by its scheduler_config\.json"):
        recipe_of(*changes)


def test_weights_of_stable_diffusion_1_are_refused(folder, tmp_path):
    """Its text is narrower; and its projections are convolutions, which tests/porting refuses."""
    ported(tmp_path / "sd15.safetensors", "sd_unet", context_width=12)
    with pytest.raises(ValueError, match=r"base_checkpoint .*recipe.text.width 12, not 16"):
        recipe_of(*knobs(folder), f"recipe.osediff.base_checkpoint={tmp_path}/sd15.safetensors")
