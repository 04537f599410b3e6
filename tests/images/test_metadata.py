"""EXIF, XMP, IPTC, resolution and texts survive in every format that holds them; orientation and layout do not."""

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from framer_jax.images.decode import read_image
from framer_jax.images.frames import read_frames
from framer_jax.images.image_data import ImageData
from framer_jax.images.metadata import DAMAGED, Metadata
from framer_jax.images.profiles import is_gray
from framer_jax.inference.formats import FORMATS, held_metadata
from framer_jax.inference.images import loss_note, write_image
from framer_jax.inference.result_settings import FileSettings
from framer_jax.inference.transparency import flatten
from tests.support.image_files import RGB, SMOOTH, gray_profile, other_profile, tiff

DATE, PLACE = "2024:01:02 03:04:05", (48.0, 8.0, 2.5)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:subject="cat"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x19\0\3cat"


def resource(kind: int, content: bytes) -> bytes:
    return (
        b"8BIM"
        + struct.pack(">H", kind)
        + b"\0\0"
        + struct.pack(">I", len(content))
        + content
        + b"\0" * (len(content) % 2)
    )


@pytest.fixture
def photograph(tmp_path):
    """A lying JPEG photograph with all kinds of metadata, and a thumbnail among Photoshop's resources."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Canon"
    exif[ExifTags.IFD.Exif] = {36867: DATE, 40962: 32, 40963: 24, 37500: b"maker's own", 40965: {1: "R98"}}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: PLACE}
    photoshop = b"Photoshop 3.0\0" + resource(0x40C, b"thumbnail") + resource(0x404, IPTC)
    extra = b"\xff\xed" + struct.pack(">H", len(photoshop) + 2) + photoshop
    path = tmp_path / "photo.jpg"
    Image.fromarray(SMOOTH).save(path, exif=exif, xmp=XMP, dpi=(300, 300), extra=extra, quality=95)
    return path


def test_a_photograph_is_read_with_its_metadata(photograph):
    image = read_image(photograph)
    assert image.shape == (32, 24, 3)
    exif = Image.Exif()
    exif.load(image.metadata.exif)
    assert ExifTags.Base.Orientation not in exif
    assert exif[ExifTags.Base.Make] == "Canon"
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[2] == PLACE
    assert b"subject" in image.metadata.xmp
    assert b"Orientation" not in image.metadata.xmp
    assert image.metadata.iptc == b"Photoshop 3.0\0" + resource(0x404, IPTC)
    assert image.metadata.dpi == (300, 300)
    assert image.to_pillow().info["dpi"] == (300, 300)
    assert image.notes == ()


@pytest.mark.parametrize("suffix", sorted(set(FORMATS) - {".jpeg", ".tif"}))
@pytest.mark.parametrize("bits", [8, 16])
def test_every_format_keeps_what_it_holds(photograph, tmp_path, suffix, bits):
    image = read_image(photograph)._replace(bits=bits)
    path = tmp_path / f"result{suffix}"
    kept, note = held_metadata(path, image.metadata)
    write_image(path, image._replace(pixels=image.pixels.repeat(2, 0).repeat(2, 1)))
    again = read_image(path)
    assert again.shape == (64, 48, 3)  # upright, once
    for name in ("xmp", "iptc"):
        assert getattr(again.metadata, name) == getattr(kept, name)
    assert (again.metadata.dpi is None) == (kept.dpi is None) == (suffix == ".gif")
    np.testing.assert_allclose(again.metadata.dpi or (300, 300), 300, atol=0.02)
    assert bool(kept.exif) == (suffix not in (".bmp", ".gif"))
    if kept.exif:
        exif = Image.Exif()
        exif.load(again.metadata.exif)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        assert (details[36867], details[40962], details[40963], details[37500]) == (DATE, 48, 64, b"maker's own")
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[2] == PLACE
    assert ("IPTC" in note) == (suffix != ".jpg")
    assert note in loss_note(path, image)
    with Image.open(path) as written:
        assert ExifTags.Base.Orientation not in written.getexif()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 16])
def test_metadata_is_left_out_on_demand_and_the_color_profile_is_not(photograph, tmp_path, suffix, bits):
    image = read_image(photograph)._replace(icc=b"profile", bits=bits)
    path = tmp_path / f"bare{suffix}"
    write_image(path, image, strip_metadata=True)
    again = read_image(path)
    assert again.metadata._replace(dpi=None) == Metadata()
    assert again.metadata.dpi in (None, (1, 1))  # what libtiff writes where nothing is known
    assert again.icc == b"profile"
    for secret in (b"Canon", DATE.encode(), b"cat"):
        assert secret not in path.read_bytes()
    assert "IPTC" not in loss_note(path, image, FileSettings(strip_metadata=True))


def test_what_is_too_long_for_a_segment_of_a_jpeg_file_is_named(tmp_path):
    image = ImageData(np.float32(RGB) / 255, metadata=Metadata(xmp=b"<x>" + b" " * 70_000))
    assert "XMP of the original" in loss_note("a.jpg", image)
    write_image(tmp_path / "a.jpg", image)
    write_image(tmp_path / "a.png", image)
    assert read_image(tmp_path / "a.png").metadata.xmp == image.metadata.xmp


def test_a_large_text_of_a_png_file_does_not_cost_its_metadata(photograph, tmp_path):
    image = read_image(photograph)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", image.metadata.xmp.decode())
    texts.add_text("prompt", "x" * 2_000_000)
    Image.fromarray(RGB).save(tmp_path / "b.png", pnginfo=texts, dpi=(300, 300), exif=image.metadata.exif)
    again = read_image(tmp_path / "b.png").metadata
    assert again.xmp == image.metadata.xmp
    assert again.exif == image.metadata.exif


def test_pages_are_read_in_the_depth_that_pillow_decodes(tmp_path):
    pages = [Image.fromarray(RGB), Image.fromarray(RGB)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert [frame.notes for frame in read_frames(tmp_path / "a.tif")] == [(), ()]
    deep = [np.uint16(RGB[:, :, 0]) * 257 for _ in range(2)]
    grays = [Image.fromarray(page) for page in deep]
    grays[0].save(tmp_path / "g.tif", save_all=True, append_images=grays[1:])
    assert [frame.bits for frame in read_frames(tmp_path / "g.tif")] == [16, 16]


@pytest.mark.filterwarnings("ignore")  # Pillow's own, which commands do not show
def test_damaged_metadata_costs_no_image(tmp_path, monkeypatch):
    for number, exif in enumerate((b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0nonsense", b"Exif\0\0")):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(RGB).save(path, exif=exif)
        image = read_image(path)
        assert image.metadata.exif == b""

    def fails(image):
        raise SyntaxError("not a TIFF file")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "getexif", fails)
        image = read_image(path)
        assert (image.notes, image.metadata.exif, image.shape) == ((DAMAGED,), b"", RGB.shape)
    cut = b"Photoshop 3.0\0" + resource(0x404, IPTC)[:-6]
    Image.fromarray(RGB).save(tmp_path / "cut.jpg", extra=b"\xff\xed" + struct.pack(">H", len(cut) + 2) + cut)
    assert read_image(tmp_path / "cut.jpg").metadata.iptc == b""


def test_resolutions_that_mean_nothing_are_dropped(tmp_path):
    for dpi in ((0.2, 300), (300, 99_999)):
        Image.fromarray(RGB).save(tmp_path / "a.png", dpi=dpi)
        assert read_image(tmp_path / "a.png").metadata.dpi is None


def test_resolutions_that_pillow_fills_in_are_none(tmp_path):
    """1 for TIFF files without a resolution, and 72 for JPEG files whose EXIF data has none."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Canon"
    Image.fromarray(RGB).save(tmp_path / "a.tif")
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    for name in ("a.tif", "a.jpg"):
        assert read_image(tmp_path / name).metadata.dpi is None
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 200.0
    exif[ExifTags.Base.ResolutionUnit] = 2
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(RGB).save(tmp_path / "a.tif", dpi=(200, 200))
    for name in ("a.tif", "a.jpg"):
        assert read_image(tmp_path / name).metadata.dpi == (200, 200)


