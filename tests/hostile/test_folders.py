"""Folders as people have them: links, loops, names, halves of results, and consoles that cannot print them."""

import io
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import framer_jax.inference.estimate
from framer_jax import cli, console
from framer_jax.commands import degrade as degrade_command
from framer_jax.commands import upscale as upscale_command
from framer_jax.data.files import list_images
from framer_jax.data.sources import folder_source
from framer_jax.evaluation import pristine
from framer_jax.inference import folder as folder_module
from framer_jax.inference import memory, result_files
from framer_jax.inference.estimate import check_host_memory
from framer_jax.inference.model import Model
from framer_jax.inference.result_files import sidecar_path
from framer_jax.inference.settings import UpscaleSettings
from tests.inference.test_upscaler import PARAMS, SCALE, toy
from tests.support.hostile import cases, contents, refused, run
from tests.support.tiny import config, photo

RNG = np.random.default_rng(0)

SMALL = ("--tile", "16", "--overlap", "0")


def nearest(params, frozen, lr, noise):
    return jnp.repeat(jnp.repeat(lr, SCALE, 1), SCALE, 2) * params["denoiser"]["gain"]


@pytest.fixture(autouse=True)
def toy_model(monkeypatch, tmp_path):
    """The command computes with a recipe that compiles at once."""
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    model = Model(RECIPE, PARAMS, {"config": config()}, tmp_path / "w.safetensors")
    monkeypatch.setattr(upscale_command, "load_model", lambda *arguments, **options: model)
    return model


RECIPE = toy(nearest)


def image(path, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(*size, seed=len(path.name))).save(path)
    return path


def outputs(folder):
    return {name for name in contents(folder) if not name.endswith(".json")}


def test_links_to_folders_are_followed_and_loops_are_cut(tmp_path):
    image(tmp_path / "elsewhere" / "data" / "x.png")
    image(tmp_path / "in" / "z" / "y.png")
    for name, target in {
        "DIV2K": "../elsewhere/data", "a_link_to_z": "z", "z/up": "..", "self": "self", "loop": "."
    }.items():  # fmt: skip
        (tmp_path / "in" / name).symlink_to(target, target_is_directory=True)
    paths, left_out = list_images(tmp_path / "in")
    assert [path.relative_to(tmp_path / "in").as_posix() for path in paths] == ["DIV2K/x.png", "z/y.png"]
    assert [item.path.name for item in left_out] == ["self"]
    assert list_images(tmp_path / "in", recursive=False).paths == ()


