"""Protocols: what ships is consistent, image sets are recognised, and incomplete or changed ones are refused."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from framer_jax import cli
from framer_jax.evaluation import protocol as protocols
from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.pairs import Pair, pair_files
from framer_jax.evaluation.protocol import PROTOCOLS, load_protocol, match_set, parse_protocol, pixel_digest
from tests.support.commands import fails

MINE = """
name = "mine"
summary = "A test"
metrics = ["psnr-y", "lpips-alex", "ssim-y"]
color = "luma"
rounding = "none"
resize = "none"
crop_border = 1
mod_crop = 2
sets = ["tiny"]
sources = ["this test"]
assumptions = ["nothing"]

[[published]]
set = "tiny"
model = "Theirs"
source = "Table 1"
[published.scores]
psnr-y = 30.5
musiq-koniq = 60
"""


@pytest.mark.parametrize("name", PROTOCOLS)
def test_shipped_protocols(name):
    protocol, set_name = load_protocol(name)
    assert protocol.name == name
    assert set_name == ""
    assert protocol.sources
    assert set(protocol.metrics) <= METRICS.keys()
    for image_set in protocol.sets.values():
        assert len(image_set.references) in (0, image_set.images)
        assert all(len(digest) in (0, 64) for digest in image_set.references.values())
    for row in protocol.published:
        assert row.source
        assert set(row.scores) <= set(protocol.metrics)


def test_published_rows_of_framer():
    """Table 1 as the specification has it: DiT4SR and FRAMER_D on RealSR."""
    rows = {(row.image_set, row.model): row.scores for row in load_protocol("framer_table1")[0].published}
    names = ("psnr-rgb", "ssim-y", "lpips-alex", "niqe-pyiqa", "maniqa-koniq", "musiq-koniq")
    assert [rows["realsr_crops", "FRAMER_D"][name] for name in names] == [23.23, 0.679, 0.371, 5.083, 0.564, 72.24]
    assert rows["reallq250", "DiT4SR"] == {"niqe-pyiqa": 4.199, "maniqa-koniq": 0.507, "musiq-koniq": 72.19}


def test_the_row_of_osediff_has_the_means_of_its_published_scores(shared):
    with (shared / "data/eval/realsr_crops/osediff_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = load_protocol("osediff")[0].published
    columns = {
        "psnr-y": "psnr",
        "ssim-y": "ssim",
        "lpips-alex": "lpips",
        "niqe-pyiqa": "niqe",
        "maniqa-pipal": "maniqa",
    }
    for metric, column in columns.items():
        assert row.scores[metric] == pytest.approx(np.mean([float(entry[column]) for entry in rows]), abs=5.1e-5)


def test_the_crops_of_realsr_are_recognised(shared):
    folder = shared / "data/eval/realsr_crops"
    protocol, _ = load_protocol("osediff")
    matched = match_set(protocol, "", pair_files(folder / "osediff", folder / "HR").pairs)
    assert matched.image_set.name == "realsr_crops"
    assert matched.complete


@pytest.fixture
def mine(tmp_path):
    """A protocol of a set of four images, and their folders."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        pixels = rng.integers(0, 256, (24, 25, 3), np.uint8)
        for folder, end, noise in (("gt", "_HR", 0), ("sr", "_x4", 1)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels ^ noise).save(tmp_path / folder / f"{name}{end}.png")
    lines = [f'{name} = "{pixel_digest(tmp_path / "gt" / f"{name}_HR.png")}"' for name in "abcd"]
    (tmp_path / "tiny.toml").write_text("\n".join(['title = "t"', "images = 4", "scale = 4", "[references]", *lines]))
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path


def evaluate(folder, *words):
    return cli.main(
        [
            "evaluate",
            str(folder / "sr"),
            "--reference",
            str(folder / "gt"),
            "--protocol",
            str(folder / "mine.toml"),
            *words,
        ]
    )