@pytest.mark.parametrize("attribute", [b'tiff:Orientation="6"', b"tiff:Orientation='6'", b"tiff:Orientation = '6'"])
def test_orientations_in_xmp_are_removed_however_they_are_quoted(tmp_path, attribute):
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description " + attribute + b" dc:subject='cat'/></x:xmpmeta>"
    Image.fromarray(RGB).save(tmp_path / "a.jpg", xmp=xmp)
    kept = read_image(tmp_path / "a.jpg").metadata.xmp
    assert b"Orientation" not in kept
    assert b"cat" in kept


def test_deep_tiff_files_keep_their_description(tmp_path):
    path = tmp_path / "planar.tif"
    path.write_bytes(tiff(RGB * np.uint16(257), 2, planar=True))
    assert read_image(path).metadata == Metadata()


@pytest.mark.parametrize("bits", [8, 16])
def test_comments_and_texts_are_kept_where_there_is_a_place_for_them(tmp_path, bits):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", comment=b"at the sea")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat, 20 steps")
    texts.add_itxt("Title", "Meer \u2013 sea")
    texts.add_itxt("XML:com.adobe.xmp", "<x/>")
    Image.fromarray(RGB).save(tmp_path / "a.png", pnginfo=texts)
    photo, drawing = (read_image(tmp_path / name)._replace(bits=bits) for name in ("a.jpg", "a.png"))
    assert photo.metadata == Metadata(comment=b"at the sea")
    assert drawing.metadata == Metadata(
        xmp=b"<x/>", texts=(("parameters", "a cat, 20 steps"), ("Title", "Meer \u2013 sea"))
    )
    for image, suffix, other, lost in ((photo, ".jpg", ".png", "the comment"), (drawing, ".png", ".jpg", "the texts")):
        write_image(tmp_path / f"again{suffix}", image)
        assert read_image(tmp_path / f"again{suffix}").metadata == image.metadata
        assert loss_note(f"b{suffix}", image) in (
            "",
            "written with 8 bits per channel, of 16 that were read (PNG keeps 16)",
        )
        assert f"{lost} of the original cannot be kept" in loss_note(f"b{other}", image)
        write_image(tmp_path / f"bare{suffix}", image, strip_metadata=True)
        assert read_image(tmp_path / f"bare{suffix}").metadata._replace(dpi=None) == Metadata()


