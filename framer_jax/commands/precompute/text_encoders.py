"""CLIP and T5 encoders of transformers as functions from texts to features, called as in diffusers' pipelines.

In Stable Diffusion 3, CLIP gives its penultimate hidden state and its projected pooled output, and T5 its last hidden
state; in Stable Diffusion 2, OpenCLIP-H gives its last hidden state after the final norm (the published folder lacks
the encoder's last layer, so that this is the original's penultimate one). There is no attention mask: padding tokens
take part, as in the training of the weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.commands.precompute import local_models
from framer_jax.data.text import CLIP_H, ENCODERS, ClipTextSettings, Encoded, TextSizes
from framer_jax.porting.files import sha256_of

PARTS = dict(zip(ENCODERS, ("text_encoder", "text_encoder_2", "text_encoder_3"), strict=True))
"""Encoder → its folder in a pipeline; the folder of its tokenizer has 'tokenizer' in place of 'text_encoder'."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")

Encode = Callable[[Sequence[str]], Encoded]
"""B texts → features [B, ...], float32."""


class TextEncoder(NamedTuple):
    """A text encoder and its digest.

    Attributes:
      encode: see `Encode`.
      digest: SHA-256 of its files.
    """

    encode: Encode
    digest: str


def encoder_folders(model: str, folders: Mapping[str, str], zeros: Sequence[str]) -> dict[str, Path]:
    """The folder of each encoder that is not replaced by zeros.

    Args:
      model: folder or cached name of a diffusers pipeline; '' for none.
      folders: encoder name (of `ENCODERS`) to a folder or cached name, which takes precedence over the pipeline's; ''
        for none.
      zeros: the encoders that are replaced by zeros.

    Raises:
      ValueError: an encoder is neither given nor replaced by zeros, or both.
      FileNotFoundError: a model does not exist.
    """
    pipeline = local_models.local_folder(model) if model else None
    result = {}
    for name in ENCODERS:
        option = f"--{name.replace('_', '-')}"
        if name in zeros:
            if folders.get(name):
                raise ValueError(f"{option} and --zeros {name} contradict each other: leave one out")
        elif folders.get(name):
            result[name] = local_models.local_folder(folders[name])
        elif pipeline is not None and (pipeline / PARTS[name]).is_dir():
            result[name] = pipeline / PARTS[name]
        else:
            problem = f"{model} has no {PARTS[name]}/" if model else f"there is no {option}"
            raise ValueError(f"{problem}: give {option} FOLDER, or --zeros {name} for zeros in its place")
    return result


def is_stable_diffusion_2(model: str) -> bool:
    """Whether a pipeline has one text encoder, that of Stable Diffusion 2; False for no pipeline ('')."""
    if not model:
        return False
    folder = local_models.local_folder(model)
    first, *others = PARTS.values()
    return (folder / first).is_dir() and not any((folder / part).is_dir() for part in others)


def clip_h_folder(model: str, folder: str) -> Path:
    """The folder of Stable Diffusion 2's text encoder: `folder` if it is given, else the pipeline's.

    Raises:
      FileNotFoundError: a model does not exist.
    """
    return local_models.local_folder(folder) if folder else local_models.local_folder(model) / "text_encoder"


def load_text_encoder(
    name: str, path: str | os.PathLike[str], settings: TextSizes, dtype: str = "auto", variant: str = ""
) -> TextEncoder:
    """Load a text encoder.

    Args:
      name: one of `ENCODERS`, or `CLIP_H`.
      path: folder of the model; the tokenizer is in it, or next to it as in a pipeline.
      settings: text lengths.
      dtype: one of `local_models.DTYPES`.
      variant: variant of the weight files, such as 'fp16'; '' for the plain ones.

    Raises:
      ImportError, FileNotFoundError, ValueError: the encoder cannot be loaded; a message of one line.
    """
    package, folder = local_models.import_transformers(), Path(path)
    tokenizer_path = tokenizer_folder(folder)
    tokenizer = local_models.load_pretrained(package.AutoTokenizer.from_pretrained, tokenizer_path, "tokenizer")
    device, torch_dtype = local_models.device_and_dtype(dtype)
    classes = {"t5": package.T5EncoderModel, CLIP_H: package.CLIPTextModel}
    load = classes.get(name, package.CLIPTextModelWithProjection).from_pretrained
    options = {"dtype": torch_dtype, **({"variant": variant} if variant else {})}
    what = "T5 encoder" if name == "t5" else "CLIP text encoder"
    model = local_models.load_pretrained_model(load, folder, what, **options).to(device)
    length = _length_of(name, settings)
    features = clip_features if name in ("clip_l", "clip_g") else last_features
    _check_length(name, folder, model, length)

    def encode(texts: Sequence[str]) -> Encoded:
        ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return features(model, ids.input_ids.to(device))

    digest = sha256_of(folder) if tokenizer_path == folder else f"{sha256_of(folder)}+{sha256_of(tokenizer_path)}"
    return TextEncoder(encode, digest)


def clip_features(model: Any, ids: Any) -> Encoded:
    """Penultimate hidden state and projected output of a CLIPTextModelWithProjection for token ids [B, L]."""
    import torch

    with torch.inference_mode():
        output = model(ids, output_hidden_states=True)
    return Encoded(*(value.float().cpu().numpy() for value in (output.hidden_states[-2], output.text_embeds)))


def last_features(model: Any, ids: Any) -> Encoded:
    """Last hidden state of a T5EncoderModel or CLIPTextModel for token ids [B, L]."""
    import torch

    with torch.inference_mode():
        return Encoded(model(ids).last_hidden_state.float().cpu().numpy())


def tokenizer_folder(folder: Path) -> Path:
    """The folder of an encoder's tokenizer: the encoder's own, or the one next to it as in a pipeline.

    Raises:
      FileNotFoundError: neither contains a tokenizer.
    """
    sibling = folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
    for candidate in (folder, sibling):
        if any((candidate / file).is_file() for file in TOKENIZER_FILES):
            return candidate
    raise FileNotFoundError(
        f"{folder}: has no tokenizer in it ({', '.join(TOKENIZER_FILES)}), nor in {sibling.name}/ next to it: "
        "download it"
    )


def _length_of(name: str, settings: TextSizes) -> int:
    """The number of tokens of an encoder."""
    if isinstance(settings, ClipTextSettings):
        return settings.length
    return settings.t5_length if name == "t5" else settings.clip_length


def _check_length(name: str, folder: Path, model: Any, length: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None) if name != "t5" else None
    if limit is not None and length > limit:
        raise ValueError(f"{folder}: takes at most {limit} tokens, not {length}: set --clip-length {limit}")
