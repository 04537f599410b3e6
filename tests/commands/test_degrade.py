"""`framer-jax degrade`, as called from the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from framer_jax.cli import main
from framer_jax.data.whole_photos import photo_generator
from framer_jax.degradations.draw import draw, stack
from framer_jax.degradations.lookup import preset_by_name
from framer_jax.degradations.manifest import from_json, to_json
from framer_jax.degradations.pipeline import apply
from framer_jax.degradations.presets import PRESETS
from tests.support.tiny import photo

QUICK = ("--preset", "light_one_stage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five photographs in two folders, of three sizes that are not multiples of 4."""
    root = tmp_path_factory.mktemp("hr")
    (root / "below").mkdir()
    for number, (name, size) in enumerate(
        {
            "a.png": (41, 50),
            "b.jpg": (41, 50),
            "below/c.png": (33, 37),
            "below/a.png": (41, 50),
            "d.png": (30, 270),
        }.items()
    ):
        Image.fromarray(photo(*size, seed=number)).save(root / name)
    return root


def run(*arguments):
    return main(["degrade", *map(str, arguments)])


def content(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def first(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "first"
    assert run(folder, output, *QUICK, "--seed", 3, "--pairs") == 0
    return output


def test_names_sizes_and_manifest(folder, first, capsys):
    names = {f"{part}/{name}.png" for part in ("lr", "hr") for name in ("a", "b", "below/a", "below/c", "d")}
    assert set(content(first)) == {*names, "manifest.jsonl"}
    records = [json.loads(line) for line in (first / "manifest.jsonl").read_text().splitlines()]
    assert [record["name"] for record in records] == ["a.png", "b.jpg", "below/a.png", "below/c.png", "d.png"]
    for record in records:
        height, width = record["hr_size"]
        with Image.open(first / record["lr"]) as lr, Image.open(first / record["hr"]) as hr:
            assert (hr.width, hr.height) == (width, height)
            assert (lr.width, lr.height) == (width // 4, height // 4)
            assert lr.mode == hr.mode == "RGB"
    with Image.open(folder / "d.png") as original, Image.open(first / "hr" / "d.png") as cut:
        np.testing.assert_array_equal(np.asarray(original)[:28, :268], np.asarray(cut))


@pytest.mark.parametrize("flags", [("--batch", 2), ("--workers", 5), ("--batch", 3, "--workers", 1)])
def test_the_same_seed_gives_the_same_bytes_with_any_batch_and_workers(folder, first, tmp_path, flags):
    assert run(folder, tmp_path / "again", *QUICK, "--seed", 3, "--pairs", *flags) == 0
    assert content(tmp_path / "again") == content(first)


def test_one_file_alone_gives_the_same_bytes_and_another_seed_gives_others(folder, first, tmp_path):
    assert run(folder / "a.png", tmp_path / "one", *QUICK, "--seed", 3) == 0
    assert content(tmp_path / "one")["a.png"] == content(first)["lr/a.png"]
    assert run(folder / "a.png", tmp_path / "other", *QUICK, "--seed", 4) == 0
    assert content(tmp_path / "other")["a.png"] != content(first)["lr/a.png"]


def test_the_manifest_reproduces_every_image(first):
    preset = preset_by_name("light_one_stage")
    for line in (first / "manifest.jsonl").read_text().splitlines()[:2]:
        record = json.loads(line)
        hr = np.asarray(Image.open(first / record["hr"]), np.float32)[None] / 255
        lr = apply(stack([from_json(record["parameters"])]), hr, preset)
        assert np.abs(np.round(np.asarray(lr[0]) * 255) - np.asarray(Image.open(first / record["lr"]))).max() <= 1


def test_a_mixture_degrades_each_photo_by_one_of_its_presets(folder, tmp_path, capsys):
    arguments = (folder, tmp_path / "mixed", "--preset", "resshift:2,camera:1", "--seed", 3)
    assert run(*arguments) == 0
    assert "degraded by resshift:2,camera:1 (released geometry)" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "mixed" / "manifest.jsonl").read_text().splitlines()]
    assert {line["preset"] for line in lines} == {"resshift:0.666666666667,camera:0.333333333333"}
    assert {line["part"] for line in lines} == {"resshift", "camera"}
    for line in lines:
        generator = photo_generator(3, line["name"])
        assert line["part"] == ("resshift" if generator.uniform() < 2 / 3 else "camera")
        assert line["parameters"] == json.loads(json.dumps(to_json(draw(generator, PRESETS[line["part"]]))))
    assert run(*arguments) == 0  # goes on
    assert f"{len(lines)} were there" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_parameters_are_stored_without_loss(name):
    for seed in range(20):
        drawn = draw(np.random.default_rng(seed), PRESETS[name])
        parsed = from_json(json.loads(json.dumps(to_json(drawn))))
        for field, parsed_field in zip(stack([drawn]), stack([parsed]), strict=True):
            for a, b in zip(*map(leaves, (field, parsed_field)), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="surplus"):
        from_json({**to_json(drawn), "surplus": 1})


def leaves(field):
    return list(field) if isinstance(field, tuple) else [field]


def test_a_contact_sheet(folder, tmp_path):
    assert run(folder, tmp_path / "out", *QUICK, "--preview", 3) == 0
    with Image.open(tmp_path / "out" / "preview.png") as sheet:
        assert sheet.size == (4 * 260 - 4, 5 * 290 - 4)
        first = [np.asarray(sheet)[30 : 30 + 40, 260 * k : 260 * k + 48] for k in range(4)]
    lr = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert all((first[k] != first[j]).any() for k in range(4) for j in range(k))
    assert np.abs(first[1][::4, ::4].mean() - lr.mean()) < 8


def test_nothing_is_overwritten_without_the_flag(folder, first, tmp_path, capsys):
    before = content(first)
    assert run(folder, first, *QUICK, "--pairs", "--seed", 9) == 2
    assert "exists" in capsys.readouterr().err
    assert content(first) == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d.png").write_bytes(b"mine")
    assert run(folder, tmp_path / "out", *QUICK) == 2
    assert content(tmp_path / "out") == {"d.png": b"mine"}
    assert run(folder, tmp_path / "out", *QUICK, "--overwrite") == 0
    assert len(content(tmp_path / "out")) == 6


def save_image_kinds(root):
    """Save RGB, gray, 16-bit, transparent and palette versions of one image."""
    pixels = photo(40, 40)
    gray = pixels.mean(axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(root / "rgb.png")
    Image.fromarray(gray).save(root / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(root / "deep.png")
    alpha = np.full((40, 40, 1), 128, np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(root / "rgba.png")
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(root / "palette.png")


def test_every_kind_of_image_becomes_rgb_and_losses_are_reported(tmp_path, capsys):
    (tmp_path / "hr").mkdir()
    save_image_kinds(tmp_path / "hr")
    assert run(tmp_path / "hr", tmp_path / "out", "--preset", "bicubic") == 0
    printed = capsys.readouterr().out
    for name, note in {
        "gray.png": "gray in three equal channels",
        "deep.png": "16-bit gray read as 8-bit",
        "rgba.png": "transparency dropped",
        "palette.png": "palette expanded",
    }.items():
        assert f"{name}: {note}" in printed
    assert "rgb.png" not in printed
    results = {
        name: np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in ("rgb", "gray", "deep", "rgba")
    }
    assert all(result.shape == (10, 10, 3) for result in results.values())
    np.testing.assert_array_equal(results["gray"], results["deep"])
    np.testing.assert_array_equal(results["rgb"], results["rgba"])
    np.testing.assert_array_equal(results["gray"][..., 0], results["gray"][..., 2])


def test_the_exif_orientation_is_applied(tmp_path):
    (tmp_path / "hr").mkdir()
    image = Image.fromarray(photo(40, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "hr" / "side.jpg", exif=exif)
    assert run(tmp_path / "hr", tmp_path / "out", "--preset", "bicubic") == 0
    with Image.open(tmp_path / "out" / "side.png") as lr:
        assert lr.size == (10, 15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "heavy"), "choose one of bicubic, camera, framer_paper"),
        ((*QUICK, "--scale", "5"), "choose one of 2, 3, 4, 8"),
        ((*QUICK, "--batch", "0"), "--batch must be at least 1"),
        ((*QUICK, "--preview", "0"), "--preview must be at least 1"),
        ((*QUICK, "--seed", "-1"), "must not be negative"),
    ],
)
def test_bad_arguments_are_one_clear_line(folder, tmp_path, capsys, arguments, message):
    assert run(folder, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_folders_are_one_clear_line(folder, tmp_path, capsys):
    def refused(source, output, message):
        assert run(source, output, *QUICK) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    refused(tmp_path / "nowhere", tmp_path / "out", "no such file or folder")
    refused(folder, folder / "out", "lies inside the input")
    refused(folder, folder, "lies inside the input")
    assert run(folder / "a.png", folder, *QUICK, "--overwrite") == 2
    assert "would replace the photograph" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "out", "holds no image")
    (tmp_path / "small").mkdir()
    Image.fromarray(photo(3, 40)).save(tmp_path / "small" / "thin.png")
    refused(tmp_path / "small", tmp_path / "out", "smaller than 4 pixels")
    (tmp_path / "twins").mkdir()
    for suffix in ("png", "jpg"):
        Image.fromarray(photo(8, 8)).save(tmp_path / "twins" / f"a.{suffix}")
    refused(tmp_path / "twins", tmp_path / "out", "would both become")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.png").write_bytes((folder / "a.png").read_bytes()[:20])
    refused(tmp_path / "torn", tmp_path / "out", "cannot be read as an image")
    assert not (tmp_path / "out").exists()


def test_a_damaged_photograph_is_left_out_and_the_repaired_one_is_added(folder, tmp_path, capsys):
    for name in ("a.png", "d.png"):
        path = tmp_path / "hr" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((folder / name).read_bytes())
    intact = (folder / "a.png").read_bytes()
    (tmp_path / "hr" / "e.png").write_bytes(intact[: len(intact) // 2])  # its header is intact
    words = (tmp_path / "hr", tmp_path / "out", *QUICK, "--pairs")
    assert run(*words, "--preview", 1) == 1
    printed = capsys.readouterr().out
    assert "2 degraded" in printed
    assert "1 failed: repair or remove them" in printed
    assert f"failed: {tmp_path / 'hr' / 'e.png'}: cannot be read" in printed
    first = content(tmp_path / "out")
    assert {name.partition("/")[2] for name in first} == {"", "a.png", "d.png"}
    records = [json.loads(line) for line in first["manifest.jsonl"].splitlines()]
    assert [record["name"] for record in records] == ["a.png", "d.png"]

    # the same command continues, and ends where an undamaged run does
    (tmp_path / "hr" / "e.png").write_bytes(intact)
    assert run(*words, "--preview", 1) == 0
    printed = capsys.readouterr().out
    assert "1 degraded" in printed
    assert "2 were there" in printed
    assert "preview.png is that of the run before" in printed
    assert run(tmp_path / "hr", tmp_path / "other", *QUICK, "--pairs") == 0
    continued = content(tmp_path / "out")
    assert continued.pop("preview.png") == first["preview.png"]
    assert continued == content(tmp_path / "other")

    # not with other settings or with another photograph of the same name
    for change in ("seed", "photograph"):
        if change == "photograph":
            (tmp_path / "hr" / "a.png").write_bytes((folder / "below" / "a.png").read_bytes())
        assert run(*words, "--seed", int(change == "seed")) == 2
        assert "exists, of other photographs or settings" in capsys.readouterr().err
        assert content(tmp_path / "other") == continued

    for name in ("a.png", "d.png", "e.png"):
        (tmp_path / "hr" / name).write_bytes(intact[: len(intact) // 2])
    assert run(tmp_path / "hr", tmp_path / "none", *QUICK, "--preview", 1) == 2
    assert "no photograph of 3 can be used" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_results_never_replace_one_another_or_a_photograph(folder, tmp_path, capsys):
    hr = tmp_path / "hr"
    (hr / "in").mkdir(parents=True)
    for name in ("preview.png", "in/a.png", "in/in/a.png"):
        (hr / name).parent.mkdir(exist_ok=True)
        (hr / name).write_bytes((folder / "a.png").read_bytes())
    before = content(tmp_path)
    assert run(hr, tmp_path / "out", *QUICK, "--preview", 1) == 2
    assert "--preview and the result of preview.png would both be written" in capsys.readouterr().err
    assert run(hr / "in", tmp_path, *QUICK, "--pairs", "--overwrite") == 2
    assert "would replace the photograph" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_other_scales(folder, tmp_path):
    assert run(folder / "a.png", tmp_path / "out", "--preset", "bicubic", "--scale", 2) == 0
    with Image.open(tmp_path / "out" / "a.png") as lr:
        assert lr.size == (25, 20)


@pytest.mark.slow
def test_the_bicubic_preset_makes_the_published_test_images(shared, tmp_path):
    """Set5's LR images, which were made with MATLAB, bitwise."""
    root = shared / "data" / "eval" / "Set5"
    assert run(root / "HR", tmp_path / "out", "--preset", "bicubic") == 0
    compared = 0
    for path in sorted((tmp_path / "out").glob("*.png")):
        (published,) = (root / "LR_bicubic" / "X4").glob(f"{path.stem}*")
        with Image.open(path) as ours, Image.open(published) as theirs:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs.convert("RGB")))
        compared += 1
    assert compared == 5


def test_shards_are_joined_by_a_call_without_shards(folder, first, tmp_path, capsys):
    words = (folder, tmp_path / "out", *QUICK, "--seed", 3, "--pairs")
    for shard in ("0/2", "1/2"):
        assert run(*words, "--shard", shard) == 0
    assert "2 degraded" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").glob("*.jsonl")}
    assert names == {"manifest-0-of-2.jsonl", "manifest-1-of-2.jsonl"}
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert run(*words) == 0
    assert "0 degraded by light_one_stage (aligned geometry), 5 were there" in capsys.readouterr().out
    assert content(tmp_path / "out") == content(first)
    assert all(path.stat().st_mtime_ns == changed for path, changed in results.items())


def test_a_run_whose_process_was_killed_is_continued(folder, first, tmp_path, capsys):
    """A line precedes its results, and the last line may be torn."""
    words = (folder, tmp_path / "out", *QUICK, "--seed", 3, "--pairs")
    lines = (first / "manifest.jsonl").read_text().splitlines(keepends=True)
    for part in ("lr", "hr"):
        (tmp_path / "out" / part).mkdir(parents=True)
        (tmp_path / "out" / part / "a.png").write_bytes((first / part / "a.png").read_bytes())
    (tmp_path / "out" / "lr" / "b.png").write_bytes(b"without its HR image")
    (tmp_path / "out" / "manifest.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    assert run(*words) == 0
    assert "4 degraded by light_one_stage (aligned geometry), 1 were there" in capsys.readouterr().out
    assert content(tmp_path / "out") == content(first)
