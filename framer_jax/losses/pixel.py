"""Distances of images, pixel by pixel: SwinIR's loss, and the label consistency of AugKD."""

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
