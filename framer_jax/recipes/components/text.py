"""Text conditioning: embeddings from files or records or, stated explicitly, zeros.

No encoder runs here: `framer-jax precompute embeddings` writes a text's embedding once.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.data.text import (
    STORED_NAMES,
    TEXT,
    ClipTextSettings,
    TextEmbedding,
    TextSettings,
    TextSizes,
    check_text,
    zero_text,
)
from framer_jax.knobs import changed_repr, check_knobs, knob, settings_from
from framer_jax.models.denoiser import Condition
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.base import Batch, Frozen
from framer_jax.recipes.method import CAPTIONED_PHOTOS, LATENTS, PHOTOS, Config, WeightFile

TEXTS = "texts"
"""The entry of `frozen` with text embeddings by their names."""

NULL, PROMPT, NEGATIVE = "null", "prompt", "negative"
"""The empty text; the prompt for every image; the negative prompt, which guidance leads away from. The null text stands
in for the other two where they are not set."""

CONDITIONS = ("captions", "null", "zero")
"""Values of `TextSources.condition`."""

WEIGHT_FILES = tuple(
    WeightFile(("text", f"{name}_embedding"), "text embedding", inference=True) for name in (NULL, PROMPT, NEGATIVE)
)

SAMPLING_OVERRIDES = {f"{name}_embedding": ("text", f"{name}_embedding") for name in (PROMPT, NEGATIVE)}


_SIZES, _CLIP_SIZES = TextSettings(), ClipTextSettings()


@dataclass(frozen=True)
class TextSources:
    """What the sections `recipe.text` of all methods have: what text conditions the denoiser."""

    condition: str = knob(
        "captions",
        "captions: embeddings of captions, replaced by the null text with data.caption_dropout; null: one text for "
        "every example, the null text or, of one-step methods, prompt_embedding; zero: zeros, for runs without any "
        "text encoder, which the base model does not know as a text.",
        choices=CONDITIONS,
    )
    null_embedding: str = knob(
        "", "Path of the null text's embedding (`framer-jax precompute embeddings --null`).", empty=True
    )
    prompt_embedding: str = knob(
        "", "Path of the prompt's embedding, one for all images; '': the null text.", empty=True
    )
    negative_embedding: str = knob(
        "", "Path of the negative prompt's embedding, as long as the prompt's; '': the null text.", empty=True
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True)
class TextConditioning(TextSources):
    """The section `recipe.text` of methods on Stable Diffusion 3, with the sizes of its embeddings."""

    clip_length: int = knob(_SIZES.clip_length, "Tokens of the CLIP encoders.", at_least=1, at_most=4096)
    t5_length: int = knob(
        _SIZES.t5_length, "Tokens of T5 in training; prompts for sampling may have others.", at_least=1, at_most=4096
    )
    clip_widths: tuple[int, int] = knob(_SIZES.clip_widths, "Features of CLIP-L and CLIP-G.", at_least=1, at_most=65536)
    width: int = knob(_SIZES.width, "Features of T5, and of the denoiser's text tokens.", at_least=1, at_most=65536)

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.clip_widths) > self.width:
            raise ValueError(f"clip_widths is {self.clip_widths}: the sum must not exceed width ({self.width})")

    @property
    def sizes(self) -> TextSettings:
        """The sizes of the embeddings."""
        return TextSettings(self.clip_length, self.t5_length, self.clip_widths, self.width)

    @property
    def widths(self) -> dict[str, int]:
        """The denoiser's constructor arguments that depend on the embeddings."""
        return {"context_width": self.width, "pooled_width": sum(self.clip_widths)}


@dataclass(frozen=True)
class ClipTextConditioning(TextSources):
    """The section `recipe.text` of methods on Stable Diffusion 2, with the sizes of its embeddings."""

    length: int = knob(_CLIP_SIZES.length, "Tokens of OpenCLIP-H.", at_least=1, at_most=4096)
    width: int = knob(
        _CLIP_SIZES.width, "Features of OpenCLIP-H, and of the denoiser's text tokens.", at_least=1, at_most=65536
    )

    __repr__ = changed_repr

    @property
    def sizes(self) -> ClipTextSettings:
        """The sizes of the embeddings."""
        return ClipTextSettings(self.length, self.width)

    @property
    def widths(self) -> dict[str, int]:
        """The denoiser's constructor arguments that depend on the embeddings."""
        return {"context_width": self.width}


TINY = (
    "recipe.text.clip_length=1",
    "recipe.text.t5_length=2",
    "recipe.text.clip_widths=(4, 8)",
    "recipe.text.width=16",
)
"""Overrides with which a test trains a method on Stable Diffusion 3 for a step."""

CLIP_TINY = ("recipe.text.length=3", "recipe.text.width=16")
"""The same of a method on Stable Diffusion 2."""

RENAMED_KNOBS = {
    "text.null": "text.null_embedding",
    "text.wanted": "text.prompt_embedding",
    "text.avoided": "text.negative_embedding",
}


def batch_entries_with_text(config: Config, data: str, image_entries: tuple[str, ...]) -> tuple[str, ...]:
    """Batch entries of a text-conditioned method; the text is in the batch where the data is joined with captions."""
    return (*image_entries, *text_sizes(config).shapes) if data in (CAPTIONED_PHOTOS, LATENTS) else image_entries


