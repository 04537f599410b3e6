"""Precomputed latents with the embeddings of their photographs' captions, as training batches want them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from framer_jax.data.embeddings import Embeddings
from framer_jax.data.records import RecordFiles, check_kind, read_names
from framer_jax.data.text import Text

HR_LATENT, LR_LATENT, IMAGE = "hr_latent", "lr_latent", "image"
"""Entries of records of latents: normalised, [h, w, C]; the photograph's number in the list of names."""


class LatentFiles(RecordFiles):
    """A folder of latents by number; `with_text` joins a record with a text.

    Attributes:
      manifest: what the latents were made of.
      names: what to call them in logs; they change with the texts, so that a run notices other ones.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        null: Text,
        embeddings: str | os.PathLike[str] | None = None,
        null_ratio: float = 0.2,
    ) -> None:
        """Open the files.

        Args:
          folder: that `framer-jax precompute latents` wrote.
          null: see framer_jax.data.embeddings.Embeddings.
          embeddings: its folder.
          null_ratio: see there.

        Raises:
          ValueError: a folder is incomplete, damaged, or of another kind; or as Embeddings.
        """
        super().__init__(folder)
        check_kind(self.manifest, "latents", folder)
        self._texts = Embeddings(read_names(folder), null, embeddings, null_ratio)
        self.names = [f"{name} with {self._texts.digest()}" for name in self.names]

    def with_text(self, record: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A record of latents with 'prompt' and 'pooled', see Embeddings.text_of."""
        return {**record, **self._texts.text_of(int(record[IMAGE]), rng)}
