"""The FRAMER term: frequency-aligned self-distillation between the layers of one denoiser.

"FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (arXiv 2512.01390, CVPR 2026). The last feature
map is the teacher, every earlier one a student; IntraCL (Eq. 1) pulls low bands together, InterCL (Eq. 2) high bands,
FAW (Eq. 3-5) and FAM (Eq. 6-8) weigh them. Which reading of the method runs is a matter of `FramerSettings`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import (
    VECTOR_AXES,
    band_magnitude,
    disc_mask,
    quantile_mask,
    similarities,
    spectral_features,
    spectrum,
    unit,
)
from framer_jax.losses.framer_settings import FramerSettings, paper, released, weight_at

__all__ = [
    "FramerLoss",
    "FramerSettings",
    "clean_from_velocity",
    "draw_negatives",
    "framer_loss",
    "paper",
    "released",
    "weight_at",
]


class FramerLoss(NamedTuple):
    """The term before lambda, and what it saw.

    Attributes:
      values: [B] float32, summed or averaged over the students; not multiplied by lambda.
      diagnostics: float32 [N] each, the mean over images per student, for the bands `low` and `high`:
        `cosine_*` to the teacher, `weight_*` (FAW), `gate_*` (FAM) and `factor_*` = weight x gate. Always measured in
        the two bands, so that runs with different objectives compare; `weight` and `gate` are 1 where switched off.
    """

    values: jax.Array
    diagnostics: dict[str, jax.Array]


class _Spectra(NamedTuple):
    features: jax.Array  # [L, B, P, H, W', C], vectors to compare
    magnitude: jax.Array  # [L, B, H, W', C], no gradient


class _Band(NamedTuple):
    loss: jax.Array  # [N, B], IntraCL or InterCL
    cosine: jax.Array  # [N, B], no gradient here and below
    weight: jax.Array
    gate: jax.Array


def draw_negatives(key: jax.Array, layers: int, settings: FramerSettings) -> jax.Array:
    """For each student, the student of the same image that is its negative.

    Args:
      key: typed PRNG key; used for 'random' only.
      layers: N, the number of students (taps less one).
      settings: `negatives` and, for 'next', `teacher` (a student's own teacher is never its negative).

    Returns:
      int32 [N] of student indices; -1 where a student has no negative.
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


def clean_from_velocity(noisy: jax.Array, velocity: jax.Array, sigma: jax.Array) -> jax.Array:
    """Clean-latent guess of a flow model, x0 = z_t - sigma v: the map that the `released` reading compares.

    Args:
      noisy: z_t [B, H, W, C].
      velocity: [B, H, W, C], a block's tokens through the model's own final norm, projection and unpatchify.
      sigma: [B], noise share of z_t.

    Returns:
      [B, H, W, C] float32.
    """
    sigma = sigma.astype(jnp.float32)[:, None, None, None]
    return noisy.astype(jnp.float32) - sigma * velocity.astype(jnp.float32)


def framer_loss(taps: tuple[jax.Array, ...], negatives: jax.Array, settings: FramerSettings) -> FramerLoss:
    """L^(i) = w_LF a_LF IntraCL + w_HF a_HF InterCL (Eq. 9), summed or averaged over the students i.

    Gradients reach student i through its own cosines only: teacher, negatives, w and a are constants. Negatives of
    InterCL run over the batch axis of the arrays given, so for the global batch give global arrays (as under jit).

    Args:
      taps: N + 1 maps [B, H, W, C] of one shape, in order of depth, any float dtype (computed in float32). The last
        one is the teacher, whatever `settings.last_is_student` says: a caller of the `released` reading gives every
        block's map and then the final output.
      negatives: int32 [N] from `draw_negatives`.
      settings: every switch.

    Returns:
      Values per image and diagnostics per student.

    Raises:
      ValueError: fewer than two taps, taps or negatives of another shape, a middle teacher that is no tap.
    """
    _check(taps, negatives, settings)
    students, teacher = _split(taps, settings)  # [N, B, H, W, C], [1, B, H, W, C]
    width = teacher.shape[-2]
    student_spectra = _spectra(students, settings)
    teacher_spectra = _teacher(student_spectra, _spectra(teacher, settings), settings)
    low_mask = _low_mask(teacher_spectra.magnitude, width, settings)  # [1|N, 1|B, H, W', 1|C]

    def band(mask: jax.Array, kind: str) -> _Band:
        return _band(student_spectra, teacher_spectra, mask, negatives, kind, width, settings)

    low, high = band(low_mask, settings.low_loss), band(~low_mask, settings.high_loss)
    if settings.objective == "full":
        layers = _weighted(low) + _weighted(high)  # [N, B]
    elif settings.objective == "contrastive":
        everything = jnp.ones_like(low_mask)
        layers = _weighted(band(everything, settings.low_loss)) + _weighted(band(everything, settings.high_loss))
    elif settings.objective == "l2":
        target = jnp.concatenate([students[1:], teacher]) if settings.teacher == "next" else teacher
        layers = jnp.mean(jnp.square(students - jax.lax.stop_gradient(target)), axis=(2, 3, 4))
    else:
        layers = jnp.zeros_like(low.cosine)
    values = jnp.sum(layers, axis=0) if settings.reduction == "sum" else jnp.mean(layers, axis=0)
    return FramerLoss(values, {**_diagnostics(low, "low"), **_diagnostics(high, "high")})


def _split(taps: tuple[jax.Array, ...], settings: FramerSettings) -> tuple[jax.Array, jax.Array]:
    """Students [N, B, H, W, C] and teacher [1, B, H, W, C] in float32."""
    maps = [tap.astype(jnp.promote_types(tap.dtype, jnp.float32)) for tap in taps]
    index = len(taps) - 1
    if settings.teacher == "middle":
        index = (len(taps) - 1) // 2 if settings.teacher_layer is None else settings.teacher_layer
    teacher = maps.pop(index)
    return jnp.stack(maps), jax.lax.stop_gradient(teacher)[None]


def _spectra(maps: jax.Array, settings: FramerSettings) -> _Spectra:
    half = spectrum(maps)  # [L, B, H, W', C]
    features = spectral_features(half, maps.shape[-2], settings.compare == "magnitudes")
    return _Spectra(features, jax.lax.stop_gradient(jnp.abs(half)))


def _teacher(students: _Spectra, last: _Spectra, settings: FramerSettings) -> _Spectra:
    """The teacher's spectra, without gradient: [1, ...] for one teacher of all, [N, ...] for each tap's successor."""
    if settings.teacher == "next":
        last = jax.tree.map(lambda student, final: jnp.concatenate([student[1:], final]), students, last)
    return jax.lax.stop_gradient(last)


def _low_mask(magnitude: jax.Array, width: int, settings: FramerSettings) -> jax.Array:
    if settings.bands == "quantile":
        return quantile_mask(magnitude, width, settings.quantile)
    mask = disc_mask((magnitude.shape[-3], width), settings.radius)
    if mask.all():
        raise ValueError(
            f"radius {settings.radius} leaves no high band on {magnitude.shape[-3]}x{width} maps: lower it"
        )
    return jnp.asarray(mask)[None, None, :, :, None]


def _band(
    students: _Spectra,
    teacher: _Spectra,
    mask: jax.Array,  # [1|N, 1|B, H, W', 1|C]
    negatives: jax.Array,
    kind: str,
    width: int,
    settings: FramerSettings,
) -> _Band:
    """One band's contrastive loss and its two factors."""
    vector_mask = mask[:, :, None].astype(students.features.dtype)
    student = unit(students.features * vector_mask)  # [N, B, P, H, W', C]
    target = unit(teacher.features * vector_mask)  # [1|N, B, P, H, W', C]
    index = jnp.maximum(negatives, 0)
    if mask.shape[0] == 1:
        negative = jax.lax.stop_gradient(student)[index]
    else:  # every student has a mask of its own, which its negative must wear
        negative = unit(jax.lax.stop_gradient(students.features)[index] * vector_mask)
    logits = _logits(student, target, negative, negatives >= 0, kind, settings.negatives_of_all_images)
    cosine = jax.lax.stop_gradient(logits[..., 0])
    logits = logits / settings.temperature
    loss = jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]
    weight = jnp.ones_like(cosine)
    if settings.adaptive_weight:
        weight = _magnitude_weight(students.magnitude, teacher.magnitude, mask, width, settings)
    gate = jax.nn.relu(cosine) if settings.adaptive_modulation else jnp.ones_like(cosine)  # Eq. 6, 7
    return _Band(loss, cosine, weight, gate)