def test_a_protocol_through_the_command_line(mine, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("framer_jax.evaluation.table.is_installed", lambda name: False)
    assert evaluate(mine, "--json", str(mine / "scores.json")) == 1  # LPIPS lacks its weights
    printed = capsys.readouterr().out
    assert "protocol mine (A test): image set tiny" in printed
    assert "assumed: nothing" in printed
    assert "Theirs (published)" in printed
    assert "published: Table 1" in printed
    assert "lpips-alex – " in printed
    assert "framer_jax[lpips]" in printed
    saved = json.loads((mine / "scores.json").read_text())
    assert saved["metadata"]["protocol"]["image_set"] == "tiny"
    assert saved["metadata"]["protocol"]["complete_set"] is True
    assert (saved["metadata"]["crop_border"], saved["metadata"]["mod_crop"]) == (1, 2)
    assert saved["metadata"]["unavailable"].keys() == {"lpips-alex"}
    assert saved["summary"].keys() == {"psnr-y", "ssim-y"}
    assert [image["image"] for image in saved["images"]] == ["a_HR", "b_HR", "c_HR", "d_HR"]


def test_incomplete_and_changed_sets_are_said_before_scoring(mine, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    Image.new("RGB", (25, 24)).save(mine / "gt" / "b_HR.png")
    (mine / "sr" / "d_x4.png").unlink()
    for folder in ("sr", "gt"):
        Image.new("RGB", (25, 24)).save(mine / folder / "more.png")
    with monkeypatch.context() as patched:
        patched.setattr("framer_jax.evaluation.table.score_pairs", lambda *arguments: pytest.fail("scored"))
        fails(
            capsys,
            evaluate(mine),
            r"not the image set tiny of the protocol mine: 1 of 4 images missing \(d\); 1 image\(s\) that are not of "
            r"the set \(more\); 1 reference\(s\) with other pixels than those of the set \(b\)",
            "--allow-incomplete",
        )
    assert evaluate(mine, "--allow-incomplete") == 1
    printed = capsys.readouterr().out
    assert "image set tiny, not complete or changed" in printed
    assert "Theirs" not in printed


def test_images_of_no_set(mine, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for folder, end in (("sr", "_x4"), ("gt", "_HR")):
        for index, name in enumerate("abcd"):
            (mine / folder / f"{name}{end}.png").rename(mine / folder / f"{index}.png")
    assert evaluate(mine) == 1
    assert "the images are none of its sets, so there are no published rows" in capsys.readouterr().out
    fails(
        capsys,
        cli.main(
            ["evaluate", str(mine / "sr"), "--protocol", f"{mine / 'mine.toml'}:tiny", "--reference", str(mine / "gt")]
        ),
        r"4 of 4 images missing",
    )


def test_what_a_protocol_determines_is_no_option(mine, capsys):
    for option in (("--metrics", "psnr-y"), ("--crop-border", "4"), ("--mod-crop", "4")):
        fails(capsys, evaluate(mine, *option), f"{option[0]}.*the protocol mine determines")


def test_bad_protocols(tmp_path, capsys):
    (tmp_path / "sr").mkdir()
    fails(capsys, cli.main(["evaluate", str(tmp_path / "sr"), "--protocol", "table1"]), "there is no protocol 'table1'")
    fails(capsys, cli.main(["evaluate", str(tmp_path / "sr"), "--protocol", "none.toml"]), "there is no such file")
    fails(
        capsys,
        cli.main(["evaluate", str(tmp_path / "sr"), "--protocol", "osediff:urban100"]),
        "the protocol osediff has no image set 'urban100': choose one of realsr_crops",
    )
    for change, message in (
        (("name =", "name"), "not a TOML file"),
        (('color = "luma"', ""), "not a protocol"),
        (('color = "luma"', 'colour = "luma"\ncolor = ""'), "it has 'colour'"),
        (('"psnr-y",', '"psnr",'), "there is no metric 'psnr'"),
        (('sets = ["tiny"]', 'sets = ["none"]'), "there is no image set 'none'"),
        (("crop_border = 1", "crop_border = -1"), "crop_border must be at least 0"),
        (("crop_border = 1", 'crop_border = "1"'), "crop_border must be a whole number, not '1'"),
        (("crop_border = 1", "crop_border = 1.5"), "crop_border must be a whole number, not 1.5"),
        (("mod_crop = 2", "mod_crop = true"), "mod_crop must be a whole number, not True"),
        (('assumptions = ["nothing"]', 'assumptions = "none"'), "assumptions must be a list of texts, not 'none'"),
        (("psnr-y = 30.5", "psnr-y = nan"), "the published psnr-y of Theirs is not a finite number"),
        (('summary = "A test"', ""), "it lacks 'summary'"),
        (('sets = ["tiny"]', "sets = []"), "a published row is of the image set 'tiny'"),
    ):
        (tmp_path / "tiny.toml").write_text('title = "t"\nimages = 4\nscale = 4\n')
        with pytest.raises(ValueError, match=message):
            parse_protocol(MINE.replace(*change), "mine.toml", tmp_path)


def test_a_set_of_unknown_names_is_counted(tmp_path):
    protocol, _ = load_protocol("osediff:drealsr_crops")
    image = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(image)
    matched = match_set(protocol, "drealsr_crops", [Pair("a", image, image)])
    assert not matched.complete
    with pytest.raises(ValueError, match=r"has 93 images of 512x512, and there are 1, 1 of them of another size \(a\)"):
        protocols.check_complete(matched, protocol, 1)


def test_bad_image_sets(tmp_path):
    for content, message in (
        ('title = "t"\nimages = "2"\nscale = 4', "images, scale and the two numbers of size must be whole numbers"),
        ('title = "t"\nimages = 2\nscale = 4\n[references]\na = ""', "images is 2, and references has 1"),
        ('title = "t"\nimages = 1\nscale = 4\n[references]\na_x4 = ""', "write 'a' for 'a_x4'"),
        ('title = "t"', "not an image set; its entries are title, images"),
    ):
        (tmp_path / "tiny.toml").write_text(content)
        with pytest.raises(ValueError, match=message):
            parse_protocol(MINE, "mine.toml", tmp_path)


def test_two_images_of_one_name_and_a_missing_reference_are_no_complete_set(mine):
    protocol, _ = load_protocol(mine / "mine.toml")
    pairs = [Pair(f"{name}_HR", mine / "sr" / f"{name}_x4.png", mine / "gt" / f"{name}_HR.png") for name in "abcd"]
    assert match_set(protocol, "", pairs).complete
    twice = match_set(protocol, "", [*pairs, pairs[0]._replace(name="a")])
    assert (twice.complete, twice.other) == (False, ("a",))
    without = match_set(protocol, "", [pairs[0]._replace(reference=None), *pairs[1:]])
    assert (without.complete, without.missing) == (False, ("a",))
    # Without any references, the metrics that need them are left out.
    assert match_set(protocol, "", [pair._replace(reference=None) for pair in pairs]).complete


def test_the_set_with_the_fewest_other_images_is_recognised(mine):
    """A set whose names are part of another set's is not taken for it."""
    lines = (mine / "tiny.toml").read_text().splitlines()
    (mine / "part.toml").write_text("\n".join(["images = 2" if line == "images = 4" else line for line in lines[:-2]]))
    (mine / "mine.toml").write_text(MINE.replace('["tiny"]', '["part", "tiny"]'))
    protocol, _ = load_protocol(mine / "mine.toml")
    pairs = [Pair(f"{name}_HR", mine / "sr" / f"{name}_x4.png", mine / "gt" / f"{name}_HR.png") for name in "abcd"]
    assert match_set(protocol, "", pairs).image_set.name == "tiny"
    assert match_set(protocol, "", pairs[:2]).image_set.name == "part"


def test_an_image_without_a_score_is_said_next_to_the_published_rows(mine, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = mine / "sr" / "b_x4.png"
    path.write_bytes(path.read_bytes()[:200])
    assert evaluate(mine) == 1
    assert "this folder (3 of 4 images)" in capsys.readouterr().out


def test_a_seam_in_a_protocol_takes_the_lines_of_the_command(mine, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (mine / "mine.toml").write_text(MINE.replace('"lpips-alex"', '"seam"'))
    assert evaluate(mine, "--tile-lines", "8") == 0
    assert "seam –" not in capsys.readouterr().out
    assert evaluate(mine) == 1
    assert "seam – " in capsys.readouterr().out
