"""What cannot be computed is refused before it is; errors, interrupts and consoles end no command badly."""

import io
import json
import os
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import framer_jax.inference.estimate
from framer_jax import cli, console
from framer_jax.commands import upscale as upscale_command
from framer_jax.inference import folder as folder_module
from framer_jax.inference import job_checks, memory
from framer_jax.inference.estimate import check_host_memory
from framer_jax.inference.settings import UpscaleSettings
from tests.inference.test_upscaler import PARAMS
from tests.support.hostile import contents, refused, run
from tests.support.tiny import photo
from tests.support.toy_command import RECIPE, SMALL, image

pytestmark = pytest.mark.usefixtures("toy_model")


def test_images_that_a_format_cannot_hold_are_refused_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folder_module, "upscale_image", lambda *arguments: pytest.fail("computed"))
    image(tmp_path / "in" / "a.png")
    Image.new("L", (40_000, 1)).save(tmp_path / "in" / "z.png")
    before = contents(tmp_path)
    for extension, limit in ((".jpg", "65,500"), (".webp", "16,383")):
        words = ("upscale", tmp_path / "in", tmp_path / "out", "--extension", extension, *SMALL)
        line = refused(run(capsys, *words), "z", f"at most {limit} pixels a side", "80000x2", "write .png or .tiff")
        assert line.count("\n") == 0
    (tmp_path / "in" / "z.png").unlink()
    Image.fromarray(np.dstack([photo(9, 7), np.full((9, 7), 9, np.uint8)])).save(tmp_path / "in" / "z.png")
    refused(
        run(capsys, "upscale", tmp_path / "in", tmp_path / "out", "--extension", "bmp", *SMALL),
        "z.bmp", "BMP cannot hold transparency", "--background",
    )  # fmt: skip
    refused(run(capsys, "upscale", tmp_path / "in", tmp_path / "out", "--flatten", "whit"), "'whit' is no color")
    assert not (tmp_path / "out").exists()
    assert {name for name in contents(tmp_path) if "z" not in name} == {name for name in before if "z" not in name}


def test_transparent_images_are_flattened_on_request(tmp_path, capsys):
    Image.fromarray(np.dstack([photo(9, 7), np.zeros((9, 7), np.uint8)])).save(tmp_path / "a.png")
    words = ("upscale", tmp_path / "a.png", tmp_path / "a.jpg", "--flatten", "white", *SMALL)
    assert run(capsys, *words).status == 0
    with Image.open(tmp_path / "a.jpg") as written:
        assert abs(np.asarray(written).astype(float) - 255 * PARAMS["denoiser"]["gain"]).max() < 3


def test_images_above_the_limit_of_pixels_are_upscaled_on_request(tmp_path, capsys, monkeypatch):
    source = image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    words = ("upscale", source, tmp_path / "out", *SMALL)
    refused(run(capsys, *words), str(source), "more than 20 pixels", "--max-pixels")
    assert run(capsys, *words, "--max-pixels", 9 * 7).status == 0
    assert Image.MAX_IMAGE_PIXELS == 10


def test_images_that_need_more_memory_than_there_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    monkeypatch.setattr(folder_module, "upscale_image", lambda *arguments: pytest.fail("computed"))
    image(tmp_path / "in" / "a.png", (400, 300))
    words = ("upscale", tmp_path / "in", tmp_path / "out", *SMALL)
    refused(run(capsys, *words), "a.png", "300x400", "GiB of main memory", "cut the image into parts")
    assert not (tmp_path / "out").exists()
    outcome = run(capsys, *words, "--continue-on-error")
    assert (outcome.status, contents(tmp_path / "out") if (tmp_path / "out").exists() else {}) == (1, {})
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # a system that does not say
    check_host_memory(RECIPE, 9000, 9000, UpscaleSettings())


def test_a_batch_that_does_not_fit_into_memory_is_reduced_before_it_is_computed(tmp_path, monkeypatch):
    image(tmp_path / "a.png", (40, 40))
    batches = []
    for module in (job_checks, folder_module):
        monkeypatch.setattr(module, "check_host_memory", lambda *arguments: batches.append(arguments[3].tile_batch))
    settings = UpscaleSettings(tile=16, overlap=0, tile_batch=4)
    folder_module.upscale_files(tmp_path / "a.png", tmp_path / "out", RECIPE, PARAMS, settings)
    assert batches == [4, 4]  # by the header, and with the compiled program

    def check(recipe, height, width, settings, alpha, device=0, streamed=False):
        if device and settings.tile_batch > 1:
            raise MemoryError("upscaling needs more")

    monkeypatch.setattr(folder_module, "check_host_memory", check)
    folder_module.upscale_files(tmp_path / "a.png", tmp_path / "other", RECIPE, PARAMS, settings)
    record = json.loads((tmp_path / "other" / "a.png.json").read_text())
    assert (record["settings"]["tile_batch"], record["settings_asked_for"]["tile_batch"]) == (1, 4)