def _logits(
    student: jax.Array, target: jax.Array, negative: jax.Array, has_negative: jax.Array, kind: str, all_images: bool
) -> jax.Array:
    """Cosines [N, B, K] of Eq. 1 ('intra') or Eq. 2 ('inter'), the positive first, -inf where a negative is missing."""
    present = has_negative[:, None, None]  # [N, 1, 1]
    own_negative = jnp.where(present, jnp.sum(student * negative, axis=VECTOR_AXES)[..., None], -jnp.inf)  # [N, B, 1]
    if kind == "intra":
        positive = jnp.sum(student * target, axis=VECTOR_AXES)[..., None]
        return jnp.concatenate([positive, own_negative], axis=-1)
    layers, batch = student.shape[:2]
    own = jnp.eye(batch, dtype=bool)[None]
    if target.shape[0] == 1:
        flat = student.reshape(layers * batch, *student.shape[2:])
        cosines = similarities(flat, target[0]).reshape(layers, batch, batch)
    else:
        cosines = similarities(student, target)  # [N, B, B]
    positive = jnp.einsum("nbb->nb", cosines)[..., None]
    columns = [positive, own_negative, jnp.where(own, -jnp.inf, cosines)]
    if all_images:
        columns.append(jnp.where(present & ~own, similarities(student, negative), -jnp.inf))
    return jnp.concatenate(columns, axis=-1)


