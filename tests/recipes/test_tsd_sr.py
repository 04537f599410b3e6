"""TSD-SR as a recipe: three LoRAs on one transformer, what each is told and trained with, FRAMER, weights by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from framer_jax.recipes.latent_space import AUTOENCODER, LatentTask, enlarge, from_model_range
from framer_jax.recipes.text import TEXTS
from framer_jax.recipes.tsd_sr_settings import TsdSrSettings

from framer_jax.config import load_config, to_dict
from framer_jax.diffusion.noise import noise_field
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.upscaler import UpscaleSettings
from framer_jax.losses.framer import paper
from framer_jax.models.mmdit import MMDiT, match_block_layout
from framer_jax.porting.torch_files import read_state
from framer_jax.recipes.base import Tiling
from framer_jax.recipes.dit4sr import BASE
from framer_jax.recipes.framer import framer
from framer_jax.recipes.table import DENOISERS, SPACES, build_recipe
from framer_jax.recipes.tsd_sr import ENCODER, MADE, REGULARISER, STUDENT, TEACHER, guided, with_lora
from tests.support.drawn import drawn
from tests.support.paths import CONFIGS
from tests.support.tiny import config
from tests.support.tsd_sr_files import batch, knobs, make_files, recipe_of

STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("tsd_sr"))


@pytest.fixture(scope="module")
def recipe(folder):
    return recipe_of(*knobs(folder), "recipe.tsd_sr.perceptual_weight=0.0")  # whose gradient takes long to compile


@pytest.fixture(scope="module")
def network():
    arguments = {**config()["recipe"]["denoiser"]["mmdit"], "context_width": 16, "pooled_width": 12}
    denoiser = DENOISERS["mmdit"](out_channels=4, **arguments)
    denoiser = denoiser.clone(taps="prediction")
    return jax.jit(lambda variables, x, sigma, text: denoiser.apply(variables, x, 1000 * sigma, *text))


@pytest.fixture(scope="module")
def params(recipe):
    """Of a student that has learned something: no factor is zero."""
    return drawn(recipe.init, jax.random.key(1), batch(), spread=0.2)


@pytest.fixture(scope="module")
def student(recipe):
    """The student's loss, compiled once: (params, batch, frozen)."""
    loss = jax.jit(recipe.updates[0].loss)
    return lambda params, data, frozen=recipe.frozen: loss(params, frozen, {}, data, jax.random.key(3), STEP)


def told(recipe, name, count=2):
    return tuple(np.repeat(part[None], count, axis=0) for part in recipe.frozen[TEXTS][name])


def test_three_sets_lie_on_one_transformer(recipe, folder):
    assert [(update.name, update.groups) for update in recipe.updates] == [
        ("student", (STUDENT, ENCODER)),
        ("regulariser", (REGULARISER,)),
    ]
    assert recipe.exported == (STUDENT, ENCODER) and recipe.mean is None and recipe.lr_multiple == 4
    assert set(recipe.frozen) == {AUTOENCODER, BASE, TEACHER, TEXTS}
    params = drawn(recipe.init, jax.random.key(1), batch())
    student, encoder, regulariser = (
        {path.rpartition("/")[0] for path in flatten_dict(params[name], sep="/")}
        for name in (STUDENT, ENCODER, REGULARISER)
    )
    assert regulariser < student
    alone = {"tokens/embed", "head/projection", "head/modulation", "block_0/mlp/dense_0", "block_1/modulation_text"}
    assert alone <= student - regulariser and "block_0/attention_2/out" in regulariser
    assert not any("dense_1" in path or "out_text" in path or "condition" in path for path in student)
    assert all(path.startswith("encoder/") for path in encoder) and "encoder/middle/attention_1/key" in encoder
    query = recipe.frozen[TEACHER]["block_0"]["attention"]["query"]
    assert jax.tree.structure(recipe.frozen[TEACHER]) == jax.tree.structure(
        {"block_0": {"attention": {"query": query}}}
    )
    stored, _ = read_state(folder / "teacher.safetensors")
    (up,) = (value for key, value in stored.items() if "lora_B" in key)
    np.testing.assert_allclose(query["up"], 2 * up.T, rtol=1e-6)  # of alpha 4 and rank 2


