"""AugKD: a student that learns its teacher's answers to more questions than the training pairs ask.

Zhang et al., "AugKD: Ingenious Augmentations Empower Knowledge Distillation for Image Super-Resolution" (ICLR 2025):
the teacher labels auxiliary images made of a training pair by zooming in (a part of the HR image, as large as the LR
image) and out (the LR image, reduced once more), for which there is no ground truth. The student sees them under an
invertible augmentation F, and F^-1 of its picture is compared with the teacher's picture of the plain image (label
consistency). The sources at hand name these parts and print no weights, no set of F and no norms. Here the norm is L1,
and the weights (1) and transforms (colour inversion, flips, transposition) are settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.losses.pixel import label_consistency, pixel_errors
from framer_jax.recipes.base import Batch, Frozen, Loss, LossFunction, Params, Precompute, Recipe, State
from framer_jax.recipes.swinir import predictor
from framer_jax.recipes.teacher import TEACHER, Teacher, pictures, taught, taught_student

TRANSFORMS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "invert": lambda image: 1.0 - image,
    "flip": lambda image: image[::-1],
    "mirror": lambda image: image[:, ::-1],
    "transpose": lambda image: image.swapaxes(0, 1),
}
"""Of an image [H, W, 3] in [0, 1] and of its enlargement alike; each is its own inverse. Turns by quarters are products
of the last three."""

CORNER = "zoom_in_corner"
"""The entry of a batch that says where in the HR image a precomputed zoom-in lies."""

VIEWS = ("plain", "zoom_in", "zoom_out")

ENTRIES = {view: TEACHER if view == "plain" else f"{TEACHER}_{view}" for view in VIEWS}
"""View → the entry of a batch with the teacher's pictures of it."""

_KEY = 0xA06  # folded into the loss key, so that the student's own draws are those of the recipe without a teacher


@dataclass(frozen=True)
class AugKdSettings:
    """The objective.

    Attributes:
      weight: of |S(x) - T(x)|_1 on the LR images of the pairs.
      auxiliary_weight: of |F^-1 S(F x') - T(x')|_1, on each kind of auxiliary image x'.
      zoom_in: use parts of the HR image as auxiliary images.
      zoom_out: use bicubic reductions of the LR image.
      transforms: names in `TRANSFORMS`; F is a product of some of them, drawn per example.
      probability: of each of them.
      augment_pairs: draw an F for the LR images of the pairs too.

    Raises:
      ValueError: an unknown transform, or a value outside its range.
    """

    weight: float = 1.0
    auxiliary_weight: float = 1.0
    zoom_in: bool = True
    zoom_out: bool = True
    transforms: tuple[str, ...] = tuple(TRANSFORMS)
    probability: float = 0.5
    augment_pairs: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.transforms) - set(TRANSFORMS)):
            raise ValueError(f"recipe.augkd.transforms has {unknown[0]!r}: choose from {', '.join(TRANSFORMS)}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"recipe.augkd.probability is {self.probability}: it must lie in [0, 1]")
        for name in ("weight", "auxiliary_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"recipe.augkd.{name} is {getattr(self, name)}: it must be a number of at least 0")

    def weight_of(self, view: str) -> float:
        """The factor of a view's term; 0 where it is left out."""
        if view == "plain":
            return self.weight
        return self.auxiliary_weight * getattr(self, view)


def augkd(student: nn.Module, scale: int, settings: AugKdSettings, teacher: Teacher | None) -> Recipe:
    """The recipe. `sample` and `mean` are one pass of the student.

    Args:
      student: as of framer_jax.recipes.swinir.swinir; group 'student'.
      scale: its enlargement.
      settings: see AugKdSettings.
      teacher: None where nothing will be trained.
    """
    precompute = _precompute(scale, settings, teacher) if teacher else None
    return taught_student("augkd", student, scale, _loss(student, scale, settings, teacher), teacher, precompute)


def augment(images: jax.Array, drawn: jax.Array, transforms: tuple[str, ...]) -> jax.Array:
    """F: apply to each image the transforms that were drawn for it, in their order.

    Args:
      images: [B, H, W, 3] in [0, 1], square if one of the transforms is 'transpose'.
      drawn: [N, B] bool.
      transforms: N names in `TRANSFORMS`.

    Raises:
      ValueError: images that are not square and shall be transposed.
    """
    if "transpose" in transforms and images.shape[1] != images.shape[2]:
        raise ValueError(
            f"images of {images.shape[1:3]} pixels are not square: leave 'transpose' out of recipe.augkd.transforms"
        )
    for name, chosen in zip(transforms, drawn, strict=True):
        images = jnp.where(chosen[:, None, None, None], jax.vmap(TRANSFORMS[name])(images), images)
    return images


def restore(images: jax.Array, drawn: jax.Array, transforms: tuple[str, ...]) -> jax.Array:
    """F^-1: the same in the opposite order, each transform being its own inverse."""
    return augment(images, drawn[::-1], transforms[::-1])


def zoom_in(hr: jax.Array, corner: jax.Array, scale: int) -> jax.Array:
    """The part of HR images [B, sH, sW, 3] whose first pixel is at `corner` [B, 2]: [B, H, W, 3]."""
    size = (hr.shape[1] // scale, hr.shape[2] // scale, hr.shape[3])
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), size))(hr, corner)


