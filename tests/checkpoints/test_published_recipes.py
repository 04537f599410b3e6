"""ResShift with its published pieces, SinSR, and the weights that they find by path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import framer_jax
from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.checkpoints.paths import digest_of, digests
from framer_jax.commands.provenance import portable
from framer_jax.commands.train import initial_weights
from framer_jax.diffusion import resshift as process
from framer_jax.diffusion.noise import noise_field
from framer_jax.inference.model import load_model
from framer_jax.inference.upscaler import UpscaleSettings, upscale
from framer_jax.losses.framer import paper
from framer_jax.porting.files import sha256_of
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.base import Recipe, expected_params
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.spaces import build_space
from framer_jax.recipes.framer import HEADS, framer
from framer_jax.recipes.sinsr.recipe import TEACHER, distillation_terms, student_schedule, trajectory_endpoints
from tests.support.paths import CONFIGS
from tests.support.tiny import config, overrides, ported, weights

STEP = jnp.int32(0)

UNET = "recipe.denoiser.name=resshift_unet"

PAPER = (
    UNET,
    "recipe.resshift.residual=False",
    "recipe.resshift.channel_weight_power=0.0",
    "recipe.resshift.centred_mean=False",
)


def batch(count=2, side=32):
    hr = jax.random.uniform(jax.random.key(0), (count, side, side, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, side // 4, 4, side // 4, 4, 3).mean(axis=(2, 4))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in ("vq_f4", "lpips_alex", "resshift_unet"):
        ported(folder / f"{name}.safetensors", name)
    return folder


def vq(folder, *changes):
    return config(*PAPER, "recipe.space.name=vq_f4", f"recipe.space.checkpoint={folder}/vq_f4.safetensors", *changes)


def v3(folder):
    return vq(
        folder, "recipe.resshift.perceptual_weight=0.5", f"recipe.lpips.checkpoint={folder}/lpips_alex.safetensors"
    )


def sinsr_config(folder, *changes):
    """SinSR on wavelet latents, with a file of its teacher."""
    teacher = weights(folder / "teacher.safetensors", *PAPER)
    return config(*PAPER, "recipe.name=sinsr", f"recipe.sinsr.teacher_checkpoint={teacher}", *changes)


def loss_and_gradient(recipe, params, data):
    @jax.jit
    def run(params, frozen):
        def mean(params):
            loss = recipe.updates[0].loss(params, frozen, {}, data, jax.random.key(3), STEP)
            return loss.values.mean(), loss

        return jax.grad(mean, has_aux=True)(params)

    gradient, loss = run(params, recipe.frozen)
    return loss, gradient


def test_the_autoencoder_is_frozen_and_quantises_on_the_way_back_only(folder):
    recipe = build_recipe(vq(folder)["recipe"])
    assert set(recipe.frozen) == {AUTOENCODER}
    assert recipe.lr_multiple == 8
    assert set(expected_params(recipe)) == {"denoiser"}
    space = vq_space(folder)
    image = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3), jnp.float32, -1.0, 1.0)
    z = jax.jit(space.encode)(space.frozen, image)
    assert z.shape == (1, 4, 4, 3)
    codebook = space.frozen[AUTOENCODER]["codebook"]
    distance = np.square(np.asarray(z)[..., None, :] - codebook).sum(-1)
    assert distance.min() > 1e-6  # no code
    decode = jax.jit(space.decode)
    np.testing.assert_allclose(
        decode(space.frozen, z), decode(space.frozen, jnp.asarray(codebook[distance.argmin(-1)])), atol=1e-5
    )


def vq_space(folder):
    return build_space(vq(folder)["recipe"], "training", READER)


def test_v3_adds_lpips_of_the_decoded_estimates(folder):
    data = batch()
    plain, recipe = build_recipe(vq(folder)["recipe"]), build_recipe(v3(folder)["recipe"])
    assert set(recipe.frozen) == {AUTOENCODER, "perceptual"}
    params = load_weights(folder / "resshift_unet.safetensors")[0]
    loss, gradient = loss_and_gradient(recipe, {"denoiser": params}, data)
    without, plain_gradient = loss_and_gradient(plain, {"denoiser": params}, data)
    np.testing.assert_allclose(without.values, without.metrics["latent_mse"], rtol=1e-6)
    np.testing.assert_allclose(loss.values, without.values + 0.5 * loss.metrics["perceptual"], rtol=1e-5)
    assert np.all(loss.metrics["perceptual"] != 0)
    one, other = (jax.tree.leaves(tree) for tree in (gradient, plain_gradient))
    assert all(np.all(np.isfinite(leaf)) for leaf in one)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in zip(one, other, strict=True))  # straight through the codes


@functools.cache
def chain():
    return process.make_schedule(3, 2.0, 0.04)


def test_the_terms_of_sinsr_are_those_of_the_paper():
    """Of a student and a teacher whose terms can be computed by hand."""
    schedule = chain()
    keys = jax.random.split(jax.random.key(0), 3)
    clean, y, noise = (jax.random.normal(key, (2, 4, 4, 3), jnp.float32) for key in keys)
    calls = []

    def student(x, index):
        calls.append((x, index))
        return 0.5 * x + index[:, None, None, None].astype(jnp.float32), (x,)

    endpoints = trajectory_endpoints(schedule, lambda x, index: y, y, noise)
    made = distillation_terms(schedule, student, clean, endpoints, np.ones(3, np.float32))
    terms, taps = made.terms, made.taps
    x_end = y + 2.0 * 0.99 * noise
    np.testing.assert_allclose(terms.distillation, jnp.square(0.5 * x_end + 2 - y).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(terms.inverse, jnp.square(0.5 * y - x_end).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(terms.consistency, jnp.square(0.25 * clean + 2 - clean).mean((1, 2, 3)), rtol=1e-5)
    assert [int(index[0]) for _, index in calls] == [2, 0, 0, 2]
    np.testing.assert_allclose(taps[0], x_end, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(student_schedule(schedule).input_std, schedule.input_std[-1])


@pytest.mark.parametrize(("passes", "inner"), [("outer", 0.0), ("both", 2 * (6 - 1) * 3)])
def test_the_gradient_passes_the_inverse_of_the_consistency_term_on_request(passes, inner):
    clean = jnp.ones((1, 2, 2, 3), jnp.float32)

    def term(factors):  # of the student at index 0 and at the last one
        def student(x, index):
            return x * factors[index][:, None, None, None], (x,)

        zeros = jnp.zeros_like(clean)
        made = distillation_terms(chain(), student, clean, (zeros, zeros), np.ones(3, np.float32), passes)
        return made.terms.consistency[0]

    gradient = jax.grad(term)(jnp.asarray([2.0, 1.0, 3.0]))
    np.testing.assert_allclose(gradient, [inner, 0.0, 2 * (6 - 1) * 2])


@pytest.mark.slow  # two large programs
def test_sinsr_starts_from_its_teacher_and_samples_in_one_step(tmp_path):
    settings = sinsr_config(tmp_path)
    recipe, data = build_recipe(settings["recipe"]), batch()
    assert recipe.mean is None
    assert recipe.initial_params is recipe.frozen[TEACHER]
    loss, gradient = loss_and_gradient(recipe, recipe.initial_params, data)
    total = sum(loss.metrics[name] for name in ("distillation", "inverse", "consistency"))
    np.testing.assert_allclose(loss.values, total, rtol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    changed = sinsr_config(tmp_path, "recipe.sinsr.inverse_weight=0.0", "recipe.sinsr.distillation_weight=2.0")
    weighted = jax.jit(build_recipe(changed["recipe"]).updates[0].loss)(
        recipe.initial_params, recipe.frozen, {}, data, jax.random.key(3), STEP
    )
    expected = 2 * loss.metrics["distillation"] + loss.metrics["consistency"]
    np.testing.assert_allclose(weighted.values, expected, rtol=1e-4)
    # its one step is the teacher's estimate at the last index, from the same draw of the prior
    teacher = build_recipe(config(*PAPER)["recipe"])
    noise = noise_field(jax.random.key(4), 2)
    student_sr, teacher_mean = (
        jax.jit(sampler)(recipe.initial_params, {}, data["lr"], noise) for sampler in (recipe.sample, teacher.mean)
    )
    np.testing.assert_allclose(student_sr, teacher_mean, atol=1e-5)


def test_the_loss_of_sinsr_without_its_teacher_is_one_line(tmp_path):
    settings = sinsr_config(tmp_path)
    recipe = build_recipe(settings["recipe"], "inference")
    params = build_recipe(settings["recipe"]).initial_params
    with pytest.raises(ValueError, match=r"from a teacher.*recipe\.sinsr\.teacher_checkpoint"):
        recipe.updates[0].loss(params, recipe.frozen, {}, batch(), jax.random.key(0), STEP)


def test_framer_needs_no_line_of_their_own(folder, tmp_path):
    for settings in (vq(folder), sinsr_config(tmp_path)):
        base = build_recipe(settings["recipe"])
        framed = framer(base, paper())
        assert framed.sample is base.sample
        assert framed.initial_params is base.initial_params
        params = jax.eval_shape(framed.init, jax.random.key(0), batch())
        assert set(params) == {"denoiser", HEADS}
        loss = jax.eval_shape(framed.updates[0].loss, params, framed.frozen, {}, batch(), jax.random.key(0), STEP)
        assert "framer_cosine_high/1" in loss.metrics


@pytest.mark.parametrize(
    ("changes", "knob", "model"),
    [
        (("recipe.space.name=vq_f4",), "recipe.space.checkpoint", "vq_f4"),
        (("recipe.resshift.perceptual_weight=1.0",), "recipe.lpips.checkpoint", "lpips_alex"),
        (("recipe.name=sinsr",), "recipe.sinsr.teacher_checkpoint", "resshift_unet"),
    ],
)
def test_a_missing_path_is_one_line_that_names_the_knob(changes, knob, model):
    with pytest.raises(ValueError, match=rf"^{knob} is empty: .*`framer-jax port IN OUT.safetensors --model {model}`"):
        build_recipe(config(UNET, *changes)["recipe"])
    with pytest.raises(FileNotFoundError, match=rf"^{knob}: there is no file 'gone.safetensors'"):
        build_recipe(config(UNET, *changes, f"{knob}=gone.safetensors")["recipe"])
    assert isinstance(build_recipe(config(UNET, *changes)["recipe"], "description"), Recipe)


def test_a_model_of_another_kind_is_refused(folder):
    with pytest.raises(ValueError, match=r"lpips_alex\.safetensors: holds lpips_alex, not vq_f4"):
        build_recipe(vq(folder, f"recipe.space.checkpoint={folder}/lpips_alex.safetensors")["recipe"])


def test_a_teacher_of_another_chain_is_refused(tmp_path):
    settings = sinsr_config(tmp_path, "recipe.resshift.min_noise_level=0.3", "recipe.resshift.steps=4")
    with pytest.raises(
        ValueError, match=r"teacher.* recipe\.resshift\.steps 2, not 4; .*min_noise_level 0\.2, not 0\.3"
    ):
        build_recipe(settings["recipe"])


def test_published_weights_take_a_configuration_and_must_fit_it(folder, tmp_path):
    path = folder / "resshift_unet.safetensors"
    with pytest.raises(ValueError, match="published weights carry no configuration"):
        load_model(path)
    settings = vq(folder)
    model = load_model(path, settings)
    assert model.metadata["config"] == settings
    assert set(model.params) == {"denoiser"}
    with pytest.raises(ValueError, match=r"made with .*resshift_unet\.variant 'released', not 'correct'"):
        load_model(path, vq(folder, "recipe.denoiser.resshift_unet.variant=correct"))
    four = ported(tmp_path / "four.safetensors", "resshift_unet", "resshift_realsrx4_s4_v3.pth")
    with pytest.raises(ValueError, match=r"s4_v3\.pth is by its name a model of 4 steps, .*resshift\.steps is 15"):
        load_model(four, vq(folder, "recipe.resshift.steps=15"))
    assert load_model(four, vq(folder, "recipe.resshift.steps=4")).recipe.name == "resshift"
    with pytest.raises(ValueError, match=r"do not fit .* 'unet': use a configuration such as resshift_v1"):
        load_model(path, config())
    flow = config("recipe.name=rectified_flow", UNET)
    with pytest.raises(ValueError, match=r"do not fit recipe\.name 'rectified_flow'"):
        load_model(path, flow)


def test_models_of_another_recipe_are_refused(folder, tmp_path):
    student = weights(tmp_path / "student.safetensors", *PAPER, "recipe.name=sinsr")
    with pytest.raises(ValueError, match=r"made with recipe\.name 'sinsr', not 'resshift'"):
        load_model(student, config(*PAPER))
    with pytest.raises(ValueError, match=r"made with recipe\.name 'sinsr', not 'resshift'"):
        build_recipe(config(*PAPER, "recipe.name=sinsr", f"recipe.sinsr.teacher_checkpoint={student}")["recipe"])
    with pytest.raises(ValueError, match=r"made with recipe\.name 'rectified_flow', not 'resshift'"):
        load_model(weights(tmp_path / "flow.safetensors", "recipe.name=rectified_flow"), config())


def test_latents_must_lie_on_the_grid_of_the_low_resolution_image():
    with pytest.raises(ValueError, match=r"one latent position per 4 HR pixels .* need 2"):
        build_recipe(config("recipe.scale=2")["recipe"])
    finer = ("recipe.scale=2", "recipe.denoiser.resshift_unet.condition_size=16")
    assert build_recipe(config(*PAPER, *finer)["recipe"]).lr_multiple == 16


def test_the_autoencoder_is_identified_by_its_content(folder, tmp_path, monkeypatch):
    settings = vq(folder)
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    path = weights(run / "weights.safetensors", *PAPER)
    params, _ = load_weights(path)
    params["denoiser"]["conv_in"]["kernel"] = np.zeros((3, 3, 6, 32), np.float32)
    params["denoiser"]["conv_out"] = {"kernel": np.zeros((3, 3, 32, 3), np.float32), "bias": np.zeros(3, np.float32)}
    recorded = digests(settings["recipe"])
    save_weights(path, params, {"config": portable(settings), "weights": recorded, "step": 1})
    # another one of the same name in the current folder is not taken
    elsewhere.mkdir()
    autoencoder, metadata = load_weights(folder / "vq_f4.safetensors")
    other = jax.tree.map(lambda leaf: leaf * np.float32(1.5), autoencoder)
    save_weights(elsewhere / "vq_f4.safetensors", other, {**metadata, "source": {}})
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ValueError, match=r"not the autoencoder .* was trained with: put that one next to it"):
        load_model(run)
    save_weights(run / "vq_f4.safetensors", autoencoder, metadata)
    model = load_model(run)
    assert model.frozen_weights == recorded
    np.testing.assert_array_equal(model.recipe.frozen[AUTOENCODER]["codebook"], autoencoder["codebook"])
    with pytest.raises(ValueError, match=r"trained with other weights than those of recipe\.space\.checkpoint"):
        load_model(run, vq(elsewhere))


def test_a_ported_file_counts_as_what_it_was_made_of(folder, tmp_path):
    params, metadata = load_weights(folder / "vq_f4.safetensors")
    assert digest_of(folder / "vq_f4.safetensors") == sha256_of(folder / "vq_f4.safetensors")
    made_of = {"files": [{"file": "a.pth", "sha256": "12"}, {"file": "b.pth", "sha256": "34"}]}
    save_weights(tmp_path / "ported.safetensors", params, {**metadata, "source": made_of})
    assert digest_of(tmp_path / "ported.safetensors") == "12+34"


def test_in_a_notebook_published_weights_take_a_configuration_too(folder, tmp_path):
    knobs = overrides(*PAPER, "recipe.space.name=vq_f4", f"recipe.space.checkpoint={folder}/vq_f4.safetensors")
    model = framer_jax.load_model(folder / "resshift_unet.safetensors", CONFIGS / "default.py", knobs)
    small = framer_jax.upscale(np.zeros((8, 8, 3), np.uint8), model, tile=8, overlap=0)
    assert small.pixels.shape == (32, 32, 3)
    with pytest.raises(ValueError, match="'config' names: give 'config' too"):
        framer_jax.load_model(folder / "resshift_unet.safetensors", overrides=knobs)


def test_a_trained_model_finds_its_autoencoder_next_to_it(folder, tmp_path):
    settings = vq(folder)
    run = tmp_path / "run"
    path = weights(run / "weights.safetensors", *PAPER)
    params, _ = load_weights(path)
    params["denoiser"]["conv_in"]["kernel"] = np.zeros((3, 3, 6, 32), np.float32)
    params["denoiser"]["conv_out"] = {"kernel": np.zeros((3, 3, 32, 3), np.float32), "bias": np.zeros(3, np.float32)}
    save_weights(path, params, {"config": portable(settings), "step": 1})
    with pytest.raises(FileNotFoundError, match=r"needs the autoencoder 'vq_f4\.safetensors' .*next to"):
        load_model(run)
    described = load_model(run, purpose="description")
    assert described.metadata["config"]["recipe"]["space"]["checkpoint"] == "vq_f4.safetensors"
    ported(run / "vq_f4.safetensors", "vq_f4")
    assert AUTOENCODER in load_model(run).recipe.frozen
    with pytest.raises(ValueError, match=r"made with recipe\.resshift\.kappa 1\.0, not 2\.0"):
        load_model(run, vq(folder, "recipe.resshift.kappa=2.0"))


def test_training_may_start_from_weights_of_another_chain(folder, tmp_path):
    settings = vq(folder, "recipe.resshift.steps=15")["recipe"]
    four = ported(tmp_path / "four.safetensors", "resshift_unet", "resshift_realsrx4_s4_v3.pth")
    params, digest = initial_weights(build_recipe(settings), settings, str(four))
    assert set(params) == {"denoiser"}
    assert len(digest) == 64


def test_an_image_that_is_no_multiple_is_padded_and_cropped(folder):
    recipe = build_recipe(vq(folder)["recipe"])
    params = {"denoiser": load_weights(folder / "resshift_unet.safetensors")[0]}
    image = np.asarray(batch()["lr"][0])[:5, :7]
    assert upscale(recipe, params, image, UpscaleSettings(tile=8, overlap=0)).shape == (20, 28, 3)
    strided = UpscaleSettings(tile=8, overlap=2, protocol="resshift")
    assert upscale(recipe, params, image, strided).shape == (20, 28, 3)


def test_a_published_transformer_is_not_a_further_weight_of_itself(folder):
    base, autoencoder = folder / "base.safetensors", ported(folder / "autoencoder.safetensors", "kl_autoencoder")
    ported(base, "mmdit")
    space = ("recipe.space.name=kl", f"recipe.space.checkpoint={autoencoder}")
    text = ("recipe.name=dit4sr", "recipe.text.condition=zero")
    for named in ("", base):
        model = load_model(base, config(*text, *space, f"recipe.dit4sr.base_checkpoint={named}"))
        assert model.frozen_weights.keys() == {"recipe.space.checkpoint"}
    with pytest.raises(ValueError, match=r"recipe\.dit4sr\.base_checkpoint names another"):
        load_model(base, config(*text, *space, f"recipe.dit4sr.base_checkpoint={autoencoder}"))


@pytest.mark.parametrize(("section", "file"), [("space", "vq_f4"), ("lpips", "lpips_alex")])
def test_errors_of_weights_start_with_the_name_of_the_knob(folder, section, file):
    recipe = v3(folder)["recipe"]
    wrong = folder / "resshift_unet.safetensors"
    recipe[section]["checkpoint"] = str(wrong)
    with pytest.raises(ValueError, match=rf"^recipe\.{section}\.checkpoint: .*holds {wrong.stem}, not {file}"):
        build_recipe(recipe)
