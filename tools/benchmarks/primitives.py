"""The degradation's primitives, next to those of kornia and AlbumentationsX."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tools.benchmark_one_pass import figures
from tools.benchmark_swinir import Program, compiled_program
from tools.peers import augmentations as peers

BATCH, SIDE, KERNEL, SCALE = 8, 512, 21, 4
"""Images of a batch, their side, that of their blur kernels, and the factor of the reduction."""

NEEDS: Mapping[str, tuple[str, ...]] = {"kornia": ("torch", "kornia"), "albumentationsx": ("albumentations",)}
"""Program → the packages that it needs."""


class Case(NamedTuple):
    """One primitive.

    Attributes:
      what: one line for the table.
      parameter: makes its parameter, with a leading axis of `BATCH`; or one number for all images.
      ours: (planes [3, H, W], parameter of the image, its seed) → planes.
      theirs: program → (images, parameter) → what it computes.
      compared: whether the outputs must be equal: noise and the rounding of JPEG coefficients differ.
    """

    what: str
    parameter: Callable[[], Any]
    ours: Callable[..., Any]
    theirs: Mapping[str, Callable[[np.ndarray, Any], peers.Primitive]]
    compared: bool


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one primitive: programs and notes.

    Raises:
      ValueError: outputs differ.
    """
    case = CASES[name]
    parameter = case.parameter()
    images = np.random.default_rng(0).random((BATCH, SIDE, SIDE, 3), np.float32)
    programs, notes = {"framer_jax": _ours(case, images, parameter)}, []
    reference = programs["framer_jax"].output() if case.compared else None
    for program, packages in NEEDS.items():
        if program not in arguments.programs:
            continue
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            notes.append(f"{program}: {' and '.join(missing)} not installed")
            continue
        _limit_threads(program, arguments.threads)
        programs[program] = _theirs(case.theirs[program](images, parameter))
    return {"programs": figures(programs, reference, arguments), "images": BATCH, "notes": notes}


def _ours(case: Case, images: np.ndarray, parameter: Any) -> Program:
    """Image by image, as the degradation of a batch on a CPU."""
    import jax
    import jax.numpy as jnp

    shared = np.ndim(parameter) == 0
    values = np.zeros(BATCH, np.float32) if shared else parameter
    seeds = np.random.default_rng(1).integers(0, 2**32, (BATCH, 2), np.uint32)

    def one(inputs: tuple[jax.Array, ...]) -> jax.Array:
        pixels, value, seed = inputs
        return case.ours(jnp.transpose(pixels, (2, 0, 1)), parameter if shared else value, seed)

    def batch(images: jax.Array, values: jax.Array, seeds: jax.Array) -> jax.Array:
        return jnp.transpose(jax.lax.map(one, (images, values, seeds)), (0, 2, 3, 1))

    return compiled_program(batch, images, values, seeds)


def _theirs(call: peers.Primitive) -> Program:
    started = time.perf_counter()
    call()
    return Program(call, lambda: _channels_last(call()), time.perf_counter() - started)


def _channels_last(output: Any) -> np.ndarray:
    if isinstance(output, list):
        return np.stack(output)
    return np.asarray(output.permute(0, 2, 3, 1).numpy())


def _limit_threads(program: str, threads: int) -> None:
    if program == "kornia":
        import torch

        torch.set_num_threads(threads)
    else:
        import cv2

        cv2.setNumThreads(threads)


def _blur(planes: Any, kernel: Any, seed: Any) -> Any:
    from framer_jax.degradations.blur import blur

    return blur(planes, kernel)


def _resize(planes: Any, scale: int, seed: Any) -> Any:
    import jax.numpy as jnp

    from framer_jax.degradations.resize import MODES, resize

    height, width = planes.shape[1:]
    small = (height // scale, width // scale)
    return resize(planes, jnp.int32(MODES.index("bicubic")), small, (height, width), small, smallest_scale=1 / scale)


def _noise(planes: Any, sigma: Any, seed: Any) -> Any:
    import jax.numpy as jnp

    from framer_jax.degradations.noise import gaussian_noise, standard_normal
    from framer_jax.degradations.random_words import pixel_words

    words = pixel_words(seed, jnp.arange(3, dtype=jnp.uint32), *planes.shape[1:])
    return planes + gaussian_noise(standard_normal(words), sigma)


def _jpeg(planes: Any, quality: Any, seed: Any) -> Any:
    from framer_jax.degradations.jpeg import jpeg

    return jpeg(planes, quality)


def _kernels() -> np.ndarray:
    """Anisotropic Gaussians, which are not separable: [B, K, K] float32."""
    from framer_jax.degradations.kernels import gaussian

    return np.stack([gaussian(KERNEL, (1.0 + 0.2 * n, 3.0), 0.3 * (n + 1)) for n in range(BATCH)])


CASES: Mapping[str, Case] = {
    "primitive-blur": Case(
        f"blur with dense {KERNEL}×{KERNEL} kernels",
        _kernels,
        _blur,
        {"kornia": peers.kornia_blur, "albumentationsx": peers.albumentations_blur},
        True,
    ),
    "primitive-resize": Case(
        f"bicubic reduction by {SCALE}",
        lambda: SCALE,
        _resize,
        {"kornia": peers.kornia_resize, "albumentationsx": peers.albumentations_resize},
        True,
    ),
    "primitive-noise": Case(
        "Gaussian noise",
        lambda: np.linspace(0.01, 0.1, BATCH, dtype=np.float32),
        _noise,
        {"kornia": peers.kornia_noise, "albumentationsx": peers.albumentations_noise},
        False,
    ),
    "primitive-jpeg": Case(
        "JPEG, compressed and decompressed",
        lambda: np.linspace(30, 95, BATCH, dtype=np.float32).round(),
        _jpeg,
        {"kornia": peers.kornia_jpeg, "albumentationsx": peers.albumentations_jpeg},
        False,
    ),
}
"""Name → comparison."""

MEASUREMENTS = {name: partial(measure, name) for name in CASES}
"""Name → measurement."""
