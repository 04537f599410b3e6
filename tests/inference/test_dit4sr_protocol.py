"""Images from DiT4SR: its protocol, published transformers as weights, and overrides of the sampler."""

import json
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import framer_jax
from framer_jax import cli
from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.checkpoints.sampling import Sampling
from framer_jax.diffusion import flow
from framer_jax.diffusion.noise import noise_field, noise_window
from framer_jax.inference.model import load_model, settings_for
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.resample import resize_pillow
from framer_jax.inference.upscaler import UpscaleSettings, make_upscaler, upscale
from framer_jax.models.denoiser import LR_LATENT
from framer_jax.models.dit4sr_transformer import DiT4SRTransformer, with_control
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import to_torch
from framer_jax.porting.mmdit import TABLE
from framer_jax.porting.table import MAPS
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.base import Tiling, expected_params
from framer_jax.recipes.components.base_model import BASE
from framer_jax.recipes.components.spaces import build_space
from framer_jax.recipes.components.text import TEXTS
from framer_jax.recipes.dit4sr.recipe import DENOISER
from tests.inference.test_upscaler import PARAMS, toy
from tests.inference.test_upscaler import photo as pixels_of
from tests.recipes.test_dit4sr import KL, knobs
from tests.recipes.test_dit4sr import SMALL as DIT4SR
from tests.support.drawn import drawn
from tests.support.paths import CONFIGS
from tests.support.tiny import TINY, config, overrides, photo, ported, text, weights

SMALL = ("--tile", "16", "--overlap", "4")


