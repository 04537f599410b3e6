"""TSD-SR as a recipe: three LoRAs on one transformer, their texts and their losses, FRAMER, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.config import shipped, to_dict
from framer_jax.diffusion.flow import forward
from framer_jax.diffusion.noise import noise_field
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.upscaler import UpscaleSettings
from framer_jax.losses.framer import paper
from framer_jax.losses.score_distillation import draw_sigmas
from framer_jax.models.mmdit import MMDiT, match_block_layout
from framer_jax.porting.torch_files import read_state
from framer_jax.recipes.base import Tiling
from framer_jax.recipes.components.adapters import guided_predictions, merge_factors
from framer_jax.recipes.components.base_model import BASE
from framer_jax.recipes.components.latent_space import AUTOENCODER, LatentTask, from_model_range, upsample_bicubic
from framer_jax.recipes.components.one_step import ENCODER, REGULARISER, STUDENT, STUDENT_LATENT
from framer_jax.recipes.components.spaces import build_space
from framer_jax.recipes.components.text import TEXTS
from framer_jax.recipes.framer import framer
from framer_jax.recipes.tsd_sr.recipe import TEACHER
from framer_jax.recipes.tsd_sr.settings import TsdSrSettings
from tests.support.drawn import drawn
from tests.support.tiny import config
from tests.support.tsd_sr_files import SMALL, batch, knobs, make_files, recipe_of

STEP = jnp.int32(0)

LOSS = (
    "recipe.tsd_sr.perceptual_weight=0.0",  # whose gradient takes long to compile
    "recipe.tsd_sr.latent_weight=0.5",
    "recipe.tsd_sr.distillation_weight=2.0",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("tsd_sr"))


@pytest.fixture(scope="module")
def recipe(folder):
    return recipe_of(*knobs(folder), *LOSS)


@pytest.fixture(scope="module")
def network():
    arguments = {**config(*SMALL)["recipe"]["denoiser"]["mmdit"], "context_width": 16, "pooled_width": 12}
    denoiser = MMDiT(channels=4, **arguments)
    return jax.jit(lambda variables, x, sigma, text: denoiser.apply(variables, x, 1000 * sigma, text))


@pytest.fixture(scope="module")
def params(recipe):
    """Parameters of a student after some training: no factor is zero."""
    return drawn(recipe.init, jax.random.key(1), batch(), spread=0.2)


@pytest.fixture(scope="module")
def student(recipe):
    """The student's loss, compiled once: (params, batch, frozen)."""
    loss = jax.jit(recipe.updates[0].loss)
    return lambda params, data, frozen=recipe.frozen: loss(params, frozen, {}, data, jax.random.key(3), STEP)


def text_of(recipe, name, count=2):
    """One text for several examples, as the network takes it."""
    embedding = recipe.frozen[TEXTS][name].as_condition()
    return {entry: np.repeat(part[None], count, axis=0) for entry, part in embedding.items()}


def test_three_loras_lie_on_one_transformer(recipe, folder):
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
    only_student = {"tokens/embed", "head/projection", "head/modulation", "block_0/mlp/dense_0"}
    only_student |= {"block_1/modulation_text"}
    assert only_student <= student - regulariser and "block_0/attention_2/out" in regulariser
    assert not any("dense_1" in path or "out_text" in path or "condition" in path for path in student)
    assert all(path.startswith("encoder/") for path in encoder) and "encoder/middle/attention_1/key" in encoder
    query = recipe.frozen[TEACHER]["block_0"]["attention"]["query"]
    assert jax.tree.structure(recipe.frozen[TEACHER]) == jax.tree.structure(
        {"block_0": {"attention": {"query": query}}}
    )
    stored, _ = read_state(folder / "teacher.safetensors")
    (up,) = (value for key, value in stored.items() if "lora_B" in key)
    np.testing.assert_allclose(query["up"], 2 * up.T, rtol=1e-6)  # alpha 4, rank 2


