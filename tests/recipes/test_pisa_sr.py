"""PiSA-SR as a recipe: two LoRAs on one U-Net, two phases, adjustable sampling, FRAMER, bad settings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from framer_jax.checkpoints.merge import published_content
from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.config import shipped, to_dict
from framer_jax.diffusion import ddpm
from framer_jax.diffusion.noise import noise_field
from framer_jax.inference.model import load_model, save_model
from framer_jax.losses.framer import paper
from framer_jax.losses.score_distillation import CSD_TIMES, draw_times
from framer_jax.models.lora import apply_adapters, merge, with_adapters
from framer_jax.models.sd_unet import SDUNet
from framer_jax.porting import lora_pickle
from framer_jax.recipes.base import Tiling
from framer_jax.recipes.components.adapters import merge_factors, scaled_lora
from framer_jax.recipes.components.base_model import BASE
from framer_jax.recipes.components.latent_space import LatentTask, from_model_range, to_model_range
from framer_jax.recipes.components.spaces import build_space
from framer_jax.recipes.components.text import TEXTS
from framer_jax.recipes.framer import HEADS, framer
from framer_jax.recipes.pisa_sr.recipe import DENOISER, PIXEL, SCALES, SEMANTIC
from tests.support.drawn import drawn
from tests.support.tiny import config, ported, text

METHOD = ("recipe.name=pisa_sr", "recipe.space.name=taesd", "recipe.pisa_sr.pixel_steps=3")
STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def knobs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pisa_sr")
    texts = {
        name: text(folder / f"{name}.safetensors", seed=seed, encoders=("clip_h",))
        for seed, name in enumerate(("null", "prompt", "negative"))
    }
    return (
        *METHOD,
        f"recipe.pisa_sr.base_checkpoint={ported(folder / 'base.safetensors', 'sd_unet')}",
        f"recipe.space.checkpoint={ported(folder / 'taesd.safetensors', 'taesd')}",
        *(f"recipe.text.{name}_embedding={path}" for name, path in texts.items()),
        "recipe.text.condition=null",
        "recipe.pisa_sr.perceptual_weight=0.0",
        "recipe.pisa_sr.null_text_ratio=0.0",
    )


def recipe_of(*changes, purpose="training"):
    return build_recipe(config(*changes)["recipe"], purpose)


@pytest.fixture(scope="module")
def recipe(knobs):
    return recipe_of(*knobs, "recipe.pisa_sr.distillation_weight=0.5", "recipe.pisa_sr.pixel_weight=2.0")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {"hr": rng.random((2, 64, 64, 3), np.float32), "lr": rng.random((2, 16, 16, 3), np.float32)}


@pytest.fixture(scope="module")
def params(recipe, batch):
    """Parameters after some training: no factor is zero."""
    return drawn(recipe.init, jax.random.key(1), batch, spread=0.2)


@pytest.fixture(scope="module")
def network(knobs):
    unet = SDUNet(**config(*knobs)["recipe"]["denoiser"]["sd_unet"], context_width=16)
    apply = jax.jit(lambda weights, x, t, text: unet.apply({"params": weights}, x, t, {"text": text})[0])
    return lambda weights, x, t, text: apply(weights, x, jnp.full((len(x),), t, jnp.float32), text)


@pytest.fixture(scope="module")
def task(knobs):
    return LatentTask(build_space(config(*knobs)["recipe"], "inference", READER), 4, residual=False)


def text_of(recipe, name, count=2):
    return np.repeat(recipe.frozen[TEXTS][name].tokens[None], count, axis=0)


def merged(recipe, params, *names):
    weights = recipe.frozen[BASE]
    for name in names:
        weights = merge_factors(weights, params[name], 2.0)
    return weights


def test_the_phases_train_one_lora_each(recipe, params):
    pixel, semantic = recipe.updates
    assert (pixel.groups, pixel.start, pixel.stop) == ((PIXEL,), 0, 3)
    assert (semantic.groups, semantic.start, semantic.stop) == ((SEMANTIC,), 3, None)
    assert recipe.exported == (PIXEL, SEMANTIC) and recipe.mean is None
    modules = {path.rpartition("/")[0] for path in flatten_dict(params[PIXEL], sep="/")}
    assert modules == {path.rpartition("/")[0] for path in flatten_dict(params[SEMANTIC], sep="/")}
    kernels = {
        path.removesuffix("/kernel") for path in flatten_dict(recipe.frozen[BASE], sep="/") if path.endswith("/kernel")
    }
    assert kernels - modules == {path for path in kernels if "time" in path or "film" in path}


def test_at_its_published_size_it_has_the_released_number_of_modules():
    published = shipped("pisa_sr_sd21")
    published.recipe.pisa_sr.base_checkpoint = "unet"  # a description does not read it
    recipe = build_recipe(to_dict(published)["recipe"], "description")
    assert sum(leaf.size for leaf in jax.tree.leaves(recipe.frozen[BASE])) == 865_910_724
    shapes = jax.eval_shape(
        recipe.init, jax.random.key(0), {"hr": jnp.zeros((1, 512, 512, 3)), "lr": jnp.zeros((1, 128, 128, 3))}
    )
    # 22 residual blocks with 2 convolutions each and 14 shortcuts, 16 transformers with 12 dense layers each, 3
    # convolutions down, 3 up, one at either end
    assert len(jax.tree.leaves(shapes[PIXEL])) // 2 == 22 * 2 + 14 + 16 * 12 + 8


def test_the_losses_are_those_of_the_paper(recipe, params, batch, network, task):
    """Pixels alone in the first phase; score distillation with the base as teacher in the second."""
    key = jax.random.key(3)
    first, second = (jax.jit(update.loss)(params, recipe.frozen, {}, batch, key, STEP) for update in recipe.updates)
    z_lr, _ = jax.jit(task.encode_lr)(recipe.frozen, batch["lr"])
    prompt, negative = text_of(recipe, "prompt"), text_of(recipe, "negative")
    latents = {}
    for loss, names in ((first, (PIXEL,)), (second, (PIXEL, SEMANTIC))):
        z = z_lr - network(merged(recipe, params, *names), z_lr, 1, prompt)
        image = np.clip(jax.jit(task.space.decode)(recipe.frozen, z), -1, 1)
        error = np.square(image - np.asarray(to_model_range(batch["hr"]))).mean((1, 2, 3))
        np.testing.assert_allclose(loss.metrics["pixel_mse"], error, rtol=2e-4)
        latents[names] = np.asarray(z)
    np.testing.assert_allclose(first.values, 2.0 * first.metrics["pixel_mse"], rtol=1e-6)
    assert "distillation" not in first.metrics and len(first.taps) == len(second.taps) == 5

    z, schedule = latents[(PIXEL, SEMANTIC)], ddpm.scaled_linear_schedule()
    key_time, key_noise = jax.random.split(jax.random.split(key)[1])
    t = np.asarray(draw_times(key_time, 2, CSD_TIMES))
    noise = np.asarray(jax.random.normal(key_noise, z.shape, jnp.float32))
    level = schedule.alphas_cumprod[t][:, None, None, None]
    x = np.float32(np.sqrt(level) * z + np.sqrt(1 - level) * noise)
    outputs = [
        np.concatenate([network(recipe.frozen[BASE], x[i : i + 1], t[i], tokens[i : i + 1]) for i in range(2)])
        for tokens in (prompt, negative)
    ]
    guided = outputs[1] + 7.5 * (outputs[0] - outputs[1])
    real, fake = ((x - np.sqrt(1 - level) * output) / np.sqrt(level) for output in (guided, outputs[1]))
    direction = (fake - real) / np.abs(z - real).mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(second.metrics["distillation"], np.square(direction).mean((1, 2, 3)), rtol=2e-3)
    total = 2.0 * second.metrics["pixel_mse"] + 0.5 * second.metrics["distillation"]
    np.testing.assert_allclose(second.values, total, rtol=1e-6)


def test_the_student_alone_gets_the_null_text(knobs, recipe, params, batch):
    """What the teacher says of the student's latent depends on the prompt, whatever the student was given."""
    dropped = recipe_of(*knobs, "recipe.pisa_sr.null_text_ratio=1.0", "recipe.pisa_sr.distillation_weight=0.5")
    null = {**recipe.frozen, TEXTS: {**recipe.frozen[TEXTS], "prompt": recipe.frozen[TEXTS]["null"]}}
    key = jax.random.key(3)
    with_prompt = jax.jit(recipe.updates[1].loss)(params, recipe.frozen, {}, batch, key, STEP)
    student = jax.jit(dropped.updates[1].loss)(params, dropped.frozen, {}, batch, key, STEP)
    everything = jax.jit(recipe.updates[1].loss)(params, null, {}, batch, key, STEP)
    np.testing.assert_allclose(student.metrics["pixel_mse"], everything.metrics["pixel_mse"], rtol=1e-5)
    assert np.abs(student.metrics["pixel_mse"] - with_prompt.metrics["pixel_mse"]).max() > 1e-6
    difference = np.abs(student.metrics["distillation"] - everything.metrics["distillation"])
    assert (difference > 1e-4 * everything.metrics["distillation"]).all()


