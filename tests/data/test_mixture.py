"""Photographs of several folders with shares: numbers, shares, exact resume, independence of hosts."""

import itertools

import numpy as np
import pytest
from PIL import Image

from framer_jax.data.mixture import PhotoMixture
from framer_jax.data.pipeline import make_batches, record_dataset
from framer_jax.data.settings import DataSettings
from framer_jax.data.sources import folder_source
from framer_jax.degradations.presets import LIGHT_ONE_STAGE

SIZES = (5, 3)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Two folders of images whose blue channel is their number in the mixture."""
    parts, number = [], 0
    for count in SIZES:
        folder = tmp_path_factory.mktemp("photos")
        for index in range(count):
            Image.fromarray(np.full((32, 40, 3), number, np.uint8)).save(folder / f"{index}.png")
            number += 1
        parts.append(folder_source(folder, crop=24))
    return PhotoMixture(parts, [3.0, 1.0])


def batches(source, **changes):
    settings = {"crop": 24, "preset": LIGHT_ONE_STAGE, "global_batch": 4, "seed": 0, "num_threads": 1}
    return make_batches(source, **{**settings, **changes})


def records(iterator, count):
    return [batch["record"].tolist() for batch in itertools.islice(iterator, count)]


def test_numbers_and_names(mixture):
    assert len(mixture) == sum(SIZES)
    assert mixture.names == [*(f"0/{index}.png" for index in range(5)), *(f"1/{index}.png" for index in range(3))]
    assert mixture.shares == (0.75, 0.25)
    for number in range(len(mixture)):
        photo = mixture[number]
        assert photo.record == number == photo.image[0, 0, 2]
    assert list(mixture.digests()) == mixture.names
    assert len(set(mixture.digests().values())) == len(mixture)
    assert mixture.damage() == ""
    for number in (-1, len(mixture)):
        with pytest.raises(IndexError, match="the mixture has 8 images"):
            mixture[number]


def test_examples_come_by_share_and_each_part_in_turn(mixture):
    drawn = list(itertools.chain(*records(batches(mixture), 100)))
    first = [number for number in drawn if number < SIZES[0]]
    assert len(first) == 0.75 * len(drawn)
    for start in range(0, len(first) - SIZES[0], SIZES[0]):
        assert sorted(first[start : start + SIZES[0]]) == list(range(SIZES[0]))
    counts = np.bincount(drawn, minlength=len(mixture))
    assert counts[SIZES[0] :].min() >= 32


def test_images_belong_to_their_records(mixture):
    batch = next(iter(batches(mixture)))
    np.testing.assert_array_equal(batch["hr"][:, 0, 0, 2], batch["record"])


def test_a_mixture_goes_on_exactly_and_on_any_number_of_hosts(mixture):
    whole = records(batches(mixture), 9)
    iterator = batches(mixture)
    assert records(iterator, 4) == whole[:4]
    state = iterator.get_state()
    resumed = batches(mixture)
    resumed.set_state(state)
    assert records(resumed, 5) == whole[4:]
    halves = [records(batches(mixture, rows=rows), 9) for rows in ((0, 1), (2, 3))]
    assert [one + other for one, other in zip(*halves, strict=True)] == whole
    assert records(batches(mixture, seed=1), 9) != whole


def test_a_mixture_has_no_epochs(mixture):
    with pytest.raises(ValueError, match="a mixture has no epochs"):
        record_dataset(mixture, 24, LIGHT_ONE_STAGE, 0, epochs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": (("a/", 0.0),)}, r"mixture has \('a/', 0.0\): give a folder and its share above 0"),
        ({"mixture": (("a/",),)}, "mixture has"),
        ({"mixture": (("", 1.0),)}, "mixture has"),
        ({"mixture": (("a/", float("inf")),)}, "mixture has"),
        ({"mixture": (("a/", 1e308), ("b/", 1e308))}, r"shares from 1e\+308 to 1e\+308: each must be at least 1e-06"),
        ({"mixture": (("a/", 5e-324), ("b/", 1.0))}, "each must be at least 1e-06 of their sum"),
        ({"mixture": (("a/", 1),), "train": "b/"}, "mixture and train are two data sets"),
        ({"mixture": (("a/", 1),), "pairs": ("lr/", "hr/")}, "mixture and pairs are two data sets"),
    ],
)
def test_bad_mixtures(changes, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(**changes)
