"""NIQE: the reference's features and scores, published per-image digits (slow), and fitting a pristine model."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from framer_jax.evaluation import niqe as module
from framer_jax.evaluation.niqe import NiqeModel, gaussian_distance, load_niqe_model, luma_levels, niqe, niqe_features
from framer_jax.evaluation.pristine import fit_gaussian, fit_niqe


@pytest.fixture(scope="module")
def case(fixtures):
    with np.load(fixtures / "niqe.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["atol"] = {k: v["atol"] for k, v in json.loads(str(arrays["meta"]))["float32_vs_float64"].items()}
    return arrays


@pytest.fixture(scope="module")
def image(case):
    return case["in/image"][None] / np.float32(255)


def published_model(shared) -> NiqeModel:
    return load_niqe_model(shared / "data/weights/niqe_pris_params.npz")


def test_luma_window_features_and_score_match_the_reference(case, image):
    plane = luma_levels(image, "studio")
    np.testing.assert_array_equal(plane[0], case["out/y_rounded"])
    np.testing.assert_allclose(module.gaussian_window(), case["out/window"], atol=case["atol"]["out/window"])
    features, sharpness = niqe_features(plane)
    assert sharpness.shape == (1, 6)
    np.testing.assert_allclose(features[0], case["out/features"], atol=case["atol"]["out/features"], rtol=0)
    drawn = NiqeModel(case["in/mu"].astype(np.float64), case["in/cov"].astype(np.float64), "drawn", "")
    expected, atol = float(case["out/niqe_drawn_model"]), case["atol"]["out/niqe_drawn_model"]
    assert gaussian_distance(features[0], drawn) == pytest.approx(expected, abs=atol)


@pytest.mark.slow
@pytest.mark.parametrize("border", [0, 4])
def test_score_with_the_published_model_matches_the_reference(case, image, shared, border):
    name = f"out/niqe_y_crop{border}"
    made = niqe(image, published_model(shared), crop_border=border)
    np.testing.assert_allclose(made, case[name], atol=case["atol"][name], rtol=0)


@pytest.mark.slow
def test_published_scores_of_100_images_to_the_printed_digits(shared):
    folder = shared / "data/eval/realsr_crops"
    rows = list(csv.DictReader((folder / "osediff_scores.csv").read_text().splitlines()))
    model = published_model(shared)
    made = []
    for start in range(0, len(rows), 4):
        names = [row["file"] for row in rows[start : start + 4]]
        images = [np.asarray(Image.open(folder / "osediff" / name).convert("RGB")) for name in names]
        made.extend(niqe(np.stack(images) / np.float32(255), model, luma="full"))
    expected = np.array([float(row["niqe"]) for row in rows])
    assert len(rows) == 100
    # The sixth decimal depends on float32 arithmetic on the authors' GPU. The last bit of a moment ratio on the border
    # between two entries of the shape table decides between them; this happens for one of the images in some runs.
    error = np.abs(np.asarray(made) - expected)
    assert np.sort(error)[-2] <= 3e-6
    assert error.max() <= 1e-3
    assert f"{np.mean(made):.4f}" == "5.6476"


def test_batches_and_floats_have_the_scores_of_their_files(image):
    model = module.shipped_niqe_model()
    flipped = image[:, :, ::-1]
    both = niqe(np.concatenate([image, flipped]), model)
    np.testing.assert_allclose(both[1], niqe(flipped, model)[0], rtol=1e-6)
    np.testing.assert_allclose(both[0], niqe(image + np.float32(0.3 / 255), model)[0], rtol=1e-12)


def test_noise_and_blur_score_worse_than_the_photograph(image):
    model = module.shipped_niqe_model()
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 0.1, image.shape).astype(np.float32), 0, 1)
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    blurred = np.mean([padded[:, i : i + 208, j : j + 300] for i in range(5) for j in range(5)], axis=0)
    clean, *worse = (niqe(x, model)[0] for x in (image, noisy, blurred))
    assert min(worse) > clean


@pytest.mark.parametrize("luma", ["studio", "full"])
def test_flat_blocks_are_ignored_and_flat_images_refused(image, luma):
    model = module.shipped_niqe_model()
    wide = np.concatenate([image[:, :192, :192], np.full((1, 192, 192, 3), 0.5, np.float32)], axis=2)
    assert np.isfinite(niqe(wide, model, luma=luma)).all()
    with pytest.raises(ValueError, match="not flat; this image has 0"):
        niqe(np.zeros((1, 192, 192, 3), np.float32), model, luma=luma)


def test_small_images_are_refused():
    model = module.shipped_niqe_model()
    with pytest.raises(ValueError, match="at least 96x96"):
        niqe(np.zeros((1, 95, 300, 3), np.float32), model)
    with pytest.raises(ValueError, match="at least two blocks"):
        niqe(np.random.default_rng(0).random((1, 96, 96, 3), np.float32), model)


def test_model_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="fit-niqe"):
        load_niqe_model(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not a NIQE model"):
        load_niqe_model(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a NIQE model"):
        load_niqe_model(tmp_path / "other.npz")
    np.savez(tmp_path / "small.npz", mu_pris_param=np.zeros((1, 18)), cov_pris_param=np.zeros((18, 18)))
    with pytest.raises(ValueError, match="shapes"):
        load_niqe_model(tmp_path / "small.npz")
    shipped = module.shipped_niqe_model()
    assert shipped.name == "niqe_framer.npz"
    assert np.linalg.eigvalsh(shipped.covariance).min() > 0


def test_the_fit_uses_sharp_blocks_only():
    features = np.random.default_rng(0).normal(size=(200, 36))
    sharpness = np.repeat([4.0, 3.01, 2.99, 1.0], 50)
    fit = fit_gaussian([(features, sharpness)], threshold=0.75)
    assert fit.blocks == 100
    np.testing.assert_allclose(fit.mean, features[:100].mean(axis=0))
    np.testing.assert_allclose(fit.covariance, np.cov(features[:100], rowvar=False))
    with pytest.raises(ValueError, match="give 20: add photos"):
        fit_gaussian([(features[:20], sharpness[:20])])
    with pytest.raises(ValueError, match="threshold"):
        fit_gaussian([(features, sharpness)], threshold=1.0)


def test_fit_on_a_folder(tmp_path, case):
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    crop = case["in/image"][:192, :288]
    for index in range(8):
        Image.fromarray(np.roll(crop, 20 * index, axis=1)).save(photos / "more" / f"{index}.png")
    Image.fromarray(crop[:90, :90]).save(photos / "small.png")
    out = tmp_path / "model.npz"
    metadata = fit_niqe(photos, out, threshold=0.0)
    assert (metadata["photos"], metadata["photos_too_small"], metadata["blocks"]) == (8, 1, 48)
    model = load_niqe_model(out)
    assert np.isfinite(niqe(case["in/image"][None] / np.float32(255), model)).all()
    with np.load(out, allow_pickle=False) as archive:
        assert json.loads(str(archive["metadata"])) == metadata
    with pytest.raises(FileExistsError, match="exists"):
        fit_niqe(photos, out)
    with pytest.raises(ValueError, match=r"\.npz"):
        fit_niqe(photos, tmp_path / "model.mat")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        fit_niqe(tmp_path / "nowhere", tmp_path / "x.npz")
