"""The multi-step method on Stable Diffusion 2: its loss, its base, texts and tokens, the sampler, and bad settings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from framer_jax.checkpoints.open import build_recipe
from framer_jax.data.text import CLIP_H, ClipTextSettings
from framer_jax.diffusion import ddpm
from framer_jax.diffusion.noise import noise_field
from framer_jax.losses.framer import paper
from framer_jax.models.controlled_unet import ControlledUNet
from framer_jax.models.sd_unet import SDUNet
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.base import Tiling, expected_params
from framer_jax.recipes.components.base_model import BASE, join_params
from framer_jax.recipes.components.latent_space import upsample_bicubic
from framer_jax.recipes.components.text import TEXTS
from framer_jax.recipes.framer import framer
from framer_jax.recipes.method import LATENTS, TEACHER_OUTPUTS
from framer_jax.recipes.multistep_sd.recipe import DENOISER, ENCODER, sampling_process
from framer_jax.recipes.multistep_sd.settings import MultistepSdSettings
from framer_jax.recipes.multistep_sd.weights import with_controlnet
from tests.support.drawn import drawn
from tests.support.tiny import TINY, config, photos, ported, text

NAME, NETWORK = "recipe.name=multistep_sd", "recipe.denoiser.controlled_sd_unet"

SIZES = {name: TINY["sd_unet"][name] for name in ("channels", "blocks", "attention_levels", "heads", "groups")}

ON_LATENTS = (f"{NETWORK}.control=latent", f"{NETWORK}.image_widths=(4,)")

ALONE = (
    *(NAME, *ON_LATENTS, "recipe.space.statistics=image"),
    *("recipe.text.condition=zero", "recipe.multistep_sd.trainable="),
)
"""Without any file, on the latents of the wavelet codec."""

STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that the method is trained with."""
    place = tmp_path_factory.mktemp("multistep_sd")
    ported(place / "vae.safetensors", "kl_autoencoder")
    ported(place / "base.safetensors", "sd_unet")
    ported(place / "dinov2.safetensors", "dinov2")
    for seed, name in enumerate(("null", "prompt", "negative")):
        text(place / f"{name}.safetensors", seed=seed, encoders=(CLIP_H,))
    photos(place / "photos")
    return place


def knobs(folder):
    return (
        *(NAME, "recipe.space.name=kl", f"recipe.space.checkpoint={folder}/vae.safetensors"),
        f"recipe.multistep_sd.base_checkpoint={folder}/base.safetensors",
        f"recipe.text.null_embedding={folder}/null.safetensors",
        "recipe.text.condition=null",
    )


def tokens(folder):
    return (
        "recipe.multistep_sd.image_tokens=dinov2",
        f"recipe.multistep_sd.dinov2_checkpoint={folder}/dinov2.safetensors",
        "recipe.multistep_sd.token_side=28",
        f"{NETWORK}.image_context_width=24",
    )


def recipe_of(*changes, purpose="training", data="photos"):
    return build_recipe(config(*changes)["recipe"], purpose, data)


def batch(count=2, side=8):
    hr = jax.random.uniform(jax.random.key(0), (count, 4 * side, 4 * side, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, side, 4, side, 4, 3).mean(axis=(2, 4))}


def latents(count=2, side=8, channels=48):
    """A batch of precomputed latents without images, with text."""
    shape = (count, side, side, channels)
    names = ("hr_latent", "lr_latent")
    drawn_latents = {name: jax.random.normal(jax.random.key(5 + i), shape) for i, name in enumerate(names)}
    return {**drawn_latents, "text": jnp.ones((count, 3, 16), jnp.float16)}


def started(recipe, data):
    """Parameters as training starts with them."""
    return {**drawn(recipe.init, jax.random.key(1), data), **recipe.initial_params}


