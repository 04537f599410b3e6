"""What a comparison page shows, as plain JSON: images, scores, means, differences and the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from framer_jax.evaluation.comparison import Arm, Difference, difference
from framer_jax.evaluation.comparison_page.embed import ENCODINGS, EmbeddedImage
from framer_jax.evaluation.image_sets import ImageSet
from framer_jax.evaluation.method_scores import shown_digits
from framer_jax.evaluation.report import number_or_none, summarise
from framer_jax.version import __version__

REFERENCE, LR = "reference", "LR, nearest"
"""Labels of the references and of the LR images, whose pixels are repeated."""


class PageSettings(NamedTuple):
    """What a page says about how it was made.

    Attributes:
      title: its heading.
      encoding: key of framer_jax.evaluation.comparison_page.embed.ENCODINGS.
      max_side: longest side of the images in the page; None for the sides that they have.
      seed: seed of the bootstrap.
    """

    title: str
    encoding: str = "png"
    max_side: int | None = None
    seed: int = 0


def source_labels(image_set: ImageSet) -> list[str]:
    """The labels of the methods, and of the reference and the LR image if there are any."""
    first = image_set.images[0]
    more = [REFERENCE] * (first.reference is not None) + [LR] * (first.lr is not None)
    return [*(method.label for method in image_set.methods), *more]


def page_data(
    image_set: ImageSet,
    embedded: Sequence[EmbeddedImage],
    arms: Sequence[Arm],
    metrics: Sequence[str],
    settings: PageSettings,
) -> dict[str, Any]:
    """All that the page's script reads, besides the images of each method.

    Args:
      image_set: the images.
      embedded: the encoded images, in the same order.
      arms: the scores of the methods, in the same order; () without metrics.
      metrics: the metrics, which all methods have.
      settings: what is said about the page.

    Returns:
      Plain JSON; scores that do not exist are null.
    """
    scores = {metric: [arm.scores(metric) for arm in arms] for metric in metrics}
    entries = arms[0].files[0].metadata["metrics"] if metrics else {}
    return {
        "title": settings.title,
        "mime": ENCODINGS[settings.encoding].mime,
        "sources": source_labels(image_set),
        "methods": len(image_set.methods),
        "lr": image_set.images[0].lr is not None,
        "metrics": [
            {
                "id": metric,
                "higher": bool(entries[metric]["higher_is_better"]),
                "variant": entries[metric]["variant"],
                "digits": shown_digits([value for of_arm in scores[metric] for value in of_arm.values()]),
            }
            for metric in metrics
        ],
        "images": [
            {
                "name": image.name,
                "width": image.width,
                "height": image.height,
                "thumbnail": shown.thumbnail,
                "crop": list(shown.crop),
                "scores": [[of_arm.get(image.name) for of_arm in scores[metric]] for metric in metrics],
            }
            for image, shown in zip(image_set.images, embedded, strict=True)
        ],
        "summary": [[_mean(arm, metric, settings.seed) for arm in arms] for metric in metrics],
        "differences": [
            [_difference(difference(metric, arms[0], arm, settings.seed)) for arm in arms[1:]] for metric in metrics
        ],
        "facts": facts(image_set, arms, metrics, settings),
    }


def _mean(arm: Arm, metric: str, seed: int) -> dict[str, Any]:
    entry = summarise(list(arm.scores(metric).values()), seed)
    return {key: number_or_none(value) for key, value in entry._asdict().items()}


def _difference(entry: Difference) -> dict[str, Any]:
    shown = ("mean", "low", "high", "better", "worse", "images", "p_value")
    return {key: number_or_none(getattr(entry, key)) for key in shown}


def facts(
    image_set: ImageSet, arms: Sequence[Arm], metrics: Sequence[str], settings: PageSettings
) -> list[tuple[str, str]]:
    """How the numbers and the images were made: (heading, sentence)."""
    rows = [("Made with", f"framer_jax {__version__}")]
    if arms:
        metadata = arms[0].files[0].metadata
        versions = [f"{name} {metadata[name]}" for name in ("framer_jax", "jax") if name in metadata]
        border, multiple = metadata.get("crop_border", 0), metadata.get("mod_crop", 1)
        border_text = f"{border} pixels on every side ignored" if border else "no border ignored"
        multiple_text = f"sides first cropped to multiples of {multiple}" if multiple > 1 else "images whole"
        rows += [("Scored with", ", ".join(versions)), ("Crop", f"{multiple_text}, {border_text}")]
        rows += [(metric, _metric_text(metadata["metrics"][metric])) for metric in metrics]
        rows.append(
            (
                "Intervals",
                f"95 % percentile bootstrap over images, 2000 resamples, seed {settings.seed}; differences are paired "
                f"and of each method minus {arms[0].label}; p is the two-sided sign test's",
            )
        )
        runs = [f"{arm.label} {len(arm.files)}" for arm in arms if len(arm.files) > 1]
        rows += [("Runs averaged for each image", ", ".join(runs))] if runs else []
    reduced = "" if settings.max_side is None else f"; longer sides reduced to {settings.max_side} pixels"
    scored = "; scores are of the original images" if reduced or settings.encoding != "png" else ""
    rows.append(("Images in this page", ENCODINGS[settings.encoding].description + reduced + scored))
    if image_set.unmatched:
        rows.append(("Left out", f"{len(image_set.unmatched)} images that a folder lacks"))
    return rows


def _metric_text(entry: Mapping[str, Any]) -> str:
    """A metric's variant, and the digests of what it compares with."""
    text = f"{entry['variant']}; {'higher' if entry['higher_is_better'] else 'lower'} is better"
    if "niqe_model_sha256" in entry:
        text += f"; pristine model SHA-256 {str(entry['niqe_model_sha256'])[:16]}"
    digests = [str(file.get("sha256", ""))[:16] for file in entry.get("weights", [])]
    return text + (f"; weights SHA-256 {', '.join(digests)}" if digests else "")
