"""Reading an autoencoder of Stable Diffusion's latents by itself, as `framer-jax precompute latents` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from framer_jax.checkpoints.networks import load_network
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.tiny_autoencoder import TinyAutoencoder
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.recipes.base import Frozen
from framer_jax.recipes.components.latent_space import AUTOENCODER, PREVIEW
from framer_jax.recipes.components.spaces import AUTOENCODER_ARGUMENTS, AUTOENCODER_MAPS
from framer_jax.trees import tree_digest


class Autoencoder(NamedTuple):
    """An autoencoder of Stable Diffusion's latents.

    Attributes:
      module: its functions.
      params: its weights.
      digest: digest of weights, scaling and shift, whatever files they came in.
    """

    module: KLAutoencoder | TinyAutoencoder
    params: dict[str, Any]
    digest: str

    @property
    def is_gaussian(self) -> bool:
        """Whether it encodes an image as a Gaussian, of which latents can be drawn."""
        return isinstance(self.module, KLAutoencoder)

    def latents(self, params: Any, images: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """Normalized latents, as denoisers take them.

        Args:
          params: its weights, on the device.
          images: [B, H, W, 3] float32 in [-1, 1].
          noise: standard normal noise of the latents' shape for a draw of the Gaussian; None for its mean.

        Returns:
          [B, H / 8, W / 8, C] float32.
        """
        encoded: Any = self.module.apply({"params": params}, images, method="encode")
        if not isinstance(self.module, KLAutoencoder):
            return encoded
        z = encoded.mean if noise is None else encoded.mean + encoded.standard_deviation * noise
        return self.module.normalised(z)


def read_autoencoder(space: str, path: str | os.PathLike[str]) -> Autoencoder:
    """Read the autoencoder of a latent space.

    Args:
      space: name of the latent space; those whose latents cannot be precomputed count as 'kl'.
      path: diffusers' `vae/`, a pipeline's folder with it, one file (of diffusers, or from `framer-jax port`), or the
        folder with the two files of TAESD or TAESD3.

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be read, or is another model, in one line.
    """
    arguments = AUTOENCODER_ARGUMENTS.get(space)
    if arguments is None:
        return read_kl_autoencoder(path)
    network = load_network(AUTOENCODER_MAPS[space], path, **arguments)
    return Autoencoder(network.module, network.params, tree_digest(network.params, {}))


def read_kl_autoencoder(path: str | os.PathLike[str]) -> Autoencoder:
    """Read an autoencoder of Stable Diffusion; arguments and errors as of `read_autoencoder`."""
    network = load_network(KL_AUTOENCODER.name, path)
    facts = {"scaling": network.module.scaling, "shift": network.module.shift}
    return Autoencoder(network.module, network.params, tree_digest(network.params, facts))


def read_preview(path: str | os.PathLike[str], frozen: Frozen, space: str, option: str) -> Frozen:
    """The decoder of a TAESD, as the entry of `frozen` by which it decodes in place of a recipe's autoencoder.

    Args:
      path: see `read_autoencoder`.
      frozen: the recipe's frozen weights.
      space: name of the recipe's latent space.
      option: what errors call the path: its knob or option.

    Raises:
      ValueError, FileNotFoundError, ImportError: another latent space than 'kl', an autoencoder of latents with another
        number of channels, or as of `read_autoencoder`; the message begins with `option`.
    """
    if space != "kl" or AUTOENCODER not in frozen:
        raise ValueError(
            f"{option} is for recipes in the latent space kl, and recipe.space.name is {space or 'not a knob'}: leave "
            "it empty"
        )
    channels = frozen[AUTOENCODER]["decoder"]["conv_in"]["kernel"].shape[-2]
    name = next((name for name, entry in AUTOENCODER_ARGUMENTS.items() if entry["latent_channels"] == channels), "")
    if not name:
        raise ValueError(f"{option}: there is no TAESD for latents with {channels} channels: leave it empty")
    if not Path(path).exists():
        raise FileNotFoundError(f"{option}: there is no file {os.fspath(path)!r}: correct the path")
    try:
        return {PREVIEW: read_autoencoder(name, path).params["decoder"]}
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