def test_at_its_published_size_it_has_the_modules_that_the_released_trainer_names():
    recipe = build_recipe(to_dict(load_config(CONFIGS / "tsd_sr_sd3.py"))["recipe"], "description")
    shapes = jax.eval_shape(recipe.init, jax.random.key(0), batch(1))
    modules = {name: len(jax.tree.leaves(factors)) // 2 for name, factors in shapes.items()}
    # 11 of each block and 3 beside them, the last block without its text's perceptron; 7 of each; SD 3's encoder has
    # no 1x1 convolution behind it
    assert modules == {STUDENT: 24 * 11 - 1 + 3, REGULARISER: 24 * 7, ENCODER: 31}
    assert sum(leaf.size for leaf in jax.tree.leaves(recipe.frozen[BASE])) == 2_028_328_000


def test_the_student_makes_its_latent_in_one_step(recipe, student, params, network, folder):
    """Encoder with its LoRA, the flow from sigma 1, decoder without."""
    data = batch()
    found = student(params, data)
    space = SPACES["kl"](config(*knobs(folder))["recipe"]["space"], jnp.float32, "inference")
    task = LatentTask(space, 4, residual=False)
    encoder = {AUTOENCODER: with_lora(recipe.frozen[AUTOENCODER], params[ENCODER], 1.0)}
    z_lr, _ = jax.jit(task.enlarged)(encoder, data["lr"])
    plain, _ = jax.jit(task.enlarged)(recipe.frozen, data["lr"])
    assert np.abs(z_lr - plain).max() > 1e-3
    student = with_lora(recipe.frozen[BASE], params[STUDENT], 1.0)
    velocity, taps = network({"params": student}, z_lr, jnp.ones((2,), jnp.float32), told(recipe, "wanted"))
    np.testing.assert_allclose(found.outputs[MADE], z_lr - velocity, atol=1e-4)
    assert len(found.taps) == 2
    np.testing.assert_allclose(found.taps[0], z_lr - taps[0], atol=1e-4)
    np.testing.assert_allclose(found.taps[-1], found.outputs[MADE], atol=1e-4)
    sr = jax.jit(recipe.sample)(params, recipe.frozen, data["lr"], noise_field(jax.random.key(7), 2))
    picture = jax.jit(space.decode)(recipe.frozen, found.outputs[MADE])
    np.testing.assert_allclose(sr, from_model_range(picture), atol=1e-4)
    z_hr = jax.jit(space.encode)(recipe.frozen, data["hr"] * 2 - 1)
    np.testing.assert_allclose(
        found.metrics["latent_mse"], np.square(found.outputs[MADE] - z_hr).mean((1, 2, 3)), rtol=1e-4
    )
    names = ("latent_mse", "distillation")
    np.testing.assert_allclose(found.values, sum(found.metrics[name] for name in names), rtol=1e-5)


def test_every_group_learns_from_its_own_loss(recipe, params):
    data = batch()

    def objective(own):
        loss = recipe.updates[0].loss(own, recipe.frozen, {}, data, jax.random.key(3), STEP)
        return loss.metrics["distillation"].sum()

    gradient = jax.jit(jax.grad(objective))(params)
    # The released code stops this gradient. It reaches both of the student's sets, and not the regulariser.
    for name in (STUDENT, ENCODER):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[name])), name
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient[REGULARISER]))

    def follows(own):
        made = {**data, MADE: jnp.ones((2, 4, 4, 4), jnp.float32)}
        return recipe.updates[1].loss(own, recipe.frozen, {}, made, jax.random.key(3), STEP).values.sum()

    gradient = jax.jit(jax.grad(follows))(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[REGULARISER]))
    assert not any(np.any(leaf) for name in (STUDENT, ENCODER) for leaf in jax.tree.leaves(gradient[name]))


