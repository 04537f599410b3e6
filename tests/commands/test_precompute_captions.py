"""`framer-jax precompute captions` with a captioner in plain Python, caption cleaning, and captions files."""

import json
import sys

import numpy as np
import pytest

from framer_jax.cli import main
from framer_jax.commands.precompute.captioned_images import whole_photos
from framer_jax.commands.precompute.captioner import CaptionSettings, format_prompt
from framer_jax.commands.precompute.captions import CaptionCounts, caption_images
from framer_jax.data.captions import Caption, caption_line, check_captions, clean_caption, read_captions
from framer_jax.data.sources import folder_source
from framer_jax.porting.shard_files import shard_file
from tests.support.tiny import photos

SETTINGS = CaptionSettings()


@pytest.fixture
def place(tmp_path):
    photos(tmp_path / "photos", count=4)
    photos(tmp_path / "photos" / "more", count=1)
    return tmp_path


def describe(image, seed):
    """A captioner whose output depends on the image and the seed."""
    return f"An image of {image.mean():.0f}, said with {seed}.  The background is blurred."


def caption(place, file="captions.jsonl", captioner=describe, settings=SETTINGS, **more):
    return caption_images(whole_photos(folder_source(place / "photos")), captioner, place / file, settings, **more)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A red bird.  It sits on a branch!\nIs it singing?", "A red bird. It sits on a branch! Is it singing?"),
        ("A bird. The focus is on it. The sky is blue.", "A bird. The sky is blue."),
        ("A Close-up of a bird. It is LOCATED in a tree. A dense wood. A tree", "A tree"),
        ("Black and white, with much depth.", ""),
        ("A 3.5 m tall statue positioned centrally. It is 2.5 m wide.", "It is 2.5 m wide."),
        ("", ""),
    ],
)
def test_clean_caption(text, cleaned):
    assert clean_caption(text) == cleaned
    assert clean_caption(cleaned) == cleaned


def test_a_caption_depends_on_its_photograph_and_name_only(place):
    assert caption(place) == CaptionCounts(5, 0, 0)
    lines = [json.loads(line) for line in (place / "captions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["more/photo_0.png", *(f"photo_{i}.png" for i in range(4))]
    assert lines[0]["raw"].endswith("The background is blurred.")
    assert lines[0]["caption"] == lines[0]["raw"].removesuffix("  The background is blurred.")
    assert lines[0]["raw"] != lines[1]["raw"]  # the same pixels, another name
    captions = read_captions([place / "captions.jsonl"])
    files = [shard_file(place / "parts.jsonl", (i, 2)) for i in range(2)]
    assert [caption(place, file, shard=(i, 2)).captioned for i, file in enumerate(files)] == [3, 2]
    assert [file.name for file in files] == ["parts-0-of-2.jsonl", "parts-1-of-2.jsonl"]
    assert read_captions(files) == captions
    caption(place, "other.jsonl", settings=CaptionSettings(seed=1))
    assert all(read_captions([place / "other.jsonl"])[name] != known for name, known in captions.items())


def test_it_continues_after_an_interruption(place):
    seeds = []

    def interrupted(image, seed):
        seeds.append(seed)
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return describe(image, seed)

    with pytest.raises(KeyboardInterrupt):
        caption(place, captioner=interrupted)
    with open(place / "captions.jsonl", "a") as file:
        file.write('{"image": "photo_3.p')  # as a killed process leaves it behind
    assert caption(place) == CaptionCounts(3, 2, 0)
    assert caption(place) == CaptionCounts(0, 5, 0)
    caption(place, "complete.jsonl")
    assert (place / "captions.jsonl").read_bytes() == (place / "complete.jsonl").read_bytes()


def test_other_settings_do_not_mix(place):
    caption(place, model={"captioner": "a"})
    with pytest.raises(
        ValueError, match=r"made otherwise \(captioner, temperature\): name another file, or use --over"
    ):
        caption(place, settings=CaptionSettings(temperature=0.0), model={"captioner": "b"})
    assert caption(place, settings=CaptionSettings(temperature=0.0), overwrite=True).captioned == 5
    assert caption(place, settings=CaptionSettings(temperature=0.0), overwrite=True).existing == 5
    (place / "captions.json").unlink()
    with pytest.raises(ValueError, match=r"captions\.json is missing"):
        caption(place)


def test_damaged_photographs_are_named(place, caplog):
    path = place / "photos" / "photo_1.png"
    path.write_bytes(path.read_bytes()[:-400])  # the damage is found on decoding
    assert caption(place) == CaptionCounts(4, 0, 1)
    assert "photo_1.png" in caplog.text
    assert read_captions([place / "captions.jsonl"])["photo_1.png"] == Caption("photo_1.png", "", "", True)
    assert caption(place) == CaptionCounts(0, 5, 0)


def test_captions_files_are_checked(tmp_path):
    path = tmp_path / "captions.jsonl"
    with pytest.raises(FileNotFoundError, match=r"captions\.jsonl: no such file: make it with"):
        read_captions([path])
    good = caption_line(Caption("a.png", "A.", "A."))
    for lines, message in (
        (good + "{", "line 2: not a caption"),
        (good + '{"image": "b.png"}\n', "line 2: not a caption"),
        (good + '{"image": "b.png", "raw": 1, "caption": ""}\n', "line 2: image, raw and caption must be strings"),
        (good + good.replace("A.", "B."), r"line 2: a\.png already has another caption"),
    ):
        path.write_text(lines)
        with pytest.raises(ValueError, match=message):
            read_captions([path])
    path.write_text(good + good)
    assert list(read_captions([path])) == ["a.png"]
    with pytest.raises(ValueError, match=r"mine lacks 2 of 3 photographs, such as b\.png: caption the same folder"):
        check_captions(read_captions([path]), ["a.png", "b.png", "c.png"], "mine")


def test_format_of_the_prompt():
    class Processor:
        image_token = "<image>"

    assert format_prompt(Processor(), "What is it?") == "USER: <image>\nWhat is it? ASSISTANT:"
    assert format_prompt(object(), "a photo of") == "a photo of"


def test_bad_input_is_one_line(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for words, message in (
        (("--output", "captions.txt"), "name captions files *.jsonl"),
        (("--latents", str(place)), "--of photos captions whole photographs: leave --latents out"),
        (("--output", ""), "--output is empty"),
        (("--of", "crops"), "--of crops captions the crops of precomputed latents: name their folder by --latents, or"),
        (("--of", "lr", "--latents", str(place)), f"--latents {place} holds no records"),
        (("--temperature", "-1"), "--temperature must not be negative"),
        (("--top-p", "0"), "--top-p must be above 0"),
        (("--max-tokens", "0"), "--max-tokens must be at least 1"),
        (("--shard", "4/4"), "--shard must be I/N"),
        (("--photos", str(place / "none")), "there is no folder"),
        ((), "pip install 'framer_jax[torch]'"),
    ):
        command = [
            "--of",
            "photos",
            "--photos",
            str(place / "photos"),
            "--captioner",
            str(place),
            "--output",
            str(place / "c.jsonl"),
        ]
        assert main(["precompute", "captions", *command, *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (place / "c.jsonl").exists()
    assert np.all([SETTINGS.temperature == 0.2, SETTINGS.top_p == 0.7])
