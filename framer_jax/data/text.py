"""Text embeddings of Stable Diffusion 3 and of Stable Diffusion 2.

Version 3 (Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024) has the
features of two CLIP encoders side by side, followed by the tokens of T5, and a pooled embedding; version 2 (Rombach et
al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022) has the tokens of OpenCLIP-H alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

TEXT, POOLED_TEXT = "text", "pooled_text"
"""Entries of training batches: tokens [B, L, W] and, of Stable Diffusion 3, the pooled embedding [B, P]."""

STORED_NAMES = {TEXT: "prompt", POOLED_TEXT: "pooled"}
"""Batch entry → its name in records and in files of one text."""

ENCODERS = ("clip_l", "clip_g", "t5")
"""The text encoders of Stable Diffusion 3."""

CLIP_H = "clip_h"
"""The text encoder of Stable Diffusion 2."""


class TextEmbedding(NamedTuple):
    """The embedding of one text, or of several with a leading [B].

    Attributes:
      tokens: [clip_length + t5_length, width], or [length, width] of Stable Diffusion 2.
      pooled: [sum of clip_widths]; None of Stable Diffusion 2.
    """

    tokens: np.ndarray
    pooled: np.ndarray | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the batch entries."""
        return {name: np.shape(value) for name, value in self.as_condition().items()}

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> TextEmbedding:
        """The embedding with a function applied to each of its arrays."""
        return TextEmbedding(function(self.tokens), None if self.pooled is None else function(self.pooled))

    def as_condition(self) -> dict[str, np.ndarray]:
        """The entries of a training batch, and of a denoiser's condition."""
        return {TEXT: self.tokens} if self.pooled is None else {TEXT: self.tokens, POOLED_TEXT: self.pooled}

    def as_record(self) -> dict[str, np.ndarray]:
        """The entries of a record, or of a file of one text."""
        return {STORED_NAMES[name]: value for name, value in self.as_condition().items()}

    @classmethod
    def from_record(cls, record: Mapping[str, np.ndarray]) -> TextEmbedding:
        """The embedding that `as_record` turned into entries."""
        return cls(record[STORED_NAMES[TEXT]], record.get(STORED_NAMES[POOLED_TEXT]))


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

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the text encoders."""
        return ENCODERS


@dataclass(frozen=True)
class ClipTextSettings:
    """Sizes of text embeddings; the defaults are those of Stable Diffusion 2.

    Attributes:
      length: number of tokens of OpenCLIP-H.
      width: number of its features.

    Raises:
      ValueError: a size below one.
    """

    length: int = 77
    width: int = 1024

    def __post_init__(self) -> None:
        if min(self.length, self.width) < 1:
            raise ValueError(f"the text's length and width must be at least 1; got {asdict(self)}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the batch entries of one text."""
        return {TEXT: (self.length, self.width)}

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the text encoders."""
        return (CLIP_H,)


TextSizes = TextSettings | ClipTextSettings
"""Sizes of the text embeddings of one version of Stable Diffusion."""


class Encoded(NamedTuple):
    """Output of one text encoder for B texts.

    Attributes:
      tokens: [B, L, W].
      pooled: [B, W]; None for T5 and OpenCLIP-H.
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


def join_clip(encoded: Mapping[str, Encoded], count: int, settings: ClipTextSettings) -> TextEmbedding:
    """The tokens of OpenCLIP-H, as diffusers' Stable Diffusion 2 pipeline takes them.

    Args:
      encoded: the output of the encoder `CLIP_H`.
      count: number B of texts.
      settings: sizes.

    Returns:
      float32 tokens [B, length, width].

    Raises:
      ValueError: the encoder's output has other sizes.
    """
    _check_sizes(CLIP_H, encoded[CLIP_H], (count, settings.length, settings.width))
    return TextEmbedding(np.asarray(encoded[CLIP_H].tokens, np.float32))


def zero_text(settings: TextSizes) -> TextEmbedding:
    """An embedding of zeros, for runs without text encoders; an encoder's embedding of the empty text is not zero."""
    zeros = {STORED_NAMES[name]: np.zeros(shape, np.float32) for name, shape in settings.shapes.items()}
    return TextEmbedding.from_record(zeros)


def check_text(
    shapes: Mapping[str, tuple[int, ...]], settings: TextSizes, source: str, any_length: bool = False
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
    if shapes.keys() != settings.shapes.keys():
        names = [" and ".join(each) for each in (shapes, settings.shapes)]
        raise ValueError(
            f"{source} holds {names[0]}, this run needs {names[1]}: make it with the text encoders of the run's "
            "version of Stable Diffusion (`framer-jax precompute embeddings`)"
        )
    for name, expected in settings.shapes.items():
        shape = tuple(shapes[name])
        first = len(expected) - 1 if any_length else 0
        if len(shape) != len(expected) or shape[first:] != expected[first:]:
            raise ValueError(
                f"{source} has {name} embeddings of shape {shape}, this run has {expected}: make them with "
                "`framer-jax precompute embeddings` and the run's text lengths and encoders"
            )


def describe_encoders(settings: TextSizes, digests: Mapping[str, str]) -> dict[str, Any]:
    """What embeddings depend on in addition to the texts, for a manifest; an encoder without a digest is 'zeros'."""
    return {**asdict(settings), "encoders": {name: digests.get(name, "zeros") for name in settings.encoders}}


def text_sizes_of(text: Mapping[str, Any]) -> TextSizes:
    """The sizes that a manifest's 'text' entry states; the inverse of `describe_encoders`."""
    if CLIP_H in text["encoders"]:
        return ClipTextSettings(text["length"], text["width"])
    clip_l, clip_g = text["clip_widths"]
    return TextSettings(text["clip_length"], text["t5_length"], (clip_l, clip_g), text["width"])


def _check_sizes(name: str, encoded: Encoded, expected: tuple[int, int, int]) -> None:
    batch, length, width = expected
    shape = encoded.tokens.shape
    if shape != expected:
        advice = "--clip-length and --width belong to" if name == CLIP_H else ""
        advice = advice or "the text lengths and --widths belong to (are CLIP-L and CLIP-G swapped?)"
        raise ValueError(
            f"the encoder {name} gives {shape[1]} tokens of {shape[2]} features, not {length} of {width}: use the "
            f"encoders that {advice}"
        )
    pooled = encoded.pooled
    if name not in ("t5", CLIP_H) and (pooled is None or pooled.shape != (batch, width)):
        sizes = "none" if pooled is None else f"{pooled.shape[-1]} features"
        raise ValueError(f"the encoder {name} gives a pooled embedding of {sizes}, not {width}: use another model")
