"""evaluate, degrade, and the outputs of every command: damaged files, outputs that are inputs, repairs."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from framer_jax.commands.precompute.captioned_images import whole_photos
from framer_jax.commands.precompute.captioner import CaptionSettings
from framer_jax.commands.precompute.captions import caption_images, settings_file
from framer_jax.data.captions import Caption, caption_line
from framer_jax.data.sources import folder_source
from tests.support.hostile import cases, contents, refused, run
from tests.support.tiny import overrides, photo, photos, ported, weights

# --- evaluate ---------------------------------------------------------------------------------------------------------

OUTPUTS = {
    "nothing": "",
    "csv": "--csv out/scores.csv",
    "both": "--csv out/scores.csv --json out/scores.json",
    "the same": "--csv out/scores --json out/scores",
    "the same, otherwise written": "--csv out/scores --json out/../out/scores",
    "the same, by a link": "--csv out/scores --json linked/scores",
    "an image": "--csv sr/a.png --overwrite",
    "an image, by a link": "--csv linked_image --overwrite",
    "a reference": "--json gt/a.png --overwrite",
    "a record": "--json sr/a.png.json --overwrite",
    "a folder": "--csv sr --overwrite",
    "an existing file": "--csv mine.csv",
    "an existing file, on request": "--csv mine.csv --overwrite",
    "an empty name": "--csv=",
}
"""Kinds of outputs → their options, with names in the case's folder."""

WRITES = ("nothing", "csv", "both", "an existing file, on request")

DAMAGE = ("intact", "flat", "cut", "torn", "empty", "text", "folder")
"""What one of the images is; a folder of that name leaves its reference without a partner."""


def draw_evaluation(rng):
    return {
        "outputs": rng.choice(sorted(OUTPUTS)) if rng.random() < 0.5 else "both",
        "image": rng.choice(DAMAGE),
        "reference": rng.choice(DAMAGE) if rng.random() < 0.3 else "intact",
        "suffix": rng.choice(["", "", "_x4"]),
        "size": rng.choice(["equal", "equal", "cropped", "other"]),
        "options": [word for word in ("--suffix=_x4", "--mod-crop=4", "--allow-unmatched") if rng.random() < 0.4],
    }


