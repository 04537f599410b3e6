"""SwinIR's files say their architecture: `upscale --weights X` alone runs, in every published variant."""

import json
import logging

import jax
import numpy as np
import pytest
from PIL import Image

import framer_jax
from framer_jax import cli
from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.commands.published import config_of_weights, self_describing_methods
from framer_jax.inference.model import SHIPPED, load_model
from framer_jax.models.swinir import SwinIR
from framer_jax.porting.maps import to_torch
from framer_jax.porting.swinir import SWINIR
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.recipes.components.networks import execution_knobs
from framer_jax.recipes.components.one_pass import luma
from tests.support.tiny import TINY, photo, ported, random_weights, weights

SMALL = TINY["swinir"] | {"scale": 1, "head": "none", "image_size": 128, "depths": (2,)}

VARIANTS = {
    "classical x2": {"head": "pixelshuffle", "scale": 2},
    "classical x3": {"head": "pixelshuffle", "scale": 3},
    "classical x8": {"head": "pixelshuffle", "scale": 8},
    "lightweight x4": {"head": "pixelshuffledirect", "scale": 4},
    "real-world L": {"head": "nearest+conv", "scale": 4, "residual": "3conv"},
    "gray denoising": {"image_channels": 1},
    "color denoising": {},
    "gray JPEG": {"image_channels": 1, "window": 7, "image_size": 126, "value_range": 255.0},
    "color JPEG": {"window": 7, "image_size": 126, "value_range": 255.0},
}


def published(path, name, averaged=False):
    """A file as published, or with averages next to the last weights; (path, arguments, our parameters)."""
    arguments = SMALL | {"image_size": 64 if "head" in VARIANTS[name] else SMALL["image_size"]} | VARIANTS[name]
    params = random_weights(network_shapes("swinir", build_network("swinir", arguments)), None)
    state = to_torch(SWINIR, params, name, arguments)
    last = {f"params.{key}": value * 2 for key, value in state.items()}
    write_state(path, last | {f"params_ema.{key}": value for key, value in state.items()} if averaged else state)
    return path, arguments, params


FAST = ("classical x2", "real-world L", "gray JPEG")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VARIANTS]
)
def test_a_file_determines_its_configuration(tmp_path, caplog, name):
    path, arguments, params = published(tmp_path / "published.safetensors", name, averaged=True)
    with caplog.at_level(logging.WARNING):
        model = load_model(path, config_of_weights(path))
    assert "published.safetensors: took params_ema., not params." in caplog.text
    recipe = model.metadata["config"]["recipe"]
    assert (recipe["name"], recipe["scale"], model.recipe.scale) == ("supervised_l1", *(arguments["scale"],) * 2)
    stated = recipe["student"]["swinir"]
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()}.items() >= {
        key: value for key, value in arguments.items() if key != "scale"
    }.items()
    assert model.recipe.window == arguments["window"]
    jax.tree.map(np.testing.assert_array_equal, model.params["student"], params)


def test_a_ported_file_too_and_no_other(tmp_path):
    assert {name: method.name for name, method in self_describing_methods().items()} == dict.fromkeys(
        ("swinir", "rrdbnet", "srvgg"), "supervised_l1"
    )
    path = ported(tmp_path / "ported.safetensors", "swinir")
    assert config_of_weights(path)["recipe"]["student"]["swinir"]["channels"] == 8
    assert framer_jax.load_model(path).recipe.name == "supervised_l1"
    vq = ported(tmp_path / "vq.safetensors", "vq_f4")
    run = weights(tmp_path / "run.safetensors", "recipe.name=supervised_l1")
    for other in (None, SHIPPED["starter"], vq, run, tmp_path, tmp_path / "none.pth"):
        assert config_of_weights(other) is None
    with pytest.raises(ValueError, match=r"vq\.safetensors holds weights of vq_f4, which upscales nothing"):
        framer_jax.load_model(vq)


