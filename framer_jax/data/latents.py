"""Precomputed latents with the embeddings of their photographs' captions, as training batches want them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from framer_jax.data.captions import check_captions
from framer_jax.data.records import RecordFiles, read_names
from framer_jax.data.text import POOLED, PROMPT, Text, TextSettings, check_text

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
          null: the embedding of the empty text, or zeros.
          embeddings: folder that `framer-jax precompute embeddings` wrote; None gives every record the null text.
          null_ratio: share of records with the null text instead of their caption's; FRAMER's is 0.2.

        Raises:
          ValueError: a folder is incomplete, damaged, or of another kind; a photograph has no embedding; embeddings
            have other sizes than the null text's; or a ratio outside 0 … 1.
        """
        super().__init__(folder)
        check_kind(self.manifest, "latents", folder)
        if not 0 <= null_ratio <= 1:
            raise ValueError(f"the share of null texts must lie in 0 to 1; got {null_ratio}")
        self._null, self._null_ratio = null, null_ratio
        self._embeddings = None if embeddings is None else RecordFiles(embeddings)
        self._rows = np.zeros(0, np.int32)
        if self._embeddings is not None and embeddings is not None:
            check_kind(self._embeddings.manifest, "embeddings", embeddings)
            rows = {name: row for row, name in enumerate(read_names(embeddings))}
            images = read_names(folder)
            check_captions(rows, images, f"the embeddings {embeddings}")
            self._rows = np.asarray([rows[name] for name in images], np.int32)
            shapes = settings_in(self._embeddings.manifest["text"]).shapes
            for name, value in ((PROMPT, null.prompt), (POOLED, null.pooled)):
                if shapes[name] != value.shape:
                    raise ValueError(
                        f"the embeddings {embeddings} have {name} embeddings of shape {shapes[name]}, the null text "
                        f"{value.shape}: make both with the same text lengths and encoders"
                    )
        self.names = [f"{name} with {self._digest()}" for name in self.names]

    def with_text(self, record: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A record with 'prompt' [L, W] and 'pooled' [P], as stored: its caption's, or the null text's by chance.

        Args:
          record: of latents.
          rng: the record's own generator.
        """
        null = rng.random() < self._null_ratio  # drawn in any case: the stream is the same for all conditions
        if self._embeddings is None or null:
            prompt, pooled = self._null
        else:
            found = self._embeddings[int(self._rows[int(record[IMAGE])])]
            prompt, pooled = found[PROMPT], found[POOLED]
        return {**record, PROMPT: prompt.astype(self._dtype), POOLED: pooled.astype(self._dtype)}

    @property
    def _dtype(self) -> np.dtype[Any]:
        """Of all texts in a batch: what the embeddings are stored as."""
        return self._null.prompt.dtype if self._embeddings is None else np.dtype(self._embeddings.manifest["storage"])

    def _digest(self) -> str:
        """Of what texts records are joined with."""
        whole = hashlib.sha256(f"{self._null_ratio} {self._embeddings and self._embeddings.names[0]}".encode())
        for value in self._null:
            whole.update(np.ascontiguousarray(value).tobytes())
        return whole.hexdigest()[:12]


def check_kind(manifest: Mapping[str, Any], kind: str, folder: str | os.PathLike[str]) -> None:
    """Refuse records of another kind.

    Raises:
      ValueError: as said.
    """
    if manifest.get("kind") != kind:
        raise ValueError(
            f"{folder} holds records of {manifest.get('kind')!r}, not {kind!r}: give a folder that `framer-jax "
            f"precompute {kind}` wrote"
        )


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
