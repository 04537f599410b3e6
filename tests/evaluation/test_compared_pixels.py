"""Transparency, bit depths and color profiles of images that are compared."""

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageCms
from rich.console import Console

from framer_jax.evaluation.table import evaluate
from framer_jax.images.png import write_deep
from tests.support.image_files import other_profile


def test_what_is_ignored_or_converted_is_said(tmp_path):
    """Transparency, bit depths and color profiles."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 20, 3), np.uint8)
    sr, gt = tmp_path / "sr", tmp_path / "gt"
    for folder in (sr, gt):
        folder.mkdir()
        for name in "abcd":
            Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(sr / "a.png")
    write_deep(gt / "b.png", pixels.astype(np.uint16) * 257)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(sr / "c.png", icc_profile=srgb)  # the same as none
    Image.fromarray(pixels).save(sr / "d.png", icc_profile=b"damaged")
    out = io.StringIO()
    result = evaluate(sr, gt, ["psnr-rgb"], console=Console(file=out, width=200))
    np.testing.assert_allclose(result.values["psnr-rgb"], [80, 80, 80, np.nan], rtol=1e-6)
    assert {note.image: note.text for note in result.notes} == {
        "a": "its transparency is ignored",
        "b": "8 bits per channel against 16 of its reference",
    }
    assert "1 image(s), its transparency is ignored: a" in out.getvalue()
    (failure,) = result.failures
    assert re.search(r"d\.png: its color profile cannot be read .*: save it without one, or in sRGB", failure.reason)


def test_other_color_profiles_are_compared_in_srgb(tmp_path):
    """The same light in two encodings is equal, and unequal light in equal numbers is not."""
    ramp = np.linspace(40, 210, 24 * 20).astype(np.uint8).reshape(24, 20)
    levels = np.stack([ramp, 250 - ramp, ramp // 2], axis=-1)
    wide = other_profile()
    converted = levels[..., [1, 0, 2]]
    sr, gt = tmp_path / "sr", tmp_path / "gt"
    for folder in (sr, gt):
        folder.mkdir()
    Image.fromarray(converted).save(sr / "a.png", icc_profile=wide)
    Image.fromarray(levels).save(gt / "a.png")
    Image.fromarray(levels).save(sr / "b.png", icc_profile=wide)
    Image.fromarray(levels).save(gt / "b.png")
    Image.fromarray(levels).save(sr / "c.png", icc_profile=wide)
    Image.fromarray(levels).save(gt / "c.png", icc_profile=wide)
    result = evaluate(sr, gt, ["psnr-rgb"])
    same, other, equal = result.values["psnr-rgb"]
    assert same > 40
    assert other < 30
    assert equal == pytest.approx(80)
    assert [note.image for note in result.notes] == ["a", "b"]
    assert "is not that of its reference (sRGB): compared in sRGB" in result.notes[0].text
