"""The FRAMER term: frequency-aligned self-distillation between the layers of one denoiser.

"FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (arXiv 2512.01390, CVPR 2026). The last feature
map is the teacher, and every earlier one a student. IntraCL (Eq. 1) pulls the low bands together, InterCL (Eq. 2) the
high bands; FAW (Eq. 3-5) and FAM (Eq. 6-8) weight them. Each equation is a function here; `framer_loss` composes them
on the cosines that `framer_jax.losses.framer_bands` computes. `FramerSettings` chooses the variant of the method.

Notation: N students i = 1 … N and their teacher n, B images, F⁽ⁱ⁾ the maps [B, H, W, C], S⁽ⁱ⁾ their spectra, and the
bands b = LF, HF of the spectra, chosen by the masks M_LF and M_HF.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import band_magnitude
from framer_jax.losses.framer_bands import (
    BandVectors,
    band_filter,
    band_vectors,
    cosines,
    low_band,
    spectral_or_pixel_features,
    students_and_teacher,
)
from framer_jax.losses.framer_settings import VARIANTS, FramerSettings, paper, released, teacher_index

__all__ = [
    "VARIANTS",
    "FramerLoss",
    "FramerSettings",
    "draw_negatives",
    "fam",
    "fam_alignment",
    "faw",
    "framer_layer_loss",
    "framer_loss",
    "framer_total",
    "inter_cl",
    "intra_cl",
    "paper",
    "released",
    "teacher_index",
]


class FramerLoss(NamedTuple):
    """The term before its weight λ, and its diagnostics.

    Attributes:
      values: [B] float32, summed or averaged over the students; not multiplied by λ.
      diagnostics: float32 [N] each, the mean over images per student, for the bands `low` and `high`: `cosine_*` to
        the teacher, `weight_*` (w of FAW), `gate_*` (the alignment a of FAM) and `factor_*` = w a. Always measured in
        the two bands, so that runs with different objectives can be compared; `weight` and `gate` are 1 where they are
        switched off.
    """

    values: jax.Array
    diagnostics: dict[str, jax.Array]


def intra_cl(positive: jax.Array, negative: jax.Array, temperature: float = 1.0) -> jax.Array:
    """IntraCL, Eq. 1: −log( e^{s₊} / (e^{s₊} + e^{s₋}) ), contrasting the layers of one image.

    Args:
      positive: [N, B], cosine of student i and the teacher in the band.
      negative: [N, B], cosine of student i and another student of the same image, without a gradient to the latter;
        -inf where student i has no negative, for which the loss is 0.
      temperature: τ; s₊ and s₋ are the cosines divided by it.

    Returns:
      [N, B].
    """
    logits = jnp.stack([positive, negative], axis=-1) / temperature
    return jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]


def inter_cl(positive: jax.Array, negatives: jax.Array, others: jax.Array, temperature: float = 1.0) -> jax.Array:
    """InterCL, Eq. 2: −log( e^{s₊} / (e^{s₊} + e^{s₋} + S_neg) ), contrasting layers and the images of the batch.

    S_neg = Σ_{b' ≠ b} e^{cos(F⁽ⁱ⁾_b, F⁽ⁿ⁾_b') / τ} over the other images b' of the global batch.

    Args:
      positive: [N, B], cosine of student i and the teacher in the band.
      negatives: [N, B, K], cosines to another student: K = 1, that of the same image (the paper), or K = B, those of
        all images (the released code); -inf where student i has no negative.
      others: [N, B, B], cosines of image b of student i and image b' of the teacher; -inf where b' = b.
      temperature: τ, divides all cosines.

    Returns:
      [N, B].
    """
    logits = jnp.concatenate([positive[..., None], negatives, others], axis=-1) / temperature
    return jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]


def faw(
    student: jax.Array,
    teacher: jax.Array,
    band: jax.Array,
    width: int,
    *,
    relative_to: str = "teacher",
    per_channel: bool = False,
    epsilon: float = 1e-9,
) -> jax.Array:
    """FAW, the frequency-based adaptive weight of a band, Eq. 3-5; a constant for the gradient.

    Eq. 3: E_b = Σ(|S| M_b) / (Σ M_b + ε), the mean magnitude of a band (framer_jax.frequency.bands.band_magnitude).
    Eq. 4: Δ_b⁽ⁱ⁾ = |E_b⁽ⁱ⁾ − E_b⁽ⁿ⁾| / (E_b⁽ⁿ⁾ + ε), its relative difference to the teacher's.
    Eq. 5: w_b⁽ⁱ⁾ = 1 / (1 + Δ_b⁽ⁱ⁾).

    Args:
      student: |S⁽ⁱ⁾| in half layout, [N, B, H, W // 2 + 1, C].
      teacher: |S⁽ⁿ⁾|, [1 or N, B, H, W // 2 + 1, C].
      band: M_b, bool of the same rank; axes of size 1 are shared.
      width: W of the maps.
      relative_to: whose E_b divides in Eq. 4, 'teacher' (the paper) or 'student' (the released code); 'absolute' for
        the difference alone.
      per_channel: E_b is the mean of the channels' quotients (the released code), not one quotient per image.
      epsilon: ε.

    Returns:
      w_b, [N, B] in (0, 1].
    """
    student_mean, teacher_mean = (
        band_magnitude(magnitude, band, width, per_channel, epsilon) for magnitude in (student, teacher)
    )
    difference = jnp.abs(student_mean - teacher_mean)
    if relative_to != "absolute":
        base = teacher_mean if relative_to == "teacher" else student_mean
        difference = difference / (base + epsilon)
    return jax.lax.stop_gradient(1.0 / (1.0 + difference))


def fam_alignment(cosine: jax.Array) -> jax.Array:
    """The alignment of FAM, Eq. 6 (low band) and Eq. 7 (high band): a_b⁽ⁱ⁾ = ReLU(cos(F_b⁽ⁱ⁾, F_b⁽ⁿ⁾)), a constant.

    Args:
      cosine: [N, B], cosine of student i and the teacher in the band.

    Returns:
      [N, B] in [0, 1], without a gradient.
    """
    return jax.nn.relu(jax.lax.stop_gradient(cosine))


def fam(weight: jax.Array, alignment: jax.Array) -> jax.Array:
    """FAM, the frequency-based alignment modulation of FAW, Eq. 8: w̃_b⁽ⁱ⁾ = w_b⁽ⁱ⁾ a_b⁽ⁱ⁾.

    Args:
      weight: [N, B], w_b from `faw`.
      alignment: [N, B], a_b from `fam_alignment`.

    Returns:
      [N, B] in [0, 1].
    """
    return weight * alignment


def framer_layer_loss(
    low_weight: jax.Array, low_loss: jax.Array, high_weight: jax.Array, high_loss: jax.Array
) -> jax.Array:
    """The loss of each student, Eq. 9: L⁽ⁱ⁾ = w̃_LF⁽ⁱ⁾ IntraCL⁽ⁱ⁾ + w̃_HF⁽ⁱ⁾ InterCL⁽ⁱ⁾.

    Args:
      low_weight: [N, B], w̃_LF from `fam`.
      low_loss: [N, B], `intra_cl` of the low band.
      high_weight: [N, B], w̃_HF from `fam`.
      high_loss: [N, B], `inter_cl` of the high band.

    Returns:
      [N, B].
    """
    return low_weight * low_loss + high_weight * high_loss


def framer_total(base_loss: jax.Array, framer_term: jax.Array, weight: jax.Array | float) -> jax.Array:
    """The training loss, Eq. 10: L = L_noise + λ Σᵢ L⁽ⁱ⁾; λ = 1 in the paper, 0.1 on the mean in the released code.

    Args:
      base_loss: [B], the loss of the recipe itself.
      framer_term: [B], Σᵢ L⁽ⁱ⁾ (`FramerLoss.values`).
      weight: λ, a scalar; framer_jax.losses.weight_schedule.weight_at gives it by training step.

    Returns:
      [B].
    """
    return base_loss + weight * framer_term


def draw_negatives(key: jax.Array, layers: int, settings: FramerSettings) -> jax.Array:
    """Draw for each student the student of the same image that is its negative.

    Args:
      key: typed PRNG key; used for 'random' only.
      layers: N, the number of students (taps less one).
      settings: `negatives` and, for 'next', `teacher` (a student's own teacher is never its negative).

    Returns:
      int32 [N] of student indices; -1 where a student has no negative.

    Raises:
      ValueError: no student.
    """
    if layers < 1:
        raise ValueError(f"FRAMER needs at least one student, got {layers}")
    if settings.negatives == "none":
        return jnp.full((layers,), -1, jnp.int32)
    if settings.negatives == "previous":
        return jnp.arange(layers, dtype=jnp.int32) - 1
    allowed = ~np.eye(layers, dtype=bool)
    if settings.teacher == "next":
        allowed &= ~np.eye(layers, k=1, dtype=bool)
    logits = jnp.where(jnp.asarray(allowed), jnp.float32(0), jnp.float32(-1e9))
    drawn = jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.asarray(allowed.any(axis=1)), drawn, jnp.int32(-1))


class _BandLoss(NamedTuple):
    """IntraCL or InterCL of one band, [N, B], and its factors, [N, B] without a gradient."""

    loss: jax.Array
    cosine: jax.Array
    weight: jax.Array  # w, FAW
    alignment: jax.Array  # a, FAM
    factor: jax.Array  # w a


def framer_loss(taps: tuple[jax.Array, ...], negatives: jax.Array, settings: FramerSettings) -> FramerLoss:
    """Σᵢ L⁽ⁱ⁾ of Eq. 9 and 10, summed or averaged over the students i.

    Gradients reach student i through its own cosines only: teacher, negatives, w and a are constants. Negatives of
    InterCL run over the batch axis of the arrays, so for the global batch pass global arrays (as under jit).

    Args:
      taps: N + 1 maps [B, H, W, C] of one shape, in order of depth, any float dtype (computed in float32). The last
        one is the teacher, unless `settings.teacher` names another. With `settings.repeats_last` (variant 'released')
        the caller passes every block's map and then the final output.
      negatives: int32 [N] from `draw_negatives`.
      settings: see FramerSettings.

    Returns:
      Values per image and diagnostics per student.

    Raises:
      ValueError: fewer than two taps, taps or negatives of another shape, a middle teacher that is no tap.
    """
    _check(taps, negatives, settings)
    students, teacher = students_and_teacher(taps, settings)  # [N, B, H, W, C], [1 or N, B, H, W, C]
    size = (teacher.shape[2], teacher.shape[3])
    student_features = spectral_or_pixel_features(students, settings)
    teacher_features = jax.lax.stop_gradient(spectral_or_pixel_features(teacher, settings))
    mask = low_band(teacher_features.magnitude, size, settings)  # [1 or N, 1 or B, H, W // 2 + 1, 1 or C]

    vectors = partial(band_vectors, student_features.compared, teacher_features.compared, negatives)

    def band_loss(band: BandVectors, band_mask: jax.Array, kind: str) -> _BandLoss:
        magnitudes = student_features.magnitude, teacher_features.magnitude
        return _band_loss(band, negatives >= 0, kind, magnitudes, band_mask, size[1], settings)

    low_vectors, high_vectors = vectors(band_filter(mask, size, settings))
    low = band_loss(low_vectors, mask, settings.low_loss)
    high = band_loss(high_vectors, ~mask, settings.high_loss)
    if settings.objective == "full":
        layers = framer_layer_loss(low.factor, low.loss, high.factor, high.loss)  # [N, B]
    elif settings.objective == "contrastive":
        (undivided,) = vectors(None)
        every = jnp.ones_like(mask)
        first, second = (band_loss(undivided, every, kind) for kind in (settings.low_loss, settings.high_loss))
        layers = framer_layer_loss(first.factor, first.loss, second.factor, second.loss)
    elif settings.objective == "l2":
        layers = jnp.mean(jnp.square(students - teacher), axis=(2, 3, 4))
    else:
        layers = jnp.zeros_like(low.cosine)
    values = jnp.sum(layers, axis=0) if settings.reduction == "sum" else jnp.mean(layers, axis=0)
    return FramerLoss(values, {**_diagnostics(low, "low"), **_diagnostics(high, "high")})


def _band_loss(
    band: BandVectors,
    has_negative: jax.Array,
    kind: str,
    magnitudes: tuple[jax.Array, jax.Array],
    mask: jax.Array,
    width: int,
    settings: FramerSettings,
) -> _BandLoss:
    """IntraCL or InterCL (`kind`) of one band, with FAW and FAM."""
    positive, negative_cosines, others = cosines(band, has_negative, kind, settings.negatives_of_all_images)
    if others is None:
        loss = intra_cl(positive, negative_cosines[..., 0], settings.temperature)
    else:
        loss = inter_cl(positive, negative_cosines, others, settings.temperature)
    cosine = jax.lax.stop_gradient(positive)
    weight = alignment = jnp.ones_like(cosine)
    if settings.faw:
        weight = faw(
            *magnitudes,
            mask,
            width,
            relative_to=settings.magnitude_relative_to,
            per_channel=settings.magnitude_per_channel,
            epsilon=settings.epsilon,
        )
    if settings.fam:
        alignment = fam_alignment(cosine)
    return _BandLoss(loss, cosine, weight, alignment, fam(weight, alignment))


def _diagnostics(band: _BandLoss, name: str) -> dict[str, jax.Array]:
    values = {"cosine": band.cosine, "weight": band.weight, "gate": band.alignment, "factor": band.factor}
    return {f"{key}_{name}": jnp.mean(value, axis=1) for key, value in values.items()}


def _check(taps: tuple[jax.Array, ...], negatives: jax.Array, settings: FramerSettings) -> None:
    if len(taps) < 2:
        raise ValueError(f"FRAMER needs at least two taps (a student and the teacher), got {len(taps)}")
    shapes = [tap.shape for tap in taps]
    if len(shapes[0]) != 4 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"taps must be [B, H, W, C] of one shape, got {shapes}: map them to the teacher's shape first")
    if negatives.shape != (len(taps) - 1,):
        raise ValueError(f"negatives must be [{len(taps) - 1}], one per student, got {negatives.shape}")
    layer = settings.teacher_layer
    if settings.teacher == "middle" and layer is not None and not 0 <= layer < len(taps):
        raise ValueError(
            f"framer.teacher_layer is {layer}, but there are {len(taps)} taps: choose 0 to {len(taps) - 1}"
        )
