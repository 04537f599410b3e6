"""Large results in strips, and tiles on several devices: the same values as at once and on one device."""

import io
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image
from rich.console import Console

from framer_jax import cli
from framer_jax.images.decode import read_image
from framer_jax.images.image_data import ImageData
from framer_jax.images.metadata import Metadata
from framer_jax.images.png import chunks
from framer_jax.inference import computed_tiles, folder, memory
from framer_jax.inference.computed_tiles import can_stream, result_strips
from framer_jax.inference.estimate import estimate_memory
from framer_jax.inference.folder import upscale_files
from framer_jax.inference.images import write_image
from framer_jax.inference.result_files import sidecar_path
from framer_jax.inference.result_settings import FileSettings, ResultSettings
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.upscaler import make_upscaler, upscale
from framer_jax.recipes.base import Recipe, Update
from tests.support.commands import fails
from tests.support.tiny import photo, photos

SETTINGS = UpscaleSettings(tile=16, overlap=4, tile_batch=2)

PARAMS = {"denoiser": {"gain": jnp.float32(0.75)}}


def sample(params, frozen, lr, noise):
    """Upsampling by 2, shifted by the mean of a tile, so that tiles differ where they overlap, and by its noise."""
    keys = jax.vmap(jax.random.fold_in)(noise.key, noise.origin[:, 0] + 100 * noise.origin[:, 1])
    drawn = jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(keys)[:, None, None, None]
    large = jnp.repeat(jnp.repeat(lr, 2, axis=1), 2, axis=2)
    return params["denoiser"]["gain"] * large + 0.3 * lr.mean(axis=(1, 2, 3), keepdims=True) + 0.05 * drawn


def toy():
    return Recipe("toy", 2, lambda key, batch: PARAMS, (Update("denoiser", ("denoiser",), None),), sample)


def image(height, width):
    return photo(height, width).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("size", [(50, 37), (16, 70), (33, 16), (17, 17), (64, 64)])
@pytest.mark.parametrize("overlap", [0, 4])
def test_strips_are_the_image(monkeypatch, size, overlap):
    settings, recipe = replace(SETTINGS, overlap=overlap), toy()
    strips = list(result_strips(recipe, PARAMS, {}, image(*size), settings))
    assert np.concatenate(strips).tolist() == upscale(recipe, PARAMS, image(*size), settings).tolist()
    assert max(len(strip) for strip in strips) <= 32  # a row of tiles
    monkeypatch.setattr(computed_tiles, "STRIP", 5)
    assert (
        np.concatenate(list(result_strips(recipe, PARAMS, {}, image(*size), settings))).tolist()
        == np.concatenate(strips).tolist()
    )


def test_only_large_results_that_need_no_canvas_are_streamed():
    recipe = toy()
    assert not can_stream(recipe, 2048, 2047, SETTINGS)  # 2^25 pixels are the least
    assert can_stream(recipe, 4096, 2048, SETTINGS)
    assert not can_stream(recipe, 4096, 2048, replace(SETTINGS, color_fix="adain"))
    assert not can_stream(recipe, 4096, 2048, UpscaleSettings(protocol="realesrgan", tile=64))
    assert not can_stream(recipe, 16, 2**20, SETTINGS)  # one row of tiles


@pytest.mark.parametrize(("mode", "bits"), [("RGB", 8), ("L", 8), ("L", 16)])
def test_streamed_files_are_those_of_the_whole_image(tmp_path, monkeypatch, mode, bits):
    pixels = Image.fromarray(photo(50, 37)).convert(mode)
    if bits == 16:
        pixels = Image.fromarray(np.asarray(pixels).astype(np.uint16) * 257)
    pixels.save(tmp_path / "in.png", icc_profile=b"profile")
    results = []
    for name, threshold in (("whole", 2**25), ("streamed", 1)):
        monkeypatch.setattr(computed_tiles, "STREAMED_PIXELS", threshold)
        summary = upscale_files(tmp_path / "in.png", tmp_path / f"{name}.png", toy(), PARAMS, SETTINGS)
        assert summary.exit_status == 0
        record = json.loads((tmp_path / f"{name}.png.json").read_text())
        with Image.open(tmp_path / f"{name}.png") as result:
            results.append((np.asarray(result).tolist(), result.mode, result.info["icc_profile"], record))
    assert results[0] == results[1]


