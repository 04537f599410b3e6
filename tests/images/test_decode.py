"""What Pillow refuses, drops or gets wrong in files that people have."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from framer_jax.images.decode import read_header, read_image, read_rgb
from framer_jax.images.png import write_deep
from framer_jax.images.raster import ImageError
from tests.support.image_files import GRAY, RGB, SMOOTH, encoded, kinds, refusal_of, tiff, write_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds") / "in"
    write_all(folder)
    return folder


@pytest.mark.parametrize("name", sorted(kinds()))
def test_every_kind_is_read_in_its_depth(folder, name):
    kind = kinds()[name]
    path = folder / f"{name}{kind.suffix}"
    image, header = read_image(path), read_header(path)
    np.testing.assert_allclose(image.pixels, kind.colors, atol=kind.tolerance)
    assert image.pixels.dtype == np.float32
    assert (header.height, header.width) == image.pixels.shape[:2]
    assert header.transparent == (image.alpha is not None) == ("transparency dropped" in header.loss)
    deep = any(word in name for word in ("16", "float", "half"))
    assert image.bits == (16 if deep else 8)
    assert ("16-bit" in header.loss) == deep
    np.testing.assert_array_equal(read_rgb(path), np.rint(image.pixels * np.float32(255)).astype(np.uint8))


def test_alpha_of_every_kind_is_read(folder):
    alpha = read_image(folder / "rgba16.png").alpha
    for name in ("gray16_alpha.png", "gray16_alpha_tiff.tif", "rgba16_planar.tif", "rgba16_premultiplied.tif"):
        np.testing.assert_array_equal(read_image(folder / name).alpha, alpha)
    transparent = read_image(folder / "gray16_transparent.png")
    assert transparent.alpha[0, 0] == 0
    assert transparent.alpha.sum() > 700


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["rgb.png", "rgb16.png", "rgb16_planar"])
def test_orientations_are_the_same_at_every_depth(folder, tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "eight.png", exif=exif)
    expected = read_rgb(tmp_path / "eight.png")
    if name == "rgb16_planar":
        path = tmp_path / "a.tif"
        path.write_bytes(tiff((RGB * np.uint16(257)), 2, planar=True, orientation=orientation))
    else:
        path = tmp_path / "late.png"  # EXIF data after the pixels
        data = (folder / name).read_bytes() if name == "rgb.png" else _deep_png(tmp_path)
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        path.write_bytes(data[:-12] + _chunk(chunk) + data[-12:])
    np.testing.assert_array_equal(read_rgb(path), expected)
    assert read_header(path)[:2] == expected.shape[:2]


def _deep_png(tmp_path):
    write_deep(tmp_path / "deep.png", RGB * np.uint16(257))
    return (tmp_path / "deep.png").read_bytes()


def _chunk(content):
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 97}])
def test_a_jpeg_file_without_its_end_marker_is_read_and_one_without_pixels_is_not(tmp_path, options):
    image = Image.fromarray(SMOOTH).resize((301, 222), Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", **options)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    for cut in (1, 2):
        (tmp_path / "a.jpg").write_bytes(data[:-cut])
        read = read_image(tmp_path / "a.jpg")
        np.testing.assert_array_equal(np.rint(read.pixels * 255), pixels)
        assert read.notes in ((), ("its end marker is missing; all its pixels are there",))  # Pillow may not miss it
    assert read.notes or options.get("quality")
    complete = 0
    for cut in (*range(3, 24), 40, 100, 1000, len(data) // 2):
        (tmp_path / "a.jpg").write_bytes(data[:-cut])
        refusal = refusal_of(read_rgb, tmp_path / "a.jpg")
        assert refusal is None or "truncated" in refusal.reason
        if refusal is None:  # only padding was cut
            np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), pixels)
            complete += 1
    assert complete <= 2


def test_large_texts_of_a_png_file_do_not_matter(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "x" * 2_000_000, zip=True)
    texts.add_text("b", "y" * 2_000_000)
    Image.fromarray(RGB).save(tmp_path / "a.png", pnginfo=texts, icc_profile=b"profile")
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(np.rint(read.pixels * 255), RGB)
    assert read.icc == b"profile"
    assert read_header(tmp_path / "a.png")[:2] == RGB.shape[:2]
    plain = encoded(Image.fromarray(RGB), "PNG")
    late = plain[:-12] + _chunk(b"zTXta\0\0" + zlib.compress(b"x" * 2_000_000)) + plain[-12:]
    (tmp_path / "late.png").write_bytes(late)
    np.testing.assert_array_equal(read_rgb(tmp_path / "late.png"), RGB)


def test_values_outside_the_range_are_refused(tmp_path):
    refused = {
        "large": (RGB.astype(np.float32), "outside 0 to 1"),
        "nan": (np.full((4, 4, 3), np.nan, np.float32), "NaN or infinite"),
    }
    for name, (values, reason) in refused.items():
        (tmp_path / f"{name}.tif").write_bytes(tiff(values, 2))
        with pytest.raises(ImageError, match=rf"{name}\.tif: .*{reason}"):
            read_image(tmp_path / f"{name}.tif")
    twelve = (GRAY.astype(np.uint16) << 4)[:, :, None]
    (tmp_path / "twelve.tif").write_bytes(tiff(twelve, 1, predictor=1))
    assert read_image(tmp_path / "twelve.tif").bits == 16


def test_images_above_the_limit_of_pixels_are_refused_in_our_words(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB[:, :, 0].size / 2 - 1)
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"a\.png: has more than 766 pixels: .*--max-pixels"):
            read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB[:, :, 0].size)
    assert read_image(tmp_path / "a.png").pixels.shape == RGB.shape


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")

    def fails(error):
        def load(self):
            raise error

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)

    for error in (RuntimeError("Failed to decode frame 0"), KeyError("tag"), AssertionError(), ZeroDivisionError("x")):
        fails(error)
        with pytest.raises(ImageError, match=r"a\.png: cannot be read as an image \(.+\): repair or remove it"):
            read_image(tmp_path / "a.png")
    fails(MemoryError())
    with pytest.raises(MemoryError, match=r"a\.png: there is not enough memory"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="name of the image is empty"):
        read_image("")


@pytest.mark.parametrize(("gamma", "is_named"), [(100_000, True), (45_455, False)])
def test_a_gamma_that_is_left_out_is_named(tmp_path, gamma, is_named):
    content = encoded(Image.fromarray(RGB), "PNG")
    chunk = b"gAMA" + struct.pack(">I", gamma)
    chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    end_of_header = 8 + 12 + 13
    (tmp_path / "a.png").write_bytes(content[:end_of_header] + chunk + content[end_of_header:])
    assert any("its gamma of 1 (gAMA)" in note for note in read_image(tmp_path / "a.png").notes) == is_named
