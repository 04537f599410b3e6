"""Text embeddings of Stable Diffusion 3: features of two CLIP encoders side by side, followed by the tokens of T5.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

TEXT, POOLED_TEXT = "text", "pooled_text"
"""Entries of training batches: tokens [B, L, W] and pooled embedding [B, P]."""

STORED_NAMES = {TEXT: "prompt", POOLED_TEXT: "pooled"}
"""Batch entry → its name in records and in files of one text."""

ENCODERS = ("clip_l", "clip_g", "t5")


class TextEmbedding(NamedTuple):
    """The embedding of one text, or of several with a leading [B].

    Attributes:
      tokens: [clip_length + t5_length, width].
      pooled: [sum of clip_widths].
    """

    tokens: np.ndarray
    pooled: np.ndarray

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the batch entries."""
        return {TEXT: np.shape(self.tokens), POOLED_TEXT: np.shape(self.pooled)}

    def as_condition(self) -> dict[str, np.ndarray]:
        """The entries of a training batch, and of a denoiser's condition."""
        return {TEXT: self.tokens, POOLED_TEXT: self.pooled}

    def as_record(self) -> dict[str, np.ndarray]:
        """The entries of a record, or of a file of one text."""
        return {STORED_NAMES[name]: value for name, value in self.as_condition().items()}

    @classmethod
    def from_record(cls, record: Mapping[str, np.ndarray]) -> TextEmbedding:
        """The embedding that `as_record` turned into entries."""
        return cls(record[STORED_NAMES[TEXT]], record[STORED_NAMES[POOLED_TEXT]])


@dataclass(frozen=True)
class TextSettings:
    """Sizes of text embeddings; the defaults are those of Stable Diffusion 3 in the training of DiT4SR and FRAMER.

    Attributes:
      clip_length: number of tokens of the CLIP encoders.
      t5_length: number of T5 tokens: 77 in training, 256 in DiT4SR's inference.
      clip_widths: number of features of CLIP-L and CLIP-G.
      width: number of features of T5 and of the denoiser's text input.

    Raises:
      ValueError: a size below one, or CLIP features that do not fit into the denoiser's text input.
    """

    clip_length: int = 77
    t5_length: int = 77
    clip_widths: tuple[int, int] = (768, 1280)
    width: int = 4096

    def __post_init__(self) -> None:
        if min(self.clip_length, self.t5_length, *self.clip_widths, self.width) < 1:
            raise ValueError(f"text lengths and widths must be at least 1; got {asdict(self)}")
        if sum(self.clip_widths) > self.width:
            raise ValueError(
                f"clip_widths {self.clip_widths} do not fit into {self.width} features: use smaller CLIP encoders or a "
                "larger width"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the batch entries of one text."""
        return {TEXT: (self.clip_length + self.t5_length, self.width), POOLED_TEXT: (sum(self.clip_widths),)}


class Encoded(NamedTuple):
    """Output of one text encoder for B texts.

    Attributes:
      tokens: [B, L, W].
      pooled: [B, W]; None for T5.
    """

    tokens: np.ndarray
    pooled: np.ndarray | None = None


def join_encoders(encoded: Mapping[str, Encoded], count: int, settings: TextSettings) -> TextEmbedding:
    """Join the outputs of the encoders as diffusers' Stable Diffusion 3 pipeline does.

    Args:
      encoded: encoder name (of `ENCODERS`) to its output; a missing encoder is replaced by zeros.
      count: number B of texts.
      settings: sizes.

    Returns:
      float32 tokens [B, clip_length + t5_length, width]: the features of CLIP-L and CLIP-G next to each other, padded
      with zeros to the width, followed by the tokens of T5; and pooled [B, sum of clip_widths].

    Raises:
      ValueError: an encoder's output has other sizes; the message names the encoder.
    """
    shapes = settings.shapes
    tokens, pooled = (np.zeros((count, *shapes[name]), np.float32) for name in (TEXT, POOLED_TEXT))
    clip_offset = 0
    for name, width in zip(ENCODERS, (*settings.clip_widths, settings.width), strict=True):
        is_t5 = name == "t5"
        length = settings.t5_length if is_t5 else settings.clip_length
        start, offset = (settings.clip_length, 0) if is_t5 else (0, clip_offset)
        if name in encoded:
            _check_sizes(name, encoded[name], (count, length, width))
            tokens[:, start : start + length, offset : offset + width] = encoded[name].tokens
            if (pooled_part := encoded[name].pooled) is not None and not is_t5:
                pooled[:, offset : offset + width] = pooled_part
        clip_offset += width
    return TextEmbedding(tokens, pooled)


def zero_text(settings: TextSettings) -> TextEmbedding:
    """An embedding of zeros, for runs without text encoders; an encoder's embedding of the empty text is not zero."""
    shapes = settings.shapes
    return TextEmbedding(np.zeros(shapes[TEXT], np.float32), np.zeros(shapes[POOLED_TEXT], np.float32))


def check_text(
    shapes: Mapping[str, tuple[int, ...]], settings: TextSettings, source: str, any_length: bool = False
) -> None:
    """Check that embeddings have the sizes of a run.

    Args:
      shapes: shapes of the batch entries of one text.
      settings: sizes of the run.
      source: what the error message calls the embeddings.
      any_length: accept any number of tokens.

    Raises:
      ValueError: the sizes differ.
    """
    for name, expected in settings.shapes.items():
        shape = tuple(shapes[name])
        first = len(expected) - 1 if any_length else 0
        if len(shape) != len(expected) or shape[first:] != expected[first:]:
            raise ValueError(
                f"{source} has {name} embeddings of shape {shape}, this run has {expected}: make them with "
                "`framer-jax precompute embeddings` and the run's text lengths and encoders"
            )


def describe_encoders(settings: TextSettings, digests: Mapping[str, str]) -> dict[str, Any]:
    """What embeddings depend on in addition to the texts, for a manifest; an encoder without a digest is 'zeros'."""
    return {**asdict(settings), "encoders": {name: digests.get(name, "zeros") for name in ENCODERS}}


def _check_sizes(name: str, encoded: Encoded, expected: tuple[int, int, int]) -> None:
    batch, length, width = expected
    shape = encoded.tokens.shape
    if shape != expected:
        raise ValueError(
            f"the encoder {name} gives {shape[1]} tokens of {shape[2]} features, not {length} of {width}: use "
            "the encoders that the text lengths and --widths belong to (are CLIP-L and CLIP-G swapped?)"
        )
    pooled = encoded.pooled
    if name != "t5" and (pooled is None or pooled.shape != (batch, width)):
        sizes = "none" if pooled is None else f"{pooled.shape[-1]} features"
        raise ValueError(f"the encoder {name} gives a pooled embedding of {sizes}, not {width}: use another model")
