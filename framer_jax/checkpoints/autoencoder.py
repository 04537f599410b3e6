"""Reading an autoencoder of Stable Diffusion by itself, as `framer-jax precompute latents` does."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from framer_jax.checkpoints.networks import load_network
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.trees import tree_digest


class Autoencoder(NamedTuple):
    """An autoencoder of Stable Diffusion.

    Attributes:
      module: its functions.
      params: its weights.
      digest: digest of weights, scaling and shift, whatever files they came in.
    """

    module: KLAutoencoder
    params: dict[str, Any]
    digest: str


def read_kl_autoencoder(path: str | os.PathLike[str]) -> Autoencoder:
    """Read an autoencoder of Stable Diffusion.

    Args:
      path: diffusers' `vae/`, a pipeline's folder with it, or one file: of diffusers, or from `framer-jax port`.

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be read, or is another model, in one line.
    """
    network = load_network(KL_AUTOENCODER.name, path)
    facts = {"scaling": network.module.scaling, "shift": network.module.shift}
    return Autoencoder(network.module, network.params, tree_digest(network.params, facts))
