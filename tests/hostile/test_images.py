"""Images of every kind and every damage: all commands see the same colors, and no file ends a command."""

import csv
import random

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import framer_jax
from framer_jax.commands import degrade as degrade_command
from framer_jax.commands.training_data import open_source
from framer_jax.evaluation.table import evaluate
from framer_jax.images.decode import read_header, read_image
from framer_jax.images.image_data import ImageData
from framer_jax.inference.folder import upscale_files
from framer_jax.inference.images import write_image
from framer_jax.inference.settings import UpscaleSettings
from tests.inference.test_upscaler import PARAMS, SCALE, toy
from tests.support.hostile import cases, run
from tests.support.image_files import HEIGHT, WIDTH, kinds, refusal_of, write_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds") / "in"
    write_all(folder)
    return folder


def check(name, pixels, half_level=0.0):
    kind = kinds()[name]
    np.testing.assert_allclose(pixels, kind.colors, atol=kind.tolerance + half_level, err_msg=name)


def test_the_python_api_reads_every_kind(folder):
    for name, kind in kinds().items():
        check(name, framer_jax.read_image(folder / f"{name}{kind.suffix}").pixels)


def test_training_and_precompute_read_every_kind(folder):
    source = open_source(str(folder), (), 1)
    assert source.damage() == ""
    for number, name in enumerate(source.names):
        check(name.rpartition(".")[0], source[number].crop(0, 0, HEIGHT, WIDTH) / 255, 0.5 / 255)


def test_upscale_reads_every_kind(folder, tmp_path):
    def nearest(params, frozen, lr, noise):
        return jnp.repeat(jnp.repeat(lr, SCALE, 1), SCALE, 2)

    summary = upscale_files(folder, tmp_path / "out", toy(nearest), PARAMS, UpscaleSettings(tile=32, overlap=0))
    assert (len(summary.written), summary.failed) == (len(kinds()), ())
    for name in kinds():
        sr = read_image(tmp_path / "out" / f"{name}.png")
        shown = np.ones((HEIGHT, WIDTH), bool) if sr.alpha is None else _opaque(folder, name)
        pixels = np.where(shown[:, :, None], sr.pixels[::SCALE, ::SCALE], kinds()[name].colors)
        check(name, pixels, 0.51 / 255)


def _opaque(folder, name):
    """Pixels whose color a file with alpha keeps: bicubic alpha of their neighborhood is not 0 or 1 alone."""
    alpha = read_image(folder / f"{name}{kinds()[name].suffix}").alpha
    return np.zeros_like(alpha, bool) if alpha.min() < 1 else np.ones_like(alpha, bool)


def test_degrade_reads_every_kind(folder, tmp_path, capsys, monkeypatch):
    def subsampled(photos, parameters, preset, batch):  # compiles nothing
        return [(np.float32(hr / 255), np.float32(hr[:: preset.scale, :: preset.scale] / 255)) for hr in photos]

    monkeypatch.setattr(degrade_command, "degrade_photos", subsampled)
    outcome = run(capsys, "degrade", folder, tmp_path / "out", "--preset", "light_one_stage", "--pairs")
    assert outcome.status == 0, outcome.err
    for name in kinds():
        check(name, read_image(tmp_path / "out" / "hr" / f"{name}.png").pixels, 0.51 / 255)
    for name, note in {"gray16": "16-bit", "cmyk_tiff": "CMYK", "rgba": "transparency", "animated": "frames"}.items():
        assert any(f"{name}{kinds()[name].suffix}: " in line and note in line for line in outcome.out.splitlines()), (
            name
        )


def test_evaluate_reads_every_kind(folder, tmp_path):
    for name, kind in kinds().items():
        write_image(tmp_path / "gt" / f"{name}.png", ImageData(kind.colors.astype(np.float32), bits=16))
    evaluate(folder, tmp_path / "gt", ["psnr-rgb"], csv_path=tmp_path / "scores.csv")
    rows = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    scores = {row["image"]: float(row["psnr-rgb"]) for row in rows}
    assert scores.keys() == kinds().keys()
    for name, score in scores.items():
        assert score > (40 if kinds()[name].tolerance > 1e-3 else 75), name


def _damage(generator: random.Random) -> tuple[str, str, int, int]:
    name = generator.choice(sorted(kinds()))
    return (
        name,
        generator.choice(("cut", "flip", "zero", "insert")),
        generator.randrange(10**6),
        generator.randrange(256),
    )


@pytest.mark.parametrize("damage", cases(_damage, fast=60, slow=900))
@pytest.mark.filterwarnings("ignore")  # Pillow's own, which commands do not show
def test_a_damaged_file_is_read_or_refused_in_one_line(folder, tmp_path, damage):
    name, how, position, value = damage
    kind = kinds()[name]
    data = bytearray((folder / f"{name}{kind.suffix}").read_bytes())
    position %= len(data)
    if how == "cut":
        del data[position:]
    elif how == "insert":
        data[position:position] = bytes([value]) * 7
    else:
        data[position : position + 9] = bytes(
            value ^ byte if how == "flip" else 0 for byte in data[position : position + 9]
        )
    path = tmp_path / f"damaged{kind.suffix}"
    path.write_bytes(data)
    for read in (read_header, read_image):
        if (refusal := refusal_of(read, path)) is not None:
            assert str(path) in str(refusal)
            assert "\n" not in str(refusal)
    if refusal is None:
        pixels = read_image(path).pixels
        assert pixels.min() >= 0
        assert pixels.max() <= 1


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".webp"])
def test_damaged_files_of_other_formats(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"good{suffix}")
    data = (tmp_path / f"good{suffix}").read_bytes()
    refusals = 0
    for number in range(12):
        start = 30 + number * len(data) // 14
        (tmp_path / f"bad{suffix}").write_bytes(data[:start] + bytes(255 - byte for byte in data[start : start + 60]))
        if (refusal := refusal_of(read_image, tmp_path / f"bad{suffix}")) is not None:
            refusals += 1
            assert f"bad{suffix}: " in str(refusal)
    assert refusals > 6


def test_the_limit_of_pixels_is_an_option_of_every_command_that_reads_images(folder, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((folder / "rgb.png").read_bytes())
    before = Image.MAX_IMAGE_PIXELS
    for words in (
        ("degrade", tmp_path / "one", tmp_path / "out", "--preset", "light_one_stage"),
        ("fit-niqe", tmp_path / "one", tmp_path / "model.npz"),
        ("evaluate", tmp_path / "one", "--metrics", "niqe-framer"),
    ):
        outcome = run(capsys, *words, "--max-pixels", HEIGHT * WIDTH - 1)
        assert outcome.status != 0
        assert "has more than 767 pixels" in outcome.err + outcome.out, words
        assert "Traceback" not in outcome.err
        refused = run(capsys, *words, "--max-pixels", 0)
        assert "--max-pixels must be at least 1" in refused.err
    assert before == Image.MAX_IMAGE_PIXELS
    assert not (tmp_path / "out").exists()
