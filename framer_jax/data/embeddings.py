"""Caption embeddings joined with the photographs that they describe, or with precomputed latents of these."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from framer_jax.data.captions import check_captions, crop_name
from framer_jax.data.photo_pairs import PhotoPairs
from framer_jax.data.records import RecordFiles, check_kind, read_names
from framer_jax.data.sources import ImageFiles
from framer_jax.data.text import TextEmbedding, TextSizes, check_text, text_sizes_of

STORED_EMBEDDINGS = "embeddings"
"""Name of the folder, within that of latents, with the embeddings of the captions of their crops."""


class CaptionEmbeddings:
    """The text of each photograph or crop: its caption's embedding or, with caption dropout, the null text's."""

    def __init__(
        self,
        photos: Sequence[str],
        null: TextEmbedding,
        folder: str | os.PathLike[str] | None = None,
        caption_dropout: float = 0.2,
        latents: tuple[int, str] | None = None,
    ) -> None:
        """Open the files.

        Args:
          photos: names of the photographs.
          null: embedding of the empty text, or zeros.
          folder: written by `framer-jax precompute embeddings`; None gives every photograph the null text.
          caption_dropout: probability of the null text in place of the caption; 0.2 in FRAMER.
          latents: number of records and digest of the manifest, for latents whose crops may have been captioned.

        Raises:
          ValueError: the folder is incomplete, damaged or of another kind; a photograph has no embedding; the
            embeddings and the null text differ in size; they are of the crops of other latents; or a probability
            outside [0, 1].
        """
        if not 0 <= caption_dropout <= 1:
            raise ValueError(f"caption_dropout is {caption_dropout}: it must lie in 0 to 1")
        self._null, self._caption_dropout = null, caption_dropout
        self._files = None if folder is None else RecordFiles(folder)
        self._rows = np.zeros(0, np.int32)
        if self._files is not None and folder is not None:
            check_kind(self._files.manifest, "embeddings", folder)
            rows = {name: row for row, name in enumerate(read_names(folder))}
            names = _captioned_names(self._files.manifest, photos, latents, folder)
            check_captions(rows, names, f"the embeddings {folder}", "crops" if self.of_crops else "photographs")
            self._rows = np.asarray([rows[name] for name in names], np.int32)
            shapes = text_sizes_of(self._files.manifest["text"]).shapes
            for name, shape in null.shapes.items():
                if shapes.get(name) != shape:
                    raise ValueError(
                        f"the embeddings {folder} have {name} embeddings of shape {shapes.get(name)}, the null text "
                        f"{shape}: make both with the same text lengths and encoders"
                    )

    @property
    def batch_entries(self) -> tuple[str, ...]:
        """The entries that `draw` returns."""
        return tuple(self._null.shapes)

    @property
    def of_crops(self) -> bool:
        """Whether each record of latents has a text of its own; otherwise, each photograph has."""
        return self._files is not None and "latents" in self._files.manifest

    def draw(self, image: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The batch entries 'text' [L, W] and, if there is one, 'pooled_text' [P] of an image, as they are stored.

        Args:
          image: number of the photograph, or of the record of latents (`of_crops`).
          rng: the record's own generator.
        """
        dropped = rng.random() < self._caption_dropout  # always drawn, so that the stream of random numbers is the same
        if self._files is None or dropped:
            embedding = self._null
        else:
            embedding = TextEmbedding.from_record(self._files[int(self._rows[image])])
        return {name: value.astype(self._dtype) for name, value in embedding.as_condition().items()}

    @property
    def _dtype(self) -> np.dtype[Any]:
        """The dtype of all texts of a batch, which is that of the stored embeddings."""
        return self._null.tokens.dtype if self._files is None else np.dtype(self._files.manifest["storage"])

    def digests(self) -> dict[str, str]:
        """Name of every file of embeddings → digest of its content."""
        return {f"embeddings/{name}": value for name, value in self._files.digests().items()} if self._files else {}

    def digest(self) -> str:
        """Hash of the texts, by which a resumed run notices that they have changed."""
        state = hashlib.sha256(
            f"{self._caption_dropout} {self._files and self._files.names[0]}".encode(errors="surrogateescape")
        )
        for value in self._null.as_condition().values():
            state.update(np.ascontiguousarray(value).tobytes())
        return state.hexdigest()[:12]


def _captioned_names(
    manifest: Mapping[str, Any],
    photos: Sequence[str],
    latents: tuple[int, str] | None,
    folder: str | os.PathLike[str],
) -> Sequence[str]:
    """The names by which the embeddings of a folder are found."""
    if "latents" not in manifest:
        return photos
    if latents is None:
        raise ValueError(
            f"the embeddings {folder} are of crops of precomputed latents: set data.train to these latents, or caption "
            "the photographs (`framer-jax precompute captions --of photos`)"
        )
    count, digest = latents
    if manifest["latents"] != digest:
        raise ValueError(
            f"the embeddings {folder} are of crops of other latents: caption the crops of these, and embed the captions"
        )
    return [crop_name(number) for number in range(count)]


class CaptionedPhotos:
    """Photographs by number; `with_text` adds a photograph's text to a training record.

    Attributes:
      photos: the photographs, or pairs of LR and HR photographs.
      names: names for logs; they change with the texts.
      kind: the kind of training data.
      batch_entries: the entries of prepared batches.
    """

    kind = "captioned photos"

    def __init__(
        self,
        photos: ImageFiles | PhotoPairs,
        null: TextEmbedding,
        folder: str | os.PathLike[str],
        caption_dropout: float = 0.2,
    ) -> None:
        """Join photographs and embeddings; arguments and errors as for `CaptionEmbeddings`."""
        self.photos = photos
        self._texts = CaptionEmbeddings(photos.names, null, folder, caption_dropout)
        self.batch_entries = (*photos.batch_entries, *self._texts.batch_entries)
        self.names = [f"{name} with {self._texts.digest()}" for name in photos.names]

    def __len__(self) -> int:
        return len(self.photos)

    def with_text(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Add the text (`CaptionEmbeddings.draw`) to a record of a photograph."""
        return {**record, **self._texts.draw(int(record["record"]), rng)}

    def digests(self) -> dict[str, str]:
        """Name of every photograph and file of embeddings → digest of its content."""
        return {**self.photos.digests(), **self._texts.digests()}

    def damage(self) -> str:
        """See `ImageFiles.damage`."""
        return self.photos.damage()


def check_manifest_text(text: Mapping[str, Any], settings: TextSizes, source: str) -> None:
    """Check by a manifest's 'text' entry that embeddings have the sizes of a run.

    Raises:
      ValueError: as framer_jax.data.text.check_text.
    """
    check_text(text_sizes_of(text).shapes, settings, source)
