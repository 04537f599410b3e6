"""Sources declare their kind and the entries of their prepared batches."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from framer_jax.data.embeddings import CaptionedPhotos
from framer_jax.data.latents import HR_LATENT, LR_LATENT, PHOTO_INDEX, LatentFiles
from framer_jax.data.pipeline import make_batches, prepare_for
from framer_jax.data.records import RecordFiles, file_name, write_manifest, write_names, write_records
from framer_jax.data.settings import UNSHARPENED
from framer_jax.data.sources import folder_source
from framer_jax.data.text import TextEmbedding, TextSettings, describe_encoders, zero_text
from framer_jax.degradations.presets import BICUBIC

SIZES = TextSettings(clip_length=3, t5_length=2, clip_widths=(4, 5), width=12)
NAMES = ["a.png", "b.png"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two photographs, the embeddings of their captions, their latents, and records of a teacher."""
    place = tmp_path_factory.mktemp("entries")
    (place / "photos").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(place / "photos" / name)
    counts = {"samples": 2, "per_file": 2}
    embeddings = {"kind": "embeddings", **counts, "storage": "float16", "text": describe_encoders(SIZES, {})}
    write_names(place / "embeddings", embeddings, NAMES)
    texts = [TextEmbedding(*(value.astype(np.float16) + number for value in zero_text(SIZES))) for number in (1, 2)]
    write_records(place / "embeddings" / file_name(0), [text.as_record() for text in texts])
    write_names(place / "latents", {"kind": "latents", **counts}, NAMES)
    latent = np.zeros((4, 4, 4), np.float16)
    records = [{HR_LATENT: latent, LR_LATENT: latent, PHOTO_INDEX: np.int32(number)} for number in range(2)]
    write_records(place / "latents" / file_name(0), records)
    write_manifest(place / "teacher", {"kind": "teacher", **counts})
    image = np.zeros((4, 4, 3), np.uint8)
    write_records(place / "teacher" / file_name(0), [{"hr": image, "lr": image, "teacher": image[None]}] * 2)
    return place


def open_source(kind, place):
    photos, null = folder_source(place / "photos"), zero_text(SIZES)
    return {
        "photos": lambda: photos,
        "captioned photos": lambda: CaptionedPhotos(photos, null, place / "embeddings", 0.0),
        "latents": lambda: LatentFiles(place / "latents"),
        "latents with texts": lambda: LatentFiles(place / "latents", null, place / "embeddings", 0.0),
        "teacher": lambda: RecordFiles(place / "teacher"),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("photos", {"hr", "lr"}),
        ("captioned photos", {"hr", "lr", "text", "pooled_text"}),
        ("latents", {"hr_latent", "lr_latent"}),
        ("latents with texts", {"hr_latent", "lr_latent", "text", "pooled_text"}),
        ("teacher", {"hr", "lr", "teacher"}),
    ],
)
def test_prepared_batches_have_the_declared_entries(place, kind, entries):
    source = open_source(kind, place)
    assert source.kind == kind.removesuffix(" with texts")
    assert set(source.batch_entries) == entries
    batch = next(make_batches(source, 16, BICUBIC, 2, 0, num_threads=0))
    prepared = prepare_for(source, BICUBIC)(batch)
    assert prepared.keys() == entries
    assert {value.dtype.name for value in prepared.values()} == {"float32"}
    if "text" in entries:
        photos = batch[PHOTO_INDEX] if source.kind == "latents" else batch["record"]
        np.testing.assert_array_equal(prepared["pooled_text"][:, 0], photos + 1)
        np.testing.assert_array_equal(prepared["text"][:, 0, 0], photos + 1)


def test_unsharpened_images_are_made_where_a_recipe_needs_them(place):
    source, preset = folder_source(place / "photos"), replace(BICUBIC, sharpen_target=True)
    batch = next(make_batches(source, 16, preset, 2, 0, num_threads=0))
    batch = {**batch, "hr": np.random.default_rng(0).integers(0, 256, batch["hr"].shape, np.uint8)}
    prepared = prepare_for(source, preset, ("hr", "lr", UNSHARPENED))(batch)
    assert prepared.keys() == {"hr", "lr", UNSHARPENED}
    np.testing.assert_allclose(prepared[UNSHARPENED] * 255, batch["hr"], atol=1e-4)
    assert float(np.abs(prepared["hr"] - prepared[UNSHARPENED]).max()) > 0.05
    plain = prepare_for(source, BICUBIC, ("hr", "lr", UNSHARPENED))(batch)
    np.testing.assert_array_equal(plain["hr"], plain[UNSHARPENED])