def test_where_teacher_and_regulariser_agree_nothing_is_distilled(recipe, student, params):
    """Without a LoRA of its own the teacher is the base; a regulariser that adds nothing is the base too."""
    none = {**params, REGULARISER: jax.tree.map(jnp.zeros_like, params[REGULARISER])}
    alone = {name: value for name, value in recipe.frozen.items() if name != TEACHER}
    loss = jax.jit(recipe.updates[0].loss)
    found = loss(none, alone, {}, batch(), jax.random.key(3), STEP).metrics
    np.testing.assert_allclose(found["variational"], 0, atol=1e-13)
    assert np.all(found["matching"] > 1e-6)  # the teacher still tells the student's latent from the real one
    taught, other = student(none, batch()).metrics, student(params, batch()).metrics
    assert np.all(taught["variational"] > 1e-9) and np.all(other["variational"] != taught["variational"])
    np.testing.assert_array_equal(other["matching"], taught["matching"])  # which the regulariser has no part in


def test_examples_keep_their_guidance_and_their_times(recipe, network):
    rng = np.random.default_rng(2)
    first, second = (jnp.asarray(rng.standard_normal((2, 4, 4, 4)), jnp.float32) for _ in range(2))
    sigma = jnp.asarray([0.3, 0.8], jnp.float32)
    asked, avoided = told(recipe, "wanted"), told(recipe, "null")
    base = {"params": recipe.frozen[BASE]}
    found = guided(network, base, (first, second), sigma, asked, avoided, 7.5)
    for latent, got in zip((first, second), found, strict=True):
        towards, away = (network(base, latent, sigma, text)[0] for text in (asked, avoided))
        np.testing.assert_allclose(got, away + 7.5 * (towards - away), atol=1e-4)


def test_the_texts_of_examples_are_for_the_teacher(student, params):
    data = batch()
    texts = {"text": jnp.ones((2, 3, 16), jnp.float32), "pooled_text": jnp.ones((2, 12), jnp.float32)}
    plain, other = student(params, data), student(params, {**data, **texts})
    np.testing.assert_array_equal(plain.outputs[MADE], other.outputs[MADE])
    assert np.all(plain.metrics["distillation"] != other.metrics["distillation"])


def test_blocks_in_one_program_are_the_same_blocks(recipe, student, params, folder):
    changes = ("recipe.tsd_sr.perceptual_weight=0.0", "recipe.denoiser.mmdit.scan=True")
    scanned = recipe_of(*knobs(folder), *changes)
    model = MMDiT(depth=2, dual_blocks=1, scan=True)
    own = {name: match_block_layout(params[name], model) for name in (STUDENT, REGULARISER)} | {
        ENCODER: params[ENCODER]
    }
    assert "blocks_dual" in own[STUDENT] and "blocks_dual" in scanned.frozen[TEACHER]
    shapes = jax.eval_shape(scanned.init, jax.random.key(0), batch())
    jax.tree.map(lambda leaf, shape: np.testing.assert_equal(leaf.shape, shape.shape), own, shapes)
    found = jax.jit(scanned.updates[0].loss)(own, scanned.frozen, {}, batch(), jax.random.key(3), STEP)
    plain = student(params, batch())
    np.testing.assert_allclose(found.values, plain.values, rtol=1e-4)
    np.testing.assert_allclose(found.outputs[MADE], plain.outputs[MADE], atol=1e-4)


