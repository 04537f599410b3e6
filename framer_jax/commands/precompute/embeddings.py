"""`framer-jax precompute embeddings`: captions, or one text such as the empty one, as Stable Diffusion 3 reads them."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from framer_jax.commands.precompute import local_models
from framer_jax.commands.precompute import work as shared
from framer_jax.commands.precompute.text_encoders import TextEncoder, encoder_folders, transformers_encoder
from framer_jax.commands.precompute.work import Work
from framer_jax.data.captions import Caption, read_captions
from framer_jax.data.records import Record, write_names
from framer_jax.data.text import ENCODERS, POOLED, PROMPT, Text, TextSettings, describe_encoders, join_encoders
from framer_jax.porting.weights import save_weights
from framer_jax.version import __version__

STORAGES = ("float16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--captions", nargs="+", metavar="FILE", help="captions files, of all shards")
    texts.add_argument("--null", action="store_true", help="the empty text alone, into one file")
    texts.add_argument("--text", help="this text alone, into one file, such as the prompts of sampling")
    parser.add_argument("--model", default="", help="folder of a pipeline: text_encoder*/ and tokenizer*/")
    for name, words in zip(ENCODERS, ("CLIP-L", "CLIP-G", "T5"), strict=True):
        parser.add_argument(f"--{name.replace('_', '-')}", default="", help=f"folder of {words}")
    parser.add_argument(
        "--zeros", nargs="+", default=[], choices=ENCODERS, help="encoders to do without: zeros instead"
    )
    parser.add_argument("--output", required=True, help="folder of the records; for one text, a *.safetensors file")
    sizes = TextSettings()
    parser.add_argument("--clip-length", type=int, default=sizes.clip_length, help="tokens of CLIP")
    parser.add_argument("--t5-length", type=int, default=sizes.t5_length, help="tokens of T5")
    widths = (*sizes.clip_widths, sizes.width)
    parser.add_argument(
        "--widths", type=int, nargs=3, default=widths, metavar="N", help=f"features of CLIP-L, CLIP-G, T5: {widths}"
    )
    parser.add_argument("--storage", default="float16", choices=STORAGES, help="of the records")
    parser.add_argument("--dtype", default="auto", choices=local_models.DTYPES, help="auto: float16 on a GPU")
    parser.add_argument("--variant", default="", help="of the weights' files, such as fp16")
    shared.add_portions(parser, "captions")


def run(arguments: argparse.Namespace) -> int:
    """Encode, write, report."""
    settings = TextSettings(
        arguments.clip_length, arguments.t5_length, tuple(arguments.widths[:2]), arguments.widths[2]
    )
    captions = read_captions(arguments.captions) if arguments.captions else {}
    work = shared.work_of(arguments, len(captions) if arguments.captions else 1)
    output = Path(arguments.output)
    if not arguments.captions:
        check_target(output, arguments.overwrite)
    given = {name: getattr(arguments, name) for name in ENCODERS}
    folders = encoder_folders(arguments.model, given, arguments.zeros)
    encoders = {
        name: transformers_encoder(name, folder, settings, arguments.dtype, arguments.variant)
        for name, folder in folders.items()
    }
    zeros = "".join(f"; zeros for {name}" for name in ENCODERS if name not in encoders)
    if arguments.captions:
        made, kept = embed_captions(captions, encoders, output, work, settings, arguments.storage, arguments.overwrite)
        print(f"{made} files of embeddings written, {kept} were there{zeros}")
    else:
        write_text(output, arguments.text or "", encoders, settings, arguments.storage, arguments.overwrite)
        print(f"{output}: the embedding of {arguments.text or ''!r}{zeros}")
    return 0


def embed(texts: Sequence[str], encoders: Mapping[str, TextEncoder], settings: TextSettings) -> Text:
    """Embeddings of B texts, float32; see framer_jax.data.text.join_encoders."""
    encoded = {name: encoder.encode(texts) for name, encoder in encoders.items()}
    return join_encoders(encoded, len(texts), settings)


def embed_captions(
    captions: Mapping[str, Caption],
    encoders: Mapping[str, TextEncoder],
    folder: Path,
    work: Work,
    settings: TextSettings,
    storage: str = "float16",
    overwrite: bool = False,
) -> tuple[int, int]:
    """Write the embeddings of captions as records, in the order of their photographs' names.

    Args:
      captions: by name.
      encoders: of `ENCODERS`; zeros stand for those that are missing, and the manifest says so.
      folder: of the records.
      work: in what portions; its samples are as many as the captions.
      settings: sizes.
      storage: of `STORAGES`.
      overwrite: replace embeddings of other captions, encoders or sizes.

    Returns:
      numbers of files written, and found written already.

    Raises:
      ValueError: the folder holds others, there are no captions, or an encoder gives other sizes.
    """
    if not captions:
        raise ValueError("there is no caption to embed: caption photographs first")
    names = sorted(captions)
    texts = [captions[name].caption for name in names]
    manifest = {
        "kind": "embeddings",
        "framer_jax_version": __version__,
        "samples": len(texts),
        "per_file": work.per_file,
        "captions": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "storage": storage,
        "text": describe_encoders(settings, {name: encoder.digest for name, encoder in encoders.items()}),
    }
    write_names(folder, manifest, names, overwrite)

    def records_of(first: int, end: int) -> Iterator[Record]:
        for start in range(first, end, work.batch):
            found = embed(texts[start : min(start + work.batch, end)], encoders, settings)
            for prompt, pooled in zip(*stored(found, storage), strict=True):
                yield {PROMPT: prompt, POOLED: pooled}

    return shared.write_files(folder, work, records_of)


def write_text(
    path: Path,
    text: str,
    encoders: Mapping[str, TextEncoder],
    settings: TextSettings,
    storage: str = "float16",
    overwrite: bool = False,
) -> None:
    """Write the embedding of one text, such as the empty one, as a safetensors file.

    Raises:
      FileExistsError: there is a file already.
      ValueError: its name has another suffix, or an encoder gives other sizes.
    """
    check_target(path, overwrite)
    if not encoders:
        raise ValueError("without any encoder there is nothing to write: train with the condition 'zero' instead")
    prompt, pooled = (value[0] for value in stored(embed([text], encoders, settings), storage))
    digests = {name: encoder.digest for name, encoder in encoders.items()}
    metadata = {
        "kind": "text",
        "framer_jax_version": __version__,
        "content": text,
        "text": describe_encoders(settings, digests),
    }
    save_weights(path, {PROMPT: prompt, POOLED: pooled}, metadata)


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse a file of one text that is there already, or has another suffix.

    Raises:
      FileExistsError, ValueError: as said.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"--output {path}: name the file of one text *.safetensors")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: name another file, or add --overwrite")


def stored(text: Text, storage: str) -> Text:
    """As it is written.

    Raises:
      ValueError: numbers that are not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):  # refused below
        kept = Text(*(np.asarray(value).astype(storage) for value in text))
    if not all(np.isfinite(value).all() for value in kept):
        raise ValueError(
            f"embeddings are not finite in {storage}: use --storage float32, and --dtype float32 or bfloat16 (T5 "
            "overflows in float16)"
        )
    return kept