def broadcast_text(frozen: Frozen, name: str, count: int) -> Condition:
    """One text of `frozen` for each of `count` examples; the null text where there is none of that name."""
    texts = frozen[TEXTS]
    embedding: TextEmbedding = texts.get(name, texts[NULL])
    return {
        entry: jnp.broadcast_to(jnp.asarray(value), (count, *value.shape))
        for entry, value in embedding.as_condition().items()
    }


def batch_text(frozen: Frozen, batch: Batch, count: int, in_batch: bool, default: str = NULL) -> Condition:
    """The text of each example: 'text' [B, T, W] and any 'pooled_text' [B, P] of the batch, or one text for all.

    Args:
      frozen: has `TEXTS`.
      batch: the batch.
      count: B.
      in_batch: whether the batch has texts (`Recipe.batch_entries`).
      default: name of the text for all.
    """
    if not in_batch:
        return broadcast_text(frozen, default, count)
    return {entry: batch[entry].astype(jnp.float32) for entry in frozen[TEXTS][NULL].as_condition()}


def read_texts(config: Config, any_length: Collection[str] = ()) -> dict[str, TextEmbedding]:
    """The texts that a configuration's `recipe.text` names, float32.

    A denoiser takes texts of any length, but all texts of one call have the same length (DiT4SR trains with 154 tokens
    and samples with 333).

    Args:
      config: the `recipe` section.
      any_length: names of texts whose lengths may differ from the configured ones.

    Raises:
      ValueError: an unknown condition, no null text although the condition is not 'zero', or an embedding of other
        sizes.
      FileNotFoundError: a file is missing.
    """
    settings = _settings(config)
    paths = {name: getattr(settings, f"{name}_embedding") for name in (NULL, PROMPT, NEGATIVE)}
    named = [name for name, path in paths.items() if path]
    if settings.condition == "zero":
        if named:
            raise ValueError(
                f"recipe.text.condition 'zero' takes no embeddings: leave recipe.text.{named[0]}_embedding empty"
            )
        return {NULL: zero_text(settings.sizes)}
    if not settings.null_embedding:
        raise ValueError(
            "recipe.text.null_embedding is empty: set it to the file that `framer-jax precompute embeddings --null` "
            "writes; without any text encoder, set recipe.text.condition=zero"
        )
    texts = {}
    for name in named:
        embedding, _ = read_text(paths[name], f"recipe.text.{name}_embedding")
        check_text(embedding.shapes, settings.sizes, paths[name], name in any_length)
        texts[name] = embedding.map(lambda part: np.asarray(part, np.float32))
    return texts


def read_text(path: str | os.PathLike[str], knob: str = "") -> tuple[TextEmbedding, dict[str, str]]:
    """One text's embedding from a file, and the digests of its encoders.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds something else, or is damaged.
    """
    source = f"{knob}: {path}" if knob else str(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{source}: there is no such file; `framer-jax precompute embeddings` writes them")
    arrays, metadata = load_weights(path)
    if metadata.get("kind") != "text" or STORED_NAMES[TEXT] not in arrays:
        raise ValueError(f"{source}: not the embedding of a text: make one with `framer-jax precompute embeddings`")
    return TextEmbedding.from_record(arrays), dict(metadata["text"]["encoders"])


def _settings(config: Config) -> TextConditioning | ClipTextConditioning:
    section = config["text"]
    kind = TextConditioning if "t5_length" in section else ClipTextConditioning
    settings: TextConditioning | ClipTextConditioning = settings_from(kind, section, "recipe.text")
    return settings


def text_sizes(config: Config) -> TextSizes:
    """The sizes of text embeddings that a configuration's `recipe.text` describes."""
    return _settings(config).sizes


def text_widths(config: Config) -> dict[str, int]:
    """The denoiser's constructor arguments that depend on the text embeddings."""
    return _settings(config).widths


def text_shapes(sizes: TextSizes) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the condition entries of one example, [1, ...] each."""
    return {name: jax.ShapeDtypeStruct((1, *shape), jnp.float32) for name, shape in sizes.shapes.items()}


def describe_text(condition: str, caption_dropout: float) -> str:
    """One line for logs and model cards about the text that conditions the denoiser."""
    if condition == "zero":
        return "zeros for every example: no text encoder was used, and the model does not know any text"
    if condition == "null":
        return "the null text for every example"
    return f"captions, the null text for {caption_dropout:.0%} of the examples"


def describe_prompt(condition: str, caption_dropout: float) -> str:
    """As `describe_text`, of methods that train with the prompt where there are no captions."""
    if condition == "null":
        return "one prompt for every example (recipe.text.prompt_embedding), or the null text"
    return describe_text(condition, caption_dropout)


def require_photos(config: Config, data: str) -> None:
    """Raise ValueError for training data other than photographs, with or without captions."""
    if data not in (PHOTOS, CAPTIONED_PHOTOS):
        raise ValueError(
            f"recipe.name {config['name']} needs photographs, not {data}: set data.train to a folder of them"
        )