def test_a_picture_that_is_restored_as_one(recipe, params):
    """As its sampler where it fits a tile; in tiles whose velocities are blended where it does not."""
    lr, noise = batch()["lr"], noise_field(jax.random.key(7), 2)
    sr = jax.jit(recipe.sample)(params, recipe.frozen, lr, noise)
    image = enlarge(lr, 4)
    sample_tiled = jax.jit(recipe.sample_tiled, static_argnums=4)
    one = sample_tiled(params, recipe.frozen, image, noise, Tiling(side=64, overlap=8))
    np.testing.assert_allclose(one, sr, atol=1e-4)
    parts = sample_tiled(params, recipe.frozen, image, noise, Tiling(side=16, overlap=0))
    assert parts.shape == one.shape and np.abs(parts - one).max() > 1e-5
    assert settings_for_protocol("tsd_sr").overlap == 16 and settings_for_protocol("tsd_sr").color_fix == "wavelet"


def settings_for_protocol(name):
    protocol = PROTOCOLS[name]
    tile = protocol.tile(4)
    return UpscaleSettings(tile=tile, overlap=protocol.overlap(tile), protocol=name)


def test_framer_on_the_student(recipe, student, params):
    longer = framer(recipe, paper(weight=0.5))
    assert longer.updates[0].groups == (STUDENT, ENCODER, "framer_heads") and longer.updates[1] is recipe.updates[1]
    own = {**params, "framer_heads": {}}
    loss = jax.jit(longer.updates[0].loss)(own, recipe.frozen, {}, batch(), jax.random.key(3), STEP)
    plain = student(params, batch())
    np.testing.assert_allclose(loss.values, plain.values + loss.metrics["framer_term"], rtol=1e-5)
    np.testing.assert_array_equal(loss.outputs[MADE], plain.outputs[MADE])
    assert longer.sample is recipe.sample


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.tsd_sr.base=", "recipe.tsd_sr.base is empty: set it to the path of Stable Diffusion 3's transformer"),
        ("recipe.tsd_sr.base=gone", "recipe.tsd_sr.base: there is no file 'gone'"),
        ("recipe.tsd_sr.teacher_lora=gone", "recipe.tsd_sr.teacher_lora: there is no file or folder 'gone'"),
        ("recipe.denoiser.mmdit.depth=3", r"base.safetensors, .*, was made with recipe.denoiser.mmdit.depth 2, not 3"),
        ("recipe.tsd_sr.lora=nothing", "the LoRA pattern 'nothing' finds no kernel among"),
        ("recipe.tsd_sr.lora=", "recipe.tsd_sr.lora and regulariser_lora name the modules of two LoRAs"),
        ("recipe.tsd_sr.regulariser_lora=(", "recipe.tsd_sr.regulariser_lora is no regular expression"),
        ("recipe.tsd_sr.substeps=5", "recipe.tsd_sr.substeps is 5: choose 1 to 4"),
        ("recipe.space.name=wavelet", "recipe.tsd_sr.encoder_lora needs an autoencoder: use recipe.space.name=kl"),
        ("recipe.denoiser.name=dit", "recipe.name tsd_sr takes recipe.denoiser.name mmdit, not dit"),
        ("recipe.name=flow", "recipe.denoiser.name mmdit is for recipe.name tsd_sr, not flow"),
        ("recipe.lpips.weights=", "recipe.lpips.weights is empty"),
    ],
)
def test_bad_settings_are_named(folder, change, message):
    def build():
        jax.eval_shape(recipe_of(*knobs(folder), change).init, jax.random.key(0), batch())

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build()


def test_distribution_aware_sampling_has_weights():
    known = {"lora": "a", "regulariser_lora": "a"}
    assert TsdSrSettings(**known).substep_weights == (1.0,)
    assert TsdSrSettings(**known, substeps=4).substep_weights == (1.0, 0.3, 0.3, 0.3)


def test_latents_without_the_shift(folder):
    """As TSD-SR's published weights know them."""
    image = batch()["hr"] * 2 - 1
    spaces = [
        SPACES["kl"](config(*knobs(folder), *changes)["recipe"]["space"], jnp.float32, "inference")
        for changes in ((), ("recipe.space.shift=0.0",))
    ]
    own, none = (jax.jit(space.encode)(space.frozen, image) for space in spaces)
    np.testing.assert_allclose(none - own, np.full_like(own, 0.1 * 1.5), atol=1e-5)
