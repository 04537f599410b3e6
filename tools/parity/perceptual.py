"""Fixtures of perceptual metrics with their real trained weights, found with --weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.checkpoints.networks import load_network
from framer_jax.losses.dists import structure_similarity, texture_similarity
from framer_jax.losses.lpips import lpips_terms
from framer_jax.recipes.components.perceptual import dists_distance
from framer_jax.recipes.method import Pretrained
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import UnsupportedError
from tools.parity.real_weights import find_weights


def _images(case: Case) -> tuple[jax.Array, jax.Array]:
    """The two images of every pair, [B, H, W, 3] in [0, 1]."""
    first, second = (channels_last(case.arrays[f"in/{name}"]).astype(jnp.float32) / 255.0 for name in ("x0", "x1"))
    return first, second


def lpips_real_family(case: Case, options: Options) -> Outputs:
    """LPIPS and its terms, the features of the first image, and the gradient of the first distance."""
    net = case.config["net"]
    if net not in ("alex", "vgg"):
        raise UnsupportedError(f"net {net!r} is not supported, only vgg and alex")
    network = load_network(f"lpips_{net}", find_weights(case.real_weights, options.weights)["model"])
    first, second = (2.0 * image - 1.0 for image in _images(case))
    features, terms = jax.jit(partial(_terms, network.module))(network.params, first, second)
    yield "out/distance", sum(terms)
    for number, (term, feature) in enumerate(zip(terms, features, strict=True)):
        yield f"out/layer{number}", term
        yield f"hid/feat{number}", channels_first(feature[:1])

    def distance(image: jax.Array, params: Any, other: jax.Array) -> jax.Array:
        return jnp.stack(_terms(network.module, params, image, other)[1]).sum()

    yield "grad/x0_first", channels_first(jax.jit(jax.grad(distance))(first[:1], network.params, second[:1]))


def _terms(module: Any, params: Any, first: jax.Array, second: jax.Array) -> tuple[Any, Any]:
    features, heads = module.apply({"params": params}, first)
    return features, lpips_terms(features, module.apply({"params": params}, second)[0], heads)


def dists_real_family(case: Case, options: Options) -> Outputs:
    """DISTS, the share of every feature's texture and structure, the features, and the gradient of the first score."""
    files = find_weights(case.real_weights, options.weights)
    network = load_network("dists", files["trunk"], files["alpha_beta"])
    first, second = _images(case)
    yield "out/score", jax.jit(partial(dists_distance, network.module))(network.params, first, second)
    features, shares = jax.jit(partial(_shares, network.module))(network.params, first, second)
    for number, (feature, (texture, structure)) in enumerate(zip(features, shares, strict=True)):
        yield f"out/texture{number}", texture
        yield f"out/structure{number}", structure
        yield f"hid/feat{number}", channels_first(feature[:1])
    yield "grad/x0_first", channels_first(_dists_gradient(network, first[:1], second[:1]))


def _shares(module: Any, params: Any, first: jax.Array, second: jax.Array) -> tuple[Any, Any]:
    features, alpha, beta = module.apply({"params": params}, first)
    others = module.apply({"params": params}, second)[0]
    total, start, shares = alpha.sum() + beta.sum(), 0, []
    for one, two in zip(features, others, strict=True):
        part = slice(start, start + one.shape[-1])
        start = part.stop
        texture, structure = texture_similarity(one, two), structure_similarity(one, two)
        shares.append(((texture @ alpha[part]) / total, (structure @ beta[part]) / total))
    return features, shares


def _dists_gradient(network: Pretrained, first: jax.Array, second: jax.Array) -> jax.Array:
    def score(image: jax.Array, params: Any, other: jax.Array) -> jax.Array:
        return dists_distance(network.module, params, image, other).sum()

    return jax.jit(jax.grad(score))(first, network.params, second)
