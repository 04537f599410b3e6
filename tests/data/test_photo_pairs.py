"""Pairs of LR and HR photographs: names, sizes, crops in step, damage, resumption, alignment."""

import shutil

import numpy as np
import pytest
from PIL import Image

from framer_jax.data.alignment import alignment_summary, estimated_shift
from framer_jax.data.embeddings import CaptionedPhotos
from framer_jax.data.photo_pairs import pair_source
from framer_jax.data.pipeline import make_batches, prepare_for
from framer_jax.data.settings import UNSHARPENED, DataSettings
from framer_jax.data.text import zero_text
from framer_jax.degradations.presets import BICUBIC
from tests.data.test_batch_entries import SIZES
from tests.data.test_pipeline import assert_same, take
from tests.support.pairs import pairs, reduced, texture


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def copied(folders, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in folders]


def batches(source, seed=0, **changes):
    settings = {"crop": 32, "preset": None, "global_batch": 4, "seed": seed, "num_threads": 1}
    return make_batches(source, **{**settings, **changes})


def test_crops_and_orientations_are_in_step(folders):
    """The LR images are area averages, so that those of an HR crop are its LR crop exactly, if both are in step."""
    source = pair_source(*folders, scale=4, crop=32)
    assert source.names == [f"Canon_{number:03d}_HR.png" for number in range(4)]
    loaded = take(batches(source, flip_and_rotate=True), 8)
    for batch in loaded:
        assert batch["hr"].shape == (4, 32, 32, 3)
        assert batch["lr"].shape == (4, 8, 8, 3)
        assert sorted(batch["record"]) == [0, 1, 2, 3]
        for hr, lr in zip(batch["hr"], batch["lr"], strict=True):
            np.testing.assert_array_equal(reduced(hr, 4), lr)
    assert len({batch["lr"][0].tobytes() for batch in loaded}) == 8
    wrong = np.abs(reduced(loaded[0]["hr"][0][:, ::-1], 4).astype(int) - loaded[0]["lr"][0]).max()
    assert wrong > 20  # the comparison would notice


def test_batches_hold_the_pairs_as_they_are_and_resume_exactly(folders):
    source = pair_source(*folders, scale=4, crop=32)
    prepare = prepare_for(source, BICUBIC, ("hr", "lr", UNSHARPENED))
    first = batches(source)
    start = [next(first) for _ in range(3)]
    state = first.get_state()
    first.close()
    second = batches(source, num_threads=2)
    second.set_state(state)
    assert_same(start + take(second, 3), take(batches(source), 6))
    prepared = prepare(start[0])
    assert prepared.keys() == {"hr", "lr", UNSHARPENED}
    np.testing.assert_allclose(prepared["lr"] * 255, start[0]["lr"], atol=1e-4)
    np.testing.assert_array_equal(prepared["hr"], prepared[UNSHARPENED])
    assert prepare_for(source, BICUBIC)(start[0]).keys() == {"hr", "lr"} == set(source.batch_entries)


def test_pairs_with_texts(folders):
    source = CaptionedPhotos(pair_source(*folders, scale=4, crop=32), zero_text(SIZES), None)
    batch = next(batches(source))
    assert prepare_for(source, BICUBIC)(batch).keys() == {"hr", "lr", "text", "pooled_text"}
    assert sorted(source.digests())[0] == "hr/Canon_000_HR.png"


def test_pairs_of_the_same_names_and_of_other_formats(tmp_path):
    lr, hr = pairs(tmp_path, 2)
    for index, path in enumerate(sorted(lr.iterdir())):
        Image.open(path).save(lr / f"Canon_{index:03d}_HR.webp", lossless=True)
        path.unlink()
    source = pair_source(lr, hr, scale=4)
    assert_same(source[1].lr, reduced(source[1].hr, 4))


def test_pairs_in_folders_of_cameras(tmp_path):
    for camera in ("Canon", "Nikon"):
        pairs(tmp_path / camera, 1)
        for side in ("lr", "hr"):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / camera / side).rename(tmp_path / side / camera)
    source = pair_source(tmp_path / "lr", tmp_path / "hr", scale=4)
    assert source.names == ["Canon/Canon_000_HR.png", "Nikon/Canon_000_HR.png"]


def test_a_damaged_image_replaces_its_pair(copied, caplog):
    lr, hr = copied
    path = lr / "Canon_001_LR4.png"
    path.write_bytes(path.read_bytes()[:300])  # the header is intact
    source = pair_source(lr, hr, scale=4)
    assert [source[number].record for number in range(4)] == [0, 2, 2, 3]
    assert source.damage() == "1 of 4 images are damaged and were skipped: Canon_001_LR4.png"
    (hr / "Canon_002_HR.png").write_bytes(b"")
    source = pair_source(lr, hr, scale=4)
    assert source.names == ["Canon_000_HR.png", "Canon_001_HR.png", "Canon_003_HR.png"]
    assert "Canon_002_HR.png" in caplog.text


