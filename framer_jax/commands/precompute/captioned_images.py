"""What `framer-jax precompute captions` captions: photographs, or the crops that precomputed latents are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.commands.precompute import work as shared
from framer_jax.commands.provenance import config_of_latents
from framer_jax.data.captions import crop_name
from framer_jax.data.contents import joint_digest
from framer_jax.data.pipeline import make_prepare
from framer_jax.data.records import MANIFEST, RECORD, check_kind, is_records, read_manifest, read_names
from framer_jax.data.sources import ImageFiles, Pixels
from framer_jax.porting.files import sha256_of

KINDS = ("crops", "lr", "photos")
"""The HR crops of latents, their LR images, or whole photographs."""


class CaptionedImage(NamedTuple):
    """One image.

    Attributes:
      pixels: uint8 [H, W, 3], None for a damaged photograph.
      photo: the photograph that a crop is of, '' for a whole photograph.
    """

    pixels: Pixels | None
    photo: str = ""


class CaptionedImages(NamedTuple):
    """The images of a captions file.

    Attributes:
      names: by which captions are found.
      load: number → the image.
      origin: what else decides the images, plain JSON; {} for whole photographs.
      damage: words about damaged photographs that were met, '' if there was none.
    """

    names: Sequence[str]
    load: Callable[[int], CaptionedImage]
    origin: Mapping[str, Any]
    damage: Callable[[], str]


def whole_photos(source: ImageFiles) -> CaptionedImages:
    """The photographs of a source."""

    def load(number: int) -> CaptionedImage:
        photo = source[number]
        if photo.record != number:  # the replacement of a damaged photograph
            return CaptionedImage(None)
        return CaptionedImage(photo.crop(0, 0, *photo.size))

    return CaptionedImages(source.names, load, {}, source.damage)


def crops_of_latents(latents: Path, photos: str, kind: str) -> CaptionedImages:
    """The crops that precomputed latents are of, which are made again from their manifest.

    Args:
      latents: folder that `framer-jax precompute latents` wrote.
      photos: the photographs of these latents, a folder or 'builtin'.
      kind: 'crops' for HR crops, 'lr' for their LR images.

    Raises:
      ValueError, FileNotFoundError: no latents, or other photographs than theirs; one line.
    """
    if not is_records(latents):
        raise FileNotFoundError(f"--latents {latents} holds no records: `framer-jax precompute latents` writes them")
    manifest = read_manifest(latents)
    check_kind(manifest, "latents", latents)
    crops = shared.open_crops(config_of_latents(manifest, photos), latents)
    contents = manifest.get("contents")  # earlier versions have none
    others = contents is not None and contents != joint_digest(crops.source.digests())
    if others or list(crops.source.names) != read_names(latents):
        raise ValueError(
            f"--photos {photos} are not the photographs of the latents {latents}: name the folder that they were made "
            "from, unchanged"
        )
    prepare = jax.jit(make_prepare(crops.preset))

    def load(number: int) -> CaptionedImage:
        record = crops.dataset[number]
        photo = crops.source.names[int(record[RECORD])]
        if kind == "crops" and not crops.preset.sharpen_target:
            return CaptionedImage(record["hr"], photo)
        images = prepare(jax.tree.map(lambda leaf: np.asarray(leaf)[None], record))
        image = np.asarray(images["lr" if kind == "lr" else "hr"][0])
        return CaptionedImage(np.round(image * 255.0).astype(np.uint8), photo)

    names = [crop_name(number) for number in range(manifest["samples"])]
    return CaptionedImages(names, load, {"of": kind, "latents": sha256_of(latents / MANIFEST)}, crops.source.damage)