@pytest.mark.parametrize("size", [(2, 3000), (1, 308)])
def test_a_protocol_that_enlarges_too_much_is_refused_before_it_is_compiled(monkeypatch, size):
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * 2**30)
    monkeypatch.setattr(framer_jax.inference.estimate, "sampler_program", lambda *arguments: pytest.fail("compiled"))
    settings = UpscaleSettings(protocol="dit4sr", tile=128, overlap=48)
    recipe = replace(RECIPE, scale=4)
    width = f"{size[1] * 128 // size[0] * 4}x512"
    with pytest.raises(
        MemoryError, match=rf"protocol 'dit4sr', which first resizes it to {width}, needs .*use protocol"
    ):
        check_host_memory(recipe, *size, settings)


def test_available_memory_is_the_least_of_all_limits(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 3000 kB\nSwapFree: 1000 kB\n")
    assert memory.available_memory(tmp_path) == 4000 * 1024
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "1000\n")
    write("sys/fs/cgroup/memory.stat", "anon 5\ninactive_file 400\n")
    assert memory.available_memory(tmp_path) == 4000 * 1024
    write("sys/fs/cgroup/memory.max", "3000\n")
    assert memory.available_memory(tmp_path) == 3000 - (1000 - 400)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory"),
        (MemoryError("Unable to allocate 15 GiB"), "Unable to allocate 15 GiB"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"),
            "a smaller --tile or --tile-batch",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: device lost"), "device lost"),
    ],
)
def test_errors_of_memory_and_of_the_device_name_the_image(tmp_path, capsys, monkeypatch, error, words):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(folder_module, "upscale_image", fails)
    source = image(tmp_path / "in" / "a.png")
    image(tmp_path / "in" / "b.png")
    outcome = run(capsys, "upscale", tmp_path / "in", tmp_path / "out", *SMALL)
    assert outcome.status == 2
    assert str(source) in outcome.err.splitlines()[-1]
    assert words in outcome.err.splitlines()[-1]
    outcome = run(capsys, "upscale", tmp_path / "in", tmp_path / "out", "--continue-on-error", *SMALL)
    assert outcome.status == 1
    assert outcome.out.count(words) == 2


def test_weights_that_are_not_finite_are_named_with_the_image(tmp_path, capsys, toy_model, monkeypatch):
    broken = toy_model._replace(params={"denoiser": {"gain": np.float32("nan")}})
    monkeypatch.setattr(upscale_command, "open_model", lambda *arguments, **options: broken)
    source = image(tmp_path / "a.png")
    outcome = run(capsys, "upscale", source, tmp_path / "out", *SMALL)
    assert outcome.status == 2
    line = outcome.err.splitlines()[-1]
    for name in (str(source), "denoiser/gain", "w.safetensors"):
        assert name in line


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_an_interrupt_of_any_command_is_one_line(tmp_path, capsys, monkeypatch, command):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    line = refused(run(capsys, command), f"framer-jax {command}: interrupted", status=cli.INTERRUPTED)
    assert ("goes on" in line) == (command in cli.GOING_ON)


@pytest.mark.parametrize(
    "error", [MemoryError(), MemoryError("no\nmemory"), jax.errors.JaxRuntimeError("INTERNAL: lost\n  the device")]
)
def test_errors_of_memory_and_of_the_device_are_one_line_in_any_command(capsys, monkeypatch, error):
    def fails(words):
        raise error

    monkeypatch.setattr(cli, "_run", fails)
    refused(run(capsys, "evaluate", "x"), "framer-jax evaluate: ")


def test_an_interrupted_upscale_goes_on(tmp_path, capsys, monkeypatch):
    for name in "abc":
        image(tmp_path / "in" / f"{name}.png")
    upscale_image, calls = folder_module.upscale_image, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return upscale_image(*arguments)

    monkeypatch.setattr(folder_module, "upscale_image", interrupted)
    words = ("upscale", tmp_path / "in", tmp_path / "out", *SMALL)
    outcome = run(capsys, *words)
    assert outcome.status == 130
    assert "--skip-existing" in outcome.err.splitlines()[-1]
    assert set(contents(tmp_path / "out")) == {"a.png", "a.png.json"}
    assert "2 written, 1 skipped" in run(capsys, *words, "--skip-existing").out


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_consoles_that_cannot_print_a_name(tmp_path, monkeypatch, encoding):
    folder = tmp_path / "漢字 ü"
    image(folder / "語→.png")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    words = ["upscale", str(folder), str(tmp_path / "out"), "--continue-on-error", *SMALL]
    assert cli.main(words) == 1
    print("unchanged", file=out)
    assert out.errors == "strict"
    out.flush()
    text = out.buffer.getvalue().decode(encoding)
    assert "1 written, 0 skipped, 1 failed" in text
    assert "\\udcff.png" in text


def test_arrows_of_tables_are_plain_where_they_cannot_be_printed():
    assert "psnr ↑ → ±".encode("ascii", console.HANDLER) == b"psnr ^ -> +-"
    assert "ü漢".encode("cp1252", console.HANDLER) == "ü\\u6f22".encode("cp1252")