def test_at_its_published_size_it_has_the_modules_that_the_released_trainer_names():
    recipe = build_recipe(to_dict(shipped("tsd_sr_sd3"))["recipe"], "description")
    shapes = jax.eval_shape(recipe.init, jax.random.key(0), batch(1))
    modules = {name: len(jax.tree.leaves(factors)) // 2 for name, factors in shapes.items()}
    # 11 of each block and 3 others, the last block without its text's MLP; 7 of each block; SD 3's encoder has no 1x1
    # convolution after it
    assert modules == {STUDENT: 24 * 11 - 1 + 3, REGULARISER: 24 * 7, ENCODER: 31}
    assert sum(leaf.size for leaf in jax.tree.leaves(recipe.frozen[BASE])) == 2_028_328_000


def test_the_student_computes_its_latent_in_one_step(recipe, student, params, network, folder):
    """Encoder with its LoRA, the flow from sigma 1, decoder without."""
    data = batch()
    loss = student(params, data)
    space = build_space(config(*knobs(folder))["recipe"], "inference", READER)
    task = LatentTask(space, 4, residual=False)
    encoder = {AUTOENCODER: merge_factors(recipe.frozen[AUTOENCODER], params[ENCODER], 1.0)}
    z_lr, _ = jax.jit(task.encode_lr)(encoder, data["lr"])
    plain, _ = jax.jit(task.encode_lr)(recipe.frozen, data["lr"])
    assert np.abs(z_lr - plain).max() > 1e-3
    student = merge_factors(recipe.frozen[BASE], params[STUDENT], 1.0)
    velocity, taps = network({"params": student}, z_lr, jnp.ones((2,), jnp.float32), text_of(recipe, "prompt"))
    np.testing.assert_allclose(loss.outputs[STUDENT_LATENT], z_lr - velocity, atol=1e-4)
    assert len(loss.taps) == 2
    np.testing.assert_allclose(loss.taps[0], z_lr - taps[0], atol=1e-4)
    np.testing.assert_allclose(loss.taps[-1], loss.outputs[STUDENT_LATENT], atol=1e-4)
    sr = jax.jit(recipe.sample)(params, recipe.frozen, data["lr"], noise_field(jax.random.key(7), 2))
    image = jax.jit(space.decode)(recipe.frozen, loss.outputs[STUDENT_LATENT])
    np.testing.assert_allclose(sr, from_model_range(image), atol=1e-4)
    z_hr = jax.jit(space.encode)(recipe.frozen, data["hr"] * 2 - 1)
    np.testing.assert_allclose(
        loss.metrics["latent_mse"], np.square(loss.outputs[STUDENT_LATENT] - z_hr).mean((1, 2, 3)), rtol=1e-4
    )
    total = 0.5 * loss.metrics["latent_mse"] + 2.0 * loss.metrics["distillation"]
    np.testing.assert_allclose(loss.values, total, rtol=1e-5)


def test_every_group_learns_from_its_own_loss(recipe, params, network):
    data = batch()

    def distillation(params):
        loss = recipe.updates[0].loss(params, recipe.frozen, {}, data, jax.random.key(3), STEP)
        return loss.metrics["distillation"].sum()

    gradient = jax.jit(jax.grad(distillation))(params)
    # The released code stops this gradient. It reaches both of the student's LoRAs, and not the regulariser.
    for name in (STUDENT, ENCODER):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[name])), name
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient[REGULARISER]))

    z = jax.random.normal(jax.random.key(8), (2, 4, 4, 4), jnp.float32)

    def regularisation(params):
        outputs = {**data, STUDENT_LATENT: z}
        loss = recipe.updates[1].loss(params, recipe.frozen, {}, outputs, jax.random.key(3), STEP)
        return loss.values.sum(), loss.values

    gradient, values = jax.jit(jax.grad(regularisation, has_aux=True))(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[REGULARISER]))
    assert not any(np.any(leaf) for name in (STUDENT, ENCODER) for leaf in jax.tree.leaves(gradient[name]))
    # the regulariser is fitted to the student's latents: half the error of the clean latent that its velocity implies
    key_sigma, key_noise = jax.random.split(jax.random.key(3))
    sigma = draw_sigmas(key_sigma, 2)[:, 0]
    x = forward(z, sigma, jax.random.normal(key_noise, z.shape, jnp.float32))
    variables = {"params": merge_factors(recipe.frozen[BASE], params[REGULARISER], 1.0)}
    clean = x - sigma[:, None, None, None] * network(variables, x, sigma, text_of(recipe, "prompt"))[0]
    np.testing.assert_allclose(values, 0.5 * jnp.square(clean - z).mean((1, 2, 3)), rtol=1e-4)