def test_incomplete_and_damaged_files_are_one_line(tmp_path, capsys):
    path, _, _ = published(tmp_path / "published.safetensors", "classical x2")
    whole = path.read_bytes()
    photo_path = tmp_path / "photo.png"
    Image.fromarray(photo(16, 16)).save(photo_path)
    for content, message in ((whole[:-50], "cut short"), (b"PK\x03\x04" + bytes(90), "cut short (94 bytes)")):
        (tmp_path / "bad.pth").write_bytes(content)
        words = ("upscale", photo_path, tmp_path / "out.png", "--weights", tmp_path / "bad.pth")
        assert cli.main([str(word) for word in words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "bad.pth" in line and message in line
    assert not (tmp_path / "out.png").exists()


def test_a_gray_model_upscales_gray_and_color_images(tmp_path, capsys, caplog):
    """The luma is what it sees; windows of 7, and the borders of the released code."""
    path, arguments, params = published(tmp_path / "gray.safetensors", "gray JPEG")
    image = photo(12, 20)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "color.png")
    Image.fromarray(image[..., 0]).save(tmp_path / "in" / "gray.png")
    words = ("upscale", tmp_path / "in", tmp_path / "out", "--weights", path, "--protocol", "swinir")
    with caplog.at_level(logging.WARNING):
        assert cli.main([str(word) for word in words]) == 0
    assert "a model of gray images: the colors of an image are lost" in caplog.text
    network = SwinIR(**arguments)
    for name, mode in (("color", "RGB"), ("gray", "L")):
        result = Image.open(tmp_path / "out" / f"{name}.png")
        assert (result.mode, result.size) == (mode, (20, 12))
        pixels = image if name == "color" else np.repeat(image[..., :1], 3, axis=-1)
        lr = np.asarray(luma(pixels[None].astype(np.float32) / 255))
        padded = np.concatenate([lr, lr[:, ::-1]], 1)[:, :14]
        padded = np.concatenate([padded, padded[:, :, ::-1]], 2)[:, :, :21]
        expected = np.asarray(jax.jit(network.apply)({"params": params}, padded)[0])[0, :12, :20, 0]
        levels = np.asarray(result.convert("L"), np.float32)
        assert np.abs(levels - np.clip(expected, 0, 1) * 255).max() <= 0.51
    settings = json.loads((tmp_path / "out" / "gray.png.json").read_text())["settings"]
    assert settings["protocol"] == "swinir"


def test_the_luma_of_gray_images_is_exact():
    levels = np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[:, None], 3, axis=1)[None, None]
    np.testing.assert_array_equal(luma(levels)[..., 0], levels[..., 0])
    np.testing.assert_allclose(luma(np.float32([[[[0.2, 0.4, 0.9]]]])).item(), 0.0598 + 0.2348 + 0.1026, rtol=1e-6)


@pytest.mark.parametrize("name", ["rrdbnet", "srvgg"])
@pytest.mark.parametrize("prefix", ["", "params.", "model.net_g."])
def test_generators_say_their_architecture_too(tmp_path, name, prefix):
    arguments = TINY[name] | ({"scale": 2} if name == "rrdbnet" else {"activation": "relu"})
    params = random_weights(network_shapes(name, build_network(name, arguments)))
    state = to_torch(MAPS[name], params, name, arguments)
    write_state(tmp_path / "net.safetensors", {f"{prefix}{key}": value for key, value in state.items()})
    config = config_of_weights(tmp_path / "net.safetensors")
    student = config["recipe"]["student"]
    assert student["name"] == name
    stated = {key: value for key, value in student[name].items() if key not in execution_knobs(name)}
    assert stated == {key: value for key, value in arguments.items() if key != "scale"}
    model = framer_jax.load_model(tmp_path / "net.safetensors")
    assert (model.recipe.name, model.recipe.scale) == ("supervised_l1", arguments["scale"])
    jax.tree.map(np.testing.assert_array_equal, model.params["student"], params)


@pytest.mark.parametrize("name", ["rrdbnet", "srvgg"])
def test_generators_go_to_pytorch_and_back(tmp_path, name):
    path = ported(tmp_path / "ours.safetensors", name)
    framer_jax.port(path, tmp_path / "torch.safetensors", name, to="torch")
    framer_jax.port(tmp_path / "torch.safetensors", tmp_path / "back.safetensors", name)
    first, back = (framer_jax.load_model(tmp_path / f"{file}.safetensors") for file in ("ours", "back"))
    jax.tree.map(np.testing.assert_array_equal, back.params, first.params)


def test_an_unknown_network_is_named_by_upscale(tmp_path, capsys):
    state = {"layers.0.residual_group.overlap_attn.qkv.weight": np.ones((3, 3), np.float32)}
    state |= {f"layers.0.residual_group.blocks.{i}.norm1.weight": np.ones(3, np.float32) for i in range(3)}
    write_state(tmp_path / "hat.safetensors", state)
    words = ("upscale", tmp_path / "photo.png", tmp_path / "out.png", "--weights", tmp_path / "hat.safetensors")
    assert cli.main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "hat.safetensors: weights of HAT, which framer_jax does not have" in line
