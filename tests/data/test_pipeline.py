"""Batches (shapes; independence of threads, processes, hosts and interruptions) and validation pairs."""

import itertools
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from framer_jax.data import crops, pipeline, sources, whole_photos
from framer_jax.degradations.presets import BICUBIC, LIGHT_ONE_STAGE
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven images of two sizes; the blue channel of each is its number."""
    root = tmp_path_factory.mktemp("images")
    for i in range(7):
        pixels = np.random.default_rng(i).integers(0, 256, (32 + 8 * (i % 2), 40, 3), np.uint8)
        pixels[..., 2] = i
        Image.fromarray(pixels).save(root / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def source(folder):
    return sources.folder_source(folder, crop=24)


def take(iterator, number):
    batches = list(itertools.islice(iterator, number))
    iterator.close()
    return batches


def make(source, seed=0, **changes):
    settings = {"crop": 24, "preset": LIGHT_ONE_STAGE, "global_batch": 4, "seed": seed, "num_threads": 1}
    return pipeline.make_batches(source, **{**settings, **changes})


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@given(size=st.integers(1, 40), new_size=st.integers(1, 40))
def test_area_weights_sum_to_the_pixel_areas(size, new_size):
    areas = crops.area_matrix(size, new_size)
    np.testing.assert_allclose(areas.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(areas.sum(axis=0), new_size / size, rtol=1e-4)
    if size == 2 * new_size:
        np.testing.assert_allclose(areas, np.repeat(np.eye(new_size), 2, axis=1) / 2, atol=1e-6)


def test_the_largest_square_is_reduced_to_the_crop(tmp_path):
    """As in ResShift's ImageNet crops, the record is the area average of a square as wide as the shorter side."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (batch,) = take(make(sources.folder_source(tmp_path, crop=24), crop_mode="square", global_batch=1), 1)
    hr = batch["hr"][0].astype(np.float64)
    halves = [noise[:, left : left + 48].reshape(24, 2, 24, 2, 3).mean(axis=(1, 3)) for left in range(13)]
    errors = sorted(min(np.abs(hr - half).max(), np.abs(hr[:, ::-1] - half).max()) for half in halves)
    assert errors[0] <= 0.5 < errors[1]
    small = tmp_path / "small"
    small.mkdir()
    Image.fromarray(noise[:20, :30]).save(small / "a.png")
    (batch,) = take(make(sources.folder_source(small), crop_mode="square", global_batch=1), 1)
    assert batch["hr"].shape == (1, 24, 24, 3)  # 24 of 30 columns; 20 rows, padded by 4 reflected ones
    rows = batch["hr"][0]
    np.testing.assert_array_equal(rows[20:], rows[15:19][::-1])
    with pytest.raises(ValueError, match=r"crop_mode is .*: choose one of crop, square"):
        make(sources.folder_source(small), crop_mode="whole", global_batch=1)


def test_flip_and_rotate_gives_all_eight_orientations(tmp_path):
    pixels = np.zeros((24, 24, 3), np.uint8)
    pixels[0, :, 0], pixels[:, 0, 1] = 255, 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for flip_and_rotate, count in ((False, 2), (True, 8)):
        batches = take(
            make(sources.folder_source(tmp_path, crop=24), flip_and_rotate=flip_and_rotate, global_batch=1), 60
        )
        assert len({batch["hr"].tobytes() for batch in batches}) == count


def test_batches_have_the_documented_shapes_and_prepare_makes_pairs(source):
    (batch,) = take(make(source), 1)
    assert batch["hr"].shape == (4, 24, 24, 3)
    assert batch["hr"].dtype == np.uint8
    assert batch["record"].shape == (4,)
    assert batch["record"].dtype == np.int32
    np.testing.assert_array_equal(batch["hr"][:, 0, 0, 2], batch["record"])
    assert batch["degradation"].second.kernel.shape == (4, 21, 21)
    pair = jax.jit(pipeline.make_prepare(LIGHT_ONE_STAGE))(batch)
    assert set(pair) == {"hr", "lr"}
    np.testing.assert_allclose(pair["hr"], batch["hr"] / np.float32(255), atol=1e-7)
    assert pair["lr"].shape == (4, 6, 6, 3)
    assert pair["lr"].dtype == np.float32


