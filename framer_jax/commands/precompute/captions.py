"""`framer-jax precompute captions`: what an image-to-text model says of each photograph, as JSON lines.

A caption depends on the photograph, its name, the settings and the seed: not on shards or a stop.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from framer_jax.commands.precompute import local_models
from framer_jax.commands.precompute.captioner import Captioner, CaptionSettings, transformers_captioner
from framer_jax.commands.precompute.work import parse_shard
from framer_jax.commands.training_data import open_source
from framer_jax.data.captions import REMOVED, Caption, clean_caption, drop_unfinished, line_of, read_captions
from framer_jax.data.photos import TRAINING
from framer_jax.data.sources import ImageFiles
from framer_jax.porting.files import replacing, sha256_of
from framer_jax.version import __version__


class Done(NamedTuple):
    """How many photographs were captioned now, were captioned before, and are damaged."""

    made: int
    kept: int
    damaged: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    defaults = CaptionSettings()
    parser.add_argument("--photos", required=True, help="folder of photographs (searched recursively), or 'builtin'")
    parser.add_argument("--captioner", required=True, help="folder, or name in the local cache, of the model")
    parser.add_argument("--output", required=True, help="*.jsonl; what it has already is kept")
    parser.add_argument(
        "--shard", default="0/1", metavar="I/N", help="only every N-th photograph, into a file of its own"
    )
    parser.add_argument("--prompt", default=defaults.prompt, help="what the model is asked")
    parser.add_argument("--temperature", type=float, default=defaults.temperature, help="0: always the likeliest word")
    parser.add_argument("--top-p", type=float, default=defaults.top_p, help="probability of the words sampled from")
    parser.add_argument("--max-tokens", type=int, default=defaults.max_tokens, help="longest answer")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the sampling; names are folded in")
    parser.add_argument("--dtype", default="auto", choices=local_models.DTYPES, help="auto: float16 on a GPU")
    parser.add_argument("--overwrite", action="store_true", help="replace captions that were made otherwise")


def run(arguments: argparse.Namespace) -> int:
    """Caption and report."""
    asked = ("prompt", "temperature", "top_p", "max_tokens", "seed")
    settings = CaptionSettings(**{name: getattr(arguments, name) for name in asked})
    shard = parse_shard(arguments.shard)
    path = shard_file(Path(arguments.output), shard)
    source = open_source(arguments.photos, TRAINING, 1)
    folder = local_models.local_folder(arguments.captioner)
    captioner = transformers_captioner(folder, settings, arguments.dtype)
    facts = {
        "captioner": {"name": Path(arguments.captioner).name, "sha256": sha256_of(folder), "dtype": arguments.dtype}
    }
    done = caption_photos(source, captioner, path, settings, shard, facts, arguments.overwrite)
    damage = f"; {source.damage()}" if done.damaged else ""
    print(f"{done.made} photographs captioned, {done.kept} were in {path}{damage}")
    return 0


def shard_file(path: Path, shard: tuple[int, int]) -> Path:
    """The file of one shard: captions.jsonl itself, or captions-2-of-4.jsonl of several.

    Raises:
      ValueError: another suffix.
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
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Done:
    """Caption the photographs that a captions file has not yet; a line is written as soon as it is known.

    Args:
      source: the photographs.
      captioner: image, seed → caption.
      path: the captions file, *.jsonl; what it was made with goes to a *.json beside it.
      settings: how the captioner is asked.
      shard: (i, n): the photographs whose place is i modulo n.
      facts: what else captions depend on, plain JSON.
      overwrite: drop captions that were made otherwise.

    Raises:
      ValueError: the file was made otherwise or is damaged, or too many photographs are damaged.
    """
    whole = {"kind": "captions", **asdict(settings), "removed": list(REMOVED), **(facts or {})}
    _open(path, whole, overwrite)
    known = read_captions([path])
    places = range(shard[0], len(source), shard[1])
    wanted = [place for place in places if source.names[place] not in known]
    damaged = 0
    with open(path, "a", encoding="utf-8") as file:
        for place in track(wanted, "captions", console=Console(stderr=True)):
            name, photo = source.names[place], source[place]
            if photo.record != place:  # another one was given in its stead
                caption = Caption(name, "", "", damaged=True)
                damaged += 1
            else:
                raw = captioner(photo.crop(0, 0, *photo.size), zlib.crc32(f"{settings.seed} {name}".encode()))
                caption = Caption(name, raw, clean_caption(raw))
            file.write(line_of(caption))
            file.flush()
    return Done(len(wanted) - damaged, len(places) - len(wanted), damaged)


def _open(path: Path, whole: Mapping[str, Any], overwrite: bool) -> None:
    """See that a captions file is there, and was made with these settings."""
    sidecar = path.with_suffix(".json")
    differing = _differing(sidecar, whole) if path.is_file() else []
    if path.is_file() and not differing:
        drop_unfinished(path)
        return
    if differing and not overwrite:
        raise ValueError(
            f"{path} holds captions that were made otherwise ({', '.join(differing)}): name another file, or use "
            "--overwrite"
        )
    with replacing(sidecar) as temporary:
        temporary.write_text(json.dumps({**whole, "framer_jax": __version__}, indent=1) + "\n", encoding="utf-8")
    with replacing(path):
        pass


def _differing(sidecar: Path, whole: Mapping[str, Any]) -> list[str]:
    """Names of what a captions file was made with otherwise."""
    if not sidecar.is_file():
        return [f"{sidecar.name} is missing"]
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
        return sorted(name for name in {*found, *whole} - {"framer_jax"} if found.get(name) != whole.get(name))
    except (ValueError, AttributeError):
        return [f"{sidecar.name} is damaged"]
