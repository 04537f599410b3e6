"""The index of a folder of photographs: what is opened, and when an entry no longer holds."""

import json
import os
import shutil

import numpy as np
import pytest

from framer_jax.data import contents, image_index, sources
from framer_jax.data.image_index import INDEX
from tests.support.tiny import photos


@pytest.fixture
def opened(monkeypatch):
    """Names of the files whose headers were read and whose contents were digested."""
    names = {"headers": [], "digests": []}
    read_header, digest = image_index.read_header, image_index.content_digest
    monkeypatch.setattr(
        image_index, "read_header", lambda path: (names["headers"].append(path.name), read_header(path))[1]
    )
    monkeypatch.setattr(
        image_index, "content_digest", lambda path: (names["digests"].append(path.name), digest(path))[1]
    )
    return names


def open_folder(folder, **options):
    return sources.folder_source(folder, keep_index=True, **options)


def test_each_file_is_opened_once(tmp_path, opened):
    folder = photos(tmp_path / "photos", 3)
    first = open_folder(folder, crop=40)
    assert sorted(opened["headers"]) == sorted(opened["digests"]) == ["photo_0.png", "photo_1.png", "photo_2.png"]
    for names in opened.values():
        names.clear()
    again = open_folder(folder, crop=40)
    assert opened == {"headers": [], "digests": []}
    assert again.names == first.names == ["photo_0.png", "photo_1.png", "photo_2.png"]
    assert again.digests() == first.digests() == sources.folder_source(folder).digests()
    with pytest.raises(ValueError, match=r"photo_0\.png is 48 x 40, smaller than the crop of 41"):
        open_folder(folder, crop=41)
    np.testing.assert_array_equal(again[1].image, first[1].image)


def test_changed_new_and_removed_files_are_noticed(tmp_path, opened):
    folder = photos(tmp_path / "photos", 3)
    before = open_folder(folder).digests()
    opened["headers"].clear()
    photos(tmp_path / "larger", 1, (64, 56))
    shutil.copy(tmp_path / "larger" / "photo_0.png", folder / "photo_1.png")  # of another size
    os.utime(folder / "photo_2.png", ns=(0, 0))  # at another time
    (folder / "photo_0.png").rename(folder / "renamed.png")
    source = open_folder(folder)
    assert sorted(opened["headers"]) == ["photo_1.png", "photo_2.png", "renamed.png"]
    after = source.digests()
    assert source.names == ["photo_1.png", "photo_2.png", "renamed.png"]
    assert source[0].size == (64, 56)
    assert after["photo_1.png"] != before["photo_1.png"]
    assert (after["photo_2.png"], after["renamed.png"]) == (before["photo_2.png"], before["photo_0.png"])
    assert sorted(json.loads((folder / INDEX).read_text())["images"]) == source.names


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 0, "images": {}}', '{"version": 1, "images": {"a": []}}']
)
def test_a_damaged_index_is_made_again(tmp_path, content):
    folder = photos(tmp_path / "photos", 2)
    expected = open_folder(folder).digests()
    (folder / INDEX).write_text(content)
    assert open_folder(folder).digests() == expected
    assert len(json.loads((folder / INDEX).read_text())["images"]) == 2


def test_damaged_photographs_are_not_kept_and_are_tried_again(tmp_path, opened):
    folder = photos(tmp_path / "photos", 3)
    content = (folder / "photo_1.png").read_bytes()
    (folder / "photo_1.png").write_bytes(b"damaged")
    for _ in range(2):
        opened["headers"].clear()
        assert open_folder(folder).damaged == ("photo_1.png",)
        assert "photo_1.png" in opened["headers"]
    (folder / "photo_1.png").write_bytes(content)
    assert open_folder(folder).damage() == ""


def test_where_the_folder_cannot_be_written_the_index_is_in_the_cache(tmp_path, opened, monkeypatch, caplog):
    folder = photos(tmp_path / "photos", 2)
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    write = image_index.atomic_write

    def refused(path):
        if path.parent == folder or not cache.exists():
            raise PermissionError("read-only")
        return write(path)

    monkeypatch.setattr(image_index, "atomic_write", refused)
    open_folder(folder)
    assert "sizes of images cannot be kept in" in caplog.text
    cache.mkdir()
    open_folder(folder)
    opened["headers"].clear()
    open_folder(folder)
    assert opened["headers"] == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_names_that_are_not_utf_8(tmp_path):
    folder = photos(tmp_path / "photos", 1)
    name = os.fsdecode(b"\xff.png")
    try:
        (folder / "photo_0.png").rename(folder / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for _ in range(2):
        assert open_folder(folder).names == [name]


def test_other_sources_digest_their_files(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    source = sources.ImageFiles([folder / "photo_1.png"], ["one"])
    assert source.digests() == {"one": contents.content_digest(folder / "photo_1.png")}


def test_a_file_that_cannot_be_read_for_a_moment_is_opened_again(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 2)
    with monkeypatch.context() as patch:
        patch.setattr(image_index, "content_digest", lambda path: contents.UNREADABLE)
        assert set(open_folder(folder).digests().values()) == {contents.UNREADABLE}
    assert open_folder(folder).digests() == sources.folder_source(folder).digests()