def run(recipe, params, data, key=3):
    return jax.jit(recipe.updates[0].loss)(params, recipe.frozen, {}, data, jax.random.key(key), STEP)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_loss_is_the_error_of_the_noise_or_of_v(prediction):
    recipe = recipe_of(*ALONE, f"recipe.multistep_sd.prediction={prediction}", data=LATENTS)
    params, data = started(recipe, batch()), latents()
    loss = run(recipe, params, data)
    key_time, key_noise = jax.random.split(jax.random.key(3))
    t = np.asarray(jax.random.randint(key_time, (2,), 0, 1000))
    noise = np.asarray(jax.random.normal(key_noise, (2, 8, 8, 48), jnp.float32), np.float64)
    levels = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[t][:, None, None, None]
    z = np.asarray(data["hr_latent"], np.float64)
    x = np.sqrt(levels) * z + np.sqrt(1 - levels) * noise
    denoiser = ControlledUNet(**SIZES, out_channels=48, context_width=16, control="latent", image_widths=(4,))
    condition = {"text": data["text"].astype(jnp.float32), "lr_latent": data["lr_latent"]}
    apply = jax.jit(lambda x: denoiser.apply({"params": params[DENOISER]}, x, jnp.float32(t), condition))
    output, taps = apply(jnp.float32(x))
    target = noise if prediction == "epsilon" else np.sqrt(levels) * noise - np.sqrt(1 - levels) * z
    np.testing.assert_allclose(loss.values, np.square(np.asarray(output) - target).mean(axis=(1, 2, 3)), rtol=1e-3)
    assert [tap.shape for tap in loss.taps] == [tap.shape for tap in taps] and len(taps) == 5
    np.testing.assert_allclose(loss.metrics["noise_mse"], loss.values)


def test_before_training_it_predicts_as_its_base_and_only_the_controlnet_is_trained(folder):
    recipe, data = recipe_of(*knobs(folder)), batch(side=16)
    params = started(recipe, data)
    trained, frozen = (flatten_dict(tree, sep="/") for tree in (params[DENOISER], recipe.frozen[BASE]))
    assert {name.partition("/")[0] for name in trained} == {"controlnet"}
    base = flatten_dict(load_weights(folder / "base.safetensors")[0], sep="/")
    assert {name.removeprefix("unet/") for name in frozen} == base.keys()
    for name, leaf in base.items():
        np.testing.assert_array_equal(frozen[f"unet/{name}"], leaf)
    copies = [name for name in base if f"controlnet/{name}" in trained]
    assert "conv_in/kernel" in copies and "down_0_attention_0/layer_0/mlp/dense_0/kernel" in copies
    assert not any(name.startswith("up_") for name in copies)
    for name in copies:
        np.testing.assert_array_equal(trained[f"controlnet/{name}"], base[name])
    assert recipe.exported == (DENOISER,) and set(recipe.frozen) == {"autoencoder", BASE, TEXTS}

    z, t = jax.random.normal(jax.random.key(9), (2, 4, 4, 4), jnp.float32), jnp.full((2,), 500.0)
    condition = {"text": jnp.ones((2, 3, 16)), "image": jax.random.uniform(jax.random.key(8), (2, 32, 32, 3))}
    unet = SDUNet(**SIZES, out_channels=4, context_width=16)
    denoiser = ControlledUNet(**SIZES, out_channels=4, context_width=16)
    tree = load_weights(folder / "base.safetensors")[0]
    expected, _ = jax.jit(lambda z: unet.apply({"params": tree}, z, t, {"text": condition["text"]}))(z)
    apply = jax.jit(lambda params: denoiser.apply({"params": params}, z, t, condition)[0])
    untrained = join_params(recipe.frozen[BASE], recipe.initial_params[DENOISER])
    np.testing.assert_allclose(apply(untrained), expected, atol=1e-5)
    changed = jax.tree.map(np.array, untrained)
    changed["controlnet"]["control_0"]["kernel"] += 0.5
    assert np.abs(apply(changed) - expected).max() > 1e-3

    gradient = jax.jit(jax.grad(lambda params: run(recipe, params, data).values.mean()))(params)[DENOISER]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert gradient["controlnet"]["control_0"]["kernel"].any()  # the others move from the second step on


