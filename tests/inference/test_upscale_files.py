"""Upscaling files and folders: names, sidecars, and that nothing is lost or overwritten."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from framer_jax.images.decode import read_image
from framer_jax.inference.folder import Origin, upscale_files
from framer_jax.inference.jobs import plan_jobs
from framer_jax.inference.result_files import sidecar_path
from framer_jax.inference.result_settings import FileSettings
from framer_jax.inference.upscaler import upscale
from framer_jax.porting.files import sha256_of
from framer_jax.version import __version__
from tests.inference.test_upscaler import PARAMS, RNG, SCALE, SMALL, exhausted_above, toy


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "b.png", "deep/c.png", ".hidden.png"):
        Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(root / name)
    Image.fromarray(RNG.integers(0, 65536, (9, 7), dtype=np.uint16)).save(root / "gray16.png")
    (root / "notes.txt").write_text("no image")
    return root


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def run(inputs, output, **options):
    return upscale_files(inputs, output, toy(), PARAMS, SMALL, **options)


def test_a_folder_with_sidecars(folder, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    out = tmp_path / "out"
    console = Console(file=open(tmp_path / "log", "w"), width=120)  # noqa: SIM115
    summary = run(folder, out, recursive=True, suffix="_x2", origin=Origin(weights, {"width": 8}), console=console)
    console.file.close()
    names = ["a_jpg_x2.png", "a_png_x2.png", "b_x2.png", "deep/c_x2.png", "gray16_x2.png"]
    assert files(out) == sorted(names + [f"{name}.json" for name in names])
    assert (len(summary.written), summary.skipped, summary.failed, summary.exit_status) == (5, (), (), 0)
    assert "MiB" in (tmp_path / "log").read_text()
    with Image.open(out / "gray16_x2.png") as image:
        assert image.mode == "I;16"
        assert image.size == (14, 18)
    record = json.loads((out / "gray16_x2.png.json").read_text())
    assert record["checkpoint"] == {"path": str(weights), "sha256": sha256_of(weights)}
    assert record["config"] == {"width": 8}
    assert (record["recipe"], record["scale"]) == ("toy", SCALE)
    assert (record["framer_jax"], record["jax"]) == (__version__, jax.__version__)
    assert record["device"] == jax.devices()[0].device_kind
    assert record["settings"]["tile"] == record["settings_asked_for"]["tile"] == 16
    assert record["input"] == {
        "name": "gray16.png", "width": 7, "height": 9, "mode": "L", "bits": 16, "notes": []
    }  # fmt: skip
    expected = upscale(toy(), PARAMS, read_image(folder / "b.png").pixels, SMALL)
    np.testing.assert_allclose(read_image(out / "b_x2.png").pixels, expected, atol=0.51 / 255)


def test_nothing_is_overwritten_and_all_names_are_checked_first(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "gray16.png").write_text("precious")  # the last name in order
    with pytest.raises(FileExistsError, match=r"gray16\.png exist"):
        run(folder, out)
    assert files(out) == ["gray16.png"]
    summary = run(folder, out, skip_existing=True)
    assert summary.skipped == (out / "gray16.png",)
    assert (out / "gray16.png").read_text() == "precious"
    assert len(summary.written) == 3
    with pytest.raises(FileExistsError, match="and 4 more exist"):
        run(folder, out)
    assert len(run(folder, out, overwrite=True).written) == 4
    assert (out / "gray16.png").read_bytes() != b"precious"
    assert not run(folder, out, skip_existing=True).written
    (out / "b.png").unlink()
    with pytest.raises(FileExistsError, match=r"b.png.json exist"):  # a sidecar alone is an existing output, too
        run(folder / "b.png", out)
    assert run(folder, out, skip_existing=True).written == (out / "b.png",)  # what an interrupted run leaves
    (out / "b.png").unlink()
    (out / "b.png.json").write_text("{}")  # of another program
    with pytest.raises(FileExistsError, match=r"b.png.json exist"):
        run(folder, out, skip_existing=True)
    with pytest.raises(ValueError, match="choose one"):
        run(folder, out, skip_existing=True, overwrite=True)


def test_a_bad_image_is_named_and_the_others_are_upscaled(folder, tmp_path):
    data = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"b\.png: cannot be read"):
        run(folder, tmp_path / "one")
    summary = run(folder, tmp_path / "two", continue_on_error=True)
    assert len(summary.written) == 3
    assert summary.failed[0][0] == folder / "b.png"
    assert summary.exit_status == 1
    assert "3 written, 0 skipped, 1 failed" in str(summary)
    assert "b.png" in str(summary)
    assert "b.png" not in files(tmp_path / "two")


def test_shards_are_fixed_parts_of_a_folder(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for index in range(5):
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(source / f"{index}.png")
    first = run(source, tmp_path / "out", shard=(0, 2))
    assert sorted(path.name for path in first.written) == ["0.png", "2.png", "4.png"]
    second = run(source, tmp_path / "out", shard=(1, 2), skip_existing=True)
    assert (sorted(path.name for path in second.written), second.skipped) == (["1.png", "3.png"], ())
    again = run(source, tmp_path / "out", shard=(0, 2), skip_existing=True)
    assert (again.written, len(again.skipped)) == ((), 3)
    assert run(source, tmp_path / "few", shard=(7, 8)).written == ()
    with pytest.raises(ValueError, match=r"in place, .* no fixed shards"):
        run(source, None, files=FileSettings(in_place=True), shard=(0, 2))


def test_results_next_to_their_images_are_not_inputs(tmp_path):
    """Those of another folder are: they may be upscaled once more."""
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(source / "photo.jpg")
    run(source / "photo.jpg", source / "photo_x4.png")
    summary = run(source, tmp_path / "out")
    assert [path.name for path in summary.written] == ["photo.png"]
    assert "1 result of an earlier run is not upscaled again: photo_x4.png" in str(summary)
    assert [path.name for path in run(tmp_path / "out", tmp_path / "again").written] == ["photo.png"]
    in_place = run(source, None, files=FileSettings(in_place=True))
    assert [path.name for path in in_place.written] == ["photo.jpg"]
    assert "1 result of an earlier run is not upscaled again: photo_x4.png" in str(in_place)


def test_single_files_and_lists(folder, tmp_path):
    assert run(folder / "b.png", tmp_path / "x" / "large.webp").written == (tmp_path / "x" / "large.webp",)
    assert sidecar_path(tmp_path / "x" / "large.webp").is_file()
    assert run(folder / "b.png", tmp_path / "y", extension="tiff").written == (tmp_path / "y" / "b.tiff",)
    jobs = plan_jobs([folder / "b.png", folder / "deep"], tmp_path / "z").jobs
    assert [job.target for job in jobs] == [tmp_path / "z" / "b.png", tmp_path / "z" / "c.png"]


def test_outputs_in_a_subfolder_of_the_input_are_not_inputs(folder):
    run(folder, folder / "large", recursive=True)
    again = plan_jobs(folder, folder / "large", recursive=True).jobs
    assert len(again) == 5
    same_folder = plan_jobs(folder, folder, suffix="_x2").jobs
    assert len(same_folder) == 4


def test_bad_names_are_refused(folder, tmp_path):
    for arguments, error, message in [
        ((folder, folder), ValueError, "would replace an input"),
        ((folder / "none.png", tmp_path), FileNotFoundError, "none.png: no such"),
        (([], tmp_path), ValueError, "no input"),
        ((folder, folder / "notes.txt"), ValueError, "is a file"),
        (([folder / "b.png", folder / "b.png"], tmp_path), ValueError, "both be written"),
    ]:
        with pytest.raises(error, match=message):
            plan_jobs(*arguments)
    with pytest.raises(ValueError, match=r"cannot write '.xyz'"):
        plan_jobs(folder, tmp_path, extension="xyz")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no image in this folder .*recursive"):
        plan_jobs(tmp_path / "empty", tmp_path / "o")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        run(folder, tmp_path / "o", origin=Origin(tmp_path / "gone", None))
    assert not (tmp_path / "o").exists()


def test_reduced_settings_are_kept_for_the_next_images_and_recorded(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / name)
    summary = upscale_files(
        [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "o", exhausted_above(1, 16), PARAMS, SMALL
    )
    for path in summary.written:
        record = json.loads(sidecar_path(path).read_text())
        assert record["settings"]["tile_batch"] == 1
        assert record["settings_asked_for"]["tile_batch"] == 3


def test_a_folder_that_cannot_be_written_to_is_found_before_computing(folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    calls = []
    never = toy(lambda *arguments: calls.append(arguments))
    for output in (tmp_path / "file" / "out", tmp_path / "file" / "large.png"):
        with pytest.raises(OSError, match=r"file.*: cannot write there \(.*\): choose another output"):
            upscale_files(folder / "b.png", output, never, PARAMS, SMALL, continue_on_error=True)
    assert not calls
