"""Frames and pages, and the files that plug-ins of Pillow read."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageFile

from framer_jax.data.files import list_images
from framer_jax.images import plugins
from framer_jax.images.decode import read_header, read_image
from framer_jax.images.frames import WITHOUT_STILL, Timing, frame_sizes, read_frames, read_timing
from framer_jax.images.raster import ImageError
from tests.support.image_files import DEEP, RGB, tiff

FRAMES = [np.full((8, 12, 3), 60 * index, np.uint8) for index in range(3)]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif", ".tiff"])
def test_all_frames_are_read_complete(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    first, *others = map(Image.fromarray, FRAMES)
    timing = {} if suffix == ".tiff" else {"duration": [50, 100, 150], "loop": 2}
    first.save(path, save_all=True, append_images=others, **timing)
    assert read_header(path).frames == 3
    frames = list(read_frames(path))
    for frame, values in zip(frames, FRAMES, strict=True):
        np.testing.assert_allclose(frame.pixels, values / 255, atol=0.02)
        assert not any("only the first" in note for note in frame.notes)
    read = read_timing(path)
    assert read.durations == (() if suffix == ".tiff" else (50, 100, 150))
    assert read.plays == {".tiff": None, ".avif": None, ".gif": 3}.get(suffix, 2)  # GIF states repetitions


def test_an_image_of_one_frame_is_read_as_it_is(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (frame,) = read_frames(tmp_path / "a.png")
    np.testing.assert_array_equal(frame.pixels, read_image(tmp_path / "a.png").pixels)
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    assert read_timing(tmp_path / "a.jpg") == Timing()
    with pytest.raises(FileNotFoundError, match="no such image"):
        next(read_frames(tmp_path / "b.png"))


def test_pages_of_every_depth_are_read_as_images_of_their_own(tmp_path):
    """16-bit color, in planes or not, and floats, which Pillow reads as noise or not at all."""
    deep, path = DEEP[:, :, :3], tmp_path / "a.tif"
    floats = (deep / 65535).astype(np.float32)
    content = tiff(RGB, 2)
    for values, options in ((deep, {}), (deep, {"planar": True}), (floats, {"orientation": 6})):
        content = tiff(values, 2, before=content, **options)
    path.write_bytes(content)
    header = read_header(path)
    assert (header.frames, header.height, header.width) == (4, *RGB.shape[:2])
    assert frame_sizes(path) == (RGB.shape[:2],) * 3 + ((RGB.shape[1], RGB.shape[0]),)
    pages = list(read_frames(path))
    assert [(page.bits, page.notes) for page in pages] == [(8, ()), (16, ()), (16, ()), (16, ())]
    for page, colors in zip(pages, (RGB / 255, deep / 65535, deep / 65535, np.rot90(deep / 65535, -1)), strict=True):
        np.testing.assert_allclose(page.pixels, colors, atol=1e-6)
    path.write_bytes(tiff(RGB, 2, before=tiff(floats, 2)))  # Pillow does not open it
    assert [page.bits for page in read_frames(path)] == [16, 8]
    assert read_timing(path) == Timing()


def test_pages_of_files_with_offsets_of_64_bits(tmp_path):
    first, *others = map(Image.fromarray, FRAMES)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others, big_tiff=True)
    for frame, values in zip(read_frames(tmp_path / "a.tif"), FRAMES, strict=True):
        np.testing.assert_allclose(frame.pixels, values / 255, atol=1e-6)


def test_the_still_image_of_an_animated_png_file_is_no_frame(tmp_path):
    path = tmp_path / "a.png"
    still, *frames = map(Image.fromarray, FRAMES)
    still.save(path, save_all=True, default_image=True, append_images=frames, duration=[50, 100])
    header = read_header(path)
    assert (header.frames, header.further) == (2, 1)
    read = list(read_frames(path))
    assert [frame.notes for frame in read] == [(WITHOUT_STILL,)] * 2
    for frame, values in zip(read, FRAMES[1:], strict=True):
        np.testing.assert_allclose(frame.pixels, values / 255, atol=1e-6)
    assert read_timing(path) == Timing((50, 100), 0)


def test_a_gif_file_that_states_no_repetitions_is_shown_once(tmp_path):
    first, *others = map(Image.fromarray, FRAMES)
    for loop, plays in ((None, 1), (0, 0), (1, 2)):
        first.save(tmp_path / "a.gif", save_all=True, append_images=others, **({} if loop is None else {"loop": loop}))
        assert read_timing(tmp_path / "a.gif").plays == plays


HEADS = {".heic": b"\0\0\0\x18ftypheic\0\0\0\0", ".jxl": b"\0\0\0\x0cJXL \r\n\x87\n\0\0", ".avif": b"\0\0\0 ftypavif"}


def test_what_needs_a_plug_in_says_which(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins.importlib.util, "find_spec", lambda name: None)
    for suffix, head in HEADS.items():
        (tmp_path / f"a{suffix}").write_bytes(head + bytes(100))
    for suffix, distribution in ((".heic", "pillow-heif"), (".jxl", "pillow-jxl-plugin")):
        for read in (read_image, read_header):
            with pytest.raises(ImageError, match=rf"a{suffix}: .* need the plug-in {distribution}: pip install"):
                read(tmp_path / f"a{suffix}")
    left_out = {item.path.suffix: item.reason for item in list_images(tmp_path).left_out}
    assert left_out.keys() == {".heic", ".jxl"}  # Pillow reads AVIF by itself
    assert "pillow-heif" in left_out[".heic"]


def test_a_plug_in_is_imported_when_a_file_needs_it(tmp_path, monkeypatch):
    class Reader(ImageFile.ImageFile):
        format = "TOY"

        def _open(self):
            self.fp.seek(32)
            with Image.open(io.BytesIO(self.fp.read())) as inner:
                data, self._size, self._mode = inner.tobytes(), inner.size, inner.mode
            self.fp = io.BytesIO(data)
            self.tile = [ImageFile._Tile("raw", (0, 0, *self._size), 0, ("RGB",))]

    def register():
        Image.register_open("TOY", Reader, lambda prefix: prefix.startswith(HEADS[".heic"]))

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    module = types.ModuleType("toy_heif")
    module.register = register
    monkeypatch.setitem(sys.modules, "toy_heif", module)
    monkeypatch.setattr(plugins, "HEIF", plugins.HEIF._replace(module="toy_heif", register="register"))
    monkeypatch.setattr(plugins, "PLUG_INS", (plugins.HEIF, plugins.JXL, plugins.AVIF))
    monkeypatch.setattr(plugins.importlib.util, "find_spec", lambda name: name if name == "toy_heif" else None)
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    path = tmp_path / "a.heic"
    path.write_bytes(HEADS[".heic"].ljust(32, b"\0") + buffer.getvalue())
    np.testing.assert_array_equal(np.rint(read_image(path).pixels * 255), RGB)
    assert list_images(tmp_path).paths == (path,)


def test_a_plug_in_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    def fails(name):
        raise OSError("libheif.so: cannot open shared object file")

    monkeypatch.setattr(plugins.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(plugins.importlib, "import_module", fails)
    (tmp_path / "a.heic").write_bytes(HEADS[".heic"] + bytes(100))
    with pytest.raises(ImageError, match=r"pillow-heif cannot be imported \(libheif.so.*reinstall"):
        read_image(tmp_path / "a.heic")
