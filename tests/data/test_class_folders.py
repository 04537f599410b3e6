"""Photographs with a class each: labels, batches, and folders that are none."""

import logging

import numpy as np
import pytest
from PIL import Image

from framer_jax.data.class_folders import LABEL, class_folders
from framer_jax.data.pipeline import make_batches, prepare_labelled
from tests.support.tiny import photo


def folders(root, counts, size=(20, 24)):
    """A folder with so many images for each class; those of a class have its own color."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, (number * 50, 10, index)).save(root / name / f"{index}.png")
    return root


def test_classes_are_folders_in_the_order_of_their_names(tmp_path):
    source = class_folders(folders(tmp_path, {"dog": 2, "ant": 1, "cat": 3}))
    assert source.classes == ("ant", "cat", "dog")
    assert source.names == ["ant/0.png", "cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    np.testing.assert_array_equal(source.labels, [0, 1, 1, 1, 2, 2])
    (tmp_path / "cat" / "kittens").mkdir()
    Image.fromarray(photo(20, 24)).save(tmp_path / "cat" / "kittens" / "a.png")
    assert class_folders(tmp_path).labels.tolist() == [0, 1, 1, 1, 1, 2, 2]


def test_batches_have_the_class_of_each_image(tmp_path):
    source = class_folders(folders(tmp_path, {"ant": 3, "cat": 3}))
    for mode, crop in (("crop", 16), ("square", 8)):
        batches = make_batches(source, crop, None, 4, 0, crop_mode=mode, num_threads=0, epochs=2)
        count = 0
        for raw in batches:
            batch = prepare_labelled(raw)
            assert batch["hr"].shape == (4, crop, crop, 3) and batch[LABEL].dtype == np.int32
            np.testing.assert_allclose(batch["hr"][:, 0, 0, 0], np.asarray(batch[LABEL]) * 50 / 255, atol=1e-6)
            count += 1
        assert count == 3


def test_a_damaged_image_is_replaced_with_its_replacements_class(tmp_path, caplog):
    folders(tmp_path, {"ant": 1, "cat": 2})
    (tmp_path / "ant" / "0.png").write_bytes((tmp_path / "ant" / "0.png").read_bytes()[:60])
    source = class_folders(tmp_path)
    with caplog.at_level(logging.WARNING):
        (batch,) = make_batches(source, 8, None, 3, 0, num_threads=0, epochs=1)
    assert "ant/0.png" in caplog.text
    np.testing.assert_array_equal(batch["hr"][:, 0, 0, 0], 50 * batch[LABEL])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"ant": 2}, "has 1 class: a classifier needs at least two"),
        ({"ant": 2, "cat": 0}, "the class cat of the folder .* has no image: add some, or remove it"),
    ],
)
def test_too_few_classes_or_images_are_named(tmp_path, counts, message):
    with pytest.raises(ValueError, match=message):
        class_folders(folders(tmp_path, counts))


def test_images_of_no_class_and_other_classes_are_refused(tmp_path):
    training = class_folders(folders(tmp_path / "train", {"ant": 1, "cat": 1}))
    other = folders(tmp_path / "validation", {"ant": 1, "dog": 1})
    with pytest.raises(ValueError, match="other classes than the training set, such as 'cat'"):
        class_folders(other, classes=training.classes)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "alone.png")
    with pytest.raises(ValueError, match=r"images of no class, such as alone\.png"):
        class_folders(tmp_path / "train")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        class_folders(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="smaller than the crop of 64"):
        class_folders(other, crop=64)