def test_threads_do_not_change_the_batches(source):
    one = take(make(source), 12)
    for threads in (0, 4):
        assert_same(take(make(source, num_threads=threads), 12), one)
    other = take(make(source, seed=1), 12)
    assert any((a["hr"] != b["hr"]).any() for a, b in zip(one, other, strict=True))


def test_the_cache_does_not_change_the_batches(folder, source):
    fresh = sources.folder_source(folder, crop=24, cache_bytes=0)
    assert_same(take(make(fresh), 4), take(make(source), 4))


def test_an_interrupted_iterator_resumes_exactly(source):
    uninterrupted = take(make(source), 9)
    first = make(source, num_threads=4)
    start = [next(first) for _ in range(4)]
    state = first.get_state()
    first.close()
    second = make(source, num_threads=2)
    second.set_state(state)
    assert_same(start + take(second, 5), uninterrupted)


def test_every_epoch_has_all_images_in_another_order_with_other_crops(source):
    batches = take(make(source, global_batch=7), 3)
    for batch in batches:
        assert sorted(batch["record"]) == list(range(7))
    orders = [tuple(batch["record"]) for batch in batches]
    assert len(set(orders)) == 3
    first, second = (batch["degradation"].second.noise_seed[np.argsort(batch["record"])] for batch in batches[:2])
    assert (first != second).any(axis=1).all()
    assert len(list(make(source, global_batch=7, epochs=2))) == 2


@pytest.mark.parametrize("parts", [[[0, 1], [2, 3]], [[0, 3], [1, 2]], [[0], [1], [2], [3]]])
def test_hosts_load_their_parts_of_the_same_global_batches(source, parts):
    """An example, its crop, its degradation and its place depend on its position, whatever the number of hosts."""
    together = take(make(source, flip_and_rotate=True), 6)
    loaded = [take(make(source, flip_and_rotate=True, rows=rows), 6) for rows in parts]
    for batch, *shares in zip(together, *loaded, strict=True):
        for rows, share in zip(parts, shares, strict=True):
            assert_same(share, jax.tree.map(lambda x, rows=rows: x[np.asarray(rows)], batch))


def test_a_position_of_two_hosts_is_that_of_one_and_of_four(source):
    """The same next 50 record ids, by the position that each of two hosts saves."""
    expected = [batch["record"] for batch in take(make(source), 5 + 50)][5:]
    positions = []
    for rows in ([0, 1], [2, 3]):
        batches = make(source, rows=rows)
        for _ in range(5):
            next(batches)
        positions.append(batches.get_state())
        batches.close()
    assert positions[0] == positions[1]
    for hosts in (1, 4):
        parts = []
        for rows in np.split(np.arange(4), hosts):
            batches = make(source, rows=rows.tolist())
            batches.set_state(positions[0])
            parts.append([batch["record"] for batch in take(batches, 50)])
        assert_same([np.concatenate(each) for each in zip(*parts, strict=True)], expected)
    assert len(list(make(source, rows=[1], epochs=2))) == 14 // 4  # every host makes as many batches


def test_crops_reach_every_border_and_half_are_flipped(folder):
    source = sources.folder_source(folder, crop=32)
    original = [np.asarray(Image.open(path)) for path in source.paths]
    tops, lefts, flips = set(), set(), 0
    for batch in take(make(source, crop=32, global_batch=7), 40):
        for hr, record in zip(batch["hr"], batch["record"], strict=True):
            image = original[record]
            matches = [
                (top, left, flip)
                for top in range(image.shape[0] - 31)
                for left in range(9)
                for flip in (False, True)
                if np.array_equal(image[top : top + 32, left : left + 32][:, :: -1 if flip else 1], hr)
            ]
            ((top, left, flip),) = matches
            tops.add(top)
            lefts.add(left)
            flips += flip
    assert tops == set(range(9))
    assert lefts == set(range(9))
    assert 100 < flips < 180  # of 280


