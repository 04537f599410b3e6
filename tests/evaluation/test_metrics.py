"""PSNR and SSIM: known values, comparison with scikit-image, published digits (slow), and the table of ids."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.evaluation.psnr import luma_studio, psnr_rgb, psnr_y
from framer_jax.evaluation.similarity import ssim_y, structural_similarity


def pair(seed=0, batch=2, height=24, width=20):
    generator = np.random.default_rng(seed)
    first = generator.random((batch, height, width, 3), np.float32)
    return first, np.clip(first + generator.normal(0, 0.1, first.shape).astype(np.float32), 0, 1)


def test_equal_images():
    image, _ = pair()
    scores = score(image, image, ["psnr-rgb", "psnr-y", "ssim-y"])
    np.testing.assert_allclose(scores["psnr-rgb"], 80.0, atol=1e-4)
    np.testing.assert_allclose(scores["psnr-y"], 80.0, atol=1e-4)
    np.testing.assert_allclose(scores["ssim-y"], 1.0, atol=1e-6)


@pytest.mark.parametrize("shift", [0.01, 0.1, 0.5])
def test_a_constant_shift_has_a_known_psnr(shift):
    dark = np.full((1, 16, 16, 3), 0.25, np.float32)
    rgb, luma = (float(function(dark + np.float32(shift), dark)[0]) for function in (psnr_rgb, psnr_y))
    assert rgb == pytest.approx(-20 * np.log10(shift), abs=1e-3)
    assert luma == pytest.approx(-20 * np.log10(shift * 219 / 255), abs=1e-3)  # 219 levels from black to white


def test_luma_of_black_white_and_primaries():
    colors = jnp.asarray([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], jnp.float32).reshape(1, 1, 5, 3)
    np.testing.assert_allclose(luma_studio(colors)[0, 0], [16, 235, 81.481, 144.553, 40.966], rtol=1e-6)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_psnr_equals_numpy_in_float64(seed):
    first, second = pair(seed)
    error = np.mean((first.astype(np.float64) - second) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(psnr_rgb(first, second), -10 * np.log10(error + 1e-8), atol=1e-4)
    np.testing.assert_array_equal(psnr_rgb(first, second), psnr_rgb(second, first))


@pytest.mark.parametrize(("peak", "low", "high"), [(1.0, 0.0, 1.0), (255.0, 0.0, 255.0), (255.0, 230.0, 235.0)])
def test_structural_similarity_equals_scikit_image(peak, low, high):
    """The last case is almost flat and bright, so that float32 moments cancel."""
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    first, second = (low + (high - low) * image[..., 0] for image in pair(height=40, width=36))
    made = jax.jit(structural_similarity)(first, second, peak)
    for index in range(2):
        _, full = similarity(
            first[index].astype(np.float64),
            second[index].astype(np.float64),
            data_range=peak,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert float(made[index]) == pytest.approx(full[5:-5, 5:-5].mean(), abs=2e-6)


def test_ssim_rounds_luma_and_psnr_does_not():
    image, other = pair()
    tiny = np.clip(image + np.float32(1e-4), 0, 1)
    assert float(psnr_y(tiny, image)[0]) < 80
    levels = [luma_studio(jnp.asarray(entry)) for entry in (image, other)]
    unrounded, rounded = (jax.jit(structural_similarity)(*map(step, levels)) for step in (jnp.asarray, jnp.round))
    np.testing.assert_allclose(ssim_y(image, other), rounded, atol=1e-6)
    assert np.abs(np.asarray(rounded - unrounded)).min() > 2e-6


def test_crop_border_is_ignored():
    first, second = pair()
    corrupted = second.copy()
    corrupted[:, :4] = corrupted[:, -4:] = corrupted[:, :, :4] = corrupted[:, :, -4:] = 0
    full, inner = score(first, corrupted, ["psnr-rgb"]), score(first, corrupted, ["psnr-rgb"], crop_border=4)
    np.testing.assert_allclose(inner["psnr-rgb"], psnr_rgb(first[:, 4:-4, 4:-4], second[:, 4:-4, 4:-4]), rtol=1e-6)
    assert (inner["psnr-rgb"] > full["psnr-rgb"]).all()


@pytest.mark.parametrize("name", ["psnr", "ssim", "niqe-", "maniqa", "PSNR-Y", ""])
def test_an_unknown_id_lists_the_known_ones(name):
    image, _ = pair()
    with pytest.raises(
        ValueError, match=r"no metric .*choose from: psnr-rgb, psnr-y, ssim-y, ssim-rgb, ms-ssim-y, psnr-low"
    ):
        score(image, image, [name])


def test_missing_inputs_are_named():
    image, _ = pair()
    for arguments, message in [
        ((image, None, ["psnr-y"]), "needs? a reference|compares with a reference"),
        ((image, image[:, :10], ["psnr-y"]), "differ in shape"),
        ((image[0], image[0], ["psnr-y"]), r"must be \[B, H, W, 3\]"),
        ((image, None, ["niqe"]), "needs a pristine model"),
        ((image, image, []), "no metric given"),
        ((image[:, :8], image[:, :8], ["ssim-y"]), "at least 11x11"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(*arguments)
    with pytest.raises(ValueError, match="crop border of 10"):
        score(image, image, ["psnr-y"], crop_border=10)


def test_every_metric_is_described():
    assert all(name == name.lower() and row.description for name, row in METRICS.items())
    assert not METRICS["niqe"].needs_reference
    assert not METRICS["niqe-framer"].needs_niqe_model
    assert METRICS["psnr-y"].higher_is_better


@pytest.mark.slow
def test_published_scores_of_100_images_to_the_printed_digits(shared):
    folder = shared / "data/eval/realsr_crops"
    rows = list(csv.DictReader((folder / "osediff_scores.csv").read_text().splitlines()))
    made = {"psnr-y": [], "ssim-y": []}
    for start in range(0, len(rows), 4):
        names = [row["file"] for row in rows[start : start + 4]]
        sr, hr = (
            np.stack([np.asarray(Image.open(folder / part / name).convert("RGB")) for name in names]) / np.float32(255)
            for part in ("osediff", "HR")
        )
        for name, values in score(sr, hr, list(made)).items():
            made[name].extend(values)
    # Six decimals are printed; float32 resolves 2e-6 dB at 25 dB.
    for name, column, atol, mean in (("psnr-y", "psnr", 1e-5, "25.1511"), ("ssim-y", "ssim", 4e-6, "0.7341")):
        np.testing.assert_allclose(made[name], [float(row[column]) for row in rows], atol=atol, rtol=0)
        assert f"{np.mean(made[name], dtype=np.float64):.4f}" == mean
