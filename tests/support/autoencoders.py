"""Folders of autoencoders, as diffusers writes them."""

import os
from collections.abc import Mapping
from typing import Any

from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER, config_of_arguments
from framer_jax.porting.maps import to_torch


def write_autoencoder(
    path: str | os.PathLike[str], params: Mapping[str, Any], arguments: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write a folder that diffusers reads as an AutoencoderKL.

    Args:
      path: the folder to create.
      params: nested dict of float32 arrays.
      arguments: constructor arguments of our module.
      overwrite: whether a folder of that name is replaced.

    Raises:
      ValueError, FileExistsError: see `to_torch` and `write_folder`.
    """
    write_folder(
        path,
        config_of_arguments(arguments),
        to_torch(KL_AUTOENCODER, params, str(path), arguments),
        overwrite=overwrite,
    )