def zoom_out(lr: jax.Array, scale: int) -> jax.Array:
    """LR images [B, H, W, 3], reduced by bicubic interpolation (A = -0.5, antialiased): [B, H / s, W / s, 3].

    Raises:
      ValueError: they are smaller than the scale.
    """
    batch, height, width, colours = lr.shape
    if min(height, width) < scale:
        raise ValueError(
            f"LR images of {(height, width)} pixels cannot be reduced by {scale}: use a larger data.crop, or "
            "recipe.augkd.zoom_out=False"
        )
    size = (batch, height // scale, width // scale, colours)
    return jnp.clip(jax.image.resize(lr, size, "cubic", antialias=True), 0.0, 1.0)


def draw_corners(key: jax.Array, hr: jax.Array, scale: int) -> jax.Array:
    """A place for a zoom-in on each HR image [B, sH, sW, 3], uniform: [B, 2] int32. `key` is [B] keys."""
    most = jnp.asarray([side - side // scale + 1 for side in hr.shape[1:3]], jnp.int32)
    return jax.vmap(lambda own: jax.random.randint(own, (2,), 0, most, jnp.int32))(key)


def _views(batch: Batch, corner: jax.Array, scale: int, settings: AugKdSettings) -> dict[str, jax.Array]:
    """The images that the teacher is asked about: view → [B, h, w, 3] in [0, 1]."""
    makers: dict[str, Callable[[], jax.Array]] = {
        "plain": lambda: batch["lr"],
        "zoom_in": lambda: zoom_in(batch["hr"], corner, scale),
        "zoom_out": lambda: zoom_out(batch["lr"], scale),
    }
    return {view: makers[view]() for view in VIEWS if settings.weight_of(view)}


def _noise_of(noise: NoiseField, view: str) -> NoiseField:
    """The noise of a view, which the other views do not share."""
    number = VIEWS.index(view)
    return noise._replace(key=jax.vmap(lambda key: jax.random.fold_in(key, _KEY + number))(noise.key))


def _precompute(scale: int, settings: AugKdSettings, teacher: Teacher) -> Precompute:
    def precompute(frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        corner = draw_corners(noise.key, batch["hr"], scale)
        found = {
            ENTRIES[view]: pictures(teacher, frozen, images, _noise_of(noise, view), teacher.samples)
            for view, images in _views(batch, corner, scale, settings).items()
        }
        return {CORNER: corner, **found}

    return precompute


def _loss(student: nn.Module, scale: int, settings: AugKdSettings, teacher: Teacher | None) -> LossFunction:
    predict = predictor(student)
    transforms = settings.transforms

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        count = batch["lr"].shape[0]
        prediction, taps = predict(params, batch["lr"], key)  # [B, sH, sW, 3]
        metrics = pixel_errors(prediction, batch["hr"])
        values = metrics["pixel_l1"]
        noise = noise_field(jax.random.fold_in(key, _KEY), count)
        corner = batch[CORNER] if CORNER in batch else draw_corners(noise.key, batch["hr"], scale)
        for number, (view, images) in enumerate(_views(batch, corner, scale, settings).items()):
            key_drawn, key_depth, key_sample = jax.random.split(jax.random.fold_in(key, _KEY + 1 + number), 3)
            if view != "plain" or settings.augment_pairs:
                drawn = jax.random.uniform(key_drawn, (len(transforms), count), jnp.float32) < settings.probability
                seen = predict(params, augment(images, drawn, transforms), key_depth)[0]
                picture = restore(seen, drawn, transforms)
            else:
                picture = prediction
            found = taught(teacher, frozen, batch, images, _noise_of(noise, view), key_sample, ENTRIES[view])
            distance = label_consistency(picture, found)  # [B]
            metrics[f"teacher_{view}"] = distance
            values = values + jnp.float32(settings.weight_of(view)) * distance
        return Loss(values, metrics, taps, state)

    return loss