def test_image_tokens_change_nothing_before_training_and_the_prediction_after(folder):
    sizes = {**SIZES, "out_channels": 4, "context_width": 16, "control": "latent", "image_widths": (4,)}
    denoiser = ControlledUNet(**sizes, image_context_width=24)
    tree = load_weights(folder / "base.safetensors")[0]
    params = with_controlnet(tree, denoiser, ClipTextSettings(3, 16))
    names = [name for name in flatten_dict(params, sep="/") if "image_attention" in name]
    assert {name.split("/")[0] for name in names} == {"unet", "controlnet"}
    assert {name.split("/")[1] for name in names if name.startswith("unet")} == {
        *("down_0_image_attention_0", "middle_image_attention_0", "up_1_image_attention_0", "up_1_image_attention_1")
    }
    z, t = jax.random.normal(jax.random.key(9), (2, 4, 4, 4), jnp.float32), jnp.full((2,), 500.0)
    condition = {"text": jnp.ones((2, 3, 16)), "lr_latent": z}
    seen = [jax.random.normal(jax.random.key(seed), (2, 5, 24)) for seed in (1, 2)]
    apply = jax.jit(
        lambda params, tokens: denoiser.apply({"params": params}, z, t, {**condition, "image_tokens": tokens})[0]
    )
    np.testing.assert_array_equal(apply(params, seen[0]), apply(params, seen[1]))
    params = jax.tree.map(np.array, params)
    params["unet"]["middle_image_attention_0"]["project_out"]["kernel"] += 0.5
    assert np.abs(apply(params, seen[0]) - apply(params, seen[1])).max() > 1e-4
    with pytest.raises(ValueError, match=r"the condition lacks 'image_tokens'"):
        jax.eval_shape(denoiser.apply, {"params": params}, z, t, condition)
    with pytest.raises(
        ValueError, match=r"2 latents need image tokens \[2, T, 24\], got \(2, 5, 8\): set image_contex"
    ):
        jax.eval_shape(denoiser.apply, {"params": params}, z, t, {**condition, "image_tokens": jnp.ones((2, 5, 8))})


def test_tokens_of_dinov2_are_made_of_the_upsampled_image(folder):
    recipe = recipe_of(*knobs(folder), *tokens(folder))
    data = batch(side=16)
    names = flatten_dict(recipe.initial_params[DENOISER], sep="/")
    assert {name.partition("/")[0] for name in names} == {"controlnet", "unet"}
    assert all("image_attention" in name for name in names if name.startswith("unet/"))
    assert ENCODER in recipe.frozen
    loss = jax.eval_shape(
        recipe.updates[0].loss, recipe.initial_params, recipe.frozen, {}, data, jax.random.key(0), STEP
    )
    assert loss.values.shape == (2,)
    for sampler in (recipe.sample, recipe.mean):
        sr = jax.eval_shape(
            sampler, recipe.initial_params, recipe.frozen, data["lr"], noise_field(jax.random.key(0), 2)
        )
        assert sr.shape == data["hr"].shape


def true_prediction(schedule, x0, prediction):
    """A network that knows the clean latent."""

    def step(x, time):
        t = jnp.int32(time)
        noise = ddpm.predicted_noise(schedule, x, t, x0, "x0")
        return ddpm.training_target(schedule, x0, t, noise, prediction)

    return step


