"""AugKD: a student that learns from its teacher on more inputs than the training pairs.

Zhang et al., "AugKD: Ingenious Augmentations Empower Knowledge Distillation for Image Super-Resolution" (ICLR 2025):
the teacher labels auxiliary images made of a training pair by zooming in (a crop of the HR image, as large as the LR
image) and out (the LR image, downsampled once more), for which there is no ground truth. The student sees them under an
invertible augmentation F, and F^-1 of its output is compared with the teacher's output for the plain image (label
consistency). The available sources name these parts and print no weights, no set of F and no norms. Here the norm is
L1, and the weights (1) and transforms (color inversion, flips, transposition) are settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.losses.pixel import label_consistency, pixel_errors
from framer_jax.models.denoiser import OnePassNetwork
from framer_jax.recipes.augkd.settings import VIEWS, AugKdSettings
from framer_jax.recipes.base import PIXELS, Batch, Frozen, Loss, LossFunction, Params, Precompute, Recipe, State
from framer_jax.recipes.components.one_pass import one_pass_recipe, predictor, references
from framer_jax.recipes.components.teacher import TEACHER, Teacher, teacher_outputs, teacher_targets

FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "invert": lambda image: 1.0 - image,
    "flip": lambda image: image[::-1],
    "mirror": lambda image: image[:, ::-1],
    "transpose": lambda image: image.swapaxes(0, 1),
}
"""Transform → function of an image [H, W, 3] in [0, 1] and of its SR image alike; each is its own inverse."""

CORNER = "zoom_in_corner"
"""The batch entry with the position of a precomputed zoom-in in the HR image."""

ENTRIES = {view: TEACHER if view == "plain" else f"{TEACHER}_{view}" for view in VIEWS}
"""View → the batch entry with the teacher's outputs for it."""

_KEY = 0xA06  # folded into the loss key, so that the student's own draws are those of the method without a teacher


def augkd(
    student: OnePassNetwork, scale: int, settings: AugKdSettings, teacher: Teacher | None, precomputed: bool = False
) -> Recipe:
    """The recipe.

    Args:
      student: as of framer_jax.recipes.components.one_pass.one_pass_recipe; group 'student'.
      scale: its upsampling factor.
      settings: see AugKdSettings.
      teacher: None where nothing will be trained.
      precomputed: batches bring the teacher's outputs.
    """
    return one_pass_recipe(
        "augkd",
        student,
        scale,
        _loss(student, scale, settings, teacher, precomputed),
        teacher.frozen if teacher else {},
        _precompute(scale, settings, teacher) if teacher else None,
        tuple(ENTRIES.values()),
        (*PIXELS, *record_entries(settings)) if precomputed else PIXELS,
    )


def record_entries(settings: AugKdSettings) -> tuple[str, ...]:
    """The entries that precomputed records of these settings have besides the images."""
    return (CORNER, *(ENTRIES[view] for view in VIEWS if settings.weight_of(view)))


def augment(images: jax.Array, drawn: jax.Array, transforms: tuple[str, ...]) -> jax.Array:
    """F: apply to each image the transforms that were drawn for it, in order.

    Args:
      images: [B, H, W, 3] in [0, 1], square if one of the transforms is 'transpose'.
      drawn: [N, B] bool.
      transforms: N names of `FUNCTIONS`.

    Raises:
      ValueError: images that are to be transposed and are not square.
    """
    if "transpose" in transforms and images.shape[1] != images.shape[2]:
        raise ValueError(
            f"images of {images.shape[1:3]} pixels are not square: leave 'transpose' out of recipe.augkd.transforms"
        )
    for name, chosen in zip(transforms, drawn, strict=True):
        images = jnp.where(chosen[:, None, None, None], jax.vmap(FUNCTIONS[name])(images), images)
    return images


def invert_augmentation(images: jax.Array, drawn: jax.Array, transforms: tuple[str, ...]) -> jax.Array:
    """F^-1: the same transforms in reverse order, each being its own inverse."""
    return augment(images, drawn[::-1], transforms[::-1])


def zoom_in(hr: jax.Array, corner: jax.Array, scale: int) -> jax.Array:
    """Crops of HR images [B, sH, sW, 3] whose first pixel is at `corner` [B, 2]: [B, H, W, 3]."""
    size = (hr.shape[1] // scale, hr.shape[2] // scale, hr.shape[3])
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), size))(hr, corner)


def zoom_out(lr: jax.Array, scale: int) -> jax.Array:
    """LR images [B, H, W, 3], downsampled by bicubic interpolation (A = -0.5, antialiased): [B, H / s, W / s, 3].

    Raises:
      ValueError: they are smaller than the scale.
    """
    batch, height, width, channels = lr.shape
    if min(height, width) < scale:
        raise ValueError(
            f"LR images of {(height, width)} pixels cannot be downsampled by {scale}: use a larger data.crop, or "
            "recipe.augkd.zoom_out=False"
        )
    size = (batch, height // scale, width // scale, channels)
    return jnp.clip(jax.image.resize(lr, size, "cubic", antialias=True), 0.0, 1.0)


def draw_corners(key: jax.Array, hr: jax.Array, scale: int) -> jax.Array:
    """Uniform positions of crops of HR images [B, sH, sW, 3]: [B, 2] int32. `key` is [B] keys."""
    limits = jnp.asarray([side - side // scale + 1 for side in hr.shape[1:3]], jnp.int32)
    return jax.vmap(lambda one: jax.random.randint(one, (2,), 0, limits, jnp.int32))(key)


def _views(batch: Batch, corner: jax.Array, scale: int, settings: AugKdSettings) -> dict[str, jax.Array]:
    """The teacher's inputs: view → [B, h, w, 3] in [0, 1]."""
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
        outputs = {
            ENTRIES[view]: teacher_outputs(teacher, frozen, images, _noise_of(noise, view), teacher.settings.samples)
            for view, images in _views(batch, corner, scale, settings).items()
        }
        return {CORNER: corner, **outputs}

    return precompute


def _loss(
    student: OnePassNetwork, scale: int, settings: AugKdSettings, teacher: Teacher | None, precomputed: bool
) -> LossFunction:
    predict, reference = predictor(student), references(student)
    transforms = settings.transforms

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        count = batch["lr"].shape[0]
        prediction, taps = predict(params, batch["lr"], key)  # [B, sH, sW, 3]
        metrics = pixel_errors(prediction, reference(batch["hr"]))
        values = metrics["pixel_l1"]
        noise = noise_field(jax.random.fold_in(key, _KEY), count)
        corner = batch[CORNER] if precomputed else draw_corners(noise.key, batch["hr"], scale)
        for number, (view, images) in enumerate(_views(batch, corner, scale, settings).items()):
            key_drawn, key_depth, key_sample = jax.random.split(jax.random.fold_in(key, _KEY + 1 + number), 3)
            if view != "plain" or settings.augment_pairs:
                drawn = jax.random.uniform(key_drawn, (len(transforms), count), jnp.float32) < settings.probability
                output = predict(params, augment(images, drawn, transforms), key_depth)[0]
                output = invert_augmentation(output, drawn, transforms)
            else:
                output = prediction
            view_noise = _noise_of(noise, view)
            targets = teacher_targets(
                teacher, frozen, batch, images, view_noise, key_sample, precomputed, ENTRIES[view]
            )  # [B, K, sH, sW, 3]
            distance = label_consistency(output, reference(targets))  # [B]
            metrics[f"teacher_{view}"] = distance
            values = values + jnp.float32(settings.weight_of(view)) * distance
        return Loss(values, metrics, taps, state)

    return loss
