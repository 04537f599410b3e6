"""`framer-jax precompute captions`: caption crops or photographs with an image-to-text model, as JSON lines.

A caption depends on the image, its name, the settings and the seed, not on shards or interruptions.
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

from framer_jax.commands.engine_option import Plan, add_engine_options
from framer_jax.commands.precompute import local_models
from framer_jax.commands.precompute.captioned_images import KINDS, CaptionedImages, crops_of_latents, whole_photos
from framer_jax.commands.precompute.captioner import Captioner, CaptionSettings, load_captioner
from framer_jax.commands.precompute.work import Written
from framer_jax.commands.shard_option import add_shard_option, parse_shard
from framer_jax.commands.training_data import open_source
from framer_jax.console import message_console
from framer_jax.data.captions import (
    REMOVED_WORDS,
    Caption,
    caption_line,
    clean_caption,
    drop_incomplete_line,
    read_captions,
)
from framer_jax.data.photos import TRAINING
from framer_jax.porting.files import atomic_write, check_outputs, sha256_of
from framer_jax.porting.shard_files import shard_file
from framer_jax.progress import track
from framer_jax.version import __version__

CAPTIONS = "captions.jsonl"
"""Name of a captions file that is stored with latents."""


class CaptionCounts(NamedTuple):
    """Numbers of images.

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
    parser.add_argument(
        "--of",
        default="crops",
        choices=KINDS,
        help="the HR crops of precomputed latents (the default), their LR images, or whole photographs",
    )
    parser.add_argument("--latents", help="folder of these latents, for crops and lr")
    parser.add_argument("--captioner", required=True, help="folder, or name in the local cache, of the model")
    parser.add_argument(
        "--output",
        help=f"*.jsonl; existing captions are kept (of crops and lr: {CAPTIONS} in the folder of the latents)",
    )
    add_shard_option(parser, "only every N-th image, into a separate file")
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
        "--seed", type=int, default=defaults.seed, help="seed of the sampling, combined with the image's name"
    )
    parser.add_argument("--dtype", default="auto", choices=local_models.DTYPES, help="auto: float16 on a GPU")
    parser.add_argument("--overwrite", action="store_true", help="replace captions made with other settings")
    add_engine_options(parser)


def check(arguments: argparse.Namespace) -> Plan[None]:
    """The number of images; refuses settings out of their range, and photographs that are not those of the latents."""
    _settings_of(arguments)
    captions_file(arguments.of, arguments.latents, arguments.output)
    return Plan(len(_images_of(arguments).names), None)


def compute(arguments: argparse.Namespace) -> Written:
    """Caption the images of the shard."""
    settings, shard = _settings_of(arguments), parse_shard(arguments.shard)
    path = shard_file(captions_file(arguments.of, arguments.latents, arguments.output), shard)
    images = _images_of(arguments)
    folder = local_models.local_folder(arguments.captioner)
    check_outputs({"--output": path, "the settings of --output": settings_file(path)}, {"--captioner": [folder]})
    captioner = load_captioner(folder, settings, arguments.dtype)
    model = {
        "captioner": {"name": Path(arguments.captioner).name, "sha256": sha256_of(folder), "dtype": arguments.dtype}
    }
    console = message_console(arguments.quiet)
    counts = caption_images(images, captioner, path, settings, shard, model, arguments.overwrite, console)
    return Written(counts.captioned, counts.existing, tuple(filter(None, [images.damage()])))


def report(arguments: argparse.Namespace, written: Written) -> int:
    """Print the number of images."""
    path = shard_file(captions_file(arguments.of, arguments.latents, arguments.output), parse_shard(arguments.shard))
    what = {"photos": "photographs", "crops": "crops", "lr": "LR images"}[arguments.of]
    where = path if arguments.engine == "local" else f"{path.with_name(path.stem)}-*{path.suffix}"
    print("; ".join([f"{written.new} {what} captioned, {written.existing} were in {where}", *written.notes]))
    return 0


def _settings_of(arguments: argparse.Namespace) -> CaptionSettings:
    names = ("prompt", "temperature", "top_p", "max_tokens", "seed")
    return CaptionSettings(**{name: getattr(arguments, name) for name in names})


def _images_of(arguments: argparse.Namespace) -> CaptionedImages:
    if arguments.of == "photos":
        return whole_photos(open_source(arguments.photos, TRAINING, 1))
    return crops_of_latents(Path(arguments.latents), arguments.photos, arguments.of)


def captions_file(of: str, latents: str | None, output: str | None) -> Path:
    """The captions file that the arguments name: captions of crops are stored with their latents.

    Raises:
      ValueError: --latents is missing, or given for photographs; --output is missing for photographs, or not *.jsonl.
    """
    if output and Path(output).suffix != ".jsonl":
        raise ValueError(f"--output {output}: name captions files *.jsonl")
    if of == "photos":
        if latents:
            raise ValueError("--of photos captions whole photographs: leave --latents out")
        if not output:
            raise ValueError("--of photos needs --output, a file *.jsonl")
        return Path(output)
    if not latents:
        raise ValueError(
            f"--of {of} captions the crops of precomputed latents: name their folder by --latents, or caption whole "
            "photographs with --of photos"
        )
    return Path(output) if output else Path(latents) / CAPTIONS


def settings_file(path: Path) -> Path:
    """The file of the settings that captions were made with, next to a captions file."""
    return path.with_suffix(".json")


def caption_images(
    images: CaptionedImages,
    captioner: Captioner,
    path: Path,
    settings: CaptionSettings,
    shard: tuple[int, int] = (0, 1),
    model: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> CaptionCounts:
    """Caption the images that are missing in a captions file; each line is written as soon as it is computed.

    Args:
      images: what is captioned.
      captioner: (image, seed) → caption.
      path: the captions file, *.jsonl; the settings are written to a *.json file next to it.
      settings: prompt and sampling settings of the captioner.
      shard: (i, n) selects the images whose number is i modulo n.
      model: further metadata that captions depend on, plain JSON.
      overwrite: replace captions made with other settings.
      console: where progress is reported; None for nowhere.

    Raises:
      FileExistsError: a file of settings has no captions, so it may be another program's.
      ValueError: the file was made with other settings or is damaged, or too many photographs are damaged.
    """
    metadata = {
        "kind": "captions",
        **asdict(settings),
        "removed": list(REMOVED_WORDS),
        **images.origin,
        **(model or {}),
    }
    _prepare_file(path, metadata, overwrite)
    captions = read_captions([path])
    numbers = range(shard[0], len(images.names), shard[1])
    missing = [number for number in numbers if images.names[number] not in captions]
    damaged = 0
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        for number in track(missing, "captions", console):
            name, image = images.names[number], images.load(number)
            if image.pixels is None:
                caption = Caption(name, "", "", damaged=True)
                damaged += 1
            else:
                raw = captioner(image.pixels, zlib.crc32(f"{settings.seed} {name}".encode(errors="surrogateescape")))
                caption = Caption(name, raw, clean_caption(raw), photo=image.photo)
            file.write(caption_line(caption))
            file.flush()
    return CaptionCounts(len(missing) - damaged, len(numbers) - len(missing), damaged)


def _prepare_file(path: Path, metadata: Mapping[str, Any], overwrite: bool) -> None:
    """Create a captions file, or check that it was made with these settings."""
    sidecar = settings_file(path)
    if sidecar.exists() and not path.is_file() and not overwrite:
        raise FileExistsError(f"{sidecar} exists without {path.name}: name another file, or use --overwrite")
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
