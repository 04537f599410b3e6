"""Primitives of degradations in kornia (PyTorch, compiled) and in AlbumentationsX (OpenCV), peers of framer_jax's.

These are drivers only: both packages are the user's installation (`pip install kornia albumentationsx
opencv-python-headless`), and importing this module needs neither. All take a batch of images [B, H, W, 3] float32 in
[0, 1] and a parameter per image. kornia computes a batch at once, AlbumentationsX image by image, through the functions
that its transforms call once they have drawn their parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Primitive = Callable[[], Any]
"""Computes the batch; of kornia [B, 3, H, W], of AlbumentationsX a list of [H, W, 3]."""


def kornia_blur(images: np.ndarray, kernels: np.ndarray) -> Primitive:
    """Filter each image with its own kernel: `kernels` [B, K, K] float32."""
    import kornia

    return _compiled(lambda x, kernels: kornia.filters.filter2d(x, kernels, border_type="reflect"), images, kernels)


def kornia_resize(images: np.ndarray, scale: int) -> Primitive:
    """Reduce by a factor with bicubic weights and without a filter."""
    import kornia

    size = (images.shape[1] // scale, images.shape[2] // scale)
    return _compiled(lambda x: kornia.geometry.resize(x, size, interpolation="bicubic", antialias=False), images)


def kornia_noise(images: np.ndarray, sigmas: np.ndarray) -> Primitive:
    """Add Gaussian noise, as `RandomGaussianNoise` does with its draws: `sigmas` [B] float32."""
    import torch

    return _compiled(lambda x, sigmas: x + torch.randn_like(x) * sigmas[:, None, None, None], images, sigmas)


def kornia_jpeg(images: np.ndarray, qualities: np.ndarray) -> Primitive:
    """Compress and decompress: `qualities` [B] float32. kornia rounds differentiably."""
    import kornia

    return _compiled(kornia.enhance.jpeg_codec_differentiable, images, qualities)


def albumentations_blur(images: np.ndarray, kernels: np.ndarray) -> Primitive:
    """See `kornia_blur`."""
    from albumentations.augmentations.blur.functional import convolve

    return lambda: [convolve(image, kernel) for image, kernel in zip(images, kernels, strict=True)]


def albumentations_resize(images: np.ndarray, scale: int) -> Primitive:
    """See `kornia_resize`."""
    import cv2
    from albumentations.augmentations.geometric.functional import resize

    size = (images.shape[1] // scale, images.shape[2] // scale)
    return lambda: [resize(image, size, cv2.INTER_CUBIC) for image in images]


def albumentations_noise(images: np.ndarray, sigmas: np.ndarray) -> Primitive:
    """See `kornia_noise`; through the transform, whose functions take drawn noise."""
    import albumentations

    transforms = [
        albumentations.GaussNoise(std_range=(float(sigma), float(sigma)), per_channel=True, p=1.0) for sigma in sigmas
    ]
    return lambda: [transform(image=image)["image"] for transform, image in zip(transforms, images, strict=True)]


def albumentations_jpeg(images: np.ndarray, qualities: np.ndarray) -> Primitive:
    """Compress and decompress with libjpeg in 8 bits: `qualities` [B] float32 of whole numbers."""
    from albumentations.augmentations.pixel.functional import image_compression

    return lambda: [
        image_compression(image, int(quality), ".jpg") for image, quality in zip(images, qualities, strict=True)
    ]


def _compiled(function: Callable[..., Any], images: np.ndarray, *parameters: np.ndarray) -> Primitive:
    """A function of channels-first tensors through torch.compile."""
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    tensors = [torch.from_numpy(parameter) for parameter in parameters]
    compiled = torch.compile(function)

    def call() -> Any:
        with torch.inference_mode():
            return compiled(x, *tensors)

    return call
