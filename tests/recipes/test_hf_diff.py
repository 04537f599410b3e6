"""HF-Diff: the terms that it adds to SinSR's, which networks they read, and whom their gradients reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.diffusion.noise import noise_field
from framer_jax.frequency import wavelets
from framer_jax.losses.framer import paper
from framer_jax.losses.one_step_distillation import OneStepTerms
from framer_jax.models.dinov2 import DINOv2
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.base import AuxiliaryLoss
from framer_jax.recipes.components.high_frequency import (
    DISTRIBUTION,
    HIGH_FREQUENCY,
    DistributionSettings,
    embedder,
    embedding_distance,
)
from framer_jax.recipes.components.latent_space import LatentTask, to_model_range, wavelet_space
from framer_jax.recipes.framer import HEADS, framer
from framer_jax.recipes.hf_diff import METHOD
from framer_jax.recipes.sinsr import METHOD as SINSR
from framer_jax.recipes.sinsr.recipe import TEACHER, TRAJECTORY_ENTRIES, Distillation, PredictionLoss, add_further
from tests.support.drawn import drawn
from tests.support.tiny import TINY, config, ported, weights

STEP = jnp.int32(0)
WITHOUT = ("recipe.hf_diff.high_frequency_weight=0.0", "recipe.hf_diff.distribution_weight=0.0")
NO_SINSR = (*(f"recipe.sinsr.{name}_weight=0.0" for name in ("inverse", "consistency")),)
IMAGES = "recipe.high_frequency.features_of=image"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    weights(folder / "teacher.safetensors")
    ported(folder / "extractor.safetensors", "hf_extractor", image_channels=3)
    ported(folder / "of_latents.safetensors", "hf_extractor", image_channels=48)
    ported(folder / "dinov2.safetensors", "dinov2")
    ported(folder / "lpips.safetensors", "lpips_alex")
    return folder


def config_of(folder, *changes):
    return config(
        "recipe.name=hf_diff",
        f"recipe.sinsr.teacher_checkpoint={folder}/teacher.safetensors",
        f"recipe.hf_diff.extractor_checkpoint={folder}/extractor.safetensors",
        f"recipe.hf_diff.dinov2_checkpoint={folder}/dinov2.safetensors",
        IMAGES,
        *changes,
    )["recipe"]


def recipe_of(folder, *changes):
    return build_recipe(config_of(folder, *changes))


def batch(count=1, side=32):
    hr = jax.random.uniform(jax.random.key(0), (count, side, side, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, side // 4, 4, side // 4, 4, 3).mean(axis=(2, 4))}


def mean_loss(recipe, data):
    """(params, frozen) → (mean loss, the loss)."""

    def function(params, frozen):
        loss = recipe.updates[0].loss(params, frozen, {}, data, jax.random.key(3), STEP)
        return loss.values.mean(), loss

    return function


@pytest.fixture(scope="module")
def both(folder):
    """(recipe, parameters, gradients of both, loss) with the two terms of the paper on two images."""
    recipe, data = recipe_of(folder), batch(2)
    params = drawn(recipe.init, jax.random.key(1), data)
    gradient, loss = jax.jit(jax.grad(mean_loss(recipe, data), argnums=(0, 1), has_aux=True))(params, recipe.frozen)
    return recipe, params, gradient, loss


def test_equation_9(both):
    recipe, _, _, loss = both
    metrics = loss.metrics
    sinsr = metrics["distillation"] + metrics["inverse"] + metrics["consistency"]
    expected = sinsr + 0.2 * metrics[HIGH_FREQUENCY] + 0.15 * metrics[DISTRIBUTION]
    np.testing.assert_allclose(loss.values, expected, rtol=1e-5)
    assert set(recipe.frozen) == {TEACHER, HIGH_FREQUENCY, DISTRIBUTION}
    assert all(np.all(metrics[name] > 0) for name in (HIGH_FREQUENCY, DISTRIBUTION))
    assert recipe.name == "hf_diff" and recipe.initial_params is recipe.frozen[TEACHER]


def test_frozen_networks_are_no_parameters_and_nothing_reaches_the_teacher(both):
    recipe, params, (of_params, of_frozen), _ = both
    assert set(params) == {"denoiser"}
    assert any(np.any(leaf) for leaf in jax.tree.leaves(of_params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_frozen[TEACHER]))
    assert not set(recipe.updates[0].groups) & set(recipe.frozen)


TERMS = {
    "high_frequency": ("recipe.hf_diff.high_frequency_weight=1.0", HIGH_FREQUENCY),
    "one_step": ("recipe.hf_diff.high_frequency_weight=1.0", HIGH_FREQUENCY),
    "distribution": ("recipe.hf_diff.distribution_weight=1.0", DISTRIBUTION),
}


@pytest.mark.parametrize("name", TERMS)
def test_each_term_alone_is_driven_down_on_one_batch(folder, name):
    """With all other weights at zero but that of the distillation, which is subtracted again."""
    change, metric = TERMS[name]
    changes = ["recipe.high_frequency.prediction=one_step"] if name == "one_step" else []
    recipe, data = (
        recipe_of(folder, *WITHOUT, *NO_SINSR, "recipe.sinsr.distillation_weight=1e-12", change, *changes),
        batch(),
    )
    params = drawn(recipe.init, jax.random.key(1), data)

    @jax.jit
    def step(params, rate):
        gradient, loss = jax.grad(mean_loss(recipe, data), has_aux=True)(params, recipe.frozen)
        moved = jax.tree.map(lambda leaf, slope: leaf - rate * jnp.sign(slope), params, gradient)
        return moved, loss.metrics[metric].mean()

    history = []
    for rate in np.linspace(2e-2, 1e-3, 20, dtype=np.float32):
        params, value = step(params, rate)
        history.append(float(value))
    assert history[-1] < 0.6 * history[0], history


@pytest.mark.parametrize("features", ["latent", "image"])
def test_the_named_prediction_is_compared(folder, features):
    file = {"latent": "of_latents", "image": "extractor"}[features]
    data, values = batch(1, 16), []
    for prediction in ("consistency", "one_step"):
        recipe = recipe_of(
            folder,
            f"recipe.hf_diff.extractor_checkpoint={folder}/{file}.safetensors",
            f"recipe.high_frequency.features_of={features}",
            f"recipe.high_frequency.prediction={prediction}",
            "recipe.hf_diff.distribution_weight=0.0",
        )
        params = drawn(recipe.init, jax.random.key(1), data)
        values.append(float(jax.jit(mean_loss(recipe, data))(params, recipe.frozen)[1].metrics[HIGH_FREQUENCY][0]))
    consistency, one_step = values
    assert consistency > 0 and one_step > 0 and abs(consistency - one_step) > 1e-6


def test_remat_and_dtype_change_memory_and_rounding_only():
    module = DINOv2(**{**TINY["dinov2"], "attention": "manual"})
    image, reference = np.random.default_rng(0).uniform(-1, 1, (2, 1, 20, 24, 3)).astype(np.float32)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 3), jnp.float32))["params"]

    def gradient(settings):
        embed = embedder(module, settings)
        return jax.jit(jax.grad(lambda x: embedding_distance(embed, params, x, reference).sum()))(image)

    plain, again = (gradient(DistributionSettings(side=28, remat=remat)) for remat in (False, True))
    np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-8)
    patches = gradient(DistributionSettings(side=28, tokens="patches"))
    assert np.any(patches) and not np.allclose(patches, plain)


def test_framer_composes_by_one_line(folder):
    recipe = framer(recipe_of(folder), paper())
    data = batch(2)
    params = jax.eval_shape(recipe.init, jax.random.key(0), data)
    assert set(params) == {"denoiser", HEADS}
    loss = jax.eval_shape(recipe.updates[0].loss, params, recipe.frozen, {}, data, jax.random.key(0), STEP)
    assert {HIGH_FREQUENCY, DISTRIBUTION, "base_loss"} <= set(loss.metrics)


def test_table_4_has_other_terms_in_their_place(folder):
    change = (
        "recipe.hf_diff.perceptual_weight=0.2",
        "recipe.lpips.net=alex",
        f"recipe.lpips.checkpoint={folder}/lpips.safetensors",
    )
    recipe = recipe_of(folder, *WITHOUT, *change)
    assert set(recipe.frozen) == {TEACHER, "lpips"}
    assert set(recipe_of(folder, *WITHOUT).frozen) == {TEACHER}
    inference = build_recipe(config_of(folder), "inference")
    assert not inference.frozen, "upscaling reads none of these networks"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("recipe.hf_diff.extractor_checkpoint=",),
            "extractor_checkpoint is empty: set it to the path of the feature extractor, from `framer-jax pretrain`",
        ),
        (("recipe.hf_diff.dinov2_checkpoint=",), "dinov2_checkpoint is empty: set it to the path of DINOv2"),
        (("recipe.hf_diff.extractor_modules=3",), r"has 1 invertible modules, and .*extractor_modules is 3"),
        (
            ("recipe.high_frequency.features_of=latent",),
            r"takes 3 channels, and recipe\.high_frequency\.features_of=latent gives 48: set that to image",
        ),
        (("recipe.resshift.sampling_steps=2",), r"sampling_steps is 2, and has no effect .*: set it to None"),
        (("recipe.resshift.mean_share=0.4",), r"mean_share is 0\.4, and has no effect .*: set it to 0\.0"),
        (("recipe.resshift.perceptual_weight=1.0",), r"perceptual_weight is 1\.0, and has no effect .*: set it to 0"),
        (("recipe.distribution.side=30",), r"recipe\.distribution\.side is 30: .*multiple of the patches of 14.*as 28"),
    ],
)
def test_bad_settings_are_named(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(folder, *changes)


def test_a_one_step_student_has_no_knobs_of_a_sampler(folder):
    change = ("recipe.resshift.sampling_steps=2",)
    for method in (METHOD, SINSR):
        assert method.sampler_knobs == (("dtype",),)
    with pytest.raises(ValueError, match="sampling_steps is 2, and has no effect"):
        build_recipe(config_of(folder, *change), "precompute")
    build_recipe(config_of(folder, *change), "inference")  # as models that were trained with it


def test_partial_and_damaged_weights_are_refused(folder, tmp_path):
    params, metadata = load_weights(folder / "extractor.safetensors")
    partial = {name: part for name, part in params.items() if name != "encoder"}
    save_weights(tmp_path / "partial.safetensors", partial, metadata)
    with pytest.raises(ValueError, match=r"recipe\.hf_diff\.extractor_checkpoint.*encoder"):
        recipe_of(folder, f"recipe.hf_diff.extractor_checkpoint={tmp_path}/partial.safetensors")
    with pytest.raises(ValueError, match=r"recipe\.hf_diff\.dinov2_checkpoint.*hf_extractor"):
        recipe_of(folder, f"recipe.hf_diff.dinov2_checkpoint={folder}/extractor.safetensors")


def test_nan_in_an_embedding_is_seen_in_the_loss():
    """So that the training step, which stops at the first loss that is not finite, stops."""
    image = jnp.ones((1, 4, 4, 3), jnp.float32)
    value = embedding_distance(lambda params, x: x.reshape(1, -1) * params, jnp.float32(np.nan), image, image)
    assert np.isnan(value).all()


def test_the_record_is_that_of_a_method_that_builds_on_sinsr():
    assert {file.knob for file in METHOD.weight_files if file.training_only} >= {
        "recipe.hf_diff.extractor_checkpoint",
        "recipe.hf_diff.dinov2_checkpoint",
    }


@pytest.mark.parametrize("domain", ["latent", "image"])
@pytest.mark.parametrize("residual", [True, False])
def test_a_student_that_gives_the_hr_latent_has_no_error(domain, residual):
    """Also in a residual task, whose output is the difference from the LR image's latent."""
    space = wavelet_space(wavelets.WaveletCodec(scale=wavelets.RESIDUAL_SCALE))
    task, data = LatentTask(space, 4, residual), batch()
    z_hr, z_lr, _ = task.encode_pair({}, data)
    clean, _ = task.ends(z_hr, z_lr)
    made = Distillation(OneStepTerms(*jnp.zeros((3, 1))), (), 2.0 * clean, clean)
    references = {"latent": z_hr, "image": to_model_range(data["hr"])}

    def error(prediction):
        loss = AuxiliaryLoss("mse", 1.0, lambda params, a, b: jnp.square(a - b).mean(axis=(1, 2, 3)), {})
        further = (PredictionLoss(prediction, domain, loss),)
        values, metrics = add_further(task, further, {"mse": {}}, jnp.ones(1), {}, made, z_lr, references)
        np.testing.assert_allclose(values, 1.0 + metrics["mse"], rtol=1e-6)
        return float(metrics["mse"][0])

    assert error("consistency") < 1e-9 < 1e-3 < error("one_step")


def test_precomputing_needs_the_teacher_and_none_of_the_other_networks(folder):
    """What it writes is SinSR's: the ends of the teacher's trajectories."""
    changes = ("recipe.hf_diff.extractor_checkpoint=", "recipe.hf_diff.dinov2_checkpoint=")
    recipe = build_recipe(config_of(folder, *changes), "precompute")
    assert set(recipe.frozen) == {TEACHER}
    data, noise = batch(1, 16), noise_field(jax.random.key(0), 1)
    outputs = jax.eval_shape(recipe.precompute, recipe.frozen, data, noise)
    assert set(outputs) == set(TRAJECTORY_ENTRIES)
    with pytest.raises(ValueError, match="teacher_checkpoint is empty"):
        build_recipe(config_of(folder, "recipe.sinsr.teacher_checkpoint="), "precompute")