def test_where_teacher_and_regulariser_agree_nothing_is_distilled(recipe, student, params):
    """Without its LoRA the teacher is the base; a regulariser whose LoRA is zero is the base too."""
    zero = {**params, REGULARISER: jax.tree.map(jnp.zeros_like, params[REGULARISER])}
    without_teacher = {name: value for name, value in recipe.frozen.items() if name != TEACHER}
    loss = jax.jit(recipe.updates[0].loss)
    metrics = loss(zero, without_teacher, {}, batch(), jax.random.key(3), STEP).metrics
    np.testing.assert_allclose(metrics["variational"], 0, atol=1e-13)
    assert np.all(metrics["matching"] > 1e-6)  # the teacher still distinguishes the student's latent from the HR latent
    first, other = student(zero, batch()).metrics, student(params, batch()).metrics
    assert np.all(first["variational"] > 1e-9) and np.all(other["variational"] != first["variational"])
    np.testing.assert_array_equal(other["matching"], first["matching"])  # which does not depend on the regulariser


def test_examples_keep_their_guidance_and_their_times(recipe, network):
    rng = np.random.default_rng(2)
    first, second = (jnp.asarray(rng.standard_normal((2, 4, 4, 4)), jnp.float32) for _ in range(2))
    sigma = jnp.asarray([0.3, 0.8], jnp.float32)
    prompt, null = text_of(recipe, "prompt"), text_of(recipe, "null")
    base = {"params": recipe.frozen[BASE]}
    velocities = guided_predictions(network, base, (first, second), sigma, prompt, null, 7.5)
    for latent, velocity in zip((first, second), velocities, strict=True):
        with_prompt, with_null = (network(base, latent, sigma, text)[0] for text in (prompt, null))
        np.testing.assert_allclose(velocity, with_null + 7.5 * (with_prompt - with_null), atol=1e-4)


def test_the_distillation_leads_towards_the_prompt_and_away_from_the_null_text(recipe, student, params, network):
    """g_VSD from guided velocities written out; exchanged texts would give null + s (null - prompt)."""
    loss, settings = student(params, batch()), TsdSrSettings()
    key_sigma, key_noise = jax.random.split(jax.random.key(3))
    sigma = draw_sigmas(key_sigma, 2)[:, 0]
    z = loss.outputs[STUDENT_LATENT]
    x = forward(z, sigma, jax.random.normal(key_noise, z.shape, jnp.float32))
    guided = []
    for factors in (recipe.frozen[TEACHER], params[REGULARISER]):
        variables = {"params": merge_factors(recipe.frozen[BASE], factors, 1.0)}
        prompt, null = (network(variables, x, sigma, text_of(recipe, name))[0] for name in ("prompt", "null"))
        guided.append(null + settings.guidance * (prompt - null))
    direction = jnp.square(sigma)[:, None, None, None] * (guided[0] - guided[1])
    np.testing.assert_allclose(loss.metrics["variational"], jnp.square(direction).mean((1, 2, 3)), rtol=1e-3)


def test_the_texts_of_examples_are_for_the_teacher(recipe, student, params, folder):
    data = batch()
    texts = {"text": jnp.ones((2, 3, 16), jnp.float32), "pooled_text": jnp.ones((2, 12), jnp.float32)}
    captioned = recipe_of(*knobs(folder), *LOSS, data="captioned photos")
    loss = jax.jit(captioned.updates[0].loss)
    other = loss(params, recipe.frozen, {}, {**data, **texts}, jax.random.key(3), STEP)
    plain = student(params, data)
    np.testing.assert_array_equal(plain.outputs[STUDENT_LATENT], other.outputs[STUDENT_LATENT])
    assert np.all(plain.metrics["distillation"] != other.metrics["distillation"])


def test_blocks_in_one_program_are_the_same_blocks(recipe, student, params, folder):
    scanned = recipe_of(*knobs(folder), *LOSS, "recipe.denoiser.mmdit.scan=True")
    model = MMDiT(depth=2, dual_blocks=1, scan=True)
    stacked = {name: match_block_layout(params[name], model) for name in (STUDENT, REGULARISER)} | {
        ENCODER: params[ENCODER]
    }
    assert "blocks_dual" in stacked[STUDENT] and "blocks_dual" in scanned.frozen[TEACHER]
    shapes = jax.eval_shape(scanned.init, jax.random.key(0), batch())
    jax.tree.map(lambda leaf, shape: np.testing.assert_equal(leaf.shape, shape.shape), stacked, shapes)
    loss = jax.jit(scanned.updates[0].loss)(stacked, scanned.frozen, {}, batch(), jax.random.key(3), STEP)
    plain = student(params, batch())
    np.testing.assert_allclose(loss.values, plain.values, rtol=1e-4)
    np.testing.assert_allclose(loss.outputs[STUDENT_LATENT], plain.outputs[STUDENT_LATENT], atol=1e-4)


