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
    LowPass,
    band_magnitude,
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
from framer_jax.losses.framer_settings import FramerSettings, paper, released, teacher_index, weight_at

__all__ = [
    "FramerLoss",
    "FramerSettings",
    "clean_from_velocity",
    "draw_negatives",
    "framer_loss",
    "paper",
    "released",
    "teacher_index",
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


class _Features(NamedTuple):
    """What is compared in L taps: maps, or their spectra as real vectors; and the magnitudes, without gradient."""

    compared: jax.Array  # [L, B, H, W, C], or [L, B, P, H, W', C]
    magnitude: jax.Array  # [L, B, H, W', C]


class _Vectors(NamedTuple):
    vectors: jax.Array  # [L, B, D], one band of L taps
    inverse: jax.Array  # [L, B], 1 / length


class _Operands(NamedTuple):
    """The three sides of one band's cosines; only `student` carries a gradient."""

    student: _Vectors  # L = N
    target: _Vectors  # L = 1 or N
    negative: _Vectors  # L = N


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
    students, teacher = _split(taps, settings)  # [N, B, H, W, C], [1|N, B, H, W, C]
    size = (teacher.shape[2], teacher.shape[3])
    own, target = _features(students, settings), jax.lax.stop_gradient(_features(teacher, settings))
    low_mask = _low_mask(target.magnitude, size, settings)  # [1|N, 1|B, H, W', 1|C]

    def band(operands: _Operands, mask: jax.Array, kind: str) -> _Band:
        logits = _logits(operands, negatives >= 0, kind, settings.negatives_of_all_images)
        cosine = jax.lax.stop_gradient(logits[..., 0])
        logits = logits / settings.temperature
        weight = gate = jnp.ones_like(cosine)
        if settings.adaptive_weight:
            weight = _magnitude_weight(own.magnitude, target.magnitude, mask, size[1], settings)
        if settings.adaptive_modulation:
            gate = jax.nn.relu(cosine)  # Eq. 6, 7
        return _Band(jax.nn.logsumexp(logits, axis=-1) - logits[..., 0], cosine, weight, gate)

    division = low_pass(size, settings.radius) if _in_pixels(settings) else low_mask
    low_operands, high_operands = _operands(own.compared, target.compared, negatives, division)
    low = band(low_operands, low_mask, settings.low_loss)
    high = band(high_operands, ~low_mask, settings.high_loss)
    if settings.objective == "full":
        layers = _weighted(low) + _weighted(high)  # [N, B]
    elif settings.objective == "contrastive":
        everything = jnp.ones_like(low_mask)
        (whole,) = _operands(own.compared, target.compared, negatives, None)
        layers = _weighted(band(whole, everything, settings.low_loss))
        layers += _weighted(band(whole, everything, settings.high_loss))
    elif settings.objective == "l2":
        layers = jnp.mean(jnp.square(students - teacher), axis=(2, 3, 4))
    else:
        layers = jnp.zeros_like(low.cosine)
    values = jnp.sum(layers, axis=0) if settings.reduction == "sum" else jnp.mean(layers, axis=0)
    return FramerLoss(values, {**_diagnostics(low, "low"), **_diagnostics(high, "high")})


def _split(taps: tuple[jax.Array, ...], settings: FramerSettings) -> tuple[jax.Array, jax.Array]:
    """Students [N, B, H, W, C] and, without gradient, one teacher [1, ...] or one for each student; float32."""
    maps = [full_precision(tap) for tap in taps]
    if settings.teacher == "next":
        return jnp.stack(maps[:-1]), jax.lax.stop_gradient(jnp.stack(maps[1:]))
    teacher = maps.pop(teacher_index(settings, len(taps)))
    return jnp.stack(maps), jax.lax.stop_gradient(teacher)[None]


def _in_pixels(settings: FramerSettings) -> bool:
    """Whether the cosines are those of band-passed maps, for which no spectrum is needed."""
    return settings.bands == "disc" and settings.compare == "spectra"


def _features(maps: jax.Array, settings: FramerSettings) -> _Features:
    half = spectrum(maps)  # [L, B, H, W', C]; without a gradient path, and unused without FAW, in the pixel domain
    magnitude = jax.lax.stop_gradient(jnp.abs(half))
    if _in_pixels(settings):
        return _Features(maps, magnitude)
    return _Features(spectral_features(half, maps.shape[-2], settings.compare == "magnitudes"), magnitude)


def _low_mask(magnitude: jax.Array, size: tuple[int, int], settings: FramerSettings) -> jax.Array:
    if settings.bands == "quantile":
        return quantile_mask(magnitude, size[1], settings.quantile)
    mask = disc_mask(size, settings.radius)
    if mask.all():
        raise ValueError(f"framer.radius {settings.radius} leaves {size} maps no high band: lower it")
    return jnp.asarray(mask)[None, None, :, :, None]


def _operands(
    own: jax.Array, target: jax.Array, negatives: jax.Array, division: LowPass | jax.Array | None
) -> tuple[_Operands, ...]:
    """The operands of every cosine, for the low and the high band, or for the undivided map (None)."""
    # A gather as a product: XLA would fuse a real one with the split before it, 5x slower on a CPU.
    choice = jax.nn.one_hot(jnp.maximum(negatives, 0), own.shape[0], dtype=own.dtype)  # [N, N]

    def chosen(x: jax.Array) -> jax.Array:
        return jnp.tensordot(choice, jax.lax.stop_gradient(x), axes=1, precision=jax.lax.Precision.HIGHEST)

    students, targets = _bands(own, division), _bands(target, division)
    if isinstance(division, jax.Array) and division.shape[0] > 1:  # its student's mask, not its own
        others = _bands(chosen(own), division)
    else:
        others = jax.tree.map(chosen, students)
    return tuple(_Operands(*sides) for sides in zip(students, targets, others, strict=True))


def _bands(compared: jax.Array, division: LowPass | jax.Array | None) -> tuple[_Vectors, ...]:
    """(low, high), or the whole. Lengths are kept apart: cosines then need no normalised copy of the maps."""
    length = None
    if division is None:
        parts = [compared]
    elif isinstance(division, LowPass):
        parts = list(split_bands(compared, division))  # [L, B, P, Q, C], [L, B, H, W, C]
        length = jnp.sqrt(jnp.sum(jnp.square(jax.lax.stop_gradient(compared)), axis=(2, 3, 4)))  # [L, B]
    else:
        mask = division[:, :, None]  # [1|N, 1|B, 1, H, W', 1|C]
        parts = [compared * part.astype(compared.dtype) for part in (mask, ~mask)]
    flat = [part.reshape(*part.shape[:2], -1) for part in parts]
    return tuple(_Vectors(vectors, inverse_length(vectors, length)) for vectors in flat)


def _own_cosine(first: _Vectors, second: _Vectors) -> jax.Array:
    """Cosine of equal images: [N, B, 1]."""
    dots = jnp.sum(first.vectors * second.vectors, axis=-1)
    return (dots * first.inverse * second.inverse)[..., None]


def _cosines(first: _Vectors, second: _Vectors) -> jax.Array:
    """Cosines between all images: [N, B, B]."""
    if second.vectors.shape[0] == 1:  # one product for all layers, whose axis stays apart from that of the examples
        dots = jnp.einsum("lad,bd->lab", first.vectors, second.vectors[0], precision=jax.lax.Precision.HIGHEST)
    else:
        # Layer by layer: on a mesh each gathers the vectors of all images, which are many megabytes.
        dots = jax.lax.map(lambda pair: similarities(*pair), (first.vectors, second.vectors))
    return dots * first.inverse[:, :, None] * second.inverse[:, None, :]


def _logits(operands: _Operands, has_negative: jax.Array, kind: str, all_images: bool) -> jax.Array:
    """Cosines [N, B, K] of Eq. 1 ('intra') or Eq. 2 ('inter'), the positive first, -inf where a negative is missing."""
    student, target, negative = operands
    present = has_negative[:, None, None]  # [N, 1, 1]
    if kind == "intra":
        own_negative = jnp.where(present, _own_cosine(student, negative), -jnp.inf)  # [N, B, 1]
        return jnp.concatenate([_own_cosine(student, target), own_negative], axis=-1)
    own = jnp.eye(student.vectors.shape[1], dtype=bool)[None]
    cosines = _cosines(student, target)  # [N, B, B]
    others = jnp.where(own, -jnp.inf, cosines)
    own_negative = (_cosines if all_images else _own_cosine)(student, negative)  # [N, B, B or 1]
    own_negative = jnp.where(present, own_negative, -jnp.inf)
    return jnp.concatenate([jnp.einsum("nbb->nb", cosines)[..., None], own_negative, others], axis=-1)


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