@pytest.mark.parametrize("suffix", [".bmp", ".gif"])
def test_formats_without_profiles_get_the_colors_of_srgb(tmp_path, suffix):
    color = np.array([0.25, 0.5, 0.75], np.float32)
    image = ImageData(np.broadcast_to(color, (8, 8, 3)).copy(), icc=other_profile())
    note = loss_note(f"a{suffix}", image)
    assert f"{FORMATS[suffix].name} holds no color profile: converted from " in note and "to sRGB" in note
    write_image(tmp_path / f"a{suffix}", image)
    np.testing.assert_allclose(read_image(tmp_path / f"a{suffix}").pixels[4, 4], color[[1, 0, 2]], atol=0.02)
    assert "profile" not in loss_note("a.png", image)
    assert "profile" not in loss_note(
        f"a{suffix}", image._replace(icc=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    )
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # of another kind of pixels
    for icc in (b"profile", lab):
        unusable = image._replace(icc=icc)
        assert "its color profile is unusable and was left out" in loss_note(f"a{suffix}", unusable)
        write_image(tmp_path / f"unusable{suffix}", unusable, overwrite=True)
        np.testing.assert_allclose(read_image(tmp_path / f"unusable{suffix}").pixels[4, 4], color, atol=0.02)


def test_gray_profiles_stay_with_gray_images():
    """A gray image that is written in color is converted to sRGB; with its profile, no program could show it."""
    gray = ImageData(np.full((4, 4, 3), 0.5, np.float32), np.ones((4, 4), np.float32), "LA", gray_profile(gamma=1.0))
    assert is_gray(gray.icc) and not is_gray(other_profile()) and not is_gray(None) and not is_gray(b"nonsense")
    colored = flatten(gray._replace(alpha=np.full((4, 4), 0.5, np.float32)), (1.0, 0.0, 0.0))
    assert (colored.mode, colored.icc) == ("RGB", None)
    np.testing.assert_allclose(colored.pixels[0, 0], [0.868, 0.368, 0.368], atol=0.003)  # linear 0.5 is 0.735 in sRGB
    assert flatten(gray, (1.0, 1.0, 1.0)).icc == gray.icc


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
@pytest.mark.parametrize("alpha", [None, np.ones((4, 4), np.float32)])
def test_gray_images_in_formats_of_color_alone(tmp_path, suffix, alpha):
    mode = "L" if alpha is None else "LA"
    gray = ImageData(np.full((4, 4, 3), 0.5, np.float32), alpha, mode, gray_profile(gamma=1.0))
    assert "holds color: converted from " in loss_note(f"a{suffix}", gray)
    assert "holds color" not in loss_note("a.png", gray)
    write_image(tmp_path / f"a{suffix}", gray, quality=100)
    written = read_image(tmp_path / f"a{suffix}")
    assert written.icc is None
    np.testing.assert_allclose(written.pixels, 0.735, atol=0.01)
