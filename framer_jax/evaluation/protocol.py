"""Protocols of published tables as data: which images, metrics, colors and crops, and the rows that were published.

A protocol is a TOML file, one of `PROTOCOLS` in framer_jax/evaluation/protocols/ or the user's own; image sets, which
protocols share, are files of the folder image_sets/ next to it. Both say where their facts come from, and what is
assumed.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.data.image_names import examples, without_endings
from framer_jax.evaluation.files import image_size
from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.pairs import Pair
from framer_jax.images.decode import read_rgb

FOLDER = files("framer_jax.evaluation.protocols")

PROTOCOLS = tuple(sorted(file.name.removesuffix(".toml") for file in FOLDER.iterdir() if file.name.endswith(".toml")))
"""The protocols that ship with the library."""

RECOGNISED = 0.25
"""A folder is taken for an image set if at least this share of all images of both are in both."""


class PublishedRow(NamedTuple):
    """A row of a published table: metric id → score."""

    image_set: str
    model: str
    scores: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class ImageSet:
    """A set of images that tables are made on.

    Attributes:
      name: its id.
      title: its name in words, with its origin.
      images: number of images.
      scale: upsampling factor.
      size: (height, width) of the references, or () where they differ.
      references: name of an image without its endings (framer_jax.data.image_names) → SHA-256 of its reference's
        pixels (`pixel_digest`), '' where there is no reference or it is not known; {} where the names are not known.
    """

    name: str
    title: str
    images: int
    scale: int
    size: tuple[int, ...] = ()
    references: Mapping[str, str] = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", dict(self.references))
        object.__setattr__(self, "size", tuple(self.size))


@dataclass(frozen=True)
class Protocol:
    """How a family of tables was made.

    Attributes:
      name: its id.
      summary: whose tables, in one line.
      metrics: ids of the metrics, in the order of the tables.
      color, rounding, resize: how images are prepared, in words.
      crop_border, mod_crop: as of `framer-jax evaluate`.
      sets: the image sets.
      published: rows of the tables.
      sources: where these facts come from.
      assumptions: what is not published, and was assumed here.
    """

    name: str
    summary: str
    metrics: tuple[str, ...]
    color: str
    rounding: str
    resize: str
    crop_border: int
    mod_crop: int
    sets: Mapping[str, ImageSet]
    published: tuple[PublishedRow, ...]
    sources: tuple[str, ...]
    assumptions: tuple[str, ...]


class MatchedSet(NamedTuple):
    """A folder of images as one of a protocol's image sets.

    Attributes:
      image_set: the set; None if the folder is none of them.
      missing: names of its images that the folder lacks.
      other: names of the folder that are not of the set.
      changed: names whose references have other pixels, or are of another size.
    """

    image_set: ImageSet | None
    missing: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the folder is a set, and nothing of it is missing, surplus or different."""
        return self.image_set is not None and not (self.missing or self.other or self.changed)


def load_protocol(name: str | Path) -> tuple[Protocol, str]:
    """A protocol by its name or the path of a TOML file, and the name of an image set that follows a colon, or ''.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: there is no such protocol or set, or the file is not a protocol.
    """
    text, separator, set_name = str(name).rpartition(":") if str(name).count(":") else (str(name), "", "")
    if separator and text not in PROTOCOLS and Path(str(name)).suffix == ".toml":
        text, set_name = str(name), ""  # a path with a colon
    if text in PROTOCOLS:
        protocol = parse_protocol((FOLDER / f"{text}.toml").read_text(encoding="utf-8"), text)
    elif Path(text).suffix == ".toml":
        if not Path(text).is_file():
            raise FileNotFoundError(f"--protocol {text}: there is no such file")
        protocol = parse_protocol(_read(Path(text)), text, Path(text).parent)
    else:
        raise ValueError(f"there is no protocol {text!r}: choose one of {', '.join(PROTOCOLS)}, or name a .toml file")
    if set_name and set_name not in protocol.sets:
        raise ValueError(
            f"the protocol {protocol.name} has no image set {set_name!r}: choose one of {', '.join(protocol.sets)}"
        )
    return protocol, set_name


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as text in UTF-8: {error}") from error


