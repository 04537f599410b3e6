"""The fixture of Real-ESRGAN's degradation primitives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.degradations import kernels, noise
from framer_jax.degradations.blur import blur
from framer_jax.degradations.jpeg import jpeg
from framer_jax.degradations.resize import MODES, resize
from framer_jax.degradations.usm import sharpen
from tools.parity.cases import Case, Options, Outputs
from tools.parity.configurations import UnsupportedError


def realesrgan_family(case: Case, options: Options) -> Outputs:
    """The outputs of the primitives."""
    arrays, config = case.arrays, case.config
    for entry in config["kernels"]:
        yield f"out/kernel/{entry['name']}", _kernel(entry)
    images, filters = jnp.asarray(arrays["in/img"]), jnp.asarray(arrays["in/filter_kernels"])
    yield "out/filter2D_batch", jax.vmap(blur)(images, filters)
    yield "out/filter2D_shared", jax.vmap(blur, (0, None))(images, filters[0])
    yield "out/usm", jax.vmap(sharpen)(jnp.asarray(arrays["in/usm_img"]))
    (planes,) = jnp.asarray(arrays["in/resize_img"])
    for entry in config["resize"]:
        old = (planes.shape[1], planes.shape[2])
        scale = entry.get("scale")
        height, width = entry["size"] if scale is None else (int(side * scale) for side in old)
        step = None if scale is None else jnp.float32(1 / scale)
        smallest = min(new_side / old_side for new_side, old_side in zip((height, width), old, strict=True))
        mode = jnp.int32(MODES.index(entry["mode"]))
        yield (
            f"out/resize/{entry['name']}",
            resize(planes, mode, (height, width), old, (height, width), step, smallest)[None],
        )
    yield from _jpeg_outputs(images, config)
    yield from _noise_outputs(case)


def _kernel(entry: Mapping[str, Any]) -> np.ndarray:
    if entry["kind"] == "sinc":
        return kernels.on_canvas(kernels.circular_low_pass(entry["size"], entry["cutoff"]))
    sigma = (entry["sx"], entry["sy"])
    if entry["kind"] == "gaussian":
        return kernels.gaussian(entry["size"], sigma, entry["theta"])
    kinds = {"generalized": kernels.generalized_gaussian, "plateau": kernels.plateau}
    if entry["kind"] not in kinds:
        raise UnsupportedError(f"kernel kind {entry['kind']!r} is not supported")
    return kinds[entry["kind"]](entry["size"], sigma, entry["theta"], entry["beta"])


def _jpeg_outputs(images: jax.Array, config: Mapping[str, Any]) -> Outputs:
    compress = jax.vmap(jpeg)
    for quality in config["jpeg_quality"]:
        yield f"out/jpeg/q{quality}", compress(images, jnp.full(2, quality, jnp.float32))
    yield "out/jpeg/per_sample", compress(images, jnp.asarray(config["jpeg_per_sample"], jnp.float32))

    def soft(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = jax.vmap(lambda planes: jpeg(planes, jnp.float32(config["jpeg_diff"]), rounding="soft"))(images)
        return jnp.mean(out**2), out

    (_, out), gradient = jax.value_and_grad(soft, has_aux=True)(images)
    yield "out/jpeg/differentiable", out
    yield "grad/jpeg/differentiable_x", gradient


def _noise_outputs(case: Case) -> Outputs:
    arrays = {name: jnp.asarray(values) for name, values in case.arrays.items()}
    gray = arrays["in/gray_flag"][:, None, None, None] > 0.5
    sigma, scale = arrays["in/gauss_sigma"] / 255.0, arrays["in/poisson_scale"]
    color = jax.vmap(noise.gaussian_noise)(arrays["in/gauss_color_noise"], sigma)
    shared = jax.vmap(noise.gaussian_noise, (None, 0))(arrays["in/gauss_gray_noise"][None], sigma)
    yield "out/gauss/noise_color_only", color
    yield "out/gauss/noise", jnp.where(gray, shared, color)
    rates = {
        "color": jax.vmap(noise.poisson_rate)(arrays["in/img"]),
        "gray": jax.vmap(lambda planes: noise.poisson_rate(noise.grayscale(planes)))(arrays["in/img"]),
    }
    noisy = {}
    for name, rate in rates.items():
        yield f"out/poisson/rate_{name}", jax.vmap(lambda rate: rate.image * rate.gain)(rate)
        noisy[name] = jax.vmap(noise.poisson_noise)(rate, arrays[f"in/poisson_{name}_counts"], scale)
    yield "out/poisson/noise_color_only", noisy["color"]
    yield "out/poisson/noise", jnp.where(gray, noisy["gray"], noisy["color"])