@pytest.fixture
def photograph(tmp_path):
    """Writes a PNG photograph of a mode and depth with metadata of all kinds that PNG holds, and a color profile."""

    def write(mode, bits):
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "Canon"
        exif[ExifTags.IFD.Exif] = {36867: "2024:01:02 03:04:05", 40962: 37, 40963: 50}
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description dc:subject="cat"/></x:xmpmeta>'
        metadata = Metadata(exif.tobytes(), xmp, b"", (300.0, 150.0))
        pixels = image(50, 37) if mode == "RGB" else np.repeat(image(50, 37)[:, :, :1], 3, axis=2)
        write_image(tmp_path / "in.png", ImageData(pixels, mode=mode, icc=b"profile", bits=bits, metadata=metadata))
        return tmp_path / "in.png"

    return write


def contents_of(path):
    """What a PNG file holds: its pixels, and the content of its chunks without these."""
    with open(path, "rb") as file:
        listed = [*chunks(file)]
        parts = {kind: (file.seek(position), file.read(length))[1] for kind, position, length in listed}
    del parts[b"IDAT"]
    return read_image(path).pixels.tolist(), parts


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("stripped", [False, True])
def test_streamed_files_keep_metadata_and_color_profile(photograph, tmp_path, monkeypatch, mode, bits, stripped):
    source, files = photograph(mode, bits), FileSettings(strip_metadata=stripped)
    for name, threshold in (("whole", 2**25), ("streamed", 1)):
        monkeypatch.setattr(computed_tiles, "STREAMED_PIXELS", threshold)
        upscale_files(source, tmp_path / f"{name}.png", toy(), PARAMS, SETTINGS, files=files)
    pixels, parts = contents_of(tmp_path / "streamed.png")
    assert (pixels, parts) == contents_of(tmp_path / "whole.png")
    kept = {b"eXIf", b"iTXt", b"pHYs"}
    assert parts.keys() & kept == (set() if stripped else kept)
    result = read_image(tmp_path / "streamed.png")
    assert (result.icc, result.bits, result.mode, result.shape) == (b"profile", bits, mode, (100, 74, 3))
    if not stripped:
        exif = Image.Exif()
        exif.load(result.metadata.exif)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        assert (exif[ExifTags.Base.Make], details[40962], details[40963]) == ("Canon", 74, 100)
        assert b"subject" in result.metadata.xmp
        np.testing.assert_allclose(result.metadata.dpi, (300, 150), atol=0.02)


@pytest.mark.parametrize(
    ("result", "files", "streamed"),
    [
        ({}, {}, True),
        ({"outscale": 2}, {}, True),  # the model's own size
        ({}, {"frames": True}, True),  # there is one
        ({"outscale": 1.5}, {}, False),
        ({"width": 80}, {}, False),
        ({"wrap": True}, {}, False),
        ({"strength": 0.5}, {}, False),
        ({}, {"in_place": True}, False),
    ],
)
def test_what_needs_the_whole_result_is_not_streamed(photograph, tmp_path, monkeypatch, result, files, streamed):
    source, result, files = photograph("RGB", 8), ResultSettings(**result), FileSettings(**files)
    results = []
    for name, threshold in (("whole", 2**25), ("streamed", 1)):
        monkeypatch.setattr(computed_tiles, "STREAMED_PIXELS", threshold)
        console, output = Console(file=io.StringIO(), width=200), tmp_path / f"{name}.png"
        if files.in_place:
            output.write_bytes(source.read_bytes())
        upscale_files(
            output if files.in_place else source,
            None if files.in_place else output,
            toy(),
            PARAMS,
            SETTINGS,
            result=result,
            files=files,
            console=console,
        )
        assert ("written in strips" in console.file.getvalue()) == (streamed and threshold == 1)
        record = json.loads(sidecar_path(output).read_text())
        results.append((contents_of(output), {**record, "input": {**record["input"], "name": ""}}))
    assert results[0] == results[1]