def parse_protocol(text: str, source: str, folder: Path | None = None) -> Protocol:
    """A protocol from TOML.

    Args:
      text: the content.
      source: what errors call it.
      folder: where image sets are looked for before those that ship with the library.

    Raises:
      ValueError: it is not TOML, lacks an entry, or has an unknown entry, metric or image set.
    """
    content = _parse(text, source)
    names = tuple(content.pop("sets", ()))
    rows = content.pop("published", [])
    entries: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
    }
    try:
        protocol = Protocol(
            **entries,
            sets={name: _load_set(name, source, folder) for name in names},
            published=tuple(
                PublishedRow(
                    row["set"],
                    row["model"],
                    {key: float(value) for key, value in row["scores"].items()},
                    row["source"],
                )
                for row in rows
            ),
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        known = [field.name for field in fields(Protocol)]
        unknown = [name for name in entries if name not in known]
        lacking = [name for name in known if name not in (*entries, "sets", "published")]
        what = f"it has {unknown[0]!r}" if unknown else f"it lacks {lacking[0]!r}" if lacking else str(error)
        raise ValueError(f"{source}: not a protocol ({what}); its entries are {', '.join(known)}") from error
    _check(protocol, source)
    return protocol


def _check(protocol: Protocol, source: str) -> None:
    texts, lists = ("name", "summary", "color", "rounding", "resize"), ("metrics", "sources", "assumptions")
    for names, kind in ((texts, "a text"), (lists, "a list of texts"), (("crop_border", "mod_crop"), "a whole number")):
        for name in names:
            if not _is_a(kind, getattr(protocol, name)):
                raise ValueError(f"{source}: {name} must be {kind}, not {getattr(protocol, name)!r}")
    for row in protocol.published:
        if not all(_is_a("a text", text) for text in (row.image_set, row.model, row.source)):
            raise ValueError(f"{source}: set, model and source of a published row must be texts")
        if wrong := [name for name, value in row.scores.items() if not math.isfinite(value)]:
            raise ValueError(f"{source}: the published {wrong[0]} of {row.model} is not a finite number")
    used = [*protocol.metrics, *(metric for row in protocol.published for metric in row.scores)]
    if unknown := [name for name in used if name not in METRICS]:
        raise ValueError(f"{source}: there is no metric {unknown[0]!r}: choose from {', '.join(METRICS)}")
    if sets := {row.image_set for row in protocol.published} - set(protocol.sets):
        raise ValueError(f"{source}: a published row is of the image set {min(sets)!r}, which is not one of `sets`")
    if protocol.crop_border < 0 or protocol.mod_crop < 1:
        raise ValueError(f"{source}: crop_border must be at least 0, and mod_crop at least 1")


def _is_a(kind: str, value: Any) -> bool:
    if kind == "a text":
        return isinstance(value, str)
    if kind == "a whole number":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, tuple) and all(isinstance(part, str) for part in value)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source}: not a TOML file: {error}") from error


def _load_set(name: str, source: str, folder: Path | None) -> ImageSet:
    file = FOLDER / "image_sets" / f"{name}.toml"
    if folder is not None and (local := folder / f"{name}.toml").is_file():
        content = _read(local)
    elif file.is_file():
        content = file.read_text(encoding="utf-8")
    else:
        raise ValueError(f"{source}: there is no image set {name!r} (a file {name}.toml next to it)")
    known = [field.name for field in fields(ImageSet) if field.name != "name"]
    entries = _parse(content, f"{name}.toml")
    try:
        image_set = ImageSet(name=name, **entries)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}.toml: not an image set; its entries are {', '.join(known)}") from error
    if not all(_is_a("a whole number", number) for number in (image_set.images, image_set.scale, *image_set.size)):
        raise ValueError(f"{name}.toml: images, scale and the two numbers of size must be whole numbers")
    if image_set.references and len(image_set.references) != image_set.images:
        raise ValueError(f"{name}.toml: images is {image_set.images}, and references has {len(image_set.references)}")
    if ending := [key for key in image_set.references if without_endings(key) != key]:
        raise ValueError(f"{name}.toml: write {without_endings(ending[0])!r} for {ending[0]!r}: names have no endings")
    return image_set