def test_pairs_that_are_smaller_than_the_crop_are_left_out_together(copied):
    lr, hr = copied
    small = texture(40, 40, 9)
    Image.fromarray(small).save(hr / "Canon_001_HR.png")
    Image.fromarray(reduced(small, 4)).save(lr / "Canon_001_LR4.png")
    source = pair_source(lr, hr, scale=4, crop=48, small_share=0.25)
    assert source.names == ["Canon_000_HR.png", "Canon_002_HR.png", "Canon_003_HR.png"]
    assert_same(source[1].lr, reduced(source[1].hr, 4))
    assert "1 of 4 images are smaller than the crop of 48" in source.damage()


def test_what_does_not_pair_is_named(copied, tmp_path):
    lr, hr = copied
    with pytest.raises(ValueError, match=r"4 of 4 pairs have an HR image that is not 2 times .*20 x 16 and 80 x 64"):
        pair_source(lr, hr, scale=2)
    with pytest.raises(ValueError, match=r"is not 4 times as large as the LR image .*LR images first"):
        pair_source(hr, lr, scale=4)
    (hr / "Canon_003_HR.png").rename(hr / "other.png")
    with pytest.raises(ValueError, match=r"2 of 5 images .* no partner of the same name \(Canon_003_LR4, other\)"):
        pair_source(lr, hr, scale=4)
    (hr / "other.png").rename(hr / "Canon_003_HR.heic")
    with pytest.raises(ValueError, match=r"cannot be read completely: 1 left out: .*heic"):
        pair_source(lr, hr, scale=4)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*: give a folder of LR images"):
        pair_source(tmp_path / "none", hr, scale=4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no image .*: give LR images"):
        pair_source(tmp_path / "empty", lr, scale=4)


def test_one_image_has_one_partner(copied):
    lr, hr = copied
    shutil.copy(lr / "Canon_001_LR4.png", lr / "Canon_001_x4.png")
    with pytest.raises(ValueError, match="both pair with the reference Canon_001_HR"):
        pair_source(lr, hr, scale=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": "photos"}, "pairs is .* and train 'photos', which are two data sets: leave train at its default"),
        ({"crop_mode": "square"}, "crop_mode is 'square': crops of pairs are not reduced"),
        ({"validation": "a", "validation_pairs": ("c", "d")}, "validation_pairs is .* and validation 'a'"),
    ],
)
def test_knobs_that_exclude_each_other(values, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(pairs=("lr", "hr"), **values)


def test_crops_must_fit(folders):
    source = pair_source(*folders, scale=4)
    with pytest.raises(ValueError, match="multiple of the scale 4; got 30"):
        batches(source, crop=30)
    with pytest.raises(ValueError, match="crop_mode is 'square': pairs are not reduced"):
        batches(source, crop_mode="square")


# Alignment


@pytest.mark.parametrize("shift", [(0, 0), (4, -6), (-9, 2)])
def test_shifts_are_estimated_to_a_tenth_of_an_lr_pixel(shift):
    """The displaced LR image is cut from the same photograph, so that the shift is known exactly."""
    photo = texture(360, 420, 3)
    rng = np.random.default_rng(0)
    down, right = shift
    hr = photo[20:340, 20:400]
    lr = reduced(photo[20 - down : 340 - down, 20 - right : 400 - right], 4) + rng.normal(0, 5, (80, 95, 3))
    estimate = estimated_shift(hr, np.clip(lr, 0, 255).astype(np.uint8))
    assert (estimate.down, estimate.right) == pytest.approx((down / 4, right / 4), abs=0.12)


def test_images_with_nothing_in_common_have_no_estimate():
    assert estimated_shift(texture(256, 256, 1), reduced(texture(256, 256, 2), 4)) is None
    assert estimated_shift(np.full((64, 64, 3), 7, np.uint8), np.full((16, 16, 3), 7, np.uint8)) is None


def test_the_alignment_is_summed_up_in_one_line(copied):
    lr, hr = copied
    line = pair_source(lr, hr, scale=4).alignment()
    assert line.startswith("4 of 4 pairs compared by phase correlation: the LR images lie ")
    assert "more than 0.5 in 0 pairs" in line
    moved = reduced(np.roll(texture(64, 80, 2), 8, axis=1), 4)
    Image.fromarray(moved).save(lr / "Canon_002_LR4.png")
    line = pair_source(lr, hr, scale=4).alignment()
    assert "at most (Canon_002_HR.png), more than 0.5 in 1 pairs" in line
    assert alignment_summary(["a"], [None], 9) == (
        "1 of 9 pairs compared by phase correlation; 1 show too little in common for an estimate"
    )
