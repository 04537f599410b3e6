"""Text as a denoiser of Stable Diffusion 3's family knows it: two CLIP encoders beside each other, T5 after them.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

PROMPT, POOLED = "prompt", "pooled"
"""Entries of records and batches."""

ENCODERS = ("clip_l", "clip_g", "t5")


class Text(NamedTuple):
    """One text, or several with a leading [B].

    Attributes:
      prompt: [clip_length + t5_length, width], the tokens.
      pooled: [sum of clip_widths], the whole.
    """

    prompt: np.ndarray
    pooled: np.ndarray


@dataclass(frozen=True)
class TextSettings:
    """Sizes of embeddings; the defaults are those of Stable Diffusion 3 as DiT4SR and FRAMER train with it.

    Attributes:
      clip_length: tokens of the CLIP encoders.
      t5_length: tokens of T5: 77 in training, 256 in DiT4SR's inference.
      clip_widths: features of CLIP-L and CLIP-G.
      width: features of T5, and of the denoiser's input.

    Raises:
      ValueError: a size below one, or CLIP encoders that are wider than the denoiser's input.
    """

    clip_length: int = 77
    t5_length: int = 77
    clip_widths: tuple[int, int] = (768, 1280)
    width: int = 4096

    def __post_init__(self) -> None:
        if min(self.clip_length, self.t5_length, *self.clip_widths, self.width) < 1:
            raise ValueError(f"text lengths and widths must be at least 1; got {asdict(self)}")
        if sum(self.clip_widths) > self.width:
            raise ValueError(f"CLIP encoders of {self.clip_widths} features do not fit into {self.width}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the entries of one text."""
        return {PROMPT: (self.clip_length + self.t5_length, self.width), POOLED: (sum(self.clip_widths),)}


class Encoded(NamedTuple):
    """What one encoder makes of B texts.

    Attributes:
      tokens: [B, L, W].
      pooled: [B, W]; None of T5.
    """

    tokens: np.ndarray
    pooled: np.ndarray | None = None


def join_encoders(encoded: Mapping[str, Encoded], count: int, settings: TextSettings) -> Text:
    """The embeddings of B texts, float32, as diffusers' pipeline of Stable Diffusion 3 joins them.

    Args:
      encoded: of `ENCODERS`; zeros stand for those that are missing.
      count: B.
      settings: sizes.

    Returns:
      prompt [B, clip_length + t5_length, width]: CLIP-L's features, CLIP-G's, zeros up to the width; then T5's tokens;
      pooled [B, sum of clip_widths].

    Raises:
      ValueError: an encoder gives other sizes; the message names it.
    """
    shapes = settings.shapes
    prompt, pooled = (np.zeros((count, *shapes[name]), np.float32) for name in (PROMPT, POOLED))
    left = 0
    for name, width in zip(ENCODERS, (*settings.clip_widths, settings.width), strict=True):
        length = settings.t5_length if name == "t5" else settings.clip_length
        start = settings.clip_length if name == "t5" else 0
        first = 0 if name == "t5" else left
        if name in encoded:
            _check_sizes(name, encoded[name], (count, length, width))
            prompt[:, start : start + length, first : first + width] = encoded[name].tokens
            if (whole := encoded[name].pooled) is not None and name != "t5":
                pooled[:, left : left + width] = whole
        left += width
    return Text(prompt, pooled)


def zero_text(settings: TextSettings) -> Text:
    """All zeros, for runs without any text encoder: not what a text encoder makes of the empty text."""
    shapes = settings.shapes
    return Text(np.zeros(shapes[PROMPT], np.float32), np.zeros(shapes[POOLED], np.float32))


def check_text(
    shapes: Mapping[str, tuple[int, ...]], settings: TextSettings, source: str, any_length: bool = False
) -> None:
    """Refuse embeddings of other sizes than a run's.

    Args:
      shapes: of their entries, one text's.
      settings: of the run.
      source: what the error calls the embeddings.
      any_length: leave it to others how many tokens there are.

    Raises:
      ValueError: the sizes differ.
    """
    for name, wanted in settings.shapes.items():
        skipped = len(wanted) - 1 if any_length else 0
        if len(shapes[name]) != len(wanted) or tuple(shapes[name])[skipped:] != wanted[skipped:]:
            raise ValueError(
                f"{source} has {name} embeddings of shape {tuple(shapes[name])}, this run has {wanted}: make them with "
                "`framer-jax precompute embeddings` and the run's text lengths and encoders"
            )


def describe_encoders(settings: TextSettings, digests: Mapping[str, str]) -> dict[str, Any]:
    """What embeddings depend on beside the texts, for a manifest; an encoder without a digest is 'zeros'."""
    return {**asdict(settings), "encoders": {name: digests.get(name, "zeros") for name in ENCODERS}}


def _check_sizes(name: str, encoded: Encoded, wanted: tuple[int, int, int]) -> None:
    found = encoded.tokens.shape
    if found != wanted:
        raise ValueError(
            f"the encoder {name} gives {found[1]} tokens of {found[2]} features, not {wanted[1]} of {wanted[2]}: is it "
            "another model (CLIP-L and CLIP-G in each other's place?), or are lengths or --widths of another one?"
        )
    pooled = encoded.pooled
    if name != "t5" and (pooled is None or pooled.shape != (wanted[0], wanted[2])):
        sizes = "none" if pooled is None else f"{pooled.shape[-1]} features"
        raise ValueError(f"the encoder {name} gives a pooled embedding of {sizes}, not {wanted[2]}: use another model")
