"""`framer-jax precompute captions`: caption photographs with an image-to-text model, as JSON lines.

A caption depends on the photograph, its name, the settings and the seed, not on shards or interruptions.
"""

from __future__ import annotations

import argparse
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from framer_jax.commands.precompute import local_models
from framer_jax.commands.precompute.captioner import Captioner, CaptionSettings, load_captioner
from framer_jax.commands.precompute.work import parse_shard
from framer_jax.commands.training_data import open_source
from framer_jax.data.captions import (
    REMOVED_WORDS,
    Caption,
    caption_line,
    clean_caption,
    drop_incomplete_line,
    read_captions,
)
from framer_jax.data.photos import TRAINING
from framer_jax.data.sources import ImageFiles
from framer_jax.porting.files import atomic_write, sha256_of
from framer_jax.version import __version__


class CaptionCounts(NamedTuple):
    """Numbers of photographs.

    Attributes:
      captioned: captioned by this call.
      existing: in the captions file before.
      damaged: could not be read by this call.
    """

    captioned: int
    existing: int
    damaged: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    defaults = CaptionSettings()
    parser.add_argument("--photos", required=True, help="folder of photographs (searched recursively), or 'builtin'")
    parser.add_argument("--captioner", required=True, help="folder, or name in the local cache, of the model")
    parser.add_argument("--output", required=True, help="*.jsonl; existing captions are kept")
    parser.add_argument(
        "--shard", default="0/1", metavar="I/N", help="only every N-th photograph, into a separate file"
    )
    parser.add_argument("--prompt", default=defaults.prompt, help="prompt of the model")
    parser.add_argument(
        "--temperature", type=float, default=defaults.temperature, help="sampling temperature; 0: greedy decoding"
    )
    parser.add_argument(
        "--top-p", type=float, default=defaults.top_p, help="probability mass of the tokens sampled from"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=defaults.max_tokens, help="largest number of generated tokens"
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="seed of the sampling, combined with the photograph's name"
    )
    parser.add_argument("--dtype", default="auto", choices=local_models.DTYPES, help="auto: float16 on a GPU")
    parser.add_argument("--overwrite", action="store_true", help="replace captions made with other settings")


def run(arguments: argparse.Namespace) -> int:
    """Caption the photographs and report their number."""
    names = ("prompt", "temperature", "top_p", "max_tokens", "seed")
    settings = CaptionSettings(**{name: getattr(arguments, name) for name in names})
    shard = parse_shard(arguments.shard)
    path = shard_file(Path(arguments.output), shard)
    source = open_source(arguments.photos, TRAINING, 1)
    folder = local_models.local_folder(arguments.captioner)
    captioner = load_captioner(folder, settings, arguments.dtype)
    model = {
        "captioner": {"name": Path(arguments.captioner).name, "sha256": sha256_of(folder), "dtype": arguments.dtype}
    }
    counts = caption_photos(source, captioner, path, settings, shard, model, arguments.overwrite)
    damage = f"; {source.damage()}" if counts.damaged else ""
    print(f"{counts.captioned} photographs captioned, {counts.existing} were in {path}{damage}")
    return 0


def shard_file(path: Path, shard: tuple[int, int]) -> Path:
    """The file of a shard: captions.jsonl for a single shard, captions-2-of-4.jsonl for one of several.

    Raises:
      ValueError: the suffix is not .jsonl.
    """
    if path.suffix != ".jsonl":
        raise ValueError(f"--output {path}: name captions files *.jsonl")
    return path if shard[1] == 1 else path.with_name(f"{path.stem}-{shard[0]}-of-{shard[1]}{path.suffix}")


def caption_photos(
    source: ImageFiles,
    captioner: Captioner,
    path: Path,
    settings: CaptionSettings,
    shard: tuple[int, int] = (0, 1),
    model: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> CaptionCounts:
    """Caption the photographs that are missing in a captions file; each line is written as soon as it is computed.

    Args:
      source: the photographs.
      captioner: (image, seed) → caption.
      path: the captions file, *.jsonl; the settings are written to a *.json file next to it.
      settings: prompt and sampling settings of the captioner.
      shard: (i, n) selects the photographs whose number is i modulo n.
      model: further metadata that captions depend on, plain JSON.
      overwrite: replace captions made with other settings.

    Raises:
      ValueError: the file was made with other settings or is damaged, or too many photographs are damaged.
    """
    metadata = {"kind": "captions", **asdict(settings), "removed": list(REMOVED_WORDS), **(model or {})}
    _prepare_file(path, metadata, overwrite)
    captions = read_captions([path])
    numbers = range(shard[0], len(source), shard[1])
    missing = [number for number in numbers if source.names[number] not in captions]
    damaged = 0
    with open(path, "a", encoding="utf-8") as file:
        for number in track(missing, "captions", console=Console(stderr=True)):
            name, photo = source.names[number], source[number]
            if photo.record != number:  # the replacement of a damaged photograph
                caption = Caption(name, "", "", damaged=True)
                damaged += 1
            else:
                raw = captioner(photo.crop(0, 0, *photo.size), zlib.crc32(os.fsencode(f"{settings.seed} {name}")))
                caption = Caption(name, raw, clean_caption(raw))
            file.write(caption_line(caption))
            file.flush()
    return CaptionCounts(len(missing) - damaged, len(numbers) - len(missing), damaged)


def _prepare_file(path: Path, metadata: Mapping[str, Any], overwrite: bool) -> None:
    """Create a captions file, or check that it was made with these settings."""
    sidecar = path.with_suffix(".json")
    differing = _differing(sidecar, metadata) if path.is_file() else []
    if path.is_file() and not differing:
        drop_incomplete_line(path)
        return
    if differing and not overwrite:
        raise ValueError(
            f"{path} holds captions that were made otherwise ({', '.join(differing)}): name another file, or use "
            "--overwrite"
        )
    with atomic_write(sidecar) as temporary:
        temporary.write_text(json.dumps({**metadata, "framer_jax": __version__}, indent=1) + "\n", encoding="utf-8")
    with atomic_write(path):
        pass


def _differing(sidecar: Path, metadata: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ from those of a captions file."""
    if not sidecar.is_file():
        return [f"{sidecar.name} is missing"]
    try:
        saved = json.loads(sidecar.read_text(encoding="utf-8"))
        return sorted(name for name in {*saved, *metadata} - {"framer_jax"} if saved.get(name) != metadata.get(name))
    except (ValueError, AttributeError):
        return [f"{sidecar.name} is damaged"]