@pytest.mark.parametrize("changes", [{}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 0.5, "prediction": "v"}])
def test_the_sampler_finds_the_latent_of_a_perfect_network(changes):
    schedule = ddpm.scaled_linear_schedule()
    settings = MultistepSdSettings(sampling_steps=10, **changes)
    process = sampling_process(schedule, settings)
    x0, z_lr = (jax.random.normal(jax.random.key(seed), (1, 4, 4, 3)) for seed in (1, 2))

    def draw(number):
        return jax.random.normal(jax.random.fold_in(jax.random.key(7), number), x0.shape)

    step, start = true_prediction(schedule, x0, settings.prediction), process.start(z_lr, draw)
    level = schedule.alphas_cumprod[999]
    np.testing.assert_allclose(start, np.sqrt(level) * z_lr + np.sqrt(1 - level) * draw(0), atol=1e-6)
    noise = sampling_process(schedule, MultistepSdSettings(start="noise")).start(z_lr, draw)
    np.testing.assert_array_equal(noise, draw(0))
    result, estimates = process.estimates(step, start, draw)
    assert estimates.shape == (9, *x0.shape)
    np.testing.assert_array_equal(process.run(step, start, draw), result)
    np.testing.assert_allclose(estimates, np.broadcast_to(x0, estimates.shape), atol=1e-3)
    np.testing.assert_allclose(process.one_call(step, start), x0, atol=1e-3)
    # DDPM ends at the clean latent, Stable Diffusion's DDIM at the first time, whose noise is small.
    np.testing.assert_allclose(result, x0, atol=1e-4 if settings.sampler == "ddpm" else 0.2)


def test_guidance_tiles_and_previews(folder):
    files = (f"recipe.text.{name}_embedding={folder}/{name}.safetensors" for name in ("null", "prompt", "negative"))
    changes = (*ALONE, "recipe.text.condition=null", *files)
    data, noise = batch(side=4), noise_field(jax.random.key(7), 2)

    def recipe_and_params(*more):
        recipe = recipe_of(*changes, *more)
        params = started(recipe, data)
        return recipe, jax.tree.map(lambda leaf: leaf + 0.05, params)  # zero layers have no effect

    def sample(*more):
        recipe, params = recipe_and_params(*more)
        return np.asarray(jax.jit(recipe.sample)(params, recipe.frozen, data["lr"], noise))

    plain, none = sample(), sample("recipe.multistep_sd.guidance=0.0")
    only = sample(f"recipe.text.prompt_embedding={folder}/negative.safetensors")
    np.testing.assert_allclose(none, only, atol=1e-3)
    assert np.abs(plain - none).max() > 1e-3
    recipe, params = recipe_and_params()
    image = upsample_bicubic(data["lr"], 4)
    tiled = jax.jit(lambda image: recipe.sample_tiled(params, recipe.frozen, image, noise, Tiling(8, 4)))(image)
    assert tiled.shape == image.shape and np.isfinite(tiled).all()
    images = jax.eval_shape(lambda lr: recipe.stepwise.sample(params, recipe.frozen, lr, noise, 1), data["lr"])
    assert recipe.stepwise.steps == 2 and images.shape == (2, 16, 16, 6)


def test_framer_on_top_and_its_heads_are_not_exported():
    base, data = recipe_of(*ALONE), batch()
    recipe = framer(base, paper(weight=0.5))
    params = drawn(recipe.init, jax.random.key(1), data)
    assert set(params["framer_heads"]) == {
        f"head_{i}" for i in range(4)
    }  # 2 down, middle, 1 up; the last is the teacher
    framed, plain = run(recipe, params, data), run(base, params, data)
    np.testing.assert_allclose(framed.values, plain.values + framed.metrics["framer_term"], rtol=1e-5)
    assert recipe.sample is base.sample
    assert set(expected_params(recipe)) == {DENOISER}


