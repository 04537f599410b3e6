"""Folders as people have them: links, loops, names, outputs, and halves of results."""

import io
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from framer_jax.commands import degrade as degrade_command
from framer_jax.data.files import list_images
from framer_jax.data.sources import folder_source
from framer_jax.evaluation import pristine
from framer_jax.inference import result_files
from framer_jax.inference.result_files import sidecar_path
from tests.support.hostile import cases, contents, refused, run
from tests.support.tiny import photo
from tests.support.toy_command import SMALL, image

pytestmark = pytest.mark.usefixtures("toy_model")


RNG = np.random.default_rng(0)


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
        f"{folder / 'photo.heic'}: HEIC files need the plug-in pillow-heif: pip install 'framer_jax[formats]', or "
        "convert it to .png",
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
    assert "1 result of an earlier run is not upscaled again: a.png" in outcome.out
    assert run(capsys, "upscale", folder, tmp_path / "again", *SMALL).status == 0  # nor into another folder
    assert outputs(tmp_path / "again") == {"a.png"}


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
        ("in/a.png", "out.psd", "cannot write '.psd'"),
        ("in", "out.png", "looks like the name of one image"),
        ("in", "out.heic", "looks like the name of one image"),
        ("in/a.png", "in/a.png", "would replace an input"),
        ("in/a.png", "file", "is a file"),
        ("in", "file", "is a file"),
        ("nowhere", "out", "no such file or folder"),
        ("in/c.jpg", "out.png", "no such file or folder"),
    ],
)
def test_outputs_that_are_no_files_and_no_folders(tmp_path, capsys, source, output, message):
    image(tmp_path / "in" / "a.png")
    image(tmp_path / "in" / "b.png")
    (tmp_path / "file").write_text("precious")
    before = contents(tmp_path)
    refused(run(capsys, "upscale", tmp_path / source, tmp_path / output, *SMALL), message)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suffix", "../evil"), "suffix '../evil' names a folder"),
        (("--extension", "/evil.png"), "extension '/evil.png' names a folder"),
        (("--flatten", "white", "--background", "red"), "choose one"),
        (("--outscale", "1e300"), "a result of 8e+300x8e+300 has a side of more"),
    ],
    ids=" ".join,
)
def test_options_of_outputs_that_make_no_sense(tmp_path, capsys, options, message):
    image(tmp_path / "in" / "a.png", (8, 8))
    before = contents(tmp_path)
    refused(run(capsys, "upscale", tmp_path / "in", tmp_path / "out", *SMALL, *options), message)
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