def diffusers_folder(path, name, params, arguments, shard_bytes=10**9):
    """A transformer as published."""
    transformer_config = {
        "patch_size": arguments["patch"],
        "in_channels": arguments["channels"],
        "num_layers": arguments["depth"],
        "num_attention_heads": arguments["heads"],
        "attention_head_dim": arguments["head_width"],
        "dual_attention_layers": list(range(arguments["dual_blocks"])),
        "qk_norm": "rms_norm" if arguments["qk_norm"] else None,
        "joint_attention_dim": arguments["context_width"],
        "pooled_projection_dim": arguments["pooled_width"],
        "pos_embed_max_size": arguments["position_grid"],
        "sample_size": arguments["position_base"] * arguments["patch"],
    }
    state = to_torch(MAPS[name], params, "ours", arguments)
    state.pop(TABLE)  # a table this small does not determine its base
    write_folder(path, transformer_config, state, shard_bytes)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Everything that DiT4SR needs, published and trained."""
    place = tmp_path_factory.mktemp("place")
    ported(place / "vae.safetensors", "kl_autoencoder")
    ported(place / "base.safetensors", "mmdit")
    for seed, name in enumerate(("null", "prompt", "negative")):
        text(place / f"{name}.safetensors", seed=seed)
    text(place / "longer.safetensors", length=5)
    arguments = TINY["mmdit"]
    params, _ = load_weights(place / "base.safetensors")
    diffusers_folder(place / "sd35" / "transformer", "mmdit", params, arguments)
    released = with_control(params, "released")
    rng = np.random.default_rng(3)
    released = jax.tree.map(lambda leaf: leaf + 0.05 * rng.standard_normal(leaf.shape).astype(np.float32), released)
    diffusers_folder(place / "released", "dit4sr_transformer", released, arguments)
    metadata = {"model": "dit4sr_transformer", "arguments": {**arguments, "variant": "released"}, "source": {}}
    save_weights(place / "released.safetensors", released, metadata)
    weights(place / "run" / "weights.safetensors", *knobs(place))
    Image.fromarray(photo(11, 13)).save(place / "small.png")
    return place


def published(place, *changes):
    """The configuration of published weights."""
    texts = (f"recipe.text.{name}_embedding={place}/{name}.safetensors" for name in ("null", "prompt", "negative"))
    return (*KL, *texts, f"recipe.space.checkpoint={place}/vae.safetensors", *changes)


RELEASED = "recipe.denoiser.dit4sr_transformer.variant=released"


# --- the protocol -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 128), (11, 13), (13, 11), (131, 260), (127, 500), (129, 128), (200, 1)])
def test_sizes_are_those_of_the_released_code(size):
    height, width = size
    dit4sr_sizes = PROTOCOLS["dit4sr"].sizes
    small, large, floored = dit4sr_sizes(height, width, 4, 128, 4)
    if min(size) < 128:
        assert small == (int(height * 128 / min(size) + 1e-9), int(width * 128 / min(size) + 1e-9))
    else:
        assert small == size
    assert large == (4 * small[0], 4 * small[1])
    assert floored == (large[0] // 8 * 8, large[1] // 8 * 8)
    for side in dit4sr_sizes(height, width, 4, 132, 4)[-1]:  # a side within one tile suits the denoiser
        assert side % (8 if side > 528 else 16) == 0


def test_an_image_is_upsampled_super_resolved_as_a_whole_and_resized_to_four_times_its_size():
    seen = []

    def sample_tiled(params, frozen, image, noise, tiling):
        seen.append((image.shape, tiling))
        return jnp.flip(image, -1) * 0.5 + 0.3 + 0 * noise_window(noise, 0, image.shape[1:])

    image = pixels_of(11, 13)
    asked = UpscaleSettings(tile=256, overlap=96, tile_batch=2, protocol="dit4sr")
    assert asked.color_fix == "adain"
    recipe = toy(sample_tiled=sample_tiled)
    large = upscale(recipe, PARAMS, image, asked)
    assert large.shape == (22, 26, 3)
    assert seen == [((1, 512, 600, 3), Tiling(512, 192, 2, 1024, 1792))]
    lr = resize_pillow(image, (22, 26))  # AdaIN gives back its mean and standard deviation
    np.testing.assert_allclose(large.mean((0, 1)), lr.mean((0, 1)), atol=0.02)
    estimate = make_upscaler(recipe, asked).estimate(PARAMS, 11, 13)
    assert (estimate.tile, estimate.batch, estimate.tiles) == ((512, 600), 1, 1)


def test_pillows_resizing(place):
    image = photo(11, 13)
    resized = resize_pillow(image.astype(np.float32) / 255, (30, 9))
    expected = np.asarray(Image.fromarray(image).resize((9, 30), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(resized, expected / 255, atol=1.5 / 255)
    assert resize_pillow(resized, (30, 9)) is resized


WAVELETS = (
    *DIT4SR,
    "recipe.dit4sr.trainable=",
    "recipe.space.statistics=image",
    "recipe.denoiser.dit4sr_transformer.depth=1",
)
"""Without an autoencoder to compile; a latent is 4 pixels wide."""


def test_tiles_within_the_steps_are_those_of_a_loop_in_numpy(place):
    """Guided velocities of tiles, each an image by itself for the network, blended in every step."""
    texts = (f"recipe.text.{name}_embedding={place}/{name}.safetensors" for name in ("null", "prompt", "negative"))
    settings = config(*WAVELETS, *texts, "recipe.dit4sr.guidance=3.0")
    recipe = build_recipe(settings["recipe"], "inference")
    params = drawn(lambda: expected_params(recipe))
    image, noise = jnp.asarray(photo(48, 44)[None] / np.float32(255)), noise_field(jax.random.key(5), 1)
    sampled = jax.jit(recipe.sample_tiled, static_argnums=4)(params, recipe.frozen, image, noise, Tiling(32, 12, 3))
    assert sampled.shape == image.shape

    arguments = settings["recipe"]["denoiser"]["dit4sr_transformer"]
    denoiser = DiT4SRTransformer(channels=48, **arguments, context_width=16, pooled_width=12)
    embeddings = [recipe.frozen[TEXTS][name].as_condition() for name in ("negative", "prompt")]
    texts = {entry: np.stack([embedding[entry] for embedding in embeddings]) for entry in embeddings[0]}

    @jax.jit
    def guided(x, z, sigma):
        twice = [jnp.concatenate([part, part]) for part in (x, z)]
        time = jnp.full((2,), 1000.0, jnp.float32) * sigma
        condition = {**texts, LR_LATENT: twice[1]}
        negative, positive = denoiser.apply({"params": params[DENOISER]}, twice[0], time, condition)[0]
        return (negative + 3.0 * (positive - negative))[None]

    space = build_space(settings["recipe"], "inference", READER)
    z_lr = np.asarray(space.encode({}, image * 2 - 1))  # [1, 12, 11, 48]
    x = np.asarray(noise_window(noise, 0, (12, 11, 48)))
    weight = np.outer(*(np.exp(-(((np.arange(8) - middle) / 8) ** 2) / 0.02) for middle in (4, 3.5)))[None, :, :, None]
    for sigma, following in pairwise(flow.sampling_sigmas(2).astype(np.float32)):
        total, weights_ = np.zeros(x.shape), np.zeros(x.shape)
        for top in (0, 4):
            for left in (0, 3):
                part = np.s_[:, top : top + 8, left : left + 8]
                total[part] += np.asarray(guided(x[part], z_lr[part], sigma)) * weight
                weights_[part] += weight
        x = (x + (following - sigma) * (total / weights_)).astype(np.float32)
    np.testing.assert_allclose(sampled, np.asarray(space.decode({}, jnp.asarray(x))) / 2 + 0.5, atol=2e-4)


def test_one_tile_is_what_the_sampler_makes():
    recipe = build_recipe(config(*WAVELETS, "recipe.text.condition=zero")["recipe"], "inference")
    params = drawn(lambda: expected_params(recipe))
    lr, noise = jnp.asarray(photo(8, 8)[None] / np.float32(255)), noise_field(jax.random.key(5), 1)
    sampled = jax.jit(recipe.sample)(params, recipe.frozen, lr, noise)
    large = jax.image.resize(lr, (1, 32, 32, 3), "cubic-pytorch", antialias=False)
    restored = jax.jit(recipe.sample_tiled, static_argnums=4)(params, recipe.frozen, large, noise, Tiling(32, 12))
    np.testing.assert_allclose(restored, sampled, atol=1e-4)


def test_what_does_not_go_with_the_protocol(place):
    good = {"tile": 32, "overlap": 12, "protocol": "dit4sr"}
    for changes, message in (
        ({"color_fix": "none"}, "protocol 'dit4sr' has the color fix adain: omit it"),
        ({"color_fix": "wavelet"}, "protocol 'dit4sr' has the color fix adain: omit it"),
    ):
        with pytest.raises(ValueError, match=message):
            UpscaleSettings(**good, **changes)
    recipe = toy(sample_tiled=lambda *arguments: None, mean=lambda *arguments: None)
    for changes, message in (
        ({"mode": "mean"}, "protocol 'dit4sr' samples in many steps: use mode 'sample'"),
        ({"overlap": 10}, "overlap 10 is not a multiple of the recipe's lr_multiple 4: use 8 or 12"),
        ({"tile": 30}, "tile 30 is no multiple of the recipe's lr_multiple 4"),
    ):
        with pytest.raises(ValueError, match=message):
            make_upscaler(recipe, UpscaleSettings(**{**good, **changes}))
    with pytest.raises(ValueError, match="which recipe 'toy' does not support: use protocol 'framer_jax'"):
        make_upscaler(toy(), UpscaleSettings(**good))
    model = load_model(place / "run")
    settings = settings_for(model, protocol="dit4sr")
    assert (settings.tile, settings.overlap, settings.color_fix) == (128, 48, "adain")


# --- the command line and Python --------------------------------------------------------------------------------------


def run(*words):
    return cli.main(["upscale", *map(str, words)])


def test_a_trained_run_on_the_command_line(place, tmp_path, capsys):
    texts = ("--prompt-embedding", place / "longer.safetensors", "--negative-embedding", place / "longer.safetensors")
    words = (place / "small.png", tmp_path / "large.png", "--weights", place / "run", "--steps", "1", "--guidance", "2")
    assert run(*words, *texts, "--protocol", "dit4sr", "--tile", "32") == 0
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (52, 44)
    record = json.loads((tmp_path / "large.png.json").read_text(encoding="utf-8"))
    assert (
        record["settings"] | {"protocol": "dit4sr", "color_fix": "adain", "tile": 32, "overlap": 12}
        == (record["settings"])
    )
    recipe = record["config"]["recipe"]
    assert (recipe["dit4sr"]["sampling_steps"], recipe["dit4sr"]["guidance"]) == (1, 2.0)
    assert record["changes"] == {
        "recipe.dit4sr.sampling_steps": 1,
        "recipe.dit4sr.guidance": 2.0,
        "recipe.text.prompt_embedding": str(place / "longer.safetensors"),
        "recipe.text.negative_embedding": str(place / "longer.safetensors"),
    }
    digests = {"recipe.text.prompt_embedding", "recipe.text.negative_embedding", "recipe.dit4sr.base_checkpoint"}
    assert digests <= record["weights"].keys()
    original = load_weights(place / "run" / "weights.safetensors")[1]["config"]["recipe"]
    assert original["dit4sr"]["sampling_steps"] == 2  # the file's own


def test_overrides_of_the_sampler_change_the_image(place):
    small, file = photo(8, 8), place / "wavelets.safetensors"
    weights(file, *WAVELETS, f"recipe.text.null_embedding={place}/null.safetensors")

    def upscaled(**sampling):
        model = framer_jax.load_model(file, **sampling)
        return framer_jax.upscale(small, model, tile=8, overlap=0).pixels

    plain = upscaled()
    np.testing.assert_array_equal(upscaled(steps=2, guidance=1.0), plain)
    texts = {
        f"{field}_embedding": place / f"{name}.safetensors"
        for field, name in (("prompt", "prompt"), ("negative", "negative"))
    }
    images = [plain, upscaled(steps=1), upscaled(steps=1, **texts), upscaled(steps=1, guidance=4.0, **texts)]
    for index, one in enumerate(images):
        assert all(np.abs(one - other).max() > 1e-5 for other in images[:index])
    with pytest.raises(TypeError, match="step"):
        framer_jax.load_model(place / "run", step=3)


def test_published_weights_on_the_command_line(place, tmp_path, capsys):
    """A folder in Diffusers' layout in, images out."""
    knobs = (*published(place, RELEASED, "recipe.dit4sr.guidance=2.0"), "recipe.dtype=float32")
    base = CONFIGS / "dit4sr_sd35.py"
    recipe = ("--recipe", base, *(f"--set={change}" for change in overrides(*knobs, base=base)))
    words = (place / "small.png", tmp_path / "out", "--weights", place / "released", *SMALL)
    assert run(*words, *recipe, "--steps", "1") == 0
    record = json.loads((tmp_path / "out" / "small.png.json").read_text(encoding="utf-8"))
    assert len(record["checkpoint"]["sha256"]) == 2 * 64 + 1  # configuration and weights
    assert record["config"]["recipe"]["dit4sr"]["base_checkpoint"] == ""
    assert set(record["weights"]) == {f"recipe.text.{name}_embedding" for name in ("null", "prompt", "negative")} | {
        "recipe.space.checkpoint"
    }
    capsys.readouterr()
    assert run(*words) == 2
    assert "published weights, which carry no configuration: name one with --recipe" in capsys.readouterr().err


