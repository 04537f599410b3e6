"""The Python API with arguments of every kind: taken where it is natural, otherwise refused by the argument's name."""

import io
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import framer_jax
from framer_jax.api import images as api_images
from framer_jax.degradations.presets import PRESETS
from framer_jax.images.image_data import ImageData
from framer_jax.inference.images import as_image_data
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.losses import framer
from framer_jax.porting.weights import METADATA_KEY, read_metadata
from framer_jax.recipes.framer import framer as add_framer
from framer_jax.training.settings import TrainingSettings
from tests.support import training_toys as toys
from tests.support.hostile import cases
from tests.support.tiny import photo, ported, weights

SETTINGS = {"mode": "mean", "tile": 16, "overlap": 4, "tile_batch": 2}

PIXELS = photo(12, 14)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def model(path):
    return framer_jax.load_model(path)


def refused(call, *names):
    """A call refuses an argument in one line with these names; an error from deep inside would be longer."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    text = str(caught.value)
    assert not type(caught.value).__module__.startswith("jax"), caught.value
    assert len(text.splitlines()) == 1, text
    assert len(text) < 400, text
    for name in names:
        assert name in text, text


# --- images -----------------------------------------------------------------------------------------------------------


def draw_image(rng):
    """The name of a kind of image, or of something else."""
    return rng.choice(sorted(IMAGES)) if rng.random() < 0.4 else rng.choice(sorted(NO_IMAGES))


FLOATS = (PIXELS / 255).astype(np.float32)

IMAGES = {
    "uint8": PIXELS,
    "float16": FLOATS.astype(np.float16),
    "float32": FLOATS,
    "float64": PIXELS / 255,
    "big endian": FLOATS.astype(">f4"),
    "fortran": np.asfortranarray(FLOATS),
    "jax": jnp.asarray(FLOATS),
    "jax uint8": jnp.asarray(PIXELS),
    "bfloat16": jnp.asarray(FLOATS, jnp.bfloat16),
    "list": FLOATS.tolist(),
    "pillow": Image.fromarray(PIXELS),
    "pillow palette": Image.fromarray(PIXELS).quantize(),
    "pillow cmyk": Image.fromarray(PIXELS).convert("CMYK"),
    "pillow gray": Image.fromarray(PIXELS).convert("L"),
    "pillow float": Image.fromarray(FLOATS[..., 0]),
    "pillow alpha": Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])),
    "image": ImageData(FLOATS),
    "unmasked": np.ma.masked_array(FLOATS, False),
}
"""What is taken as an image."""

NO_IMAGES = {
    "none": None,
    "bytes": b"photo.png",
    "encoded": bytearray(PIXELS.tobytes()),
    "file": io.BytesIO(b"P6"),
    "empty path": "",
    "number": 3,
    "numpy number": np.float32(0.5),
    "dictionary": {"pixels": PIXELS},
    "ragged": [[[0.1, 0.2, 0.3]], [[0.1]]],
    "words": [["a", "b", "c"]],
    "objects": np.full((4, 4, 3), None),
    "bool": PIXELS > 100,
    "int64": PIXELS.astype(np.int64),
    "uint16": PIXELS.astype(np.uint16) * 257,
    "complex": FLOATS + 1j,
    "levels": PIXELS.astype(np.float32),
    "model range": FLOATS * 2 - 1,
    "nan": np.where(FLOATS > 0.5, np.nan, FLOATS),
    "infinite": np.where(FLOATS > 0.5, np.inf, FLOATS),
    "channels first": np.moveaxis(FLOATS, -1, 0),
    "gray": FLOATS[..., 0],
    "one channel": FLOATS[..., :1],
    "alpha": np.dstack([PIXELS, PIXELS[..., 0]]),
    "batch": FLOATS[None],
    "empty": FLOATS[:0],
    "masked": np.ma.masked_greater(FLOATS, 0.5),
    "generator": (row for row in FLOATS),
    "dates": np.zeros((4, 4, 3), "datetime64[s]"),
}
"""What is refused."""


@pytest.mark.parametrize("kind", cases(draw_image, 24, 200))
def test_images_of_every_kind(kind, model, tmp_path):
    if kind in NO_IMAGES:
        image = NO_IMAGES[kind]
        refused(lambda: framer_jax.degrade(image, "bicubic"), "image")
        refused(lambda: framer_jax.upscale(image, model, **SETTINGS), "image")
        if kind != "model range":
            refused(lambda: framer_jax.write_image(tmp_path / "a.png", image), "image")
            assert not list(tmp_path.iterdir())
        return
    image = IMAGES[kind]
    lr = framer_jax.degrade(image, "bicubic")
    assert lr.shape == (3, 3, 3)
    framer_jax.write_image(tmp_path / "a.png", image)
    assert framer_jax.read_image(tmp_path / "a.png").shape == (12, 14, 3)
    with Image.open(tmp_path / "a.png") as opened:
        written = framer_jax.degrade(opened, "bicubic")
    np.testing.assert_allclose(lr.pixels, written.pixels, atol=1.01 / 255)


DTYPES = ("uint8", "float16", "float32", "float64", ">f8", "int16", "uint16", "int64", "bool", "complex64")


def draw_array(rng):
    shape = [rng.choice([1, 2, 3, 4, 5, 17]) for _ in range(rng.randint(0, 5))]
    shape = [*shape[:2], 3] if rng.random() < 0.6 else shape
    low, high = rng.choice([(0, 1), (0, 1), (0, 1), (0, 255), (-1, 1), (0, 1.4), (-1e30, 1e30), (0, float("nan"))])
    return rng.choice(DTYPES), tuple(shape), low, high


@pytest.mark.parametrize("case", cases(draw_array, 40, 1000))
def test_an_array_is_taken_exactly_if_it_is_an_image(case):
    dtype, shape, low, high = case
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts out of range are what is drawn
        array = np.full(shape, high).astype(dtype)
        array.flat[0] = np.asarray(low).astype(dtype)
    is_level, is_real = dtype == "uint8", np.dtype(dtype).kind == "f"
    in_range = is_level or (is_real and array.min() >= 0 and array.max() <= 1)
    if len(shape) == 3 and shape[2] == 3 and in_range:
        expected = array / 255 if is_level else array
        np.testing.assert_allclose(as_image_data(array).pixels, expected, rtol=1e-6)
    else:
        refused(lambda: as_image_data(array), "image")


def test_a_pillow_image_gives_the_result_of_its_file(model, tmp_path):
    image = Image.fromarray(np.dstack([PIXELS, np.full((12, 14), 128, np.uint8)]))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    expected = framer_jax.upscale(tmp_path / "turned.png", model, **SETTINGS)
    with Image.open(tmp_path / "turned.png") as opened:
        result = framer_jax.upscale(opened, model, **SETTINGS)
    assert (result.shape, result.mode) == ((56, 48, 3), "RGBA")
    np.testing.assert_array_equal(result.pixels, expected.pixels)
    np.testing.assert_array_equal(result.alpha, expected.alpha)


def test_images_are_arrays_to_numpy_and_pictures_to_notebooks():
    image = ImageData(FLOATS, notes=("only the first of 2 frames was read",))
    for array in (np.asarray(image), np.array(image), image[:, :], image * 1, np.stack([image])[0], jnp.asarray(image)):
        np.testing.assert_array_equal(array, FLOATS)
    assert (image.shape, image.dtype, image.ndim, len(image)) == ((12, 14, 3), np.float32, 3, 12)
    assert np.abs(image - image).max() == 0
    assert np.mean(image) == FLOATS.mean()
    assert repr(image) == "<ImageData 14x12, RGB, 8 bits, only the first of 2 frames was read>"
    assert Image.open(io.BytesIO(image._repr_png_())).size == (14, 12)
    wide = ImageData(np.zeros((2, 5000, 3), np.float32), np.ones((2, 5000), np.float32), "RGBA")
    assert Image.open(io.BytesIO(wide._repr_png_())).width <= 2048
    gray = image._replace(mode="L").to_pillow()
    assert (gray.mode, gray.size) == ("L", (14, 12))
    for changes in ({"pixels": PIXELS}, {"pixels": FLOATS[..., 0]}, {"alpha": FLOATS}, {"mode": "P"}, {"bits": 12}):
        refused(lambda changes=changes: image._replace(**changes), next(iter(changes)))
    refused(lambda: jax.jit(lambda array: framer_jax.degrade(array, "bicubic").pixels)(FLOATS), "outside of jax.jit")


# --- other arguments --------------------------------------------------------------------------------------------------

NUMBER = (np.int64(2), np.uint8(2), np.array(2), jnp.int32(2))


@pytest.mark.parametrize("two", NUMBER)
def test_numbers_of_numpy_and_jax_are_numbers(two, model):
    expected = framer_jax.degrade(PIXELS, "bicubic", scale=2)
    np.testing.assert_array_equal(framer_jax.degrade(PIXELS, "bicubic", seed=two, scale=two).pixels, expected.pixels)
    np.testing.assert_array_equal(framer_jax.band_masks(two, 4)[0], framer_jax.band_masks(2, 4)[0])
    first = framer_jax.upscale(PIXELS, model, **SETTINGS, seed=two)
    np.testing.assert_array_equal(first.pixels, framer_jax.upscale(PIXELS, model, **SETTINGS, seed=2).pixels)
    assert TrainingSettings(steps=np.int64(2), warmup_steps=0, learning_rate=np.float32(0.5)).steps == 2


def calls(path, model):
    """Name of an argument → calls with values that it cannot take."""
    taps, key = [jnp.ones((2, 4, 4, 3), jnp.float32)] * 3, jax.random.key(0)
    recipe, settings = toys.recipe(toys.clean_loss), toys.settings()
    batch = {"hr": toys.images(8), "lr": toys.images(8)}
    kernel = np.zeros((1, 1, 3, 8))

    def step(**changes):
        arguments = {"recipe": recipe, "settings": settings, "batch": batch, **changes}
        return lambda: framer_jax.make_step(**arguments)

    def loss(taps=taps, key=key, **changes):
        return lambda: framer_jax.framer_loss(taps, key, **changes)

    def upscale(**changes):
        return lambda: framer_jax.upscale(PIXELS, **{"model": model, **SETTINGS, **changes})

    integers = model._replace(params=jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.int32), model.params))
    return {
        "weights": [lambda bad=bad: framer_jax.load_model(bad) for bad in (b"a", 3, [path], PIXELS, "", model)],
        "config": [lambda bad=bad: framer_jax.load_model(path, bad) for bad in (3, {}, b"a", "")],
        "override": [lambda bad=bad: framer_jax.load_model(path, "starter", bad) for bad in ([3], [None])],
        "seed": [
            lambda: framer_jax.load_model(path, seed=1),
            *(lambda bad=bad: framer_jax.degrade(PIXELS, seed=bad) for bad in (None, 1.5, "1", -1, True, [1], 1j)),
            *(upscale(seed=bad) for bad in (1.5, "1", -1, True, [1], 2**40)),
        ],
        "model": [upscale(model=bad) for bad in (3, model.recipe, b"a", "", model.params, integers)],
        "steps": [upscale(steps=4)],
        "tile": [upscale(tile=bad) for bad in (0, 1.5, "a", [16])],
        "overlap": [upscale(overlap=bad) for bad in (-1, 1.5, "a", 16, True)],
        "mode": [upscale(mode=bad) for bad in (3, ["mean"], "best", b"mean")],
        "protocol": [upscale(protocol=bad) for bad in (3, ["dit4sr"], "best")],
        "color_strength": [upscale(color_strength=bad) for bad in ("1", 2, float("nan"), [1], True)],
        "colour": [upscale(colour="none")],
        "scale": [lambda bad=bad: framer_jax.degrade(PIXELS, scale=bad) for bad in (0, 5, 2.0, "4", None, True)],
        "preset": [lambda bad=bad: framer_jax.degrade(PIXELS, bad) for bad in (None, 3, b"bicubic", ["bicubic"])],
        "geometry": [lambda bad=bad: framer_jax.degrade(PIXELS, geometry=bad) for bad in (None, 3, "bent")],
        "name": [lambda bad=bad: framer_jax.degrade(PIXELS, name=bad) for bad in (3, b"a.png", ["a"])],
        "path": [
            *(lambda bad=bad: framer_jax.write_image(bad, PIXELS) for bad in (None, 3, b"a.png", "", PIXELS)),
            *(lambda bad=bad: framer_jax.read_image(bad) for bad in (None, 3, b"a.png", PIXELS, io.BytesIO())),
        ],
        "taps": [loss(taps=bad) for bad in (None, 3, "maps", taps[0], {"a": taps[0]}, [None] * 2, [[1.0]] * 2)]
        + [loss(taps=[tap.astype(dtype) for tap in taps]) for dtype in (jnp.int32, jnp.complex64)]
        + [loss(taps=[tap[0] for tap in taps])],
        "key": [loss(key=bad) for bad in (None, 0, "key", jax.random.split(key), np.zeros(2), [0, 1])],
        "variant": [loss(variant=bad) for bad in (None, 3, ["paper"], "mine")],
        "temperature": [loss(temperature=bad) for bad in (0, "1", None, 1j, [1])],
        "height": [lambda bad=bad: framer_jax.band_masks(bad, 8) for bad in (0, -1, 8.0, "8", None, True, [8])],
        "radius": [lambda bad=bad: framer_jax.band_masks(8, 8, bad) for bad in (-1, "1", None, 1j, float("nan"))],
        "layout": [lambda bad=bad: framer_jax.band_masks(8, 8, layout=bad) for bad in (None, 3, ["half"])],
        "inputs": [lambda bad=bad: framer_jax.port(bad, path, "vq_f4") for bad in (None, 3, b"a", "", [], [3], [b"a"])],
        "output": [lambda bad=bad: framer_jax.port(path, bad, "vq_f4") for bad in (None, 3, b"a", "")],
        "model is": [lambda bad=bad: framer_jax.port(path, "x", bad) for bad in (None, 3, b"vq_f4")],
        "to is": [lambda bad=bad: framer_jax.port(path, "x", "vq_f4", to=bad) for bad in (None, 3, "onnx")],
        "check": [lambda bad=bad: framer_jax.port(path, "x", "vq_f4", check=bad) for bad in (3, True, b"a", "")],
        "recipe": [step(recipe=bad) for bad in (None, model, "resshift", {})],
        "settings": [step(settings=bad) for bad in (None, {}, "fast", model)],
        "batch": [step(batch=bad) for bad in (None, [], "hr", PIXELS, {"hr": None, "lr": None}, {"hr": "a", "lr": "b"})]
        + [
            step(batch={**batch, "lr": bad})
            for bad in (batch["lr"].tolist(), batch["lr"].astype(int), batch["lr"] * 1j)
        ]
        + [step(batch={name: np.moveaxis(value, -1, 1) for name, value in batch.items()})]
        + [step(batch={**batch, "lr": batch["lr"][:, :2]}), step(batch={**batch, "lr": batch["lr"][..., 0]})],
        "prepare": [step(prepare=bad) for bad in (3, "prepare", {})],
        "initial_params": [
            step(initial_params=bad) for bad in (model, 3, "a", {"denoiser": {"conv": {"kernel": None}}})
        ]
        + [step(initial_params={"denoiser": {"conv": {"kernel": kernel.astype(dtype)}}}) for dtype in (int, complex)],
    }


def test_arguments_of_other_kinds_are_refused_by_name(path, model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, refusals in calls(path, model).items():
            for call in refusals:
                refused(call, name)


def test_a_path_is_a_model_and_takes_settings_of_the_sampler(path, model, monkeypatch):
    settings = SETTINGS
    expected = framer_jax.upscale(PIXELS, model, **settings)
    loads = []
    load = framer_jax.load_model
    api_images._load_once.cache_clear()
    monkeypatch.setattr(api_images, "load_model", lambda *a, **k: loads.append(k) or load(*a, **k))
    for _ in range(2):
        np.testing.assert_array_equal(framer_jax.upscale(PIXELS, str(path), **settings).pixels, expected.pixels)
    np.testing.assert_array_equal(
        framer_jax.upscale(PIXELS, Path(path), steps=np.int64(2), **settings | {"mode": "sample"}).shape, (48, 56, 3)
    )
    assert [load["steps"] for load in loads if load.get("steps")] == [2] and len(loads) == 2
    refused(lambda: framer_jax.upscale(PIXELS, path, steps=0, **settings), "steps")
    refused(lambda: framer_jax.upscale(PIXELS, path, steps=2, **settings), "mode 'mean' is one call", "sampling_steps")
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        framer_jax.upscale(PIXELS, "nothing.safetensors", **settings)


def test_weights_that_are_no_floats_are_refused(path, tmp_path):
    tensors, metadata = load_file(path), {METADATA_KEY: json.dumps(read_metadata(path))}
    name = min(tensors)
    for dtype in (np.int32, np.uint8, bool):
        save_file({**tensors, name: tensors[name].astype(dtype)}, tmp_path / "bad.safetensors", metadata=metadata)
        refused(
            lambda: framer_jax.load_model(tmp_path / "bad.safetensors"), "bad.safetensors", name, np.dtype(dtype).name
        )
    vq = ported(tmp_path / "vq.safetensors", "vq_f4")
    framer_jax.port(vq, tmp_path / "torch.safetensors", "vq_f4", to="torch")
    state = load_file(tmp_path / "torch.safetensors")
    key = next(key for key in state if key.endswith("weight"))
    save_file({**state, key: state[key].astype(np.int64)}, tmp_path / "ints.safetensors")
    refused(lambda: framer_jax.port(tmp_path / "ints.safetensors", tmp_path / "x.safetensors", "vq_f4"), "int64")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_step_refuses_another_batch_than_its_example():
    batch = {"hr": toys.images(8), "lr": toys.images(8)}
    state, step = framer_jax.make_step(toys.recipe(toys.clean_loss), toys.settings(), batch)
    for bad in ({"hr": batch["hr"]}, {**batch, "lr": batch["lr"][:4]}, {**batch, "lr": batch["lr"] / 255}, None):
        refused(lambda bad=bad: step(state, bad), "batch")
    state, metrics = step(state, batch)
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("name", ["hr", "lr"])
def test_a_step_refuses_images_of_another_range(name):
    batch = {"hr": np.full((8, 4, 4, 3), 0.5, np.float32), "lr": np.full((8, 4, 4, 3), 0.5, np.float32)}
    for values, message in ((255 * batch[name], "divide by 255"), (batch[name] * np.nan, "not finite")):
        with pytest.raises(ValueError, match=f"batch entry '{name}': .*{message}"):
            framer_jax.make_step(
                toys.recipe(toys.clean_loss), toys.settings(), {**batch, name: values.astype(np.float32)}
            )


def test_reprs_are_one_short_line(model):
    settings = TrainingSettings(steps=7, warmup_steps=0)
    batch = {"hr": toys.images(8), "lr": toys.images(8)}
    objects = {
        "TrainState at step 0": framer_jax.make_step(toys.recipe(toys.clean_loss), toys.settings(), batch)[0],
        "Model resshift x4": model,
        "Recipe resshift x4": model.recipe,
        "+framer": add_framer(model.recipe, framer.paper()),
        "TrainingSettings(steps=7, warmup_steps=0)": settings,
        "FramerSettings()": framer.paper(),
        "temperature=0.5": framer.released(temperature=0.5),
        "seed=3)": UpscaleSettings(seed=3),
        "DegradationPreset framer_paper x4": PRESETS["framer_paper"],
    }
    for start, value in objects.items():
        assert start in repr(value)
        assert len(repr(value)) < 300, repr(value)
        assert "\n" not in repr(value)
    assert eval(repr(settings)) == settings