def test_sample_tiled_is_sample_where_an_image_fits_a_tile(recipe, params):
    """Larger images are computed in tiles, whose velocities are blended."""
    lr, noise = batch()["lr"], noise_field(jax.random.key(7), 2)
    sr = jax.jit(recipe.sample)(params, recipe.frozen, lr, noise)
    image = upsample_bicubic(lr, 4)
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
    framed = framer(recipe, paper(weight=0.5))
    assert framed.updates[0].groups == (STUDENT, ENCODER, "framer_heads") and framed.updates[1] is recipe.updates[1]
    with_heads = {**params, "framer_heads": {}}
    loss = jax.jit(framed.updates[0].loss)(with_heads, recipe.frozen, {}, batch(), jax.random.key(3), STEP)
    plain = student(params, batch())
    np.testing.assert_allclose(loss.values, plain.values + loss.metrics["framer_term"], rtol=1e-5)
    np.testing.assert_array_equal(loss.outputs[STUDENT_LATENT], plain.outputs[STUDENT_LATENT])
    assert framed.sample is recipe.sample


def test_framer_compares_latents_or_velocities(recipe, params, folder):
    """The taps differ by the latent that all blocks share."""
    changes = ("recipe.tsd_sr.perceptual_weight=0.0", "recipe.tsd_sr.distillation_weight=0.0")
    taps = {}
    for name in ("clean", "velocity"):
        built = recipe_of(*knobs(folder), *changes, f"recipe.tsd_sr.framer_taps={name}")
        loss = jax.jit(built.updates[0].loss)(params, built.frozen, {}, batch(), jax.random.key(3), STEP)
        taps[name], latent = loss.taps, loss.outputs[STUDENT_LATENT]
    np.testing.assert_allclose(taps["clean"][-1], latent, rtol=1e-4, atol=1e-4)  # the last tap is the prediction
    shared = [clean + velocity for clean, velocity in zip(taps["clean"], taps["velocity"], strict=True)]
    assert len(shared) == 2 and np.abs(taps["velocity"][0]).max() > 0.1
    np.testing.assert_allclose(shared[0], shared[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.tsd_sr.base_checkpoint=", "base_checkpoint is empty: set it to the path of Stable Diffusion 3's tran"),
        ("recipe.tsd_sr.base_checkpoint=gone", "recipe.tsd_sr.base_checkpoint: there is no file 'gone'"),
        ("recipe.tsd_sr.teacher_lora_checkpoint=gone", "teacher_lora_checkpoint: there is no file 'gone'"),
        ("recipe.denoiser.mmdit.depth=3", r"base.safetensors, .*, was made with .*mmdit.depth 2, not 3"),
        ("recipe.tsd_sr.lora_modules=nothing", "the LoRA pattern 'nothing' finds no kernel among"),
        ("recipe.tsd_sr.lora_modules=", "recipe.tsd_sr.lora_modules is '': it must be a regular expression"),
        (
            "recipe.tsd_sr.regulariser_lora_modules=(",
            r"lora_modules is '\(': .* regular expression .* \(missing",
        ),
        ("recipe.tsd_sr.substeps=5", "recipe.tsd_sr.substeps is 5: it must be a whole number from 1 to 4"),
        ("recipe.space.name=wavelet", "encoder_lora_modules needs an autoencoder: use recipe.space.name=kl"),
        ("recipe.denoiser.name=dit", "recipe.denoiser.name is 'dit': it must be one of mmdit"),
        ("recipe.lpips.checkpoint=", "recipe.lpips.checkpoint is empty"),
    ],
)
def test_bad_settings_are_named(folder, change, message):
    def build():
        jax.eval_shape(recipe_of(*knobs(folder), change).init, jax.random.key(0), batch())

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build()


def test_distribution_aware_sampling_has_weights():
    assert TsdSrSettings().substep_weights == (1.0,)
    assert TsdSrSettings(substeps=4).substep_weights == (1.0, 0.3, 0.3, 0.3)


def test_latents_without_the_shift(folder):
    """The latents that TSD-SR's published weights were trained on."""
    image = batch()["hr"] * 2 - 1
    spaces = [
        build_space(config(*knobs(folder), *changes)["recipe"], "inference", READER)
        for changes in ((), ("recipe.space.shift=0.0",))
    ]
    shifted, unshifted = (jax.jit(space.encode)(space.frozen, image) for space in spaces)
    np.testing.assert_allclose(unshifted - shifted, np.full_like(shifted, 0.1 * 1.5), atol=1e-5)