def test_the_first_phase_does_not_see_the_semantic_lora(recipe, params, batch):
    def loss(params, index):
        return recipe.updates[index].loss(params, recipe.frozen, {}, batch, jax.random.key(3), STEP).values.sum()

    first = jax.jit(jax.grad(partial(loss, index=0)))(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(first[PIXEL]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(first[SEMANTIC]))
    second = jax.jit(jax.grad(partial(loss, index=1)))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(second[SEMANTIC]))


def sampled(recipe, params, batch):
    return jax.jit(recipe.sample)(params, recipe.frozen, batch["lr"], noise_field(jax.random.key(7), 2))


def test_sampling_scales_the_effects_of_the_loras(knobs, recipe, params, batch, network, task):
    z_lr, _ = jax.jit(task.encode_lr)(recipe.frozen, batch["lr"])
    prompt = text_of(recipe, "prompt")
    pixel, both = (network(merged(recipe, params, *names), z_lr, 1, prompt) for names in ((PIXEL,), (PIXEL, SEMANTIC)))
    decode = jax.jit(lambda z: from_model_range(task.space.decode(recipe.frozen, z)))
    np.testing.assert_allclose(sampled(recipe, params, batch), decode(z_lr - both), atol=1e-4)
    programs = set()
    for scales in ((0.0, 0.0), (1.0, 0.0), (0.7, 1.6)):
        named = dict(zip(("pixel", "semantic"), scales, strict=True))
        changes = [f"recipe.pisa_sr.{name}_scale={value}" for name, value in named.items()]
        scaled = recipe_of(*knobs, *changes, purpose="inference")
        assert set(scaled.frozen[SCALES]) == {PIXEL, SEMANTIC}
        expected = decode(z_lr - (scales[0] * pixel + scales[1] * (both - pixel)))
        np.testing.assert_allclose(sampled(scaled, params, batch), expected, atol=1e-4)
        inputs = (params, scaled.frozen, batch["lr"], noise_field(jax.random.key(7), 2))
        programs.add(jax.jit(scaled.sample).lower(*inputs).as_text())
    assert len(programs) == 1, "scales are arguments of one program"


