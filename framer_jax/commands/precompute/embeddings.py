"""`framer-jax precompute embeddings`: embed captions, or one text, with the text encoders of Stable Diffusion.

A pipeline with one text encoder, or --clip-h, is Stable Diffusion 2; anything else is Stable Diffusion 3.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.commands.engine_option import Plan
from framer_jax.commands.precompute import local_models
from framer_jax.commands.precompute import work as shared
from framer_jax.commands.precompute.captions import settings_file
from framer_jax.commands.precompute.text_encoders import (
    TextEncoder,
    clip_h_folder,
    encoder_folders,
    is_stable_diffusion_2,
    load_text_encoder,
)
from framer_jax.commands.precompute.work import Work, Written
from framer_jax.data.captions import Caption, captioned_latents, read_captions
from framer_jax.data.embeddings import STORED_EMBEDDINGS
from framer_jax.data.records import MANIFEST, NAMES, Record, write_names
from framer_jax.data.text import (
    CLIP_H,
    ENCODERS,
    ClipTextSettings,
    TextEmbedding,
    TextSettings,
    TextSizes,
    describe_encoders,
    join_clip,
    join_encoders,
)
from framer_jax.porting.files import check_output_folder, check_outputs
from framer_jax.porting.weights import save_weights
from framer_jax.version import __version__

STORAGES = ("float16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--captions", nargs="+", metavar="FILE", help="captions files of all shards")
    texts.add_argument("--null", action="store_true", help="only the empty text, into one file")
    texts.add_argument("--text", help="only this text, into one file, such as a prompt for sampling")
    parser.add_argument(
        "--model", default="", help="folder of a diffusers pipeline with text_encoder*/ and tokenizer*/"
    )
    for name, words in zip(ENCODERS, ("CLIP-L", "CLIP-G", "T5"), strict=True):
        parser.add_argument(f"--{name.replace('_', '-')}", default="", help=f"folder of {words}")
    parser.add_argument("--clip-h", default="", help="folder of OpenCLIP-H, the encoder of Stable Diffusion 2")
    parser.add_argument(
        "--zeros", nargs="+", default=[], choices=ENCODERS, help="encoders whose features are replaced by zeros"
    )
    parser.add_argument(
        "--output",
        help="folder of the records; for one text, a *.safetensors file (captions of crops: the folder "
        f"{STORED_EMBEDDINGS} next to them, where training finds it)",
    )
    sizes = TextSettings()
    parser.add_argument("--clip-length", type=int, default=sizes.clip_length, help="number of CLIP tokens")
    parser.add_argument("--t5-length", type=int, default=sizes.t5_length, help="number of T5 tokens")
    widths = (*sizes.clip_widths, sizes.width)
    parser.add_argument(
        "--widths", type=int, nargs=3, default=widths, metavar="N", help=f"features of CLIP-L, CLIP-G, T5: {widths}"
    )
    width = ClipTextSettings().width
    parser.add_argument("--width", type=int, default=width, metavar="N", help=f"features of OpenCLIP-H: {width}")
    parser.add_argument("--storage", default="float16", choices=STORAGES, help="dtype of the records")
    parser.add_argument("--dtype", default="auto", choices=local_models.DTYPES, help="auto: float16 on a GPU")
    parser.add_argument("--variant", default="", help="variant of the weight files, such as fp16")
    shared.add_portions(parser, "captions")


def check(arguments: argparse.Namespace) -> Plan[None]:
    """The number of files; refuses encoders that contradict each other."""
    settings_of(arguments)
    return shared.plan_of(shared.work_of(arguments, len(read_captions(arguments.captions))))


def compute(arguments: argparse.Namespace) -> Written:
    """Embed the texts, or the captions of the shard, and write the embeddings."""
    settings = settings_of(arguments)
    captions = read_captions(arguments.captions) if arguments.captions else {}
    origin = captioned_latents(arguments.captions) if arguments.captions else {}
    if not arguments.output and not origin:
        raise ValueError("--output is missing: name the folder of the records, or a *.safetensors file for one text")
    work = shared.work_of(arguments, len(captions) if arguments.captions else 1)
    output = Path(arguments.output or Path(arguments.captions[0]).parent / STORED_EMBEDDINGS)
    if not arguments.captions:
        check_text_file(output, arguments.overwrite)
    if isinstance(settings, ClipTextSettings):
        folders = {CLIP_H: clip_h_folder(arguments.model, arguments.clip_h)}
    else:
        named = {name: getattr(arguments, name) for name in ENCODERS}
        folders = encoder_folders(arguments.model, named, arguments.zeros)
    check_output(output, arguments.captions or (), folders.values())
    encoders = {
        name: load_text_encoder(name, folder, settings, arguments.dtype, arguments.variant)
        for name, folder in folders.items()
    }
    zeros = tuple(f"zeros for {name}" for name in settings.encoders if name not in encoders)
    if not arguments.captions:
        write_text(output, arguments.text or "", encoders, settings, arguments.storage, arguments.overwrite)
        return Written(1, 0, notes=zeros)
    counts = embed_captions(captions, encoders, output, work, settings, arguments.storage, arguments.overwrite, origin)
    return Written(*counts, notes=zeros)


def report(arguments: argparse.Namespace, written: Written) -> int:
    """Print the number of files, or the file of one text."""
    counts = f"{written.new} files of embeddings written, {written.existing} were there"
    text = f"{arguments.output}: the embedding of {arguments.text or ''!r}"
    print("; ".join([counts if arguments.captions else text, *written.notes]))
    return 0


def settings_of(arguments: argparse.Namespace) -> TextSizes:
    """The sizes that the arguments describe, of the version of Stable Diffusion whose encoders they name.

    Raises:
      ValueError: encoders of both versions, or illegal sizes.
    """
    others = [f"--{name.replace('_', '-')}" for name in ENCODERS if getattr(arguments, name)]
    others += ["--zeros"] if arguments.zeros else []
    if arguments.clip_h and others:
        raise ValueError(
            f"--clip-h is for Stable Diffusion 2, and {others[0]} for Stable Diffusion 3: leave one out, and make "
            "embeddings of each version by themselves"
        )
    if arguments.clip_h or (not others and is_stable_diffusion_2(arguments.model)):
        return ClipTextSettings(arguments.clip_length, arguments.width)
    return TextSettings(arguments.clip_length, arguments.t5_length, tuple(arguments.widths[:2]), arguments.widths[2])


def check_output(output: Path, captions: Iterable[str], encoders: Iterable[Path]) -> None:
    """Refuse an output that would replace an input.

    Args:
      output: folder of the records, or the file of one text.
      captions: captions files; none for one text.
      encoders: folders of the text encoders.

    Raises:
      ValueError: as of framer_jax.porting.files.check_outputs and check_output_folder.
    """
    inputs = {
        "the text encoder": list(encoders),
        "the captions": [file for path in map(Path, captions) for file in (path, settings_file(path))],
    }
    if inputs["the captions"]:
        check_output_folder("--output", output, inputs)
        check_outputs({name: Path(output) / name for name in (MANIFEST, NAMES)}, inputs)
    else:
        check_outputs({"--output": output}, inputs)


def embed_texts(texts: Sequence[str], encoders: Mapping[str, TextEncoder], settings: TextSizes) -> TextEmbedding:
    """Embeddings of B texts, float32; see framer_jax.data.text.join_encoders and join_clip."""
    encoded = {name: encoder.encode(texts) for name, encoder in encoders.items()}
    if isinstance(settings, ClipTextSettings):
        return join_clip(encoded, len(texts), settings)
    return join_encoders(encoded, len(texts), settings)


def embed_captions(
    captions: Mapping[str, Caption],
    encoders: Mapping[str, TextEncoder],
    folder: Path,
    work: Work,
    settings: TextSizes,
    storage: str = "float16",
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Write the embeddings of captions as records, sorted by the names of their photographs.

    Args:
      captions: by the names of their images.
      encoders: encoder name (of `ENCODERS`) to encoder; missing ones are replaced by zeros, as the manifest states.
      folder: folder of the records.
      work: sizes of files and batches; its number of samples is that of the captions.
      settings: sizes of the embeddings.
      storage: dtype of the records, one of `STORAGES`.
      overwrite: replace embeddings of other captions, encoders or sizes.
      origin: from framer_jax.data.captions.captioned_latents, for the manifest.

    Returns:
      the number of files written, and of files that existed already.

    Raises:
      ValueError: the folder holds other embeddings, there are no captions, or an encoder's output has other sizes.
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
        **(origin or {}),
    }
    write_names(folder, manifest, names, overwrite)

    def records_of(first: int, end: int) -> Iterator[Record]:
        for start in range(first, end, work.batch):
            batch = embed_texts(texts[start : min(start + work.batch, end)], encoders, settings)
            record = cast_to_storage(batch, storage).as_record()
            for row in range(len(batch.tokens)):
                yield {name: values[row] for name, values in record.items()}

    return shared.write_files(folder, work, records_of)


def write_text(
    path: Path,
    text: str,
    encoders: Mapping[str, TextEncoder],
    settings: TextSizes,
    storage: str = "float16",
    overwrite: bool = False,
) -> None:
    """Write the embedding of one text, such as the empty one, as a safetensors file.

    Raises:
      FileExistsError: the file exists already.
      ValueError: the suffix is not .safetensors, there is no encoder, or an encoder's output has other sizes.
    """
    check_text_file(path, overwrite)
    if not encoders:
        raise ValueError(
            "no text encoder is given, so there is nothing to write: train with the condition 'zero' instead"
        )
    embedding = cast_to_storage(embed_texts([text], encoders, settings), storage)
    digests = {name: encoder.digest for name, encoder in encoders.items()}
    metadata = {
        "kind": "text",
        "framer_jax_version": __version__,
        "content": text,
        "text": describe_encoders(settings, digests),
    }
    save_weights(path, embedding.map(lambda values: values[0]).as_record(), metadata)


def check_text_file(path: Path, overwrite: bool) -> None:
    """Check the name of a file of one text.

    Raises:
      ValueError: the suffix is not .safetensors.
      FileExistsError: the file exists already, and `overwrite` is False.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"--output {path}: name the file of one text *.safetensors")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: name another file, or add --overwrite")


def cast_to_storage(embedding: TextEmbedding, storage: str) -> TextEmbedding:
    """Cast an embedding to the dtype of the records.

    Raises:
      ValueError: values that are not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):  # an overflow raises an error below
        cast = embedding.map(lambda value: np.asarray(value).astype(storage))
    if not all(np.isfinite(value).all() for value in cast.as_condition().values()):
        raise ValueError(
            f"embeddings are not finite in {storage}: use --storage float32, and --dtype float32 or bfloat16 (T5 "
            "overflows in float16)"
        )
    return cast
