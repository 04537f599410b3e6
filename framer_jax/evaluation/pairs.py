"""Images to score and their references: paired by name, of equal sizes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from framer_jax.data.files import LeftOut
from framer_jax.data.image_names import by_name, examples, partners
from framer_jax.degradations.lookup import SCALES
from framer_jax.evaluation.files import image_files, image_size
from framer_jax.evaluation.image_names import name_rule, stated_references
from framer_jax.porting.files import sha256_of


class Pair(NamedTuple):
    """An image to score and its reference.

    Attributes:
      name: unique among the pairs: the reference's, or without one the image's.
      image: the image to score; of a reference without a result a file that does not exist.
      reference: its reference; None without one.
    """

    name: str
    image: Path
    reference: Path | None


class Pairing(NamedTuple):
    """The images to score.

    Attributes:
      pairs: the pairs, sorted by name; without references one per image.
      unmatched: names without a partner.
      left_out: what may be an image, or hold images, and cannot be read.
      incomplete: what `unmatched` names, as pairs that lack the image or the reference.
      renamed: (name of the result, name of its reference) of pairs whose names differ.
    """

    pairs: tuple[Pair, ...]
    unmatched: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    incomplete: tuple[Pair, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


class PairSize(NamedTuple):
    """Sizes of a pair, cropped as requested.

    Attributes:
      image: (height, width) of the image, or the reason why it cannot be scored.
      reference: the same of the reference, or the reason why the image cannot be compared with it; None without one.
    """

    image: tuple[int, int] | str
    reference: tuple[int, int] | str | None

    @property
    def differs(self) -> bool:
        """Whether both sizes are known, and are not equal."""
        known = isinstance(self.image, tuple) and isinstance(self.reference, tuple)
        return known and self.image != self.reference


def pair_files(
    sr_dir: str | Path,
    reference_dir: str | Path | None = None,
    allow_unmatched: bool = False,
    suffix: str = "",
    pattern: str = "",
) -> Pairing:
    """Pair the images of two folders (searched recursively) by name, whatever their file formats.

    The name is the stem; where stems repeat in a folder, it is the path within the folder. Results whose names are
    those of no reference pair as framer_jax.evaluation.image_names describes.

    Args:
      sr_dir: folder of the images to score.
      reference_dir: their references, or None.
      allow_unmatched: return images without a partner instead of raising an error.
      suffix: end of the stems of the images that those of the references lack, as of `framer-jax upscale --suffix`.
      pattern: regular expression for the images' stems, whose first group is the reference's stem; see
        framer_jax.evaluation.image_names.name_rule.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: no images, two files with the same name or the same partner, a pattern that does not fit, or images
        without a partner.
    """
    rules = [(Path(sr_dir), name_rule(suffix, pattern))]
    rules += [] if reference_dir is None else [(Path(reference_dir), name_rule("", ""))]
    listings = [image_files(folder) for folder, _ in rules]
    left_out = tuple(item for listing in listings for item in listing.left_out)
    stems = [[rule(path.stem) for path in listing.paths] for (_, rule), listing in zip(rules, listings, strict=True)]
    whole_path = any(len(set(names)) < len(names) for names in stems)
    named = [
        by_name(folder, listing.paths, names, whole_path)
        for (folder, _), listing, names in zip(rules, listings, stems, strict=True)
    ]
    images, references = named[0], named[-1]
    if reference_dir is None:
        return Pairing(tuple(Pair(name, images[name], None) for name in sorted(images)), (), left_out)
    renamed: dict[str, str] = {}
    if not suffix and not pattern:
        missing = {name: path for name, path in images.items() if name not in references}
        unpaired = references.keys() - images.keys()
        renamed = partners(missing, unpaired, stated_references(missing), ", or say which by --suffix or --pattern")
        images = {renamed.get(name, name): path for name, path in images.items()}
    common = sorted(images.keys() & references.keys())
    if not common:
        raise ValueError(
            f"no image of {sr_dir} has a reference of the same name in {reference_dir} "
            f"({examples(sorted(images))} against {examples(sorted(references))}): give them the same names, or to "
            "`framer-jax evaluate` the ending of the results (--suffix) or their pattern (--pattern)"
        )
    unmatched = sorted(images.keys() ^ references.keys())
    if unmatched and not allow_unmatched:
        raise ValueError(_without_partner(images, references, sr_dir, reference_dir))
    pairs = tuple(Pair(name, images[name], references[name]) for name in common)
    incomplete = tuple(Pair(name, images.get(name, Path(sr_dir, name)), references.get(name)) for name in unmatched)
    return Pairing(pairs, tuple(unmatched), left_out, incomplete, tuple(sorted(renamed.items())))


def _without_partner(
    images: Collection[str], references: Collection[str], sr_dir: str | Path, reference_dir: str | Path
) -> str:
    sides = (
        (sorted(set(images) - set(references)), sr_dir, "reference"),
        (sorted(set(references) - set(images)), reference_dir, "result"),
    )
    parts = [
        f"{len(names)} of {folder} without a {partner} ({examples(names)})" for names, folder, partner in sides if names
    ]
    return f"images without a partner: {'; '.join(parts)}; --allow-unmatched scores the others"


def pair_sizes(pairs: Sequence[Pair], mod_crop: int = 1, compares: bool = False) -> list[PairSize]:
    """The sizes of each pair, from the files' headers; what cannot be scored has a reason in place of a size.

    Args:
      pairs: from `pair_files`.
      mod_crop: sides are cropped to multiples of this.
      compares: whether a missing reference is a reason.

    Raises:
      ValueError: every image differs in size from its reference.
    """
    sizes = [_pair_size(pair, mod_crop, compares) for pair in pairs]
    differing = [index for index, size in enumerate(sizes) if size.differs]
    texts = {
        index: f"{pairs[index].name} {_by(sizes[index].image)} against {_by(sizes[index].reference)}"
        for index in differing
    }
    comparable = [size for size in sizes if isinstance(size.image, tuple) and isinstance(size.reference, tuple)]
    if differing and len(differing) == len(comparable):
        raise ValueError(
            f"{len(differing)} image(s) differ in size (width x height) from their reference: "
            f"{examples(list(texts.values()))}" + _crop_hint([sizes[index] for index in differing])
        )
    for index, text in texts.items():
        reason = f"differs in size (width x height) from its reference: {text}" + _crop_hint([sizes[index]])
        sizes[index] = sizes[index]._replace(reference=reason)
    return sizes


def _pair_size(pair: Pair, mod_crop: int, compares: bool) -> PairSize:
    if not pair.image.exists():
        return PairSize(f"{pair.image.parent} holds no image of this name", None)
    if pair.reference is None:
        return PairSize(_size(pair.image, mod_crop), "there is no reference of this name" if compares else None)
    return PairSize(_size(pair.image, mod_crop), _size(pair.reference, mod_crop))


def _by(size: tuple[int, int] | str | None) -> str:
    """A size as width x height."""
    return f"{size[1]}x{size[0]}" if isinstance(size, tuple) else str(size)


def _size(path: Path, mod_crop: int) -> tuple[int, int] | str:
    try:
        size = image_size(path)
    except (ValueError, OSError) as error:
        return str(error)
    height, width = (side - side % mod_crop for side in size)
    if not height or not width:
        return f"{path} is {size[1]}x{size[0]}, smaller than --mod-crop {mod_crop}"
    return height, width


def _crop_hint(differing: Sequence[PairSize]) -> str:
    """The crop that makes all sizes equal, where a scale did not divide the sides of the references."""
    for scale in SCALES:
        if all(
            isinstance(size.reference, tuple) and tuple(side - side % scale for side in size.reference) == size.image
            for size in differing
        ):
            return (
                f": the references are larger by less than a scale of {scale}: crop the references at the right and "
                f"the bottom, or add --mod-crop {scale}"
            )
    return ""


class PairDigests(NamedTuple):
    """SHA-256 of the files of a pair; '' for one that is missing."""

    image: str
    reference: str


def pair_digests(pairs: Sequence[Pair]) -> tuple[PairDigests, ...]:
    """The digests of the files of each pair."""
    return tuple(PairDigests(_digest(pair.image), _digest(pair.reference)) for pair in pairs)


def _digest(path: Path | None) -> str:
    return sha256_of(path) if path is not None and path.is_file() else ""