def test_every_form_of_published_weights(place):
    folder, file = (
        load_model(place / name, config(*published(place, RELEASED))) for name in ("released", "released.safetensors")
    )
    assert folder.params.keys() == expected_params(folder.recipe).keys() == {DENOISER}
    for one, other in zip(*(jax.tree.leaves((m.params, m.recipe.frozen[BASE])) for m in (folder, file)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert folder.path == place / "released"
    plain, pipeline, named = (
        load_model(place / name, config(*published(place, *more)))
        for name, more in (
            ("base.safetensors", ()),
            ("sd35", ()),
            ("sd35/transformer", (f"recipe.dit4sr.base_checkpoint={place}/sd35/transformer",)),
        )
    )
    convs = [leaf for path, leaf in leaves(plain.params) if "conv_control" in path]
    assert convs
    assert not any(leaf.any() for leaf in convs)
    for other in (pipeline, named):
        assert jax.tree.structure(other.params) == jax.tree.structure(plain.params)


def leaves(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_a_pipelines_folder_has_a_digest(place):
    model = load_model(place / "run", config(*knobs(place), f"recipe.dit4sr.base_checkpoint={place}/sd35"))
    assert len(model.frozen_weights["recipe.dit4sr.base_checkpoint"]) == 2 * 64 + 1


# --- what cannot be used ----------------------------------------------------------------------------------------------


def test_a_recipe_without_such_a_setting_says_so(place, tmp_path, capsys):
    words = (place / "small.png", tmp_path / "out.png", "--weights")
    one_pass = weights(tmp_path / "one_pass.safetensors", "recipe.name=supervised_l1")
    for model, options, message in (
        (one_pass, ("--steps", "3"), "steps 3: recipe 'supervised_l1' has no such setting"),
        (weights(tmp_path / "r.safetensors"), ("--guidance", "3"), "guidance 3.0: recipe 'resshift' has no such set"),
        (place / "run", ("--steps", "0"), "sampling_steps is 0: it must be a whole number from 1"),
        (place / "run", ("--guidance", "nan"), "--guidance is nan: it must be a finite number"),
        (place / "run", ("--prompt-embedding", "gone"), "recipe.text.prompt_embedding: gone: there is no such file"),
        (place / "run", ("--prompt-embedding", ""), "--prompt-embedding is empty: give a value"),
        (
            place / "run",
            ("--prompt-embedding", place / "longer.safetensors", "--guidance", "2"),
            "has 5 tokens, recipe.text.negative_embedding (the null text, as it is not set) has 3",
        ),
    ):
        assert run(*words, model, *options) == 2
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1
    changed = load_model(tmp_path / "r.safetensors", sampling=Sampling(steps=2, mean_share=0.5))
    chain = changed.metadata["config"]["recipe"]["resshift"]
    assert (chain["sampling_steps"], chain["mean_share"]) == (2, 0.5)


def test_texts_for_sampling_may_have_another_length(place):
    longer = [f"recipe.text.{name}_embedding={place}/longer.safetensors" for name in ("prompt", "negative")]
    for purpose in ("training", "inference"):
        recipe = build_recipe(config(*knobs(place), *longer, "recipe.dit4sr.guidance=2.0")["recipe"], purpose)
        assert recipe.frozen[TEXTS]["prompt"].tokens.shape == (5, 16)
    null = f"recipe.text.null_embedding={place}/longer.safetensors"
    assert build_recipe(config(*knobs(place), null)["recipe"], "inference")
    with pytest.raises(ValueError, match=r"longer.safetensors has text embeddings of shape \(5, 16\), this run has"):
        build_recipe(config(*knobs(place), null)["recipe"])
    with pytest.raises(ValueError, match=r"has pooled_text embeddings of shape \(12,\), this run has \(13,\)"):
        build_recipe(config(*WAVELETS, *longer[:1], null, "recipe.text.clip_widths=(5, 8)")["recipe"], "inference")


def test_published_weights_of_another_model_are_one_line(place, tmp_path):
    params, _ = load_weights(place / "base.safetensors")
    shards = diffusers_folder(tmp_path / "shards", "mmdit", params, TINY["mmdit"], 20_000)
    sorted(shards.glob("*-of-*.safetensors"))[1].unlink()
    other = {"dual_blocks": 0, "qk_norm": False}
    ported(tmp_path / "sd3.safetensors", "mmdit", **other)
    ported(tmp_path / "vae8.safetensors", "kl_autoencoder", latent_channels=8)
    (tmp_path / "empty").mkdir()
    save_weights(tmp_path / "foreign.safetensors", {"a": np.zeros(2, np.float32)}, {})
    for path, changes, message in (
        (shards, (), "lacks 1 of .* shards that .* names, such as 'diffusion_pytorch_model-00002"),
        (
            tmp_path / "sd3.safetensors",
            (),
            r"^weights .*sd3.*, an MMDiT \(2 .*dit4sr_transformer.dual_blocks 0, not 1; .*qk_norm",
        ),
        (place / "released", (), r"^weights .*released, DiT4SR \(released\).*variant 'released'"),
        (
            place / "base.safetensors",
            (f"recipe.space.checkpoint={tmp_path}/vae8.safetensors",),
            "latents of 4 channels, and the autoencoder of recipe.space makes 8: set recipe.space.checkpoint to",
        ),
        (
            place / "base.safetensors",
            (f"recipe.dit4sr.base_checkpoint={place}/sd35",),
            "names another, .*sd35: leave that empty",
        ),
        (
            place / "base.safetensors",
            ("recipe.dit4sr.lora_modules=query$",),
            "without the LoRA of .*: leave that empty",
        ),
        (tmp_path / "empty", (), "empty holds no weights.safetensors"),
        (tmp_path / "gone.safetensors", (), "gone.safetensors: no such weight file"),
        (tmp_path / "foreign.safetensors", (), "foreign.safetensors: holds a trained recipe, not mmdit"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            load_model(path, config(*published(place, *changes)))
        assert "\n" not in str(caught.value)