def damage(path, kind):
    data = path.read_bytes()
    if kind == "flat":
        with Image.open(path) as image:
            size = image.size
        Image.new("RGB", size, (7, 7, 7)).save(path)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind != "intact":
        cut = {"cut": data[: len(data) * 2 // 3], "torn": data[:20], "empty": b"", "text": b"no image"}
        path.write_bytes(cut[kind])


@pytest.mark.parametrize("case", cases(draw_evaluation, 30, 300))
def test_evaluate_loses_nothing_and_says_what_has_no_score(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("sr", "gt", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "linked").symlink_to("out")
    (tmp_path / "linked_image").symlink_to(f"sr/b{case['suffix']}.png")
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "sr" / f"a{case['suffix']}.png.json").write_text("{}")
    for index, name in enumerate("abc"):
        side = {"equal": 24, "cropped": 26, "other": 32}[case["size"]]
        Image.fromarray(photo(side, side, index)).save(tmp_path / "gt" / f"{name}.png")
        Image.fromarray(photo(side, side, index)[:24, :24]).save(tmp_path / "sr" / f"{name}{case['suffix']}.png")
    damage(tmp_path / "sr" / f"b{case['suffix']}.png", case["image"])
    damage(tmp_path / "gt" / "b.png", case["reference"])
    before = contents(tmp_path)
    outputs = OUTPUTS[case["outputs"]].replace("sr/a", f"sr/a{case['suffix']}").split()
    words = ["evaluate", "sr", "--reference", "gt", "--metrics", "psnr-y,ssim-y", *outputs]
    outcome = run(capsys, *words, *case["options"])
    after = contents(tmp_path)
    new = {name for name in after if before.get(name) != after[name]}
    assert not before.keys() - after.keys()
    if outcome.status == 2:
        refused(outcome)
        assert not new
        return
    assert case["outputs"] in WRITES
    assert new <= {"out/scores.csv", "out/scores.json", "mine.csv"}
    kinds = {case["image"], case["reference"]}
    left_out = "folder" in kinds and "--allow-unmatched" in case["options"]  # which leaves b without a partner
    unreadable = set() if left_out else kinds - {"intact", "flat"}
    assert outcome.status == int(bool(unreadable))
    assert ("–" in outcome.out) == bool(unreadable)
    if "out/scores.json" in new:
        saved = json.loads((tmp_path / "out" / "scores.json").read_text(), parse_constant=pytest.fail)
        rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
        assert [row["image"] for row in rows] == [entry["image"] for entry in saved["images"]]
        for row, entry in zip(rows, saved["images"], strict=True):
            for metric in ("psnr-y", "ssim-y"):
                assert (row[metric] == "") == (entry[metric] is None) == (entry["image"] == "b" and bool(unreadable))


# --- degrade ----------------------------------------------------------------------------------------------------------

RESULTS = ("out", "out", "out", "hr", "hr/out", ".", "mine")


def draw_degradation(rng):
    return {
        "damage": [rng.choice(DAMAGE) for _ in range(3)],
        "output": rng.choice(RESULTS),
        "options": [word for word in ("--pairs", "--preview=1", "--batch=2") if rng.random() < 0.4],
        "again": rng.choice(["repaired", "repaired", "removed", "another seed", "other pixels"]),
    }


@pytest.mark.parametrize("case", cases(draw_degradation, 24, 200))
def test_degrade_leaves_out_what_is_damaged_and_continues(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    intact = photos(tmp_path / "intact", 3, (16, 20))
    shutil.copytree(intact, tmp_path / "hr")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.jsonl").write_text("mine")
    for index, kind in enumerate(case["damage"]):
        damage(tmp_path / "hr" / f"photo_{index}.png", kind)
    before = contents(tmp_path)
    words = ["degrade", "hr", case["output"], "--preset", "bicubic", *case["options"]]
    outcome = run(capsys, *words)
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert not [name for name in after if ".part" in name]
    if outcome.status == 2:
        progress = "no photograph of" in outcome.err  # known only after all were decoded
        refused(outcome._replace(err=outcome.err.splitlines()[-1]) if progress else outcome)
        assert after == before
        return
    cut = [f"photo_{i}.png" for i, kind in enumerate(case["damage"]) if kind in ("cut", "torn", "empty", "text")]
    assert outcome.status == int(bool(cut))
    assert sum("failed: " in line and "hr/photo_" in line for line in outcome.out.splitlines()) == len(cut)
    output = tmp_path / case["output"]
    lines = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    lr = {path.name for path in (output / "lr" if "--pairs" in case["options"] else output).glob("photo_*.png")}
    assert lr == {line["name"] for line in lines}
    assert not lr & set(cut)
    repair(tmp_path, case["again"], cut)
    expected = contents(output)
    outcome = run(capsys, *words, *(["--seed=1"] if case["again"] == "another seed" else []))
    if case["again"] == "another seed" or (case["again"] == "other pixels" and lr):
        refused(outcome, "--overwrite")
        assert contents(output) == expected
    else:
        assert outcome.status == 0
        assert run(capsys, *words[:2], "fresh", *words[3:]).status == 0
        continued, fresh = contents(output), contents(tmp_path / "fresh")
        for files in (continued, fresh):
            files.pop("preview.png", None)  # the first run's, without what was damaged
        assert {name: continued[name] for name in fresh} == fresh


def repair(folder, how, cut):
    for name in cut:
        if how == "removed":
            (folder / "hr" / name).unlink()
        else:
            shutil.copy(folder / "intact" / name, folder / "hr" / name)
    if how == "other pixels":
        for path in (folder / "hr").glob("*.png"):
            if path.is_file():
                Image.fromarray(photo(16, 20, seed=9)).save(path)


# --- outputs of the other commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights, photographs, and folders that look like models."""
    root = tmp_path_factory.mktemp("place")
    ported(root / "vq.safetensors", "vq_f4")
    weights(root / "run" / "weights.safetensors")
    photos(root / "photos", 2)
    for name in ("encoder", "captioner"):
        (root / name).mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            (root / name / file).write_text("{}")
    (root / "vae").mkdir()
    (root / "vae" / "config.json").write_text("{}")
    (root / "npz.npz").mkdir()
    (root / "names.jsonl").write_text(caption_line(Caption("photo_0.png", "a", "a")))
    (root / "names.json").write_text("{}")
    (root / "mine.json").write_text("{}")
    np.savez(root / "model.npz", a=np.zeros(3))
    return root


CONFIG = [word for change in overrides() for word in ("--set", change)]

REPLACING = {
    "port to itself": "port vq.safetensors vq.safetensors --model vq_f4 --overwrite",
    "port to one of its parts": "port run/weights.safetensors vq.safetensors run/../vq.safetensors --model vq_f4 "
    "--overwrite",
    "port to a folder of its input": "port vae/config.json vae --model kl_autoencoder --to diffusers --overwrite",
    "port to a folder": "port vq.safetensors vae --model vq_f4 --overwrite",
    "fit-niqe to a folder": "fit-niqe photos npz.npz --overwrite",
    "evaluate to its model": "evaluate photos --metrics niqe --niqe-model model.npz --csv model.npz --overwrite",
    "latents to the autoencoder": "precompute latents --config default --output vae --samples 1 --vae vae",
    "latents to the photographs": "precompute latents --config default --output photos --samples 1 --vae photos",
    "embedding to its encoder": "precompute embeddings --null --clip-l encoder --zeros clip_g t5 "
    "--output encoder/model.safetensors --overwrite",
    "embeddings to the settings of captions": "precompute embeddings --captions names.jsonl --clip-l encoder "
    "--zeros clip_g t5 --output . --overwrite",
    "captions to the captioner": "precompute captions --of photos --photos photos --captioner captioner "
    "--output captioner/config.jsonl --overwrite",
    "training from its own weights": "train --config default --workdir run --init run/weights.safetensors",
    "training from its own folder": "train --config default --workdir run --init run",
}


@pytest.mark.parametrize("name", REPLACING)
def test_no_command_replaces_an_input(name, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = contents(place)
    words = REPLACING[name].split()
    if words[0] == "train":
        words += [*CONFIG, "--set", "data.train=photos"]
    line = refused(run(capsys, *words))
    assert "would replace" in line or "is a folder" in line or "is a file" in line
    assert contents(place) == before


def test_settings_without_captions_are_not_replaced(place):
    path = place / "mine.jsonl"
    assert settings_file(path) == place / "mine.json"
    images = whole_photos(folder_source(place / "photos"))
    with pytest.raises(FileExistsError, match=r"mine\.json exists without mine\.jsonl"):
        caption_images(images, lambda image, seed: "a", path, CaptionSettings())
    assert not path.exists()
    assert (place / "mine.json").read_text() == "{}"