def test_several_frames_and_transparency_are_not_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(computed_tiles, "STREAMED_PIXELS", 1)
    monkeypatch.setattr(folder, "upscale_into_file", None)
    frames = [Image.fromarray(photo(50, 37) // (1 + index)) for index in range(2)]
    frames[0].save(tmp_path / "frames.png", save_all=True, append_images=frames[1:])
    upscale_files(tmp_path / "frames.png", tmp_path / "a.png", toy(), PARAMS, SETTINGS, files=FileSettings(frames=True))
    with Image.open(tmp_path / "a.png") as written:
        assert (written.n_frames, written.size) == (2, (74, 100))
    clear = np.dstack([photo(50, 37), np.full((50, 37), 128, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    upscale_files(tmp_path / "clear.png", tmp_path / "b.png", toy(), PARAMS, SETTINGS)
    assert read_image(tmp_path / "b.png").mode == "RGBA"


def test_a_streamed_file_begins_again_where_memory_runs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(computed_tiles, "STREAMED_PIXELS", 1)
    computed, calls = computed_tiles.sampler_program, []

    class Exhausted:
        """A compiled program for which memory runs out at the third batch of two tiles."""

        def __init__(self, recipe, settings, devices=()):
            self.run, self.tile_batch = computed(recipe, settings, devices), settings.tile_batch

        def lower(self, *arguments):
            self.run = self.run.lower(*arguments)
            return self

        def compile(self):
            self.run = self.run.compile()
            return self

        def memory_analysis(self):
            return self.run.memory_analysis()

        def __call__(self, *arguments):
            calls.append(self.tile_batch)
            if self.tile_batch == 2 and len(calls) > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return self.run(*arguments)

    monkeypatch.setattr(computed_tiles, "sampler_program", Exhausted)
    Image.fromarray(photo(50, 37)).save(tmp_path / "in.png")
    upscale_files(tmp_path / "in.png", tmp_path / "out.png", toy(), PARAMS, SETTINGS)
    assert json.loads((tmp_path / "out.png.json").read_text())["settings"]["tile_batch"] == 1
    monkeypatch.undo()
    expected = upscale(toy(), PARAMS, image(50, 37), replace(SETTINGS, tile_batch=1))
    assert (np.asarray(Image.open(tmp_path / "out.png")) == np.rint(expected * 255)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png", "out.png.json"]


def test_a_streamed_result_needs_memory_for_a_row_of_tiles():
    streamed = [
        estimate_memory(toy(), PARAMS, {}, (height, 4096), SETTINGS, streamed=True).host for height in (4096, 8192)
    ]
    whole = estimate_memory(toy(), PARAMS, {}, (4096, 4096), SETTINGS)
    assert whole.host > 4 * streamed[0]
    assert streamed[1] - streamed[0] == 24 * 4096 * 4096  # the LR image and its padded copy
    assert "strips" in str(estimate_memory(toy(), PARAMS, {}, (4096, 4096), SETTINGS, streamed=True))


@pytest.mark.parametrize("devices", [2, 8])
def test_tiles_on_several_devices_have_the_same_values(devices):
    recipe, settings = toy(), replace(SETTINGS, devices=devices)
    lr = image(70, 61)
    assert upscale(recipe, PARAMS, lr, settings).tolist() == upscale(recipe, PARAMS, lr, SETTINGS).tolist()
    estimate = make_upscaler(recipe, settings).estimate(PARAMS, 70, 61)
    assert estimate.batch == 2 * devices
    assert f"on each of {devices} devices" in str(estimate)
    assert make_upscaler(recipe, settings).estimate(PARAMS, 16, 16).devices == 1  # one tile


def test_devices_that_are_not_there_are_refused(tmp_path, capsys):
    source = photos(tmp_path / "in", count=1, size=(8, 8))
    words = ["upscale", str(source), str(tmp_path / "out"), "--devices", "9"]
    fails(capsys, cli.main(words), "devices is 9: this process has 8")
    assert not (tmp_path / "out").exists()


def test_a_result_that_is_too_large_for_memory_is_streamed(tmp_path, monkeypatch):
    """Refused before as a JPEG file, which is encoded as a whole."""
    monkeypatch.setattr(computed_tiles, "STREAMED_PIXELS", 1)
    monkeypatch.setattr(memory, "available_memory", lambda: 5_000_000)
    recipe = toy()
    Image.fromarray(photo(512, 128)).save(tmp_path / "in.png")
    with pytest.raises(ValueError, match="GiB of main memory"):
        upscale_files(tmp_path / "in.png", tmp_path / "out.jpg", recipe, PARAMS, SETTINGS)
    upscale_files(tmp_path / "in.png", tmp_path / "out.png", recipe, PARAMS, SETTINGS)
    with Image.open(tmp_path / "out.png") as result:
        assert result.size == (256, 1024)
