"""The shared computation behind FRAMER's equations: the bands of all layers and their cosines, each computed once.

`framer_jax.losses.framer` states the method; here is what makes it fast. The cosine of two bands is a dot product of
vectors times their inverse lengths, so no map is copied to be normalized. With a disc and complex spectra the bands
are those of the maps themselves (Parseval), and no spectrum is needed for the gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.frequency.bands import (
    LowPass,
    disc_mask,
    full_precision,
    inverse_length,
    low_pass,
    quantile_mask,
    similarities,
    spectral_features,
    spectrum,
    split_bands,
)
from framer_jax.losses.framer_settings import FramerSettings, teacher_index


class Features(NamedTuple):
    """Features of L taps.

    Attributes:
      compared: what cosines are taken of, the maps [L, B, H, W, C] or their spectra as real vectors
        [L, B, P, H, W // 2 + 1, C].
      magnitude: magnitudes of the spectra, [L, B, H, W // 2 + 1, C], without a gradient.
    """

    compared: jax.Array
    magnitude: jax.Array


class Vectors(NamedTuple):
    """One band of L taps as vectors.

    Attributes:
      vectors: [L, B, D].
      inverse: [L, B], 1 / length.
    """

    vectors: jax.Array
    inverse: jax.Array


class BandVectors(NamedTuple):
    """One band of the three sides of the cosines; only `student` carries a gradient.

    Attributes:
      student: L = N.
      teacher: L = 1, or N where each student has its own teacher.
      negative: L = N, the student that is the negative of each student.
    """

    student: Vectors
    teacher: Vectors
    negative: Vectors


class Cosines(NamedTuple):
    """Cosines of one band, -inf where a negative is missing.

    Attributes:
      positive: [N, B], to the teacher.
      negatives: [N, B, K], to the negative student: K = 1, or B with its maps of all images.
      others: [N, B, B], to the teacher's maps of the other images, -inf at the image itself; None for IntraCL.
    """

    positive: jax.Array
    negatives: jax.Array
    others: jax.Array | None


def students_and_teacher(taps: tuple[jax.Array, ...], settings: FramerSettings) -> tuple[jax.Array, jax.Array]:
    """Students [N, B, H, W, C] and, without a gradient, their teacher [1, B, H, W, C] or teachers [N, ...]; float32."""
    maps = [full_precision(tap) for tap in taps]
    if settings.teacher == "next":
        return jnp.stack(maps[:-1]), jax.lax.stop_gradient(jnp.stack(maps[1:]))
    teacher = maps.pop(teacher_index(settings, len(taps)))
    return jnp.stack(maps), jax.lax.stop_gradient(teacher)[None]


def spectral_or_pixel_features(maps: jax.Array, settings: FramerSettings) -> Features:
    """Features of maps [L, B, H, W, C]."""
    half = spectrum(maps)  # [L, B, H, W // 2 + 1, C]; with pixel features it has no gradient, and serves FAW only
    magnitude = jax.lax.stop_gradient(jnp.abs(half))
    if _compares_pixels(settings):
        return Features(maps, magnitude)
    return Features(spectral_features(half, maps.shape[-2], settings.compare == "magnitudes"), magnitude)


def low_band(teacher_magnitude: jax.Array, size: tuple[int, int], settings: FramerSettings) -> jax.Array:
    """M_LF in half layout, bool [1 or N, 1 or B, H, W // 2 + 1, 1 or C]; the high band is its complement.

    Raises:
      ValueError: a disc that leaves no high band.
    """
    if settings.bands == "quantile":
        return quantile_mask(teacher_magnitude, size[1], settings.quantile)
    mask = disc_mask(size, settings.radius)
    if mask.all():
        raise ValueError(f"framer.radius {settings.radius} leaves {size} maps no high band: lower it")
    return jnp.asarray(mask)[None, None, :, :, None]


def band_filter(mask: jax.Array, size: tuple[int, int], settings: FramerSettings) -> LowPass | jax.Array:
    """How features are split into bands: a low-pass filter of the maps, or the mask of the spectra."""
    return low_pass(size, settings.radius) if _compares_pixels(settings) else mask


def band_vectors(
    students: jax.Array, teacher: jax.Array, negatives: jax.Array, split: LowPass | jax.Array | None
) -> tuple[BandVectors, ...]:
    """The vectors of every cosine, for the low and the high band, or for the undivided features (split None).

    Args:
      students: `Features.compared` of the students.
      teacher: the same of the teacher.
      negatives: int32 [N], see `framer_jax.losses.framer.draw_negatives`.
      split: see `band_filter`.
    """
    # A gather as a product: XLA would fuse a real one with the split before it, 5x slower on a CPU.
    choice = jax.nn.one_hot(jnp.maximum(negatives, 0), students.shape[0], dtype=students.dtype)  # [N, N]

    def gather(x: jax.Array) -> jax.Array:
        return jnp.tensordot(choice, jax.lax.stop_gradient(x), axes=1, precision=jax.lax.Precision.HIGHEST)

    student_bands, teacher_bands = _split(students, split), _split(teacher, split)
    if isinstance(split, jax.Array) and split.shape[0] > 1:  # a negative is masked by the mask of its student
        negative_bands = _split(gather(students), split)
    else:
        negative_bands = jax.tree.map(gather, student_bands)
    return tuple(BandVectors(*sides) for sides in zip(student_bands, teacher_bands, negative_bands, strict=True))


def cosines(vectors: BandVectors, has_negative: jax.Array, kind: str, all_images: bool) -> Cosines:
    """The cosines that IntraCL ('intra') or InterCL ('inter') needs of one band.

    Args:
      vectors: the band.
      has_negative: bool [N].
      kind: 'intra' or 'inter'.
      all_images: InterCL takes the negative student's maps of all images.
    """
    student, teacher, negative = vectors
    has_negative = has_negative[:, None, None]  # [N, 1, 1]
    if kind == "intra":
        same_image = jnp.where(has_negative, _same_image_cosine(student, negative)[..., None], -jnp.inf)  # [N, B, 1]
        return Cosines(_same_image_cosine(student, teacher), same_image, None)
    to_teacher = _between_images_cosine(student, teacher)  # [N, B, B]
    others = jnp.where(jnp.eye(to_teacher.shape[-1], dtype=bool)[None], -jnp.inf, to_teacher)
    if all_images:
        negatives = _between_images_cosine(student, negative)  # [N, B, B]
    else:
        negatives = _same_image_cosine(student, negative)[..., None]  # [N, B, 1]
    negatives = jnp.where(has_negative, negatives, -jnp.inf)
    return Cosines(jnp.einsum("nbb->nb", to_teacher), negatives, others)


def _compares_pixels(settings: FramerSettings) -> bool:
    """Whether the cosines are those of band-passed maps, for which no spectrum is needed."""
    return settings.bands == "disc" and settings.compare == "spectra"


def _split(compared: jax.Array, split: LowPass | jax.Array | None) -> tuple[Vectors, ...]:
    """Vectors of the (low, high) bands, or of the undivided features."""
    length = None
    if split is None:
        parts = [compared]
    elif isinstance(split, LowPass):
        parts = list(split_bands(compared, split))  # [L, B, P, Q, C], [L, B, H, W, C]
        length = jnp.sqrt(jnp.sum(jnp.square(jax.lax.stop_gradient(compared)), axis=(2, 3, 4)))  # [L, B]
    else:
        mask = split[:, :, None]  # [1 or N, 1 or B, 1, H, W // 2 + 1, 1 or C]
        parts = [compared * part.astype(compared.dtype) for part in (mask, ~mask)]
    flat = [part.reshape(*part.shape[:2], -1) for part in parts]
    return tuple(Vectors(vectors, inverse_length(vectors, length)) for vectors in flat)


def _same_image_cosine(first: Vectors, second: Vectors) -> jax.Array:
    """Cosines of vectors of the same image: [N, B]."""
    dots = jnp.sum(first.vectors * second.vectors, axis=-1)
    return dots * first.inverse * second.inverse


def _between_images_cosine(first: Vectors, second: Vectors) -> jax.Array:
    """Cosines between all images: [N, B, B]."""
    if second.vectors.shape[0] == 1:  # one product for all layers, whose axis stays apart from that of the examples
        dots = jnp.einsum("lad,bd->lab", first.vectors, second.vectors[0], precision=jax.lax.Precision.HIGHEST)
    else:
        # Layer by layer: on a mesh each gathers the vectors of all images, which are many megabytes.
        dots = jax.lax.map(lambda pair: similarities(*pair), (first.vectors, second.vectors))
    return dots * first.inverse[:, :, None] * second.inverse[:, None, :]
