"""Every kind of image file is read, and written back in its own mode."""

import errno
import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from framer_jax.images.decode import read_image
from framer_jax.images.image_data import ImageData
from framer_jax.inference.formats import FORMATS
from framer_jax.inference.images import (
    depth_note,
    write_image,
)
from framer_jax.inference.transparency import flatten, parse_color, premultiply_alpha, replace_pixels

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0]
ALPHA = np.repeat(np.array([[0, 60, 128, 200, 255]], np.uint8), 6, axis=0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def close(a, b, atol=0.5 / 255 + 1e-6):
    np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_round_trip(tmp_path, suffix, mode):
    values = {
        "L": GRAY,
        "LA": np.stack([GRAY, ALPHA], 2),
        "RGB": RGB,
        "RGBA": np.concatenate([RGB, ALPHA[:, :, None]], 2),
    }[mode]
    path = tmp_path / "a.tiff"
    Image.fromarray(values).save(path)
    image = read_image(path)
    assert (image.mode, image.bits, image.notes) == (mode, 8, ())
    assert image.pixels.dtype == np.float32
    color = RGB if mode.startswith("RGB") else np.repeat(GRAY[:, :, None], 3, 2)
    np.testing.assert_array_equal(image.pixels, np.float32(color) / np.float32(255))
    write_image(tmp_path / f"b{suffix}", image)
    with Image.open(tmp_path / f"b{suffix}") as written:
        if suffix != ".webp":  # lossy, without L and LA
            assert written.mode == mode
            np.testing.assert_array_equal(np.asarray(written), values)
        else:
            assert written.mode == ("RGBA" if mode.endswith("A") else "RGB")
            if mode.endswith("A"):
                np.testing.assert_array_equal(np.asarray(written)[:, :, 3], ALPHA)


def test_bilevel_and_palettes(tmp_path):
    Image.fromarray(GRAY > 127).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "L"
    np.testing.assert_array_equal(image.pixels[:, :, 0], GRAY > 127)

    indices = np.arange(30, dtype=np.uint8).reshape(6, 5) % 3
    palette = Image.new("P", (5, 6))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata(indices.ravel().tolist())
    colors = np.eye(3, dtype=np.float32)[indices]
    palette.save(tmp_path / "p.png")
    image = read_image(tmp_path / "p.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image.pixels, colors)
    palette.save(tmp_path / "q.png", transparency=bytes([0, 128, 255]))
    image = read_image(tmp_path / "q.png")
    assert image.mode == "RGBA"
    np.testing.assert_array_equal(image.pixels, colors)
    close(image.alpha, np.float32([0, 128, 255])[indices] / 255)
    Image.fromarray(indices).save(tmp_path / "t.png", transparency=1)  # one transparent gray value
    image = read_image(tmp_path / "t.png")
    assert image.mode == "LA"
    np.testing.assert_array_equal(image.alpha, indices != 1)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_gray_keeps_its_depth(tmp_path, suffix):
    values = RNG.integers(0, 65536, (6, 5), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert (image.mode, image.bits) == ("L", 16)
    write_image(tmp_path / f"b{suffix}", image)
    with Image.open(tmp_path / f"b{suffix}") as written:
        np.testing.assert_array_equal(np.asarray(written), values)
    write_image(tmp_path / "b.jpg", image)
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.mode == "L"


def test_deep_gray_of_other_kinds(tmp_path):
    Image.fromarray(np.full((2, 3), 0.25, np.float32)).save(tmp_path / "f.tiff")
    image = read_image(tmp_path / "f.tiff")
    assert (image.mode, image.bits) == ("L", 16)
    np.testing.assert_array_equal(image.pixels, np.full((2, 3, 3), 0.25, np.float32))
    Image.fromarray(np.full((2, 3), 200.0, np.float32)).save(tmp_path / "g.tiff")
    with pytest.raises(ValueError, match=r"g.tiff.*outside 0 to 1"):
        read_image(tmp_path / "g.tiff")
    Image.fromarray(np.full((2, 3), 70000, np.int32)).save(tmp_path / "i.tiff")
    with pytest.raises(ValueError, match=r"i.tiff.*outside 0 to 65535"):
        read_image(tmp_path / "i.tiff")
    Image.fromarray(np.full((2, 3), 7, np.uint16)).save(tmp_path / "t.png", transparency=7)
    assert read_image(tmp_path / "t.png").mode == "LA"


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_16_bit_color_keeps_its_depth(tmp_path, mode):
    values = RNG.integers(0, 65536, (6, 5, 4), dtype=np.uint16)
    pixels = np.float32(values[:, :, :3]) / np.float32(65535)
    pixels = pixels if mode.startswith("RGB") else np.repeat(pixels[:, :, :1], 3, 2)
    alpha = np.float32(values[:, :, 3]) / np.float32(65535) if mode.endswith("A") else None
    image = ImageData(pixels, alpha, mode, SRGB, 16)
    write_image(tmp_path / "a.png", image)
    again = read_image(tmp_path / "a.png")
    assert (again.mode, again.bits, again.icc, again.notes) == (mode, 16, SRGB, ())
    np.testing.assert_array_equal(again.pixels, pixels)
    np.testing.assert_array_equal(again.alpha, alpha) if alpha is not None else None
    assert depth_note("a.png", image) == ""
    write_image(tmp_path / "a.tiff", image)
    eight = read_image(tmp_path / "a.tiff")
    assert (eight.mode, eight.bits) == (mode, 16 if mode == "L" else 8)
    close(eight.pixels, pixels)
    assert ("8 bits" in depth_note("a.tiff", image)) == (mode != "L")
    assert "8 bits" in depth_note("a.webp", image)


def test_transparent_images_are_flattened_onto_a_color():
    pixels, alpha = np.float32(RGB) / 255, np.float32(ALPHA) / 255
    flat = flatten(ImageData(pixels, alpha, "RGBA"), parse_color("#ff8000"))
    assert (flat.alpha, flat.mode) == (None, "RGB")
    ground = np.float32([1, 128 / 255, 0])
    np.testing.assert_allclose(flat.pixels, pixels * alpha[..., None] + ground * (1 - alpha[..., None]), atol=1e-6)
    gray = ImageData(np.repeat(pixels[:, :, :1], 3, 2), alpha, "LA")
    assert [flatten(gray, parse_color(color)).mode for color in ("white", "red")] == ["L", "RGB"]
    with pytest.raises(ValueError, match="'whity' is no color"):
        parse_color("whity")


@pytest.mark.parametrize("with_profile", [False, True])
def test_cmyk_becomes_rgb(tmp_path, with_profile):
    cmyk = Image.fromarray(RGB).convert("CMYK")
    # an RGB profile is unusable for CMYK and treated as a missing one
    cmyk.save(tmp_path / "a.jpg", quality=100, **({"icc_profile": SRGB} if with_profile else {}))
    image = read_image(tmp_path / "a.jpg")
    assert (image.mode, image.icc) == ("RGB", None)
    assert image.pixels.shape == (6, 5, 3)
    with Image.open(tmp_path / "a.jpg") as plain:
        np.testing.assert_array_equal(image.pixels, np.float32(plain.convert("RGB")) / np.float32(255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_not_written(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    oriented = RGB.transpose(1, 0, 2) if orientation >= 5 else RGB
    oriented = oriented[:, ::-1] if orientation in (2, 3, 6, 7) else oriented
    oriented = oriented[::-1] if orientation in (3, 4, 7, 8) else oriented
    np.testing.assert_array_equal(np.rint(image.pixels * 255), oriented)
    write_image(tmp_path / "b.png", image)
    with Image.open(tmp_path / "b.png") as written:
        assert not written.getexif()
        np.testing.assert_array_equal(np.asarray(written), oriented)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_color_profiles_are_written_back(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=SRGB)
    image = read_image(tmp_path / "a.png")
    assert image.icc == SRGB
    write_image(tmp_path / f"b{suffix}", image)
    assert read_image(tmp_path / f"b{suffix}").icc == SRGB


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / "a.png")
    close(image.pixels, np.full((4, 4, 3), 10 / 255))
    assert image.notes == ("only the first of 2 frames was read",)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
def test_damaged_files_are_named(tmp_path, suffix):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, FORMATS[suffix].name)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(ValueError, match=f"cut{suffix}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "b.png").write_bytes(b"")
    for name, reason in (("a.png", "not an image"), ("b.png", "the file is empty")):
        with pytest.raises(ValueError, match=f"{name}: {reason}"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_image(tmp_path / "c.png")
    with pytest.raises(ValueError, match="folder"):
        read_image(tmp_path)


def test_existing_files_are_kept_and_no_temporary_files_are_left(tmp_path):
    image = ImageData(np.float32(RGB) / 255)
    path = tmp_path / "new" / "a.png"
    write_image(path, image)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwriting"):
        write_image(path, image._replace(pixels=image.pixels * 0))
    assert path.read_bytes() == before
    write_image(path, image._replace(pixels=image.pixels * 0), overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=r"cannot write '.xyz'"):
        write_image(tmp_path / "a.xyz", image)
    wide = ImageData(np.zeros((1, 17000, 3), np.float32))
    with pytest.raises(ValueError, match="WEBP holds at most 16,383 pixels a side, and the image is 17000x1"):
        write_image(tmp_path / "new" / "a.webp", wide)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_transparency_needs_a_format_with_alpha(tmp_path):
    alpha = np.float32(ALPHA) / 255
    image = ImageData(np.float32(RGB) / 255, alpha, "RGBA")
    for suffix in (".jpg", ".bmp"):
        with pytest.raises(ValueError, match="cannot hold transparency"):
            write_image(tmp_path / f"a{suffix}", image)
        write_image(tmp_path / f"a{suffix}", image._replace(alpha=np.ones_like(alpha)))
        assert read_image(tmp_path / f"a{suffix}").mode == "RGB"


def test_opaque_alpha_changes_nothing():
    pixels = np.float32(RGB) / 255
    image = ImageData(pixels, np.ones((6, 5), np.float32), "RGBA")
    assert premultiply_alpha(image) is pixels
    sr = RNG.random((24, 20, 3), np.float32)
    result = replace_pixels(image, sr, 4)
    assert result.pixels is sr
    np.testing.assert_array_equal(result.alpha, np.ones((24, 20)))
    assert replace_pixels(ImageData(pixels), sr, 4).alpha is None


def test_hidden_colors_do_not_bleed():
    # red on the left, hidden green under transparency on the right
    pixels = np.zeros((8, 8, 3), np.float32)
    pixels[:, :4, 0] = 1
    pixels[:, 4:, 1] = 1
    alpha = np.zeros((8, 8), np.float32)
    alpha[:, :4] = 1
    image = ImageData(pixels, alpha, "RGBA")
    small = premultiply_alpha(image)
    result = replace_pixels(image, small.repeat(4, 0).repeat(4, 1), 4)
    assert result.pixels[:, :, 1].max() == 0
    assert result.alpha.min() >= 0
    assert result.alpha.max() <= 1
    np.testing.assert_array_equal(result.pixels[:, :14, 0], 1)
    np.testing.assert_array_equal(result.alpha[:, 24:], 0)


def test_a_full_disk_is_reported_as_such(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "temporary")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.png'"):
        write_image(tmp_path / "a.png", ImageData(np.zeros((2, 2, 3), np.float32)))
    assert not list(tmp_path.iterdir())
