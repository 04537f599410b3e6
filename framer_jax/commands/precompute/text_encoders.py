"""CLIP and T5 encoders of transformers as functions: texts → features, as diffusers calls them for SD 3.

CLIP gives its penultimate hidden state and its projected pooled output; T5 its last hidden state. No attention mask is
given: padding takes part, as in the weights' training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.commands.precompute import local_models
from framer_jax.data.text import ENCODERS, Encoded, TextSettings
from framer_jax.porting.files import sha256_of

PARTS = dict(zip(ENCODERS, ("text_encoder", "text_encoder_2", "text_encoder_3"), strict=True))
"""Their folders in a pipeline; a tokenizer's is called so, too, with 'tokenizer' for 'text_encoder'."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")

Encode = Callable[[Sequence[str]], Encoded]
"""B texts → features [B, ...], float32."""


class TextEncoder(NamedTuple):
    """An encoder and what it is.

    Attributes:
      encode: see Encode.
      digest: of its files.
    """

    encode: Encode
    digest: str


def encoder_folders(model: str, given: Mapping[str, str], zeros: Sequence[str]) -> dict[str, Path]:
    """Where each encoder lies that is not replaced by zeros.

    Args:
      model: folder or cached name of a pipeline as diffusers lays it out; '' for none.
      given: of `ENCODERS`, a folder or cached name ('' for none); they come before the pipeline's.
      zeros: the encoders that zeros stand for.

    Raises:
      ValueError: an encoder is neither given nor among `zeros`, or both.
      FileNotFoundError: it is not there.
    """
    pipeline = local_models.local_folder(model) if model else None
    found = {}
    for name in ENCODERS:
        option = f"--{name.replace('_', '-')}"
        if name in zeros:
            if given.get(name):
                raise ValueError(f"{option} and --zeros {name} contradict each other: leave one out")
        elif given.get(name):
            found[name] = local_models.local_folder(given[name])
        elif pipeline is not None and (pipeline / PARTS[name]).is_dir():
            found[name] = pipeline / PARTS[name]
        else:
            where = f"{model} has no {PARTS[name]}/" if model else f"there is no {option}"
            raise ValueError(f"{where}: give {option} FOLDER, or --zeros {name} for zeros in its place")
    return found


def transformers_encoder(
    name: str, path: str | os.PathLike[str], settings: TextSettings, dtype: str = "auto", variant: str = ""
) -> TextEncoder:
    """Load an encoder.

    Args:
      name: of `ENCODERS`.
      path: folder of the model, with the tokenizer in it or beside it as in a pipeline.
      settings: text lengths.
      dtype: of local_models.DTYPES.
      variant: of the weights' files, such as 'fp16'; '' for the plain ones.

    Raises:
      ImportError, FileNotFoundError, ValueError: it cannot be loaded, in one line.
    """
    package, folder = local_models.transformers(), Path(path)
    words = tokenizer_folder(folder)
    tokenizer = local_models.loaded(package.AutoTokenizer.from_pretrained, words, "tokenizer")
    device, kind = local_models.device_and_dtype(dtype)
    of_t5 = name == "t5"
    load = (package.T5EncoderModel if of_t5 else package.CLIPTextModelWithProjection).from_pretrained
    options = {"dtype": kind, **({"variant": variant} if variant else {})}
    what = "T5 encoder" if of_t5 else "CLIP text encoder"
    model = local_models.loaded_model(load, folder, what, **options).to(device)
    length = settings.t5_length if of_t5 else settings.clip_length
    _check_length(name, folder, model, length)

    def encode(texts: Sequence[str]) -> Encoded:
        ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return (t5_features if of_t5 else clip_features)(model, ids.input_ids.to(device))

    digest = sha256_of(folder) if words == folder else f"{sha256_of(folder)}+{sha256_of(words)}"
    return TextEncoder(encode, digest)


def clip_features(model: Any, ids: Any) -> Encoded:
    """What a CLIPTextModelWithProjection makes of token numbers [B, L]: penultimate hidden state, projected output."""
    import torch

    with torch.inference_mode():
        found = model(ids, output_hidden_states=True)
    return Encoded(*(value.float().cpu().numpy() for value in (found.hidden_states[-2], found.text_embeds)))


def t5_features(model: Any, ids: Any) -> Encoded:
    """What a T5EncoderModel makes of token numbers [B, L]: its last hidden state."""
    import torch

    with torch.inference_mode():
        return Encoded(model(ids).last_hidden_state.float().cpu().numpy())


def tokenizer_folder(folder: Path) -> Path:
    """Where an encoder's tokenizer lies: in its folder, or beside it as in a pipeline.

    Raises:
      FileNotFoundError: in neither place.
    """
    beside = folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
    for place in (folder, beside):
        if any((place / file).is_file() for file in TOKENIZER_FILES):
            return place
    raise FileNotFoundError(
        f"{folder}: has no tokenizer in it ({', '.join(TOKENIZER_FILES)}), nor in {beside.name}/ beside it: fetch it"
    )


def _check_length(name: str, folder: Path, model: Any, length: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None) if name != "t5" else None
    if limit is not None and length > limit:
        raise ValueError(f"{folder}: takes at most {limit} tokens, not {length}: set --clip-length {limit}")