@pytest.mark.slow  # a minute of training
def test_it_overfits_one_batch():
    recipe, data = recipe_of(*ALONE, data=LATENTS), latents()
    params = {name: jax.tree.map(jnp.array, group) for name, group in started(recipe, batch()).items()}
    optimizer = optax.adam(1e-2)

    def loss_of(params):
        return recipe.updates[0].loss(params, recipe.frozen, {}, data, jax.random.key(3), STEP).values.mean()

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            loss, gradient = jax.value_and_grad(loss_of)(params)
            changes, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, changes), state), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[1]

    with jax.numpy_dtype_promotion("standard"):  # for optax
        losses = train(params)
    assert losses[0] > 0.5 and losses[-1] < 0.2 * losses[0], losses[::50]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.text.width=8", r"text of width 16\), was made with recipe.text.width 16, not 8"),
        ("recipe.multistep_sd.base_checkpoint=gone", "recipe.multistep_sd.base_checkpoint: there is no file 'gone'"),
        ("recipe.multistep_sd.base_checkpoint=", "base_checkpoint is empty, .*or train everything"),
        ("recipe.multistep_sd.trainable=nothing", "'nothing' matches no parameter of the network"),
        ("recipe.multistep_sd.trainable=(", r"recipe.multistep_sd.trainable is '\(': it must be a regular expression"),
        ("recipe.multistep_sd.eta=0.5", "recipe.multistep_sd.eta is 0.5: it is of sampler 'ddim' only"),
        ("recipe.multistep_sd.image_tokens=dinov2", "recipe.multistep_sd.dinov2_checkpoint is empty"),
        (
            f"{NETWORK}.image_context_width=24",
            "is 24, and recipe.multistep_sd.image_tokens is none: set that to dinov2",
        ),
        (f"{NETWORK}.image_widths=(4, 8)", r"image_widths \(4, 8\) reduces the image 2 times, .* 8 pixels .*: give 4"),
        (f"{NETWORK}.control=latent", r"image_widths is \(16, 32, 96, 256\): it must hold one width with control"),
        (f"{NETWORK}.heads=(2, 2)", "was made with recipe.denoiser.controlled_sd_unet.heads|2 heads"),
        ("recipe.space.checkpoint=", "recipe.space.checkpoint is empty: .*Stable Diffusion's autoencoder"),
    ],
)
def test_bad_settings_are_named(folder, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe_of(*knobs(folder), change)


def test_tokens_of_another_width_are_refused(folder):
    with pytest.raises(
        ValueError, match=r"image_context_width is 16, and .*dinov2.safetensors makes tokens of 24 feat"
    ):
        recipe_of(*knobs(folder), *tokens(folder), f"{NETWORK}.image_context_width=16")
    with pytest.raises(ValueError, match=r"multistep_sd.token_side is 30: it must be a multiple of the patches"):
        recipe_of(*knobs(folder), *tokens(folder), "recipe.multistep_sd.token_side=30")


def test_data_that_it_cannot_train_on(folder):
    with pytest.raises(ValueError, match=r"multistep_sd has no teacher: set data\.train to photographs or"):
        recipe_of(*ALONE, data=TEACHER_OUTPUTS)
    with pytest.raises(ValueError, match="control is image, and precomputed latents have no image: set control=latent"):
        recipe_of(*knobs(folder), data=LATENTS)
    with pytest.raises(ValueError, match="image_tokens are made of images, and precomputed latents have none"):
        recipe_of(*knobs(folder), *tokens(folder), *ON_LATENTS, data=LATENTS)


def test_a_base_that_predicts_something_else_is_refused(folder, tmp_path):
    """By scheduler_config.json of the pipeline that it lies in."""
    (tmp_path / "scheduler").mkdir()
    stated = {"prediction_type": "v_prediction"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(stated), encoding="utf-8")
    (tmp_path / "unet").mkdir()
    base = tmp_path / "unet" / "base.safetensors"
    base.write_bytes((folder / "base.safetensors").read_bytes())
    changes = (*knobs(folder), f"recipe.multistep_sd.base_checkpoint={base}")
    with pytest.raises(ValueError, match=r"predicts v_prediction by its .*: set recipe.multistep_sd.prediction=v"):
        recipe_of(*changes)
    assert recipe_of(*changes, "recipe.multistep_sd.prediction=v").name == "multistep_sd"