def test_what_cannot_be_read_is_named_by_every_command(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "in"
    for number in range(3):
        image(folder / f"{number}.png", (100, 100))
    (folder / "photo.heic").write_bytes(b"HEIF")
    (folder / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (folder / "DIV2K").symlink_to(tmp_path / "not_mounted")
    os.mkfifo(folder / "pipe.png")
    (folder / "locked").mkdir()
    scandir = os.scandir

    def without_permission(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_permission)
    # nothing is compiled: what is computed does not matter here
    monkeypatch.setattr(degrade_command, "degrade_files", lambda *arguments: {})
    features = RNG.random((1, 40, 36)), np.ones((1, 40))
    monkeypatch.setattr(pristine, "niqe_features", lambda plane: features)
    reasons = (
        f"{folder / 'DIV2K'}: a link to nothing",
        f"{folder / 'gone.jpg'}: a link to nothing",
        f"{folder / 'locked'}: cannot be opened (Permission denied)",
        f"{folder / 'photo.heic'}: .heic files are not read: convert it to .png",
        f"{folder / 'pipe.png'}: neither a file nor a folder",
    )
    for words in (
        ("upscale", folder, tmp_path / "sr", "--recursive", *SMALL),
        ("degrade", folder, tmp_path / "lr", "--preset", "light_one_stage"),
        ("evaluate", folder, "--reference", folder, "--metrics", "psnr-y"),
        ("fit-niqe", folder, tmp_path / "niqe.npz"),
    ):
        outcome = run(capsys, *words)
        assert outcome.status == 1, (words, outcome)
        for reason in reasons:
            assert reason.replace(" ", "") in "".join(outcome.out.split()), (words, outcome.out)
    with pytest.raises(ValueError, match=r"cannot be read completely: 2 left out: .*DIV2K.*locked") as error:
        folder_source(folder)  # training and precompute begin with complete data
    assert "\n" not in str(error.value)


def test_single_files_that_training_cannot_read_count_as_damaged(tmp_path, caplog):
    for number in range(3):
        image(tmp_path / f"{number}.png")
    (tmp_path / "a.heic").write_bytes(b"HEIF")
    source = folder_source(tmp_path)
    assert source.damage() == "1 of 4 images are damaged and were skipped: a.heic"
    (tmp_path / "b.cr2").write_bytes(b"raw")
    with pytest.raises(ValueError, match=r"more than 1 % .*a\.heic, b\.cr2"):
        folder_source(tmp_path)


def test_results_in_the_folder_of_the_inputs_are_not_enlarged_again(tmp_path, capsys):
    folder = tmp_path / "j"
    image(folder / "a.jpg")
    assert run(capsys, "upscale", folder, folder, *SMALL).status == 0
    before = contents(folder)
    assert set(before) == {"a.jpg", "a.png", "a.png.json"}
    assert "exist" in refused(run(capsys, "upscale", folder, folder, *SMALL))
    outcome = run(capsys, "upscale", folder, folder, *SMALL, "--skip-existing")
    assert (outcome.status, contents(folder)) == (0, before)
    assert "0 written, 1 skipped" in outcome.out
    assert "1 results of earlier runs in it are no inputs: a.png" in outcome.out
    assert run(capsys, "upscale", folder, tmp_path / "again", *SMALL).status == 0  # into another folder they are
    assert outputs(tmp_path / "again") == {"a_jpg.png", "a_png.png"}


def test_the_output_may_be_above_the_input(tmp_path, capsys):
    image(tmp_path / "j" / "deep" / "a.jpg")
    assert run(capsys, "upscale", tmp_path / "j" / "deep", tmp_path / "j", *SMALL).status == 0
    assert set(contents(tmp_path / "j")) == {"deep/a.jpg", "a.png", "a.png.json"}


@pytest.mark.parametrize(
    "words",
    [
        ("upscale", "", "out"),
        ("upscale", "in", ""),
        ("upscale", "in", "out", "--weights", ""),
        ("upscale", "in", "out", "--recipe="),
        ("degrade", "", "out", "--preset", "light_one_stage"),
        ("degrade", "in", "", "--preset", "light_one_stage"),
        ("evaluate", ""),
        ("evaluate", "in", "--reference", ""),
        ("evaluate", "in", "--csv", ""),
        ("fit-niqe", "", "out.npz"),
        ("train", "--config", "default", "--workdir", ""),
        ("precompute", "captions", "--photos", "", "--captioner", "x", "--output", "c.jsonl"),
        ("precompute", "latents", "--config", "default", "--output", "", "--samples", "1", "--vae", "x"),
        ("port", "", "out.safetensors", "--model", "swinir"),
        ("info", ""),
    ],
    ids=" ".join,
)
def test_empty_names_are_refused(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "in" / "a.png")
    before = contents(tmp_path)
    refused(run(capsys, *words), "is empty")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("in/a.png", "out.xyz", "cannot write '.xyz'"),
        ("in/a.png", "out.gif", "cannot write '.gif'"),
        ("in", "out.png", "looks like the name of one image"),
        ("in", "out.heic", "looks like the name of one image"),
        ("in/a.png", "in/a.png", "would replace an input"),
        ("in/a.png", "file", "is a file"),
        ("in", "file", "is a file"),
        ("nowhere", "out", "no such file or folder"),
    ],
)
def test_outputs_that_are_no_files_and_no_folders(tmp_path, capsys, source, output, message):
    image(tmp_path / "in" / "a.png")
    image(tmp_path / "in" / "b.png")
    (tmp_path / "file").write_text("precious")
    before = contents(tmp_path)
    refused(run(capsys, "upscale", tmp_path / source, tmp_path / output, *SMALL), message)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("output", ["results_v1.0", "out.xyz/", "out.png/"])
def test_names_of_folders_with_a_dot(tmp_path, capsys, output):
    image(tmp_path / "a.png")
    assert run(capsys, "upscale", tmp_path / "a.png", f"{tmp_path}/{output}", *SMALL).status == 0
    assert (tmp_path / output / "a.png").is_file()


def _tree(generator: random.Random) -> dict[str, str]:
    """Name → kind of file."""
    stems = (*"abcd", "ü 漢字", "x" * 240, "y" * 250, "語" * 83, "with\nline", "[x]", "a.b.c", "-dash", "\udcff\udcfe")
    tree = {}
    for _ in range(generator.randint(3, 8)):
        folder = generator.choice(("", "", "deep/", "deep/er/"))
        kind = generator.choice(("png", "png", "png", "jpg", "cut", "text", "empty", "heic", "gone"))
        suffix = {"cut": "png", "text": "jpg", "empty": "webp", "gone": "png"}.get(kind, kind)
        stem = generator.choice(stems)
        if len(stem) > 80 and any(stem in name for name in tree):
            continue  # names that differ in their suffix only get it into the output's name, which is then too long
        tree[f"{folder}{stem}.{suffix}"] = kind
    return tree


