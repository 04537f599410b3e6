"""Embeddings of captions joined with what they are captions of: photographs, or their precomputed latents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from framer_jax.data.captions import check_captions
from framer_jax.data.records import RecordFiles, check_kind, read_names
from framer_jax.data.sources import ImageFiles
from framer_jax.data.text import POOLED, PROMPT, Text, TextSettings, check_text


class Embeddings:
    """The text of each of a list of photographs: its caption's embedding, or by chance the null text's."""

    def __init__(
        self,
        images: Sequence[str],
        null: Text,
        folder: str | os.PathLike[str] | None = None,
        null_ratio: float = 0.2,
    ) -> None:
        """Open the files.

        Args:
          images: names of the photographs.
          null: the embedding of the empty text, or zeros.
          folder: that `framer-jax precompute embeddings` wrote; None gives every photograph the null text.
          null_ratio: share of null texts instead of captions'; FRAMER's is 0.2.

        Raises:
          ValueError: a folder is incomplete, damaged, or of another kind; a photograph has no embedding; embeddings
            have other sizes than the null text's; or a ratio outside 0 … 1.
        """
        if not 0 <= null_ratio <= 1:
            raise ValueError(f"the share of null texts must lie in 0 to 1; got {null_ratio}")
        self._null, self._null_ratio = null, null_ratio
        self._files = None if folder is None else RecordFiles(folder)
        self._rows = np.zeros(0, np.int32)
        if self._files is not None and folder is not None:
            check_kind(self._files.manifest, "embeddings", folder)
            rows = {name: row for row, name in enumerate(read_names(folder))}
            check_captions(rows, images, f"the embeddings {folder}")
            self._rows = np.asarray([rows[name] for name in images], np.int32)
            shapes = settings_in(self._files.manifest["text"]).shapes
            for name, value in ((PROMPT, null.prompt), (POOLED, null.pooled)):
                if shapes[name] != value.shape:
                    raise ValueError(
                        f"the embeddings {folder} have {name} embeddings of shape {shapes[name]}, the null text "
                        f"{value.shape}: make both with the same text lengths and encoders"
                    )

    def text_of(self, image: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """'prompt' [L, W] and 'pooled' [P] of a photograph by its number, as stored.

        Args:
          image: the number.
          rng: the record's own generator.
        """
        null = rng.random() < self._null_ratio  # drawn in any case: the stream is the same for all conditions
        if self._files is None or null:
            prompt, pooled = self._null
        else:
            found = self._files[int(self._rows[image])]
            prompt, pooled = found[PROMPT], found[POOLED]
        return {PROMPT: prompt.astype(self._dtype), POOLED: pooled.astype(self._dtype)}

    @property
    def _dtype(self) -> np.dtype[Any]:
        """Of all texts in a batch: what the embeddings are stored as."""
        return self._null.prompt.dtype if self._files is None else np.dtype(self._files.manifest["storage"])

    def digest(self) -> str:
        """Of what photographs are joined with, so that a run notices other texts."""
        whole = hashlib.sha256(f"{self._null_ratio} {self._files and self._files.names[0]}".encode())
        for value in self._null:
            whole.update(np.ascontiguousarray(value).tobytes())
        return whole.hexdigest()[:12]


class CaptionedPhotos:
    """Photographs by number; `with_text` joins a training record with its photograph's text.

    Attributes:
      photos: the photographs.
      names: what to call them in logs; they change with the texts.
    """

    def __init__(self, photos: ImageFiles, null: Text, folder: str | os.PathLike[str], null_ratio: float = 0.2) -> None:
        """Join them; arguments and errors as of Embeddings."""
        self.photos = photos
        self._texts = Embeddings(photos.names, null, folder, null_ratio)
        self.names = [f"{name} with {self._texts.digest()}" for name in photos.names]

    def __len__(self) -> int:
        return len(self.photos)

    def with_text(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A record of framer_jax.data.pipeline.make_record with 'prompt' and 'pooled', see Embeddings.text_of."""
        return {**record, **self._texts.text_of(int(record["record"]), rng)}

    def damage(self) -> str:
        """As of ImageFiles."""
        return self.photos.damage()


def settings_in(text: Mapping[str, Any]) -> TextSettings:
    """The sizes that a manifest's 'text' entry tells."""
    left, right = text["clip_widths"]
    return TextSettings(text["clip_length"], text["t5_length"], (left, right), text["width"])


def check_manifest_text(text: Mapping[str, Any], settings: TextSettings, source: str) -> None:
    """Refuse embeddings of other sizes than a run's, by their manifest's 'text' entry.

    Raises:
      ValueError: as framer_jax.data.text.check_text.
    """
    check_text(settings_in(text).shapes, settings, source)
