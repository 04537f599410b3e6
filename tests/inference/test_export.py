"""Exported programs: all sizes, equal to the model, and runnable without framer_jax."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from framer_jax import cli
from framer_jax.checkpoints.open import build_recipe
from framer_jax.inference.artifact import MANIFEST, PAGE, compare
from framer_jax.inference.export import Sizes, draws_noise, export_model, find_sizes, model_program
from framer_jax.inference.model import load_model
from framer_jax.recipes.base import expected_params
from tests.support.commands import fails
from tests.support.tiny import config, photo, random_weights, weights

L1 = "recipe.name=supervised_l1"

ONE_STEP = "recipe.name=resshift", "recipe.resshift.centred_mean=False"
"""Its mean draws noise once."""

needs_flatbuffers = pytest.mark.skipif(not importlib.util.find_spec("flatbuffers"), reason="needs the extra export")
needs_onnx = pytest.mark.skipif(not importlib.util.find_spec("jax2onnx"), reason="needs the extra onnx")

BLOCKED = "import sys; sys.modules['framer_jax'] = None\n"
"""Makes every import of the library fail."""


def tiny_recipe(*changes):
    recipe = build_recipe(config(*changes)["recipe"], "description")
    return recipe, random_weights(expected_params(recipe))


def student(name, scale=4):
    return L1, f"recipe.student.name={name}", f"recipe.scale={scale}"


def run_page(folder, place, scale):
    """The image that the Python code of an artifact's page makes of photo.png, without framer_jax: uint8."""
    code = (folder / PAGE).read_text().split("```python\n")[1].split("```")[0]
    code = code.replace('"model.', f'"{folder}/model.')
    subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=place, check=True, timeout=120)
    return np.asarray(Image.open(place / f"photo_x{scale}.png"))


def expected(path, image):
    """The model's result for an image uint8 [H, W, 3], padded as a user of the artifact pads it: uint8."""
    recipe, params, *_ = load_model(path)
    height, width, _ = image.shape
    multiple = find_sizes(recipe, params, "sample").multiple
    pads = ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0))
    padded = np.pad(image[None].astype(np.float32) / np.float32(255), pads, "reflect")
    result = jax.jit(model_program(recipe, params, "sample"))(padded, np.uint32(0))
    return np.rint(np.asarray(result)[0, : recipe.scale * height, : recipe.scale * width] * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("changes", "multiple"),
    [
        (student("srvgg"), 1),
        (student("swinir"), 8),  # its window
        (student("rrdbnet", 2), 2),  # pixels are unshuffled in front of the network
        (("recipe.name=resshift",), 2),
    ],
)
def test_multiples_are_the_smallest_that_the_networks_take(changes, multiple):
    recipe, params = tiny_recipe(*changes)
    assert find_sizes(recipe, params, "sample") == Sizes(multiple)


def test_noise_is_noticed():
    assert draws_noise(*tiny_recipe("recipe.name=resshift"), "sample", Sizes(2))
    assert draws_noise(*tiny_recipe(*ONE_STEP), "mean", Sizes(2))
    assert not draws_noise(*tiny_recipe("recipe.name=resshift", "recipe.resshift.centred_mean=True"), "mean", Sizes(2))
    assert not draws_noise(*tiny_recipe(*student("srvgg")), "sample", Sizes(1))


def test_programs_that_depend_on_the_size_need_one():
    recipe, params = tiny_recipe("recipe.name=supresdiffgan")
    with pytest.raises(
        ValueError, match="depends on the size of the image, so one size must be chosen, such as --size"
    ):
        find_sizes(recipe, params, "sample")
    assert find_sizes(recipe, params, "sample", (16, 24)).fixed == (16, 24)
    with pytest.raises(ValueError, match="--size 15x24: sides must be multiples of 2"):
        find_sizes(recipe, params, "sample", (15, 24))


def test_a_mode_that_a_recipe_lacks_is_refused():
    with pytest.raises(ValueError, match="has no one-step mean"):
        find_sizes(*tiny_recipe("recipe.name=sinsr"), "mean")


def test_another_program_is_refused():
    def same(image):
        return np.repeat(image, 4, axis=1)

    assert compare(same, same, Sizes(8)).size == (24, 32)
    assert compare(same, lambda image: same(image) + np.float32(1e-6), Sizes(1)).psnr > 110
    with pytest.raises(ValueError, match="differs from the model"):
        compare(same, lambda image: same(image) + np.float32(0.01), Sizes(1))
    with pytest.raises(ValueError, match="differs from the model"):
        compare(same, lambda image: same(image) * np.float32("nan"), Sizes(1))


@needs_flatbuffers
def test_a_batch_and_a_seed_are_arguments():
    recipe, params = tiny_recipe(*ONE_STEP)
    exported = export_model(recipe, params, "mean")
    assert exported.seeded
    assert exported.program.platforms == ("cpu", "cuda", "tpu")
    images = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)
    first, again, other = (np.asarray(exported.program.call(images, np.uint32(seed))) for seed in (1, 1, 2))
    assert first.shape == (2, 32, 48, 3)
    assert (first == again).all()
    assert (first != other).any()
    program = jax.jit(model_program(recipe, params, "mean"))
    np.testing.assert_allclose(first, program(images, np.uint32(1)), atol=1e-5)


