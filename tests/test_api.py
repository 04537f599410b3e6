"""What `import framer_jax` offers."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import framer_jax
from framer_jax import cli
from framer_jax.degradations.presets import PRESETS
from framer_jax.frequency.bands import full_layout
from framer_jax.images.image_data import ImageData
from framer_jax.inference import model as models
from framer_jax.losses import framer
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.base import Update
from framer_jax.training.state import inference_params
from tests.support import training_toys as toys
from tests.support.tiny import config, photo, ported, weights

SETTINGS = {"mode": "mean", "tile": 16, "overlap": 4, "tile_batch": 2}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def model(path):
    return framer_jax.load_model(path)


# --- upscale, load_model, read_image, write_image ---------------------------------------------------------------------


def test_a_path_an_array_and_an_image_give_the_same(model, tmp_path):
    pixels = photo(12, 14)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    floats = pixels.astype(np.float32) / np.float32(255)
    inputs = [tmp_path / "small.png", str(tmp_path / "small.png"), pixels, floats, ImageData(floats)]
    results = [framer_jax.upscale(image, model, **SETTINGS) for image in inputs]
    for result in results:
        assert isinstance(result, ImageData)
        assert result.pixels.shape == (48, 56, 3)
        assert result.pixels.dtype == np.float32
        assert 0 <= result.pixels.min() < result.pixels.max() <= 1
        np.testing.assert_array_equal(result.pixels, results[0].pixels)


def test_settings_are_passed_on(model):
    settings = {**SETTINGS, "mode": "sample"}
    first, second = (framer_jax.upscale(photo(12, 14), model, seed=seed, **settings).pixels for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-3
    with pytest.raises(ValueError, match=r"mode.*'best'"):
        framer_jax.upscale(photo(12, 14), model, mode="best")
    with pytest.raises(TypeError, match="colour"):
        framer_jax.upscale(photo(12, 14), model, colour="none")


def test_transparency_is_kept(model, tmp_path):
    rgba = np.dstack([photo(12, 14), np.full((12, 14), 128, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "glass.png")
    sr = framer_jax.upscale(tmp_path / "glass.png", model, **SETTINGS)
    framer_jax.write_image(tmp_path / "sr.png", sr)
    assert framer_jax.read_image(tmp_path / "sr.png").mode == "RGBA"
    with pytest.raises(FileExistsError):
        framer_jax.write_image(tmp_path / "sr.png", sr)
    with Image.open(tmp_path / "sr.png") as image:
        assert image.size == (56, 48)
        assert image.getpixel((20, 20))[3] == 128


def test_arrays_can_be_written(tmp_path):
    pixels = photo(6, 7)
    framer_jax.write_image(tmp_path / "a.png", pixels)
    framer_jax.write_image(tmp_path / "b.png", pixels / np.float32(255))
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_model_that_upscales_by_default(path, model, monkeypatch):
    monkeypatch.setitem(models.SHIPPED, models.DEFAULT, path)
    default = framer_jax.upscale(photo(12, 14), **SETTINGS).pixels
    np.testing.assert_array_equal(default, framer_jax.upscale(photo(12, 14), model, **SETTINGS).pixels)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((12, 14), np.float32), r"shape \(12, 14\): give \[height, width, 3\]"),
        (np.zeros((12, 14, 4), np.uint8), r"shape \(12, 14, 4\).*alpha is taken as a Pillow image"),
        (np.zeros((3, 12, 14), np.float32), r"shape \(3, 12, 14\).*looks like \[channels, height, width\]"),
        (np.zeros((1, 12, 14, 3), np.float32), "one image at a time"),
        (np.zeros((0, 14, 3), np.uint8), "at least one pixel"),
        (np.full((12, 14, 3), 255.0), r"255 to 255: give floats in \[0, 1\] \(divide by 255"),
        (np.full((12, 14, 3), -1.0), r"from \[-1, 1\], \(image \+ 1\) / 2"),
        (np.full((12, 14, 3), 200, np.int64), r"dtype int64: give uint8 \(0 to 255\)"),
        (np.full((12, 14, 3), 1j), "dtype complex128"),
        (np.full((12, 14, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_bad_arrays(array, message, model):
    with pytest.raises(ValueError, match=message):
        framer_jax.upscale(array, model, **SETTINGS)


def test_bad_paths(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png: no such image"):
        framer_jax.upscale(tmp_path / "nothing.png", model)
    with pytest.raises(ValueError, match="a folder, not an image"):
        framer_jax.upscale(str(tmp_path), model)
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        framer_jax.load_model(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match=r"startr: no such weight file, .*: did you mean 'starter'"):
        framer_jax.load_model("startr")
    with pytest.raises(ValueError, match=r"overrides .* 'config'"):
        framer_jax.load_model(overrides=["recipe.scale=2"])


def test_old_names_work_and_name_the_new_ones(path, model, tmp_path):
    with pytest.warns(DeprecationWarning, match=r"read_picture is deprecated: use framer_jax\.read_image"):
        assert framer_jax.read_picture is framer_jax.read_image
    with pytest.warns(DeprecationWarning, match=r"write_picture is deprecated: use framer_jax\.write_image"):
        write = framer_jax.write_picture
    with pytest.warns(DeprecationWarning, match=r"'picture' of framer_jax\.write_image is deprecated: use 'image'"):
        write(tmp_path / "a.png", picture=ImageData(np.zeros((4, 4, 3), np.float32)))
    with pytest.warns(DeprecationWarning, match=r"'picture' of framer_jax\.upscale"):
        framer_jax.upscale(picture=photo(12, 14), model=model, **SETTINGS)
    with pytest.warns(DeprecationWarning, match=r"'path' .* use 'weights'"):
        assert framer_jax.load_model(path=path).path == path
    with (
        pytest.warns(DeprecationWarning, match=r"framer_jax\.load_model") as caught,
        pytest.raises(ValueError, match="configuration"),
    ):
        framer_jax.load_model(recipe="no.py", changes=["a.b=1"])
    assert {str(warning.message).rpartition(" ")[2] for warning in caught} == {"'config'", "'overrides'"}
    with pytest.warns(DeprecationWarning, match="'path'"), pytest.raises(TypeError, match="multiple values"):
        framer_jax.load_model(path=path, weights=path)
    with pytest.raises(AttributeError, match="paint"):
        _ = framer_jax.paint
    parameters = ["weights", "config", "overrides", "denoise_strength", "sampling"]
    assert list(inspect.signature(framer_jax.load_model).parameters) == parameters


# --- degrade ----------------------------------------------------------------------------------------------------------


def test_degrade_writes_the_bytes_of_the_command(tmp_path):
    source = tmp_path / "hr" / "deep" / "a.png"
    source.parent.mkdir(parents=True)
    Image.fromarray(photo(50, 43)).save(source)
    words = ["--preset", "light_one_stage", "--seed", "5"]
    assert cli.main(["degrade", str(source), str(tmp_path / "file"), *words]) == 0
    assert cli.main(["degrade", str(tmp_path / "hr"), str(tmp_path / "folder"), *words]) == 0
    lr = framer_jax.degrade(source, "light_one_stage", 5)
    assert (lr.pixels.shape, lr.pixels.dtype, lr.mode) == ((12, 10, 3), np.float32, "RGB")
    framer_jax.write_image(tmp_path / "lr.png", lr)
    assert (tmp_path / "lr.png").read_bytes() == (tmp_path / "file" / "a.png").read_bytes()
    nested = framer_jax.degrade(source, "light_one_stage", 5, name="deep/a.png")
    framer_jax.write_image(tmp_path / "nested.png", nested)
    assert (tmp_path / "nested.png").read_bytes() == (tmp_path / "folder" / "deep" / "a.png").read_bytes()
    assert np.abs(nested.pixels - lr.pixels).max() > 0.01
    for image in (photo(50, 43), photo(50, 43) / np.float32(255), framer_jax.read_image(source)):
        same = framer_jax.degrade(image, "light_one_stage", 5, name="a.png")
        np.testing.assert_array_equal(same.pixels, lr.pixels)
    other = framer_jax.degrade(photo(50, 43), "light_one_stage", 6, name="a.png")
    assert np.abs(other.pixels - lr.pixels).max() > 0.01
    assert inspect.signature(framer_jax.degrade).parameters["preset"].default == "framer_paper"


def test_bad_degradations_are_named(tmp_path):
    with pytest.raises(ValueError, match="fog") as caught:
        framer_jax.degrade(photo(16, 16), preset="fog")
    assert all(name in str(caught.value) for name in PRESETS)
    with pytest.raises(ValueError, match="seed is -1"):
        framer_jax.degrade(photo(16, 16), seed=-1)
    with pytest.raises(ValueError, match="3x16, smaller than the scale 4"):
        framer_jax.degrade(photo(3, 16))
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png: not an image"):
        framer_jax.degrade(tmp_path / "a.png")


# --- port -------------------------------------------------------------------------------------------------------------


def test_port_there_and_back(tmp_path):
    original = ported(tmp_path / "original.safetensors", "vq_f4")
    facts = framer_jax.port(original, tmp_path / "torch.safetensors", "vq_f4", to="torch")
    assert (facts["written"], facts["model"]) == (tmp_path / "torch.safetensors", "vq_f4")
    facts = framer_jax.port([str(tmp_path / "torch.safetensors")], str(tmp_path / "back.safetensors"), "vq_f4")
    arguments = json.loads(json.dumps(facts["arguments"]))  # lists, as in the file
    assert (facts["parameters"], [file["file"] for file in facts["sources"]]) == (291_406, ["torch.safetensors"])
    assert arguments == arguments | load_weights(original)[1]["arguments"]
    first, second = (load_weights(tmp_path / f"{name}.safetensors")[0] for name in ("original", "back"))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        framer_jax.port(original, tmp_path / "torch.safetensors", "vq_f4", to="torch")
    framer_jax.port(original, tmp_path / "torch.safetensors", "vq_f4", to="torch", overwrite=True)
    with pytest.raises(ValueError, match="to is 'onnx': choose one of jax, torch"):
        framer_jax.port(original, tmp_path / "x", "vq_f4", to="onnx")
    with pytest.raises(ValueError, match=r"'vq_f5'.*vq_f4"):
        framer_jax.port(tmp_path / "torch.safetensors", tmp_path / "x.safetensors", "vq_f5")


# --- framer_loss, band_masks ------------------------------------------------------------------------------------------


def maps(count, dtype=jnp.float32):
    return [jax.random.normal(jax.random.key(index), (4, 8, 8, 3), dtype) for index in range(count)]


def test_framer_loss_is_that_of_the_recipe():
    taps, key = maps(4), jax.random.key(9)
    loss = framer_jax.framer_loss(taps, key, radius=0.3)
    settings = framer.paper(radius=0.3)
    negatives = framer.draw_negatives(key, 3, settings)
    expected = jax.jit(lambda taps: framer.framer_loss(taps, negatives, settings))(tuple(taps))
    assert loss.values.shape == (4,)
    np.testing.assert_array_equal(loss.values, expected.values)
    assert loss.diagnostics.keys() == expected.diagnostics.keys()
    gradient = jax.jit(jax.grad(lambda taps: framer_jax.framer_loss(taps, key).values.mean()))(taps)
    assert not np.any(gradient[-1])  # the teacher
    assert all(np.any(part) for part in gradient[:-1])
    for teacher, students in (("middle", 3), ("next", 3), ("last", 4)):
        one = framer_jax.framer_loss(taps, key, variant="released", teacher=teacher)
        assert one.diagnostics["cosine_low"].shape == (students,), teacher
    released = framer_jax.framer_loss(taps, key, variant="released")
    assert {value.shape for value in released.diagnostics.values()} == {(4,)}  # the last block is a student too


def test_bad_framer_losses_are_named():
    with pytest.raises(ValueError, match="variant is 'mine': choose one of paper, released"):
        framer_jax.framer_loss(maps(2), jax.random.key(0), variant="mine")
    with pytest.raises(ValueError, match="heat"):
        framer_jax.framer_loss(maps(2), jax.random.key(0), heat=2)
    for name in ("weight", "start_step", "ramp_steps"):
        with pytest.raises(ValueError, match=f"{name} belongs to the factor lambda"):
            framer_jax.framer_loss(maps(2), jax.random.key(0), **{name: 1})
    assert framer_jax.framer_loss(maps(1), jax.random.key(0), variant="released").values.shape == (4,)
    for count in (0, 1):
        for variant in ("paper", "released"):
            if (count, variant) != (1, "released"):
                with pytest.raises(ValueError, match="FRAMER needs at least"):
                    framer_jax.framer_loss(maps(count), jax.random.key(0), variant=variant)


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (4, 7)])
def test_band_masks(size):
    low, high = framer_jax.band_masks(*size, radius=0.5)
    assert (low.shape, low.dtype, high.dtype) == ((size[0], size[1] // 2 + 1), bool, bool)
    np.testing.assert_array_equal(low, ~high)
    assert low[0, 0]
    assert high.any()
    full, _ = framer_jax.band_masks(*size, radius=0.5, layout="full")
    assert full.shape == size
    np.testing.assert_array_equal(full, full_layout(jnp.asarray(low)[:, :, None], size[1])[:, :, 0])
    frequencies = [np.fft.fftfreq(side) * 2 for side in size]
    np.testing.assert_array_equal(full, np.hypot(*np.meshgrid(*frequencies, indexing="ij")) <= 0.5 + 1e-9)


def test_bad_masks_are_named():
    with pytest.raises(ValueError, match="layout is 'quarter': choose one of half, full"):
        framer_jax.band_masks(8, 8, layout="quarter")
    with pytest.raises(ValueError, match="radius"):
        framer_jax.band_masks(8, 8, radius=-1)


# --- make_step --------------------------------------------------------------------------------------------------------


def test_a_loop_of_a_few_lines_trains(monkeypatch):
    recipe, settings = toys.recipe(toys.clean_loss), toys.settings(mesh={"data": 2}, learning_rate=0.05)
    batch = {"hr": toys.images(8), "lr": toys.images(8)}  # uint8
    state, step = framer_jax.make_step(recipe, settings, batch)
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert (metrics["loss"].shape, metrics["loss"].dtype, int(state.step)) == ((), jnp.float32, 8)
    assert {"grad_norm", "learning_rate", "error"} <= metrics.keys()
    # continues from given parameters, with a prepare function
    params = jax.device_get(inference_params(state, recipe.exported))
    state, step = framer_jax.make_step(recipe, settings, toys.batch(), toys.prepare, {"denoiser": params["denoiser"]})
    for name, leaf in params["denoiser"]["conv"].items():
        np.testing.assert_array_equal(state.params["denoiser"]["conv"][name], leaf)
    assert float(step(state, toys.batch())[1]["loss"]) < 0.5 * losses[0]


def test_updates_that_do_not_run_have_no_metrics():
    updates = (
        Update("main", ("denoiser",), toys.clean_loss),
        Update("critic", ("critic",), toys.critic_loss, every=2, offset=1),
    )
    batch = {"hr": toys.images(8), "lr": toys.images(8)}
    recipe = toys.recipe(updates=updates, frozen={"gain": np.float32(1)})
    state, step = framer_jax.make_step(recipe, toys.settings(), batch)
    state, first = step(state, batch)
    state, second = step(state, batch)
    assert np.isfinite(first["main/loss"]) and np.isnan(first["critic/loss"])
    assert np.isfinite(second["critic/loss"])


@pytest.mark.parametrize(
    ("entries", "changes", "message"),
    [
        ({"hr": toys.images(4), "lr": toys.images(8)}, {}, "'hr' .*must have 8 examples"),
        ({"hr": toys.images(8)}, {}, "no lr, which recipe 'toy' needs"),
        ({"hr": toys.images(8), "lr": toys.images(8)}, {"mesh": {"data": 3}}, "3 devices"),
        ({"hr": toys.images(8), "lr": toys.images(8)}, {"sharding_rules": [("nothing", ["fsdp"])]}, "'nothing'"),
    ],
)
def test_bad_batches_and_settings_are_named(entries, changes, message):
    with pytest.raises(ValueError, match=message):
        framer_jax.make_step(toys.recipe(), toys.settings(**changes), entries)


def test_framer_is_added_by_hand_to_a_loaded_model(model):
    """The example in the docstring of make_step."""
    from framer_jax.losses.framer import paper
    from framer_jax.recipes.framer import framer
    from framer_jax.training.settings import TrainingSettings

    crop = config()["data"]["crop"]
    rng = np.random.default_rng(0)
    batch = {
        "hr": rng.random((2, crop, crop, 3), np.float32),
        "lr": rng.random((2, crop // 4, crop // 4, 3), np.float32),
    }
    settings = TrainingSettings(steps=10, warmup_steps=0, global_batch=2, mesh={"data": 1})
    state, step = framer_jax.make_step(framer(model.recipe, paper()), settings, batch, initial_params=model.params)
    state, metrics = step(state, batch)
    assert np.isfinite(metrics["loss"]) and metrics["framer_term"] > 0


# --- methods ----------------------------------------------------------------------------------------------------------


def test_methods():
    rows = framer_jax.methods()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {"resshift", "sinsr"} <= set(names)
    assert all(row.paper and row.summary for row in rows)