def _write_tree(root, tree):
    for name, kind in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "gone":
            path.symlink_to("/nowhere/at/all")
            continue
        buffer = io.BytesIO()
        Image.fromarray(photo(9, 7)).save(buffer, "JPEG" if kind == "jpg" else "PNG")
        data = {"text": b"hello", "empty": b"", "cut": buffer.getvalue()[:-90]}.get(kind, buffer.getvalue())
        path.write_bytes(data)


@pytest.mark.parametrize("tree", cases(_tree, fast=12, slow=200))
def test_a_folder_of_anything_is_upscaled_as_far_as_possible(tmp_path, capsys, tree):
    _write_tree(tmp_path / "in", tree)
    before = contents(tmp_path / "in")
    words = ("upscale", tmp_path / "in", tmp_path / "out", "--recursive", "--continue-on-error", *SMALL)
    good = [name for name, kind in tree.items() if kind in ("png", "jpg")]
    wrong = [name for name, kind in tree.items() if kind not in ("png", "jpg")]
    outcome = run(capsys, *words)
    if not any(kind not in ("gone", "heic") for kind in tree.values()):
        refused(outcome, "no image in this folder")
        return
    assert outcome.status == int(bool(wrong)), outcome
    assert "Traceback" not in outcome.err
    written = sorted((tmp_path / "out").rglob("*.png"))
    assert len(written) == len(good)
    for path in written:
        record = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
        assert record["input"]["height"] == 9
    assert len(contents(tmp_path / "out")) == 2 * len(good) if good else True
    assert contents(tmp_path / "in") == before
    first = contents(tmp_path / "out") if good else {}
    again = run(capsys, *words, "--skip-existing")
    assert f"0 written, {len(good)} skipped" in again.out
    assert (contents(tmp_path / "out") if good else {}) == first
    if wrong:  # without the flag, nothing is begun
        outcome = run(capsys, *(word for word in words if word != "--continue-on-error"), "--overwrite")
        assert outcome.status in (1, 2)
        assert outcome.status == 1 or outcome.err.splitlines()[-1].startswith("framer-jax upscale: ")


@pytest.mark.parametrize("failing", ["encode_image", "json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_image_and_record_appear_together_or_not_at_all(tmp_path, capsys, monkeypatch, failing, overwrite):
    source = image(tmp_path / "a.png")
    words = ("upscale", source, tmp_path / "out", *SMALL, *(["--overwrite"] if overwrite else []))
    if overwrite:
        assert run(capsys, *words).status == 0
    before = contents(tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    if failing == "json":
        monkeypatch.setattr(result_files, "json", SimpleNamespace(dumps=full, loads=json.loads))
    else:
        monkeypatch.setattr(result_files, "encode_image", full)
    outcome = run(capsys, *words)
    assert outcome.status == 2
    assert "No space left on device" in outcome.err.splitlines()[-1]
    assert contents(tmp_path) == before


KILLED = """
import os, sys, numpy
from pathlib import Path
from framer_jax.images.image_data import ImageData
from framer_jax.inference.result_files import write_result
replace, calls = os.replace, []
def killed(*names):
    if calls:
        os._exit(9)
    calls.append(names)
    replace(*names)
os.replace = killed
record = dict.fromkeys(("framer_jax", "settings", "input"), "killed")
write_result(Path(sys.argv[1]), ImageData(numpy.zeros((2, 2, 3), numpy.float32)), record)
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_between_image_and_record_leaves_a_half_that_is_redone(tmp_path, capsys, overwrite):
    source = image(tmp_path / "a.png")
    words = ("upscale", source, tmp_path / "out", *SMALL)
    if overwrite:
        assert run(capsys, *words).status == 0
    target, record = tmp_path / "out" / "a.png", tmp_path / "out" / "a.png.json"
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)]).returncode == 9
    # An image is never described by another's record, and one without a record is not of an interrupted first run.
    assert (target.exists(), record.exists()) == ((True, False) if overwrite else (False, True))
    outcome = run(capsys, *words, "--overwrite" if overwrite else "--skip-existing")
    assert (outcome.status, target.exists(), record.exists()) == (0, True, True)
    assert json.loads(record.read_text())["input"]["name"] == "a.png"


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
        "z.bmp", "BMP cannot hold transparency", "--flatten",
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
    monkeypatch.setattr(folder_module, "check_host_memory", lambda *arguments: batches.append(arguments[3].tile_batch))
    settings = UpscaleSettings(tile=16, overlap=0, tile_batch=4)
    folder_module.upscale_files(tmp_path / "a.png", tmp_path / "out", RECIPE, PARAMS, settings)
    assert batches == [4, 4]  # by the header, and with the compiled program

    def check(recipe, height, width, settings, alpha, device=0):
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
    monkeypatch.setattr(upscale_command, "load_model", lambda *arguments, **options: broken)
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
