"""ResShift's and SinSR's networks and samplers at their published sizes, next to the originals in PyTorch.

The weights are random and the same in both. The networks' outputs are compared before anything is timed; samplers draw
noise of their own, so that theirs cannot be.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.benchmark_one_pass import NEEDS, figures
from tools.benchmark_swinir import Program, compiled_program, torch_program

LATENT, IMAGE_SIDE, LR_SIDE = 64, 256, 128
"""Sides of the inputs of the U-Net and the decoder, of the encoder, and of the samplers."""

TIMESTEP = 7
"""Of the U-Net's call."""


class Peer(NamedTuple):
    """The originals, in PyTorch.

    Attributes:
      clone: of ResShift's repository.
      unet, autoencoder: the published networks with random weights.
    """

    clone: Path
    unet: Any
    autoencoder: Any


class Case(NamedTuple):
    """One comparison.

    Attributes:
      what: one line for the table.
      side: side of the input, pixels or latents.
      ours: (peer, input) → the program of framer_jax, with the peer's weights.
      theirs: (peer, torch.compile or the identity) → PyTorch module (x [1, 3, H, W]) → output.
      compared: whether the outputs must be equal.
    """

    what: str
    side: int
    ours: Callable[[Peer, np.ndarray], Program]
    theirs: Callable[[Peer, Callable[[Any], Any]], Any]
    compared: bool


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one case: programs and notes.

    Args:
      name: one of `CASES`.
      arguments: of tools/benchmark.py.

    Raises:
      ImportError: PyTorch is not installed, with which the networks are built.
      ValueError: outputs differ.
    """
    if arguments.resshift is None or importlib.util.find_spec("torch") is None:
        raise ImportError(f"{name} needs PyTorch and --resshift CLONE, from whose networks the weights are taken")
    import torch

    from tools.peers import resshift

    torch.set_num_threads(arguments.threads)
    case = CASES[name]
    peer = Peer(arguments.resshift, resshift.unet(arguments.resshift), resshift.autoencoder(arguments.resshift))
    x = np.random.default_rng(0).random((1, case.side, case.side, 3), np.float32)
    programs = {"framer_jax": case.ours(peer, x)}
    reference = programs["framer_jax"].output() if case.compared else None
    ways = {"eager": lambda network: network, "compile": torch.compile}
    for program, way in ways.items():
        if program in arguments.programs:
            programs[program] = torch_program(case.theirs(peer, way), x, arguments, None)
    others = sorted((set(arguments.programs) & NEEDS.keys()) - programs.keys())
    notes = [f"{program}: only for networks of one pass" for program in others]
    return {"programs": figures(programs, reference, arguments), "notes": notes}


def _ported(kind: str, network: Any) -> tuple[Any, Any]:
    """(module, parameters) of framer_jax from a network in PyTorch."""
    from framer_jax.checkpoints.networks import build_network
    from framer_jax.porting.maps import to_flax
    from framer_jax.porting.table import MAPS
    from tools.peers.swinir import state_of

    params, module_arguments, _ = to_flax(MAPS[kind], state_of(network), "the peer")
    return build_network(kind, module_arguments), {"params": params}


def _unet(peer: Peer, x: np.ndarray) -> Program:
    from framer_jax.models.denoiser import IMAGE

    module, params = _ported("resshift_unet", peer.unet)
    time = np.full((1,), TIMESTEP, np.float32)
    return compiled_program(lambda params, x, time: module.apply(params, x, time, {IMAGE: x})[0], params, x, time)


def _coder(method: str, peer: Peer, x: np.ndarray) -> Program:
    module, params = _ported("vq_f4", peer.autoencoder)
    return compiled_program(lambda params, x: module.apply(params, x, method=method), params, x)


def _sampler(config: str, peer: Peer, x: np.ndarray) -> Program:
    """The sampler of a shipped configuration, opened from files as a user's PyTorch checkpoints are."""
    import jax
    import torch

    from framer_jax.checkpoints.open import open_recipe
    from framer_jax.config import load_config, to_dict
    from framer_jax.diffusion.noise import noise_field

    with tempfile.TemporaryDirectory() as folder:
        files = {"unet": Path(folder) / "unet.pth", "vq": Path(folder) / "vq.pth"}
        torch.save(peer.unet.state_dict(), files["unet"])
        torch.save(peer.autoencoder.state_dict(), files["vq"])
        overrides = [f"recipe.space.checkpoint={files['vq']}"]
        opened = open_recipe(files["unet"], to_dict(load_config(config, overrides))["recipe"])
    sample = opened.recipe.sample
    noise = noise_field(jax.random.key(0), 1)
    return compiled_program(sample, opened.params, opened.recipe.frozen, x, noise)


def _their_unet(peer: Peer, compiled: Callable[[Any], Any]) -> Any:
    from tools.peers import resshift

    return compiled(resshift.Call(peer.unet, TIMESTEP))


def _their_coder(method: str, peer: Peer, compiled: Callable[[Any], Any]) -> Any:
    from tools.peers import resshift

    return compiled(resshift.Coder(peer.autoencoder, method))


def _their_sampler(
    steps: int, min_noise_level: float, one_step: bool, peer: Peer, compiled: Callable[[Any], Any]
) -> Any:
    """Only the U-Net is compiled: a compiled loop would be unrolled, and each autoencoder is called once."""
    from tools.peers import resshift

    return resshift.Sampler(peer.clone, compiled(peer.unet), peer.autoencoder, steps, min_noise_level, one_step)


CASES: Mapping[str, Case] = {
    "resshift-unet": Case(
        f"ResShift's U-Net (119 M parameters), one call on {LATENT}×{LATENT} latents", LATENT, _unet, _their_unet, True
    ),
    "vq-encode": Case(
        f"VQ-f4, encode {IMAGE_SIDE}×{IMAGE_SIDE} pixels",
        IMAGE_SIDE,
        partial(_coder, "encode"),
        partial(_their_coder, "encode"),
        True,
    ),
    "vq-decode": Case(
        f"VQ-f4, decode to {4 * LATENT}×{4 * LATENT} pixels",
        LATENT,
        partial(_coder, "decode"),
        partial(_their_coder, "decode"),
        True,
    ),
    "sinsr-1": Case(
        f"SinSR, one step, {LR_SIDE}² to {4 * LR_SIDE}²",
        LR_SIDE,
        partial(_sampler, "sinsr"),
        partial(_their_sampler, 15, 0.04, True),
        False,
    ),
    "resshift-4": Case(
        f"ResShift v3, 4 steps, {LR_SIDE}² to {4 * LR_SIDE}²",
        LR_SIDE,
        partial(_sampler, "resshift_v3"),
        partial(_their_sampler, 4, 0.2, False),
        False,
    ),
    "resshift-15": Case(
        f"ResShift v1, 15 steps, {LR_SIDE}² to {4 * LR_SIDE}²",
        LR_SIDE,
        partial(_sampler, "resshift_v1"),
        partial(_their_sampler, 15, 0.04, False),
        False,
    ),
}
"""Name → comparison."""
