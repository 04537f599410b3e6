"""Images of several methods, with their references and LR images: paired by name, of equal sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from framer_jax.data.files import LeftOut
from framer_jax.data.image_names import examples
from framer_jax.evaluation.files import image_size
from framer_jax.evaluation.pairs import Pair, Pairing, PairSize, pair_files, pair_sizes


class Method(NamedTuple):
    """A way to upscale, as its results.

    Attributes:
      label: its name.
      folder: its SR images, searched recursively.
      suffix: end of the stems of its images that those of the references lack.
    """

    label: str
    folder: Path
    suffix: str = ""


class ComparedImage(NamedTuple):
    """One image in the results of all methods.

    Attributes:
      name: unique among the images.
      files: its SR image by each method, in the order of the methods.
      reference: its reference, or None.
      lr: its LR image, or None.
      height, width: size of the SR images and the reference, cropped as requested.
      scale: how many times larger than the LR image they are; 1 without one.
    """

    name: str
    files: tuple[Path, ...]
    reference: Path | None
    lr: Path | None
    height: int = 0
    width: int = 0
    scale: int = 1


class ImageSet(NamedTuple):
    """Images of the same names in the results of several methods.

    Attributes:
      methods: the methods, the one that others are compared with first.
      images: the images, sorted by name.
      mod_crop: sides are cropped to multiples of this.
      unmatched: names without a partner, which are left out.
      left_out: what may be an image, or hold images, and cannot be read.
    """

    methods: tuple[Method, ...]
    images: tuple[ComparedImage, ...]
    mod_crop: int = 1
    unmatched: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def collect_images(
    methods: Sequence[Method],
    reference_dir: str | Path | None = None,
    lr_dir: str | Path | None = None,
    *,
    allow_unmatched: bool = False,
    mod_crop: int = 1,
    limit: int | None = None,
) -> ImageSet:
    """Pair the images of all folders by name, as `framer-jax evaluate` does, and check that their sizes agree.

    Names are those of the references; without them, of the LR images; without these, of the first method.

    Args:
      methods: at least one, with different labels.
      reference_dir: HR images of the size of the results, or None.
      lr_dir: LR images, of which the results are a whole multiple, or None.
      allow_unmatched: leave out images that a folder lacks instead of raising an error.
      mod_crop: results and references are first cropped, at the right and the bottom, to multiples of this.
      limit: the first so many images by name; None for all.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: a folder without images, images without a partner or of other sizes, or a file that is no image.
    """
    pairings = _pairings(methods, reference_dir, lr_dir, allow_unmatched)
    names = {_base(pair): pair.name for pair in pairings[0].pairs}
    by_file = [{_base(pair): pair for pair in pairing.pairs} for pairing in pairings]
    common = set.intersection(*map(set, by_file))
    if not common:
        raise ValueError(f"no image is in all of {', '.join(str(method.folder) for method in methods)}")
    kept = sorted(common, key=lambda file: names[file])[:limit]
    images = []
    for file in kept:
        files = tuple(of_folder[file].image for of_folder in by_file)
        lr = None if lr_dir is None else file if reference_dir is None else files[-1]
        reference = None if reference_dir is None else file
        images.append(ComparedImage(names[file], files[: len(methods)], reference, lr))
    dropped = [name for file, name in names.items() if file not in common]
    unmatched = sorted({*dropped, *(name for pairing in pairings for name in pairing.unmatched)})
    left_out = tuple(dict.fromkeys(item for pairing in pairings for item in pairing.left_out))
    return ImageSet(tuple(methods), _sized(methods, images, mod_crop), mod_crop, tuple(unmatched), left_out)


def _pairings(
    methods: Sequence[Method], reference_dir: str | Path | None, lr_dir: str | Path | None, allow_unmatched: bool
) -> list[Pairing]:
    """The images of each method paired with those that give the names, then the LR images with the references."""
    base = reference_dir if reference_dir is not None else lr_dir
    if base is not None:
        pairings = [pair_files(method.folder, base, allow_unmatched, method.suffix) for method in methods]
        if reference_dir is not None and lr_dir is not None:
            pairings.append(pair_files(lr_dir, reference_dir, allow_unmatched))
        return pairings
    first, *others = methods
    alike = {method.suffix for method in methods} == {first.suffix}
    if first.suffix and not alike:
        raise ValueError(
            f"the images of {first.label} end with {first.suffix} and give the names: name a method without a suffix "
            "first, or give --reference or --lr"
        )
    paired = [
        pair_files(method.folder, first.folder, allow_unmatched, "" if alike else method.suffix) for method in others
    ]
    return [pair_files(first.folder, suffix=first.suffix), *paired]


def _base(pair: Pair) -> Path:
    """The file that gives a pair its name: what it was paired with, or the first method's own image."""
    return pair.reference or pair.image


def _sized(methods: Sequence[Method], images: Sequence[ComparedImage], mod_crop: int) -> tuple[ComparedImage, ...]:
    """The images with their sizes."""
    sizes = [
        [_readable(size) for size in pair_sizes(method_pairs(images, index), mod_crop)] for index in range(len(methods))
    ]
    first = sizes[0]
    for method, of_method in zip(methods[1:], sizes[1:], strict=True):
        differing = [
            f"{image.name} {one[1]}x{one[0]} against {two[1]}x{two[0]}"
            for image, one, two in zip(images, first, of_method, strict=True)
            if one != two
        ]
        if differing:
            raise ValueError(
                f"{len(differing)} image(s) of {methods[0].label} and {method.label} differ in size (width x height): "
                f"{examples(differing)}: upscale the same images by the same scale"
            )
    return tuple(
        image._replace(height=height, width=width, scale=_scale(image, height, width))
        for image, (height, width) in zip(images, first, strict=True)
    )


def _readable(size: PairSize) -> tuple[int, int]:
    for side in size:
        if isinstance(side, str):
            raise ValueError(side)
    assert isinstance(size.image, tuple)
    return size.image


def _scale(image: ComparedImage, height: int, width: int) -> int:
    """How many times larger than its LR image an image is."""
    if image.lr is None:
        return 1
    low = image_size(image.lr)
    scale = height // low[0]
    if not scale or (height, width) != (scale * low[0], scale * low[1]):
        raise ValueError(
            f"{image.lr} is {low[1]}x{low[0]} and the results are {width}x{height}, no whole multiple of it: name the "
            "folder of the images that were upscaled"
        )
    return scale


def method_pairs(images: Sequence[ComparedImage], index: int) -> tuple[Pair, ...]:
    """The images of one method, by its index, with their references."""
    return tuple(Pair(image.name, image.files[index], image.reference) for image in images)
