"""Distances of images, pixel by pixel: SwinIR's loss, the label consistency of AugKD, and checkerboards."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def pixel_l1(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """SwinIR's loss for classical and lightweight super-resolution: |S(x) − y|₁, averaged over pixels and colors.

    Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021), Eq. 7.

    Args:
      prediction: [B, H, W, 3] float32.
      target: of the same shape.

    Returns:
      [B] float32.
    """
    return jnp.abs(prediction - target).mean(axis=(1, 2, 3))


def pixel_mse(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of images [B, H, W, 3]: [B] float32."""
    return jnp.square(prediction - target).mean(axis=(1, 2, 3))


def pixel_errors(prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
    """`pixel_l1` and `pixel_mse` by name, [B] float32 each: the loss of a student network and its metrics."""
    return {"pixel_l1": pixel_l1(prediction, target), "pixel_mse": pixel_mse(prediction, target)}


def label_consistency(student_image: jax.Array, teacher_images: jax.Array) -> jax.Array:
    """AugKD's label consistency: |F⁻¹(S(F(x))) − T(x)|₁, averaged over pixels, colors and the teacher's samples.

    Zhang et al., "AugKD: Ingenious Augmentations Empower Knowledge Distillation for Image Super-Resolution" (ICLR
    2025). The available sources do not state the norm; L1 is a choice.

    Args:
      student_image: F⁻¹(S(F(x))), [B, H, W, 3] float32: the student's output for the augmented image, with the
        augmentation F undone.
      teacher_images: T(x), [B, K, H, W, 3]: K outputs of the teacher for the plain image.

    Returns:
      [B] float32.
    """
    return jnp.abs(student_image[:, None] - teacher_images).mean(axis=(1, 2, 3, 4))


CHECKERBOARD_CELLS = 8
"""Cells along each side of the windows in which `checkerboard_error` averages them."""


def checkerboard_error(prediction: jax.Array, target: jax.Array, period: int) -> jax.Array:
    """How much of the error repeats with a period: checkerboard artifacts, as those of a pixel shuffle.

    Perceptual losses reward texture, and a network without random inputs draws it at the same place of every cell of
    period² pixels. Windows of `CHECKERBOARD_CELLS`² cells are averaged over their cells, in which errors cancel unless
    they are the same in every cell; the mean over the cell is no pattern and is subtracted. The artifacts are described
    by Odena et al., "Deconvolution and Checkerboard Artifacts" (Distill 2016); the term is framer_jax's, not published.

    Args:
      prediction: [B, H, W, C] float32; rows and columns beyond the last whole window are not read.
      target: of the same shape.
      period: side of a cell, pixels: the factor of the pixel shuffle.

    Returns:
      [B] float32: the mean absolute value of the windows' patterns.

    Raises:
      ValueError: images that are smaller than a window.
    """
    return jnp.abs(_pattern(prediction - target, period, CHECKERBOARD_CELLS)).mean(axis=(1, 2, 3, 4, 5))


CHECKERBOARD_TEXTURE_CELLS = 16
"""Cells along each side of the windows of `checkerboard_texture_error`: magnitudes do not cancel, so that chance leaves
more of them than of signed errors in an average over as many cells."""


def checkerboard_texture_error(prediction: jax.Array, target: jax.Array, period: int) -> jax.Array:
    """How much the strength of texture depends on the place in a cell of period² pixels, beyond that of the target.

    A pattern whose sign changes from place to place cancels in the average of `checkerboard_error`, but still is strong
    at the same pixels of every cell. Strength is the magnitude of three high-pass filters: the differences to the pixel
    on the right and to the one below, and the difference to the mean of 3 x 3 pixels. The term is framer_jax's, not
    published.

    Args:
      prediction: [B, H, W, C] float32; rows and columns beyond the last whole window are not read.
      target: of the same shape.
      period: side of a cell, pixels: the factor of the pixel shuffle.

    Returns:
      [B] float32: the mean absolute difference of the windows' patterns of strength.

    Raises:
      ValueError: images that are smaller than a window of `CHECKERBOARD_TEXTURE_CELLS`² cells.
    """
    strength = [
        jnp.abs(_pattern(of_prediction - of_target, period, CHECKERBOARD_TEXTURE_CELLS)).mean(axis=(1, 2, 3, 4, 5))
        for of_prediction, of_target in zip(_texture(prediction), _texture(target), strict=True)
    ]
    return jnp.stack(strength).mean(axis=0)


def _texture(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Magnitudes [B, H, W, C] of three high-pass filters; the image continues at its borders with the last pixel."""
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")  # [B, H + 2, W + 2, C]
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    mean = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9.0
    return (
        jnp.abs(padded[:, 1:-1, 2:] - image),
        jnp.abs(padded[:, 2:, 1:-1] - image),
        jnp.abs(image - mean),
    )


def _pattern(values: jax.Array, period: int, count: int) -> jax.Array:
    """The part [B, rows, period, columns, period, C] that the cells of a window share, without its mean over the cell.

    Args:
      values: [B, H, W, C].
      period: side of a cell, pixels.
      count: cells along each side of a window.

    Raises:
      ValueError: images that are smaller than a window.
    """
    batch, height, width, channels = values.shape
    window = count * period
    rows, columns = height // window, width // window
    if not rows or not columns:
        raise ValueError(f"images of {height} x {width} are smaller than a window of {window} x {window} pixels")
    values = values[:, : rows * window, : columns * window]
    cells = values.reshape(batch, rows, count, period, columns, count, period, channels)
    pattern = cells.mean(axis=(2, 5))
    return pattern - pattern.mean(axis=(2, 4), keepdims=True)
