"""Image files as a source: reading, and errors for files that cannot be read."""

import pickle

import numpy as np
import pytest
from PIL import Image

from framer_jax.data import photos, sources
from framer_jax.images.decode import read_rgb

PHOTO_NAMES = {
    *("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field", "motorcycle", "retina"),
    *("ihc", "brick", "grass", "gravel", "china", "flower"),
}


def write_images(folder, number, size=(24, 20), start=0):
    """Write noise images 000.png, 001.png, …; `size` is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + number):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_folder_is_read_recursively_in_a_fixed_order(tmp_path):
    write_images(tmp_path / "b", 2)
    write_images(tmp_path / "a" / "deep", 1)
    Image.new("RGB", (30, 30), (255, 0, 0)).save(tmp_path / "top.JPG")
    (tmp_path / "notes.txt").write_text("not an image")
    write_images(tmp_path / ".thumbnails" / "b", 1)
    (tmp_path / "._top.png").write_bytes(b"\0\5\x16\7")  # macOS writes such files to other file systems
    for name in ("figure.eps", "paper.pdf", "film.mpg", "data.h5"):  # registered in Pillow, but not readable by it
        (tmp_path / name).write_text("not an image")
    source = sources.folder_source(tmp_path)
    assert source.names == ["a/deep/000.png", "b/000.png", "b/001.png", "top.JPG"]
    assert len(source) == 4
    photo = source[1]
    assert source.damage() == ""
    assert photo.record == 1
    assert photo.size == (20, 24)
    np.testing.assert_array_equal(photo.crop(0, 0, 20, 24), read_rgb(tmp_path / "b/000.png"))
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_crops_are_the_same_with_and_without_the_cache(tmp_path, cache_bytes):
    write_images(tmp_path, 1)
    source = sources.folder_source(tmp_path, cache_bytes=cache_bytes)
    image = np.asarray(Image.open(tmp_path / "000.png"))
    for _ in range(2):
        np.testing.assert_array_equal(source[0].crop(3, 5, 8, 10), image[3:11, 5:15])


def test_empty_and_missing_folders_and_folders_of_other_files_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        sources.folder_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no image"):
        sources.folder_source(tmp_path)
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"holds no image"):
        sources.folder_source(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"holds no readable image") as error:
        sources.folder_source(tmp_path)
    assert "\n" not in str(error.value)


def test_images_smaller_than_the_crop_are_left_out_up_to_a_share(tmp_path, caplog):
    write_images(tmp_path, 3, size=(64, 64))
    write_images(tmp_path, 2, size=(64, 20), start=3)
    assert len(sources.folder_source(tmp_path, crop=20)) == 5
    assert not caplog.messages
    source = sources.folder_source(tmp_path, crop=32, small_share=0.4)
    assert source.names == ["000.png", "001.png", "002.png"]
    report = "2 of 5 images are smaller than the crop of 32 and were left out: 003.png, 004.png"
    assert source.damage() == report
    assert caplog.messages == [report]
    truncate(tmp_path / "001.png")
    assert source[1].record == 2
    assert source.damage() == f"1 of 5 images are damaged and were skipped: 001.png; {report}"
    refusal = r"003.png is 64 x 20, smaller than the crop of 32 \(2 of 5.* larger share than 0.39 \(data.small_share\)"
    with pytest.raises(ValueError, match=refusal):
        sources.folder_source(tmp_path, crop=32, small_share=0.39)
    with pytest.raises(ValueError, match=r"5 of 5 images are"):
        sources.folder_source(tmp_path, crop=65, small_share=1.0)
    (tmp_path / "004.png").unlink()
    assert len(sources.folder_source(tmp_path, crop=32, small_share=0.01)) == 3  # one image always may
    with pytest.raises(ValueError, match=r"1 of 4 images are"):
        sources.folder_source(tmp_path, crop=32)


@pytest.mark.parametrize("cache_bytes", [0, 2**24])
def test_a_truncated_image_is_named_once_and_replaced(tmp_path, caplog, cache_bytes):
    write_images(tmp_path, 5)
    truncate(tmp_path / "002.png")
    source = sources.folder_source(tmp_path, cache_bytes=cache_bytes)
    assert len(source) == 5  # the header is intact, so the damage is found on decoding
    for _ in range(3):
        photo = source[2]
        assert photo.record == 3
        np.testing.assert_array_equal(photo.crop(0, 0, 20, 24), read_rgb(tmp_path / "003.png"))
    assert source.damaged == ("002.png",)
    assert source.damage() == "1 of 5 images are damaged and were skipped: 002.png"
    assert [message for message in caplog.messages if "002.png" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_the_last_image_is_replaced_by_the_first(tmp_path):
    write_images(tmp_path, 3)
    truncate(tmp_path / "002.png")
    assert sources.folder_source(tmp_path)[2].record == 0


def test_more_than_one_percent_of_damaged_images_is_an_error(tmp_path):
    write_images(tmp_path, 6)
    for i in (1, 4):
        truncate(tmp_path / f"00{i}.png")
    source = sources.folder_source(tmp_path)
    source[1]
    with pytest.raises(ValueError, match=r"more than 1 % .*001.png, 004.png"):
        source[4]


def test_unreadable_headers_count_as_damaged(tmp_path, caplog):
    write_images(tmp_path, 4)
    (tmp_path / "001.png").write_bytes(b"")
    source = sources.folder_source(tmp_path)
    assert source.names == ["000.png", "002.png", "003.png"]
    assert source.damage() == "1 of 4 images are damaged and were skipped: 001.png"
    assert "001.png" in caplog.text
    (tmp_path / "002.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="more than 1 %"):
        sources.folder_source(tmp_path)


def test_every_pillow_mode_becomes_rgb(tmp_path):
    gray16 = (np.arange(32 * 32, dtype=np.uint16) * 60).reshape(32, 32)
    images = {
        "gray.png": Image.fromarray((gray16 // 257).astype(np.uint8)),
        "gray16.png": Image.fromarray(gray16),
        "rgba.png": Image.new("RGBA", (32, 32), (10, 20, 30, 0)),
        "palette.png": Image.new("RGB", (32, 32), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE),
        "bits.png": Image.new("1", (32, 32), 1),
        "cmyk.jpg": Image.new("CMYK", (32, 32), (0, 0, 0, 0)),
        "alpha.png": Image.new("LA", (32, 32), (40, 128)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        pixels = read_rgb(tmp_path / name)
        assert pixels.shape == (32, 32, 3), name
        assert pixels.dtype == np.uint8, name
    np.testing.assert_array_equal(read_rgb(tmp_path / "gray16.png")[..., 1], np.round(gray16 / 257))
    np.testing.assert_array_equal(read_rgb(tmp_path / "rgba.png")[0, 0], (10, 20, 30))
    np.testing.assert_array_equal(read_rgb(tmp_path / "palette.png")[0, 0], (10, 20, 30))
    assert (read_rgb(tmp_path / "bits.png") == 255).all()


def test_a_palette_with_transparency_per_entry_gives_no_warning(tmp_path):
    image = Image.new("P", (32, 32))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "image.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(read_rgb(tmp_path / "image.png")[0, 0], (1, 2, 3))


def test_photographs_are_rotated_upright(tmp_path):
    image = Image.fromarray(np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90°
    image.save(tmp_path / "rotated.png", exif=exif)
    source = sources.folder_source(tmp_path)
    assert source[0].size == (16, 12)


def test_reading_a_damaged_file_names_it(tmp_path):
    write_images(tmp_path, 1)
    truncate(tmp_path / "000.png")
    with pytest.raises(ValueError, match=r"000\.png: cannot be read as an image"):
        read_rgb(tmp_path / "000.png")


def test_sources_can_be_pickled_for_worker_processes(tmp_path):
    write_images(tmp_path, 2)
    source = sources.folder_source(tmp_path)
    expected = source[1].crop(0, 0, 20, 24)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[1].crop(0, 0, 20, 24), expected)


# The built-in photographs


def test_the_split_is_fixed():
    assert set(photos.PHOTOS) == PHOTO_NAMES
    assert photos.HELD_OUT == ("chelsea", "china", "coffee")
    assert not set(photos.TRAINING) & set(photos.HELD_OUT)
    assert set(photos.TRAINING) | set(photos.HELD_OUT) == PHOTO_NAMES


def test_all_photographs_are_available():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    source = photos.photo_source(tuple(photos.PHOTOS), crop=256)
    assert source.names == list(photos.PHOTOS)
    names = [photos.photo_path(name).name for name in source.names]
    assert names[source.names.index("motorcycle")] == "motorcycle_left.png"
    assert source[source.names.index("brick")].crop(0, 0, 8, 8).shape == (8, 8, 3)
    assert len(photos.photo_source()) == 10


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"framer_jax\[photos\]"):
        photos.photo_source()
    with pytest.raises(ValueError, match="choose from astronaut"):
        photos.photo_path("lena")