def test_adapters_of_scale_0_are_the_base_and_merged_ones_those_that_are_added(recipe, params, network):
    unet = SDUNet(channels=(8, 16), blocks=1, attention_levels=(0,), heads=(2, 4), groups=4, context_width=16)
    rng = np.random.default_rng(4)
    x, tokens = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 8, 8, 4), (2, 3, 16)))
    adapters = {name: scaled_lora(params[name], 2.0) for name in (PIXEL, SEMANTIC)}

    @jax.jit
    def added(scales):
        variables = with_adapters(recipe.frozen[BASE], adapters, scales)
        with apply_adapters():
            return unet.apply(variables, x, jnp.ones((2,), jnp.float32), {"text": tokens})[0]

    for scales in ((0.0, 0.0), (1.0, 1.0), (0.3, 1.4)):
        named = dict(zip(adapters, scales, strict=True))
        weights = merge(recipe.frozen[BASE], adapters, named) if any(scales) else recipe.frozen[BASE]
        np.testing.assert_allclose(added(named), network(weights, x, 1, tokens), atol=1e-5 * (1 + 9 * any(scales)))


def test_tiles_of_a_whole_image_are_the_plain_sampler(recipe, params, batch, task):
    image = jax.jit(lambda lr: jax.image.resize(lr, (2, 64, 64, 3), "cubic-pytorch", antialias=False))(batch["lr"])
    tiled = jax.jit(partial(recipe.sample_tiled, tiling=Tiling(64, 0, 1, 0, 0)))
    result = tiled(params, recipe.frozen, image, noise_field(jax.random.key(7), 2))
    np.testing.assert_allclose(result, sampled(recipe, params, batch), atol=1e-4)