def _magnitude_weight(
    student: jax.Array, teacher: jax.Array, mask: jax.Array, width: int, settings: FramerSettings
) -> jax.Array:
    """FAW (Eq. 3-5): w = 1 / (1 + Delta) [N, B], Delta the (relative) difference of mean band magnitudes."""
    own, target = (
        band_magnitude(magnitude, mask, width, settings.magnitude_per_channel, settings.epsilon)
        for magnitude in (student, teacher)
    )
    difference = jnp.abs(own - target)
    if settings.magnitude_relative_to != "absolute":
        base = target if settings.magnitude_relative_to == "teacher" else own
        difference = difference / (base + settings.epsilon)
    return 1.0 / (1.0 + difference)


def _weighted(band: _Band) -> jax.Array:
    return band.weight * band.gate * band.loss


def _diagnostics(band: _Band, name: str) -> dict[str, jax.Array]:
    values = {"cosine": band.cosine, "weight": band.weight, "gate": band.gate, "factor": band.weight * band.gate}
    return {f"{key}_{name}": jnp.mean(value, axis=1) for key, value in values.items()}


def _check(taps: tuple[jax.Array, ...], negatives: jax.Array, settings: FramerSettings) -> None:
    if len(taps) < 2:
        raise ValueError(f"FRAMER needs at least two taps (a student and the teacher), got {len(taps)}")
    shapes = [tap.shape for tap in taps]
    if len(shapes[0]) != 4 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"taps must be [B, H, W, C] of one shape, got {shapes}: map them to the teacher's first")
    if negatives.shape != (len(taps) - 1,):
        raise ValueError(f"negatives must be [{len(taps) - 1}], one per student, got {negatives.shape}")
    layer = settings.teacher_layer
    if settings.teacher == "middle" and layer is not None and not 0 <= layer < len(taps):
        raise ValueError(
            f"framer.teacher_layer is {layer}, but there are {len(taps)} taps: choose 0 to {len(taps) - 1}"
        )
