"""`framer-jax degrade` with photographs whose headers say that they cannot be degraded: named, and left out."""

import json

import pytest
from PIL import Image

from tests.commands.test_degrade import QUICK, content, run
from tests.support.tiny import photo


@pytest.fixture
def with_unusable(tmp_path):
    """Two photographs, and four files whose headers say that they cannot be degraded."""
    root = tmp_path / "hr"
    root.mkdir()
    for seed, name in enumerate(("a.png", "d.png")):
        Image.fromarray(photo(41, 50, seed=seed)).save(root / name)
    (root / "b.png").write_bytes(b"no image")
    (root / "c.png").write_bytes((root / "a.png").read_bytes()[:20])
    (root / "e.png").write_bytes(b"")
    Image.fromarray(photo(3, 40)).save(root / "f.png")
    return root


UNUSABLE = {
    "b.png": "not an image that Pillow can read",
    "c.png": "cannot be read as an image",
    "e.png": "the file is empty",
    "f.png": "has a side smaller than 4 pixels: remove it",
}


@pytest.mark.parametrize("flags", [(), ("--pairs",), ("--preview", 1)])
def test_what_is_no_image_or_too_small_is_left_out_by_name(with_unusable, tmp_path, capsys, flags):
    words = (with_unusable, tmp_path / "out", *QUICK, *flags)
    assert run(*words) == 1
    printed = capsys.readouterr().out
    assert "2 degraded by light_one_stage" in printed
    assert "4 failed: repair or remove them" in printed
    for name, reason in UNUSABLE.items():
        assert f"failed: {with_unusable / name}: {reason}" in printed
    written = content(tmp_path / "out")
    assert {name.rpartition("/")[2] for name in written} - {"manifest.jsonl", "preview.png"} == {"a.png", "d.png"}
    names = [json.loads(line)["name"] for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert names == ["a.png", "d.png"]

    # the same command again: nothing changes; as JSON
    assert run(*words, "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert ([entry["image"] for entry in printed["failed"]], len(printed["kept"])) == (sorted(UNUSABLE), 2)
    assert printed["degraded"] == []
    assert content(tmp_path / "out") == written

    # a repaired photograph is added
    (with_unusable / "e.png").write_bytes((with_unusable / "a.png").read_bytes())
    assert run(*words) == 1
    printed = capsys.readouterr().out
    assert "1 degraded" in printed
    assert "2 were there, 3 failed" in printed
    assert written.items() - {("manifest.jsonl", written["manifest.jsonl"])} <= content(tmp_path / "out").items()

    # results of a photograph that has since been damaged stay, and stay in the manifest
    before = content(tmp_path / "out")
    (with_unusable / "a.png").write_bytes(b"no image")
    assert run(*words) == 2
    assert "exists, of other photographs or settings" in capsys.readouterr().err
    assert content(tmp_path / "out") == before


def test_shards_leave_out_what_cannot_be_used(with_unusable, tmp_path, capsys):
    """One of the shards has nothing that can be used."""
    words = (with_unusable, tmp_path / "out", *QUICK)
    statuses = [run(*words, "--shard", f"{number}/6") for number in range(6)]
    assert statuses == [0, 1, 1, 0, 1, 1]
    assert run(*words) == 1
    assert "0 degraded by light_one_stage (released geometry), 2 were there, 4 failed" in capsys.readouterr().out
    assert run(with_unusable, tmp_path / "once", *QUICK) == 1
    assert content(tmp_path / "out") == content(tmp_path / "once")


def test_nothing_is_written_where_no_photograph_can_be_used(with_unusable, tmp_path, capsys):
    for name in ("a.png", "d.png"):
        (with_unusable / name).unlink()
    assert run(with_unusable, tmp_path / "out", *QUICK) == 2
    error = capsys.readouterr().err
    assert "b.png: not an image that Pillow can read (no photograph of 4 can be used)" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