def test_without_a_base_the_first_phase_trains_the_network(knobs, batch):
    whole = [change for change in knobs if "base_checkpoint" not in change]
    recipe = recipe_of(*whole, "recipe.pisa_sr.distillation_weight=0.0")
    assert recipe.exported == (DENOISER, SEMANTIC) and BASE not in recipe.frozen
    params = drawn(recipe.init, jax.random.key(0), batch)
    assert recipe.updates[0].groups == (DENOISER,)

    @jax.jit
    def step(params):
        def objective(group):
            given = {**params, DENOISER: group}
            return recipe.updates[0].loss(given, recipe.frozen, {}, batch, jax.random.key(0), STEP).values.mean()

        value, gradient = jax.value_and_grad(objective)(params[DENOISER])
        group = jax.tree.map(lambda leaf, slope: leaf - 1e-3 * jnp.sign(slope), params[DENOISER], gradient)
        return value, {**params, DENOISER: group}

    values = []
    for _ in range(30):
        value, params = step(params)
        values.append(float(value))
    assert values[-1] < 0.95 * values[0], "it overfits one batch"


def test_framer_acts_in_both_phases(recipe, batch):
    framed = framer(recipe, paper())
    assert [update.groups for update in framed.updates] == [(PIXEL, HEADS), (SEMANTIC, HEADS)]
    shapes = jax.eval_shape(framed.init, jax.random.key(0), batch)
    assert len(shapes[HEADS]) == 4 and framed.exported == recipe.exported
    assert framed.sample is recipe.sample


def test_its_authors_file_is_read(knobs, recipe, params, monkeypatch, tmp_path):
    run, path = tmp_path / "weights.safetensors", tmp_path / "pisa_sr.pkl"
    save_model(run, recipe, {name: params[name] for name in recipe.exported}, {"config": config(*knobs), "step": 0})
    content = published_content(run, "sd_unet")
    state = content["state_dict_unet"]
    assert {key.split(".")[-2] for key in state} == {
        f"default_{part}_{word}" for part in ("encoder", "decoder", "others") for word in ("pix", "sem")
    }
    assert content["lora_rank_unet_sem"] == 2 and "conv_in" in content["unet_lora_encoder_modules_pix"]
    up = params[PIXEL]["conv_in"]["up"]  # alpha 8 and rank 2 in the file, a scale of 2 here
    np.testing.assert_allclose(state["conv_in.lora_B.default_encoder_pix.weight"][:, :, 0, 0], up[0, 0].T / 2)
    path.write_bytes(b"PK\x03\x04 and the rest of a pickle")
    monkeypatch.setattr(lora_pickle, "read_pickle", lambda path: content)
    model = load_model(path, config(*knobs))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-6), model.params, {PIXEL: params[PIXEL], SEMANTIC: params[SEMANTIC]}
    )
    with pytest.raises(ValueError, match=r"pisa_sr.pkl: its rank is 2: set recipe.pisa_sr.lora_rank=2"):
        load_model(path, config(*knobs, "recipe.pisa_sr.lora_rank=4"))
    with pytest.raises(ValueError, match=r"pisa_sr.pkl holds LoRAs, and recipe.pisa_sr.base_checkpoint, the network"):
        load_model(path, config(*knobs, "recipe.pisa_sr.base_checkpoint="))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("recipe.pisa_sr.base_checkpoint=",),
            r"recipe.pisa_sr.distillation_weight 1 needs the base as a teacher, and recipe.pisa_sr.base_checkpoint is",
        ),
        (
            ("recipe.text.prompt_embedding=", "recipe.text.negative_embedding="),
            r"recipe.pisa_sr.distillation_weight 1 leads from the negative prompt to the prompt, and both are",
        ),
        (
            ("recipe.text.width=24",),
            r"base.safetensors, .* was made with recipe.text.width 16, not 24",
        ),
        (("recipe.denoiser.sd_unet.channels=(8, 24)",), r"recipe.denoiser.sd_unet.channels \(8, 16\), not \(8, 24\)"),
        (("recipe.pisa_sr.lora_modules=nothing",), r"the LoRA pattern 'nothing' finds no kernel"),
    ],
)
def test_bad_settings_are_named(knobs, changes, message, batch):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(recipe_of(*knobs, *changes).init, jax.random.key(0), batch)
