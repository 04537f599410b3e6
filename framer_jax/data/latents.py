"""Precomputed latents, alone or joined with the embeddings of captions, of their crops or of their photographs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from framer_jax.data.embeddings import CaptionEmbeddings
from framer_jax.data.records import MANIFEST, RECORD, RecordFiles, check_kind, read_names
from framer_jax.data.text import TextEmbedding
from framer_jax.porting.files import sha256_of

HR_LATENT, LR_LATENT, PHOTO_INDEX = "hr_latent", "lr_latent", "image"
"""Entries of records of latents: two normalised latents [h, w, C], and the index into the list of photograph names."""


class LatentFiles(RecordFiles):
    """A folder of latents by number; `with_text` adds the text of the crop, or of its photograph, to a record.

    Without a null text, there are no texts.

    Attributes:
      manifest: what the latents were computed from.
      names: names for logs; they change with the texts, so that a resumed run notices other texts.
      kind: 'latents'.
      batch_entries: the entries of prepared batches.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        null: TextEmbedding | None = None,
        embeddings: str | os.PathLike[str] | None = None,
        caption_dropout: float = 0.2,
    ) -> None:
        """Open the files.

        Args:
          folder: written by `framer-jax precompute latents`.
          null: see `CaptionEmbeddings`; None for methods without text.
          embeddings: folder of the embeddings, see `CaptionEmbeddings`.
          caption_dropout: see `CaptionEmbeddings`.

        Raises:
          ValueError: a folder is incomplete, damaged or of another kind; or as `CaptionEmbeddings`.
        """
        super().__init__(folder)
        check_kind(self.manifest, "latents", folder)
        self._texts = None
        if null is None:
            return
        latents = len(self), sha256_of(Path(folder) / MANIFEST)
        self._texts = CaptionEmbeddings(read_names(folder), null, embeddings, caption_dropout, latents)
        self.names = [f"{name} with {self._texts.digest()}" for name in self.names]

    @property
    def batch_entries(self) -> tuple[str, ...]:
        """The entries of prepared batches."""
        return (HR_LATENT, LR_LATENT, *(self._texts.batch_entries if self._texts else ()))

    def digests(self) -> dict[str, str]:
        """Name of every file of records and of embeddings → digest of its content."""
        return {**super().digests(), **(self._texts.digests() if self._texts else {})}

    def with_text(self, record: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Add the text (`CaptionEmbeddings.draw`), if there is one, to a record of latents."""
        if self._texts is None:
            return dict(record)
        return {**record, **self._texts.draw(int(record[RECORD if self._texts.of_crops else PHOTO_INDEX]), rng)}