def pixel_digest(path: Path) -> str:
    """SHA-256 of an image's size and 8-bit RGB pixels, which does not change with its file format."""
    pixels = read_rgb(path)
    return hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}".encode() + pixels.tobytes()).hexdigest()


def match_set(protocol: Protocol, set_name: str, pairs: Sequence[Pair]) -> MatchedSet:
    """The image set that images are of, compared with it.

    Args:
      protocol: its sets are considered.
      set_name: one of them, or '' for the one whose names most of the images have.
      pairs: the images and their references.
    """
    names: dict[str, Pair] = {}
    surplus = []
    for pair in pairs:
        if pair.image.exists():
            name = without_endings(Path(pair.name).name)
            surplus += [pair.name] if name in names else []
            names.setdefault(name, pair)

    def share(candidate: ImageSet) -> float:
        """Images in common, of all images of the set and of the folder."""
        common = len(names.keys() & candidate.references.keys())
        return common / max(1, candidate.images + len(names) + len(surplus) - common)

    if set_name:
        chosen = protocol.sets[set_name]
    else:
        chosen = max(protocol.sets.values(), key=share, default=None)  # type: ignore[arg-type, assignment]
        if chosen is None or share(chosen) < RECOGNISED:
            return MatchedSet(None)
    if not chosen.references:  # the names are not known
        difference = abs(chosen.images - len(names) - len(surplus))
        return MatchedSet(chosen, ("?",) * difference, (), _of_other_size(chosen, names))
    compares = any(pair.reference is not None for pair in names.values())
    changed = []
    missing = sorted(chosen.references.keys() - names.keys())
    for name in sorted(names.keys() & chosen.references.keys()):
        expected, reference = chosen.references[name], names[name].reference
        if not expected or not compares:
            continue
        if reference is None:
            missing.append(name)
        elif _digest(reference) != expected:
            changed.append(name)
    other = sorted([*surplus, *(names.keys() - chosen.references.keys())])
    return MatchedSet(chosen, tuple(missing), tuple(other), tuple(changed))


def _digest(path: Path) -> str:
    """`pixel_digest`; '' for a file that cannot be read."""
    try:
        return pixel_digest(path)
    except (ValueError, OSError):
        return ""


def _of_other_size(image_set: ImageSet, names: Mapping[str, Pair]) -> tuple[str, ...]:
    """The images whose references, or without these they themselves, are not of the size of the set."""
    if not image_set.size:
        return ()
    different = []
    for name, pair in sorted(names.items()):
        try:
            size = image_size(pair.reference or pair.image)
        except (ValueError, OSError):
            continue  # said when it is scored
        different += [] if size == image_set.size else [name]
    return tuple(different)


def check_complete(matched: MatchedSet, protocol: Protocol, count: int) -> None:
    """Raise ValueError for images that are not all of their set, or whose references are others.

    Args:
      matched: from `match_set`.
      protocol: the protocol.
      count: number of images.
    """
    chosen = matched.image_set
    if chosen is None or matched.complete:
        return
    if not chosen.references:
        size = f" of {chosen.size[1]}x{chosen.size[0]}" if chosen.size else ""
        others = f", {len(matched.changed)} of them of another size ({examples(matched.changed)})" * bool(
            matched.changed
        )
        raise ValueError(
            f"the image set {chosen.name} of the protocol {protocol.name} has {chosen.images} images{size}, and there "
            f"are {count}{others}: complete the folder, or add --allow-incomplete to score without the published rows"
        )
    parts = [
        f"{len(names)} {what} ({examples(names)})"
        for names, what in (
            (matched.missing, f"of {chosen.images} images missing"),
            (matched.other, "image(s) that are not of the set"),
            (matched.changed, "reference(s) with other pixels than those of the set"),
        )
        if names
    ]
    raise ValueError(
        f"this is not the image set {chosen.name} of the protocol {protocol.name}: {'; '.join(parts)}: correct the "
        "folders, or add --allow-incomplete to score without the published rows"
    )


def published_rows(protocol: Protocol, matched: MatchedSet) -> tuple[PublishedRow, ...]:
    """The published rows of a complete image set."""
    if matched.image_set is None or not matched.complete:
        return ()
    return tuple(row for row in protocol.published if row.image_set == matched.image_set.name)