@needs_flatbuffers
@pytest.mark.parametrize(
    ("changes", "multiple", "scale"),
    [
        (student("rrdbnet", 2), 2, 2),
        pytest.param(student("swinir"), 8, 4, marks=pytest.mark.slow),
        pytest.param(("recipe.name=resshift",), 2, 4, marks=pytest.mark.slow),
    ],
)
def test_the_page_of_an_artifact_runs_without_the_library(tmp_path, capsys, changes, multiple, scale):
    path, folder = weights(tmp_path / "tiny.safetensors", *changes), tmp_path / "exported"
    assert cli.main(["export", str(folder), "--weights", str(path)]) == 0
    out, err = capsys.readouterr()
    assert f"{folder / 'model.stablehlo'}: " in out
    assert "comparing it with the model" in err
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["input"]["multiple"] == multiple
    assert manifest["scale"] == scale
    assert (manifest["seed"] is None) == (changes[0] == L1)
    assert manifest["check"]["largest_difference"] < 1e-5
    image = photo(13, 19)
    Image.fromarray(image).save(tmp_path / "photo.png")
    result = run_page(folder, tmp_path, scale)
    assert result.shape == (13 * scale, 19 * scale, 3)
    assert np.abs(result.astype(int) - expected(path, image)).max() <= 1


@needs_flatbuffers
def test_nothing_is_overwritten_or_half_written(tmp_path, capsys, monkeypatch):
    path, folder = weights(tmp_path / "tiny.safetensors", *student("srvgg")), tmp_path / "exported"
    command = ["export", str(folder), "--weights", str(path), "--size", "16x24", "--platforms", "cpu", "--quiet"]
    assert cli.main([*command, "--no-check"]) == 0
    assert not capsys.readouterr().err
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert json.loads(before[MANIFEST])["input"]["shape"] == ["batch", 16, 24, 3]
    fails(capsys, cli.main(command), "is not empty: name another folder or allow overwriting")

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("framer_jax.inference.artifact.page", no_space)
        fails(capsys, cli.main([*command, "--overwrite"]), "No space left on device")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert cli.main([*command, "--overwrite", "--mode", "mean"]) == 0
    assert json.loads((folder / MANIFEST).read_text())["mode"] == "mean"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["exported", "tiny.safetensors"]
    (folder / "notes.txt").write_text("mine")
    fails(capsys, cli.main([*command, "--overwrite"]), "holds other files than an exported model")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "16by16"], "give LR pixels as HEIGHTxWIDTH"),
        (["--format", "onnx", "--platforms", "cpu"], "--platforms is of StableHLO"),
        (["--platforms", "cpu", "cpu"], "at most once"),
        (["--set", "recipe.scale=2"], "give --recipe too"),
        (["--weights", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, capsys, words, message):
    fails(capsys, cli.main(["export", str(tmp_path / "new"), *words]), message)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    fails(capsys, cli.main(["export", str(tmp_path / "file")]), "is a file: name a folder")


def test_a_missing_package_is_named(tmp_path, capsys, monkeypatch):
    path = weights(tmp_path / "tiny.safetensors", *student("srvgg"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("flatbuffers", "jax2onnx") else find_spec(name)
    )
    command = ["export", str(tmp_path / "new"), "--weights", str(path), "--quiet"]
    fails(capsys, cli.main(command), r"pip install 'framer_jax\[export\]'")
    fails(capsys, cli.main([*command, "--format", "onnx"]), r"pip install 'framer_jax\[onnx\]'")


@needs_onnx
@pytest.mark.filterwarnings("ignore")  # of jax2onnx
@pytest.mark.parametrize(
    "changes", [student("srvgg"), (*student("rrdbnet", 2), "recipe.student.rrdbnet.blocks=3"), student("swinir")]
)
def test_onnx_is_equal_at_three_sizes(changes):
    import onnxruntime

    from framer_jax.inference.onnx_export import export_onnx

    recipe, params = tiny_recipe(*changes)
    exported = export_onnx(recipe, params)
    content = exported.model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    runtimes = [lambda image: session.run(None, {"image": image})[0]]
    if importlib.util.find_spec("openvino"):
        import openvino

        # Where the processor has bfloat16, OpenVINO's default is to compute in it.
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(openvino.Core().read_model(content), "CPU", settings)
        runtimes.append(lambda image: compiled(image)[0])
    for size in ((16, 24), (24, 16), (40, 40)):
        image = np.random.default_rng(0).random((1, *size, 3), np.float32)
        wanted = np.asarray(jax.jit(model_program(recipe, params, "sample"))(image, np.uint32(0)))
        for run in runtimes:
            np.testing.assert_allclose(run(image), wanted, atol=1e-4)


def test_onnx_refuses_noise(tmp_path, capsys):
    path = weights(tmp_path / "tiny.safetensors")
    words = ["export", str(tmp_path / "new"), "--format", "onnx", "--weights", str(path), "--quiet"]
    fails(capsys, cli.main(words), "draws noise, and ONNX has no random numbers that agree with JAX's")


@needs_onnx
@pytest.mark.filterwarnings("ignore")  # of jax2onnx
def test_the_page_of_an_onnx_file_runs(tmp_path):
    changes, folder = student("swinir"), tmp_path / "exported"
    path = weights(tmp_path / "tiny.safetensors", *changes)
    assert cli.main(["export", str(folder), "--format", "onnx", "--weights", str(path)]) == 0
    image = photo(13, 19)
    Image.fromarray(image).save(tmp_path / "photo.png")
    assert np.abs(run_page(folder, tmp_path, 4).astype(int) - expected(path, image)).max() <= 1