def test_a_damaged_image_does_not_change_the_order(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 1500 if path.name == "3.png" else None])
    runs = [
        take(make(sources.folder_source(tmp_path, crop=24), global_batch=7, num_threads=threads), 3)
        for threads in (1, 4)
    ]
    assert_same(*runs)
    for batch in runs[0]:
        assert sorted(batch["record"]) == [0, 1, 2, 4, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 26}, "multiple of the scale 4"),
        ({"rows": [3, 4]}, "hold the rows of this host; got 4"),
        ({"rows": []}, "hold the rows"),
        ({"global_batch": 0}, "positive"),
        ({"global_batch": 16, "epochs": 2}, "less than one batch of 16"),
    ],
)
def test_invalid_arguments_are_refused(source, changes, message):
    with pytest.raises(ValueError, match=message):
        make(source, **changes)


def test_validation_pairs_do_not_depend_on_other_photographs(source, folder):
    pairs = whole_photos.validation_pairs(source, LIGHT_ONE_STAGE, seed=3)
    assert [pair.name for pair in pairs] == [f"{i}.png" for i in range(7)]
    assert pairs[0].hr.shape == (32, 40, 3)
    assert pairs[0].lr.shape == (8, 10, 3)
    assert pairs[1].hr.shape == (40, 40, 3)
    assert pairs[0].hr.dtype == pairs[0].lr.dtype == np.float32
    np.testing.assert_allclose(pairs[0].hr * 255, np.asarray(Image.open(folder / "0.png")), atol=1e-4)
    alone = sources.ImageFiles([folder / "5.png"], ["5.png"])
    (again,) = whole_photos.validation_pairs(alone, LIGHT_ONE_STAGE, seed=3)
    np.testing.assert_array_equal(again.lr, pairs[5].lr)
    (other,) = whole_photos.validation_pairs(alone, LIGHT_ONE_STAGE, seed=4)
    assert (other.lr != again.lr).any()
    (cut,) = whole_photos.validation_pairs(alone, BICUBIC, multiple=16)
    assert cut.hr.shape == (32, 32, 3)
    assert len(whole_photos.validation_pairs(source, BICUBIC, limit=2)) == 2
    with pytest.raises(ValueError, match="multiple of the scale"):
        whole_photos.validation_pairs(alone, BICUBIC, multiple=6)


def test_damaged_photographs_do_not_count_as_validation_pairs(folder, tmp_path):
    (tmp_path / "damaged.png").write_bytes((folder / "0.png").read_bytes()[:60])
    paths = [tmp_path / "damaged.png", *(folder / f"{number}.png" for number in (1, 2, 3))]
    source = sources.ImageFiles(paths, [path.name for path in paths])
    pairs = whole_photos.validation_pairs(source, BICUBIC, limit=2)
    assert [pair.name for pair in pairs] == ["1.png", "2.png"]


@pytest.mark.slow
def test_worker_processes_do_not_change_the_batches(folder):
    """Run in a separate process, since spawned workers need an importable main module."""
    program = textwrap.dedent(
        f"""
        import numpy as np, jax
        from framer_jax.data import pipeline, sources, whole_photos
        from framer_jax.degradations.presets import LIGHT_ONE_STAGE
        if __name__ == "__main__":
            source = sources.folder_source({str(folder)!r}, crop=24)
            runs = []
            for workers in (0, 2):
                batches = pipeline.make_batches(source, 24, LIGHT_ONE_STAGE, 4, 0, num_threads=1, num_workers=workers)
                runs.append([next(batches) for _ in range(10)])
                batches.close()
            jax.tree.map(np.testing.assert_array_equal, *runs)
            print("equal")
        """
    )
    script = folder.parent / "workers.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert result.stdout.strip().endswith("equal"), result.stderr
