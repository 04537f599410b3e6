"""Folders of several methods: paired by name, of equal sizes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from framer_jax.evaluation.image_sets import Method, collect_images
from framer_jax.evaluation.method_scores import recorded_arms, score_methods, shown_digits
from framer_jax.evaluation.scoring import ScoreSettings
from tests.support.results import result_folders, write


@pytest.fixture
def folders(tmp_path):
    return result_folders(tmp_path)


def methods(folders, **suffixes):
    return [Method(name, folders[name], suffixes.get(name, "")) for name in ("good", "bad")]


def renamed(folder, suffix):
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"{path.stem}{suffix}.png"))


def test_images_have_a_file_of_every_method_and_their_size(folders):
    images = collect_images(methods(folders), folders["gt"], folders["lr"]).images
    assert [image.name for image in images] == ["a", "b", "c"]
    first = images[0]
    assert first.files == (folders["good"] / "a.png", folders["bad"] / "a.png")
    assert (first.reference, first.lr) == (folders["gt"] / "a.png", folders["lr"] / "a.png")
    assert (first.height, first.width, first.scale) == (48, 64, 4)
    assert [image.name for image in collect_images(methods(folders), limit=2).images] == ["a", "b"]


def test_without_references_the_lr_images_or_the_first_method_give_the_names(folders):
    images = collect_images(methods(folders), None, folders["lr"]).images
    assert images[0].lr == folders["lr"] / "a.png" and images[0].reference is None and images[0].scale == 4
    images = collect_images(methods(folders)).images
    assert images[0].files == (folders["good"] / "a.png", folders["bad"] / "a.png")
    assert images[0].lr is None and images[0].scale == 1


def test_every_folder_may_have_its_suffix(folders):
    renamed(folders["bad"], "_x4")
    images = collect_images(methods(folders, bad="_x4"), folders["gt"]).images
    assert [image.name for image in images] == ["a", "b", "c"] and images[0].files[1].name == "a_x4.png"
    assert collect_images(methods(folders, bad="_x4")).images[0].files[1].name == "a_x4.png"
    with pytest.raises(ValueError, match="the images of good end with _g and give the names"):
        collect_images(methods(folders, good="_g", bad="_x4"))
    renamed(folders["good"], "_x4")
    images = collect_images(methods(folders, good="_x4", bad="_x4")).images
    assert [image.name for image in images] == ["a", "b", "c"]


def test_images_without_a_partner_are_refused_or_left_out(folders):
    (folders["bad"] / "b.png").unlink()
    with pytest.raises(ValueError, match="without a result"):
        collect_images(methods(folders), folders["gt"])
    image_set = collect_images(methods(folders), folders["gt"], allow_unmatched=True)
    assert [image.name for image in image_set.images] == ["a", "c"] and image_set.unmatched == ("b",)
    for name in ("a", "c"):
        (folders["good"] / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="no image is in all of"):
        collect_images(methods(folders), folders["gt"], allow_unmatched=True)


def test_other_sizes_are_named(folders):
    write(folders["bad"], "b", np.zeros((48, 60, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"differs in size \(width x height\) from its reference: b 60x48 against 64x48"
    ):
        collect_images(methods(folders), folders["gt"])
    with pytest.raises(ValueError, match=r"of good and bad differ in size \(width x height\): b 64x48 against 60x48"):
        collect_images(methods(folders))


def test_lr_images_must_divide_the_results(folders):
    write(folders["lr"], "c", np.zeros((12, 17, 3), np.uint8))
    with pytest.raises(ValueError, match=r"c\.png is 17x12 and the results are 64x48, no whole multiple"):
        collect_images(methods(folders), folders["gt"], folders["lr"])


def test_sides_are_cropped_to_multiples(folders):
    image_set = collect_images(methods(folders), folders["gt"], mod_crop=10)
    assert (image_set.images[0].height, image_set.images[0].width, image_set.mod_crop) == (40, 60, 10)


def test_a_file_that_is_no_image_is_named(folders):
    (folders["bad"] / "b.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"bad.b\.png"):
        collect_images(methods(folders), folders["gt"])


def test_equal_stems_in_subfolders_are_told_apart(folders, tmp_path):
    for folder in ("good", "bad", "gt"):
        shutil.copytree(folders[folder], tmp_path / "twice" / folder / "one")
        shutil.copytree(folders[folder], tmp_path / "twice" / folder / "two")
    both = [Method(name, tmp_path / "twice" / name) for name in ("good", "bad")]
    names = [image.name for image in collect_images(both, tmp_path / "twice" / "gt").images]
    assert names == ["one/a", "one/b", "one/c", "two/a", "two/b", "two/c"]


def test_scores_are_those_of_the_images(folders):
    image_set = collect_images(methods(folders), folders["gt"])
    done = []
    arms, failures, _ = score_methods(image_set, ScoreSettings(("psnr-rgb",)), done.append)
    assert sum(done) == 6 and failures == {"good": (), "bad": ()}
    assert [arm.label for arm in arms] == ["good", "bad"]
    good, bad = (arm.scores("psnr-rgb") for arm in arms)
    assert list(good) == ["a", "b", "c"] and all(good[name] > bad[name] for name in good)
    sr, gt = (np.asarray(Image.open(folders[folder] / "c.png"), np.float64) / 255 for folder in ("good", "gt"))
    assert good["c"] == pytest.approx(-10 * np.log10(np.mean((sr - gt) ** 2) + 1e-8), abs=1e-3)
    assert arms[0].files[0].metadata["metrics"]["psnr-rgb"]["higher_is_better"] is True


def test_recorded_scores_need_a_file_for_every_method(folders):
    image_set = collect_images(methods(folders), folders["gt"], limit=2)
    arms = dict(
        zip(("good", "bad"), score_methods(image_set, ScoreSettings(("psnr-y",)), lambda count: None)[0], strict=True)
    )
    one = collect_images(methods(folders), folders["gt"], limit=1)
    assert [list(arm.scores("psnr-y")) for arm in recorded_arms(one, arms)] == [["a"], ["a"]]
    with pytest.raises(ValueError, match="--scores has no file of 'bad'"):
        recorded_arms(image_set, {"good": arms["good"]})
    with pytest.raises(ValueError, match="a file of 'other', which no folder is called"):
        recorded_arms(image_set, {**arms, "other": arms["bad"]})
    (other,) = collect_images(methods(folders), folders["gt"]).images[2:]
    with pytest.raises(ValueError, match="has no score of an image of good"):
        recorded_arms(image_set._replace(images=(other,)), arms)


@pytest.mark.parametrize(("values", "digits"), [([], 4), ([0.7, 0.9], 4), ([9.9, 27.1], 2), ([-12.0], 2)])
def test_shown_digits(values, digits):
    assert shown_digits(values) == digits
