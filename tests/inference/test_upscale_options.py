"""`framer-jax upscale`: metadata, sizes, frames, in place, backgrounds, and what is refused before it is computed."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from framer_jax.images.decode import read_image
from framer_jax.images.frames import frame_sizes, read_frames
from framer_jax.inference import folder as folder_module
from framer_jax.inference import in_place
from framer_jax.inference.folder import upscale_files
from framer_jax.inference.result_files import sidecar_path
from framer_jax.inference.result_settings import FileSettings, ResultSettings
from tests.inference.test_upscaler import PARAMS, SCALE, SMALL
from tests.support.hostile import contents, refused, run
from tests.support.image_files import DEEP, tiff
from tests.support.toy_command import RECIPE, image

IN_PLACE = FileSettings(in_place=True)


def upscale(source, output=None, files=IN_PLACE, **options):
    return upscale_files(source, output, RECIPE, PARAMS, SMALL, files=files, **options)


@pytest.fixture
def animation(tmp_path):
    frames = [Image.fromarray(np.full((6, 8, 3), 80 * index, np.uint8)) for index in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 100, 150], loop=2)
    return tmp_path / "a.gif"


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif", ".tiff"])
def test_all_frames_of_an_animation(animation, tmp_path, suffix):
    output = tmp_path / f"out{suffix}"
    summary = upscale(animation, output, FileSettings(frames=True), result=ResultSettings(outscale=1.5))
    with Image.open(output) as written:
        assert (written.n_frames, written.size) == (3, (12, 9))
        for index in range(3):
            written.seek(index)
            values = np.asarray(written.convert("RGB"))
            np.testing.assert_allclose(values, 40 * index, atol=3)  # the toy's gain is a half
            if suffix != ".tiff":
                assert written.info["duration"] == 50 * (index + 1)
    record = json.loads(sidecar_path(output).read_text())
    assert record["input"]["frames"] == 3
    assert record["output"] == {"width": 12, "height": 9}
    assert not any("only the first" in note for _, note in summary.notes)


def test_frames_need_a_format_that_holds_them(animation, tmp_path):
    with pytest.raises(ValueError, match=r"out\.jpg: JPEG holds one of the 3 frames: write one of \.png, \.webp"):
        upscale(animation, tmp_path / "out.jpg", FileSettings(frames=True))
    summary = upscale(animation, tmp_path / "out.jpg", FileSettings())
    assert "only the first of 3 frames was read" in str(summary)


def test_pages_of_several_sizes_need_a_format_that_holds_them(tmp_path):
    pages = [Image.fromarray(np.full((*size, 3), 9 * size[0], np.uint8)) for size in ((6, 8), (10, 4))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    frames = FileSettings(frames=True)
    for suffix in (".gif", ".png", ".webp"):
        with pytest.raises(ValueError, match=rf"a\.tif: .*out\{suffix}: all frames of .* have one size"):
            upscale(tmp_path / "a.tif", tmp_path / f"out{suffix}", frames)
    upscale(tmp_path / "a.tif", tmp_path / "out.tif", frames)
    assert frame_sizes(tmp_path / "out.tif") == ((6 * SCALE, 8 * SCALE), (10 * SCALE, 4 * SCALE))
    upscale(tmp_path / "a.tif", tmp_path / "out.gif", frames, result=ResultSettings(width=16, height=12))
    assert frame_sizes(tmp_path / "out.gif") == ((12, 16), (12, 16))


def test_images_are_replaced_once(tmp_path):
    source = image(tmp_path / "a.png")
    original = read_image(source)
    inode = os.stat(source).st_ino
    assert upscale(tmp_path).written == (source,)
    assert read_image(source).shape[:2] == (9 * SCALE, 7 * SCALE)
    assert os.stat(source).st_ino != inode  # a new file took the name, so that nobody sees half of one
    before = contents(tmp_path)
    again = upscale(tmp_path)
    assert (again.written, again.exit_status) == ((), 0)
    assert "1 result of an earlier run is not upscaled again: a.png" in str(again)
    assert contents(tmp_path) == before
    image(tmp_path / "b.png")
    assert upscale(tmp_path).written == (tmp_path / "b.png",)
    assert original.shape[:2] == (9, 7)


def test_an_interruption_in_place_loses_nothing_and_repeats_nothing(tmp_path, monkeypatch):
    source = image(tmp_path / "a.png")
    before = source.read_bytes()

    def fails(*arguments):
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "upscale_image", fails)
        with pytest.raises(OSError, match="No space left"):
            upscale(source)
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    upscale(source)
    source.write_bytes(before)  # as after an end between the record and the image
    assert in_place.plan_in_place(source).jobs
    assert upscale(source).written == (source,)
    assert read_image(source).shape[:2] == (9 * SCALE, 7 * SCALE)


def test_of_a_link_the_file_is_replaced(tmp_path):
    source = image(tmp_path / "deep" / "a.png")
    (tmp_path / "link.png").symlink_to(source)
    assert upscale([tmp_path / "link.png", source]).written == (source.resolve(),)
    assert (tmp_path / "link.png").is_symlink()
    assert read_image(tmp_path / "link.png").shape[:2] == (9 * SCALE, 7 * SCALE)


def test_in_place_a_format_that_is_not_written_fails_alone(tmp_path):
    source = image(tmp_path / "a.png")
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(tmp_path / "b.ppm")
    with pytest.raises(ValueError, match=r"cannot write '\.ppm'.*--continue-on-error\) upscales the other 1"):
        upscale(tmp_path)
    summary = upscale(tmp_path, continue_on_error=True)
    assert summary.written == (source,)
    ((failed, reason),) = summary.failed
    assert failed.name == "b.ppm" and "cannot write '.ppm'" in reason


def test_what_would_lose_something_is_not_replaced(animation, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"a\.gif: in place, 2 of its 3 frames would be lost: add --frames"):
        upscale(animation)
    animation.unlink()
    first, second = (Image.fromarray(np.full((9, 7, 3), level, np.uint8)) for level in (0, 255))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    with pytest.raises(ValueError, match=r"a\.jpg: in place, the file's further images \(1: .*\) would be lost"):
        upscale(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "a.ppm").write_bytes(b"P6 32 24 65535\n" + DEEP[:, :, :3].astype(">u2").tobytes())
    with pytest.raises(ValueError, match=r"cannot write '\.ppm'"):
        upscale(tmp_path / "a.ppm")
    (tmp_path / "a.ppm").rename(tmp_path / "a.webp")
    with pytest.raises(ValueError, match="8 of its 16 bits per channel would be lost"):
        upscale(tmp_path / "a.webp")
    (tmp_path / "a.webp").unlink()
    image(tmp_path / "c.png")
    (tmp_path / "c.png.json").write_text("[1]")
    with pytest.raises(FileExistsError, match=r"c\.png\.json exists and is no record"):
        upscale(tmp_path)
    for options, name in (({"suffix": "_x"}, "a suffix"), ({"overwrite": True}, "overwrite")):
        with pytest.raises(ValueError, match=f"omit {name}"):
            upscale(tmp_path, **options)
    with pytest.raises(ValueError, match="omit an output"):
        upscale(tmp_path, tmp_path / "out")
    assert before.keys() - contents(tmp_path).keys() == {"a.gif"}


def test_colors_depths_and_protection_are_not_lost_in_place(tmp_path):
    Image.fromarray(DEEP[:, :, :3].astype(np.uint8)).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: in place, its CMYK colors would become RGB: name an output"):
        upscale(tmp_path / "a.jpg")
    summary = upscale(tmp_path / "a.jpg", tmp_path / "b.jpg", FileSettings())
    assert "CMYK was converted to sRGB" in str(summary)
    pages = tmp_path / "pages.tif"
    pages.write_bytes(tiff(DEEP[:, :, :3].astype(np.uint8), 2, before=tiff(DEEP[:, :, :1], 1)))
    frames = FileSettings(in_place=True, frames=True)
    upscale(pages, files=frames)
    assert [page.bits for page in read_frames(pages)] == [16, 8]
    sidecar_path(pages).unlink()
    pages.write_bytes(tiff(DEEP[:, :, :3], 2, before=tiff(DEEP[:, :, :1], 1)))
    with pytest.raises(ValueError, match=r"pages\.tif: in place, 8 of its 16 bits .*: name an output"):
        upscale(pages, files=frames)
    summary = upscale(pages, tmp_path / "pages.png", FileSettings(frames=True))
    assert "written with 8 bits per channel, of 16 that were read (of pages, TIFF keeps 16" in str(summary)
    first, second = (Image.new(mode, (8, 6)) for mode in ("RGB", "CMYK"))
    first.save(tmp_path / "mixed.tif", save_all=True, append_images=[second])
    with pytest.raises(ValueError, match=r"mixed\.tif: in place, of one of its pages CMYK was converted to sRGB"):
        upscale(tmp_path / "mixed.tif", files=frames)
    source = image(tmp_path / "c.png")
    source.chmod(0o400)
    with pytest.raises(ValueError, match=r"c\.png: in place, and it is write-protected"):
        upscale(source)
    source.chmod(0o600)
    upscale(source)
    assert source.stat().st_mode & 0o777 == 0o600


def test_frames_do_not_show_through_transparent_ones(tmp_path):
    """In GIF files, which also know no half transparency."""
    frames = []
    for left in (0, 8, 16):
        values = np.zeros((8, 24, 4), np.uint8)
        values[:, left : left + 8] = (200, 40, 40, 255)
        frames.append(Image.fromarray(values))
    frames[0].save(
        tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=80, loop=1, disposal=1, blend=0
    )
    upscale(tmp_path / "a.png", tmp_path / "a.gif", FileSettings(frames=True))
    with Image.open(tmp_path / "a.gif") as written:
        assert "loop" not in written.info  # shown once
    for index, frame in enumerate(read_frames(tmp_path / "a.gif")):
        columns = np.flatnonzero(frame.alpha.mean(axis=0) > 0.5) / SCALE
        assert abs(columns.min() - 8 * index) <= 1
        assert abs(columns.max() + 1 / SCALE - 8 * (index + 1)) <= 1


def test_a_background_is_for_formats_without_transparency(tmp_path):
    values = np.zeros((8, 8, 4), np.uint8)
    values[:, 4:] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"JPEG cannot hold transparency.*--background"):
        upscale(tmp_path / "a.png", tmp_path / "a.jpg", FileSettings())
    files = FileSettings(background="#ff0000")
    upscale(tmp_path / "a.png", tmp_path / "a.bmp", files)
    np.testing.assert_allclose(read_image(tmp_path / "a.bmp").pixels[0, 0], [0.5, 0, 0], atol=0.01)  # times the gain
    upscale(tmp_path / "a.png", tmp_path / "b.png", files)
    assert read_image(tmp_path / "b.png").alpha.min() == 0
    with pytest.raises(ValueError, match="'whity' is no color"):
        upscale(tmp_path / "a.png", tmp_path / "c.png", FileSettings(background="whity"))


def test_results_without_records(tmp_path, capsys, toy_model):
    image(tmp_path / "in" / "a.png", (6, 7))
    without, out = FileSettings(record=False), tmp_path / "out"
    upscale(tmp_path / "in", out, FileSettings())
    pixels = read_image(out / "a.png").pixels
    assert set(contents(out)) == {"a.png", "a.png.json"}
    for name in ("a.png", "a.png.json"):  # the image, and then what is left of it
        with pytest.raises(FileExistsError, match=rf"{name}.* exists?: choose another output"):
            upscale(tmp_path / "in", out, without)
        if name == "a.png":
            (out / name).rename(tmp_path / name)
    (tmp_path / "a.png").rename(out / "a.png")
    upscale(tmp_path / "in", out, without, overwrite=True)  # the record of the image before goes with it
    assert set(contents(out)) == {"a.png"}
    np.testing.assert_array_equal(read_image(out / "a.png").pixels, pixels)
    skipped = upscale(tmp_path / "in", out, without, skip_existing=True)
    assert (skipped.skipped, skipped.notes) == ((out / "a.png",), ())
    (out / "a.png.json").write_text("[1]")  # of another program: it stays
    upscale(tmp_path / "in", out, without, overwrite=True)
    assert (out / "a.png.json").read_text() == "[1]"
    assert run(capsys, "upscale", tmp_path / "in", tmp_path / "quiet", "--no-record").status == 0
    assert set(contents(tmp_path / "quiet")) == {"a.png"}
    refused(run(capsys, "upscale", tmp_path / "in", "--no-record", "--in-place"), "omit --no-record")


def test_settings_of_the_sampler_that_the_mean_does_not_use_are_refused(tmp_path, capsys):
    words = ("upscale", image(tmp_path / "a.png", (6, 7)), tmp_path / "b.png", "--model", "diffusion", "--mode", "mean")
    unused = "which recipe.resshift.sampling_steps and recipe.resshift.mean_share do not change: omit them"
    refused(run(capsys, *words, "--steps", "2", "--mean-share", "0.3"), unused)


def test_limits_of_formats_are_those_of_the_size_that_was_asked_for(tmp_path, monkeypatch):
    Image.new("RGB", (9000, 2)).save(tmp_path / "wide.png")
    monkeypatch.setattr(folder_module, "upscale_image", lambda *arguments: pytest.fail("computed"))
    with pytest.raises(ValueError, match=r"WEBP holds at most 16,383 pixels a side, and the image is 18000x4"):
        upscale(tmp_path / "wide.png", tmp_path / "a.webp", FileSettings())
    with pytest.raises(ValueError, match="JPEG holds at most 65,500 pixels a side, and the image is 70000x16"):
        upscale(tmp_path / "wide.png", tmp_path / "a.jpg", FileSettings(), result=ResultSettings(width=70_000))
    with pytest.raises(ValueError, match=r"PNG has no quality: omit it, or write one of \.webp, \.jpg"):
        upscale(tmp_path / "wide.png", tmp_path / "a.png", FileSettings(quality=90))
    with pytest.raises(pytest.fail.Exception, match="computed"):
        upscale(tmp_path / "wide.png", tmp_path / "a.webp", FileSettings(), result=ResultSettings(outscale=1.5))


@pytest.fixture
def toy_model(monkeypatch):
    from framer_jax.commands import upscale as upscale_command
    from framer_jax.inference.model import Model

    config = {"recipe": {}, "data": {"crop": 32}}
    model = Model(RECIPE, PARAMS, {"config": config}, None)
    monkeypatch.setattr(upscale_command, "open_model", lambda *arguments, **options: model)
    monkeypatch.setattr(upscale_command, "settings_for", lambda *arguments, **options: SMALL)


def test_the_output_may_be_omitted(tmp_path, capsys, toy_model):
    source = image(tmp_path / "photos" / "a.b.jpg")
    assert run(capsys, "upscale", source).status == 0
    assert run(capsys, "upscale", source, "--outscale", "1.5", "--extension", "webp").status == 0
    outcome = run(capsys, "upscale", source, "--width", "5", "--json", "--quiet")
    assert outcome.err == ""
    names = {"a.b_x2.png": (14, 18), "a.b_x1.5.webp": (10, 14), "a.b_resized.png": (5, 6)}
    for name, size in names.items():
        with Image.open(source.with_name(name)) as written:
            assert written.size == size
    assert json.loads(outcome.out)["written"] == [str(source.with_name("a.b_resized.png"))]
    outcome = run(capsys, "upscale", source.parent)
    assert f"written to {source.parent}_x2" in outcome.err
    assert [path.name for path in (tmp_path / "photos_x2").glob("*.png")] == ["a.b.png"]
    refused(run(capsys, "upscale", source), "a.b_x2.png", "exist")
    refused(run(capsys, "upscale", tmp_path / "gone.jpg"), "gone.jpg: no such file or folder")
    refused(run(capsys, "upscale", source, tmp_path / "o", "--in-place"), "--in-place", "omit the output")
    assert run(capsys, "upscale", source, "--in-place", "--quality", "80", "--quiet").out == ""
    with Image.open(source) as written:
        assert written.size == (14, 18)
    refused(run(capsys, "upscale", source, tmp_path / "o.png", "--outscale", "0"), "outscale 0")
