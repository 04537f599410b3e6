"""Names by which results and references pair."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from framer_jax.data.image_names import without_endings
from framer_jax.evaluation.image_names import name_rule
from framer_jax.evaluation.pairs import pair_files


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("babyx4", "baby"),
        ("baby_x4", "baby"),
        ("baby-X2", "baby"),
        ("photo_x1.5", "photo"),
        ("Canon_001_LR4", "Canon_001"),
        ("Canon_001_HR", "Canon_001"),
        ("img_001_SRF_4_LR", "img_001_SRF_4"),
        ("photo_LR_x4_SR", "photo"),
        ("photo_out", "photo"),
        ("a.gt", "a"),
        ("timeout", "timeout"),  # no separator before the word
        ("x4", "x4"),  # nothing would be left
        ("_sr", "_sr"),
        ("0801", "0801"),
        ("max40", "max40"),
    ],
)
def test_known_endings(name, base):
    assert without_endings(name) == base


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_name_is_never_emptied_and_endings_are_removed_once_and_for_all(name):
    base = without_endings(name)
    assert base
    assert name.startswith(base)
    assert without_endings(f"{base}_x4") in (base, without_endings(base))


def test_rules_of_the_user():
    assert name_rule("_x4", "")("a_x4") == "a"
    assert name_rule("_x4", "")("_x4") == "_x4"
    assert name_rule("", r"out-(\d+)-.*")("out-07-x") == "07"
    with pytest.raises(ValueError, match=r"--suffix and --pattern exclude each other"):
        name_rule("_x4", "(.+)_x4")
    with pytest.raises(ValueError, match=r"--pattern '\(' is no regular expression: "):
        name_rule("", "(")
    with pytest.raises(ValueError, match=r"has no group: put the part that is the reference's name into parentheses"):
        name_rule("", ".+_x4")
    with pytest.raises(ValueError, match=r"does not match the name 'other'"):
        name_rule("", "(.+)_x4")("other")


def folder(path, *names):
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path / f"{name}.png")
    return path


def test_images_pair_without_their_endings(tmp_path):
    sr = folder(tmp_path / "sr", "a_x4", "b_LR4_x4", "c")
    gt = folder(tmp_path / "gt", "a", "b_HR", "c")
    pairing = pair_files(sr, gt)
    assert [(pair.name, pair.image.stem, pair.reference.stem) for pair in pairing.pairs] == [
        ("a", "a_x4", "a"),
        ("b_HR", "b_LR4_x4", "b_HR"),
        ("c", "c", "c"),
    ]
    assert pairing.renamed == (("a_x4", "a"), ("b_LR4_x4", "b_HR"))
    assert pairing.unmatched == ()


def test_an_upscaled_image_pairs_with_the_reference_of_its_input(tmp_path):
    """Whatever suffix `framer-jax upscale` was given, and in folders of folders."""
    sr = folder(tmp_path / "sr", "one/a-large", "two/a-large")
    gt = folder(tmp_path / "gt", "one/a", "two/a")
    for part in ("one", "two"):
        record = {"framer_jax": "1", "settings": {}, "input": {"name": "a.jpg"}}
        (sr / part / "a-large.png.json").write_text(json.dumps(record))
    pairing = pair_files(sr, gt)
    assert [(pair.name, pair.image.parent.name) for pair in pairing.pairs] == [("one/a", "one"), ("two/a", "two")]


def test_two_images_of_one_reference_are_refused(tmp_path):
    gt = folder(tmp_path / "gt", "a")
    with pytest.raises(ValueError, match=r"a_SR\.png and .*a_x4\.png both pair with the reference a: put them into"):
        pair_files(folder(tmp_path / "sr", "a_SR", "a_x4"), gt)
    pairing = pair_files(folder(tmp_path / "other", "a", "a_x4"), gt, allow_unmatched=True)
    assert [pair.image.stem for pair in pairing.pairs] == ["a"]  # equal names come first
    assert pairing.unmatched == ("a_x4",)


def test_a_pattern(tmp_path):
    gt = folder(tmp_path / "gt", "07", "08")
    sr = folder(tmp_path / "sr", "model-07-best", "model-08-best")
    with pytest.raises(ValueError, match=r"no image of .* has a reference of the same name .* \(--pattern\)"):
        pair_files(sr, gt)
    assert [pair.name for pair in pair_files(sr, gt, pattern=r"model-(\d+)-best").pairs] == ["07", "08"]
    with pytest.raises(ValueError, match=r"model-07-best\.png and .*model-08-best\.png have the same name"):
        pair_files(sr, gt, pattern=r"(mod).*")
