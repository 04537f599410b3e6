"""`framer-jax precompute latents`: degraded crops in an autoencoder's latents, as DiT4SR and FRAMER_D train on them.

HR crop and bicubically enlarged LR image, both as 8-bit pictures, go through the encoder once. A record has the number
of its photograph, not its caption's embedding, which is four times as large: the reader joins them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.checkpoints.autoencoder import Autoencoder, read_kl_autoencoder
from framer_jax.commands.precompute import work as shared
from framer_jax.commands.precompute.work import Work
from framer_jax.commands.provenance import latents_manifest
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.captions import check_captions, read_captions
from framer_jax.data.latents import HR_LATENT, LR_LATENT, PHOTO_INDEX
from framer_jax.data.records import read_names, write_names
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.recipes.base import Frozen
from framer_jax.recipes.components.latent_space import AUTOENCODER, to_model_range, upsample_bicubic

DRAWS = ("sample", "mode")
"""What of an encoder's Gaussian is stored: one draw, as the authors do, or its mean."""

STORAGES = ("float16", "float32")

LATENT = 4
"""Purpose, folded into the root key before records' numbers; others are in framer_jax.training.state."""


class LatentSettings(NamedTuple):
    """Attributes: `draw` of DRAWS, `storage` of STORAGES."""

    draw: str = "sample"
    storage: str = "float16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    shared.add_config_arguments(parser)
    parser.add_argument("--vae", required=True, help="vae/ folder of diffusers (or the pipeline's), or one file")
    parser.add_argument("--draw", default="sample", choices=DRAWS, help="what of the encoder's Gaussian is stored")
    parser.add_argument("--storage", default="float16", choices=STORAGES, help="of the latents")
    parser.add_argument("--captions", nargs="+", metavar="FILE", help="see first that every photograph has a caption")
    parser.add_argument("--embeddings", metavar="FOLDER", help="see first that every photograph has an embedding")
    shared.add_portions(parser, "crops")


def run(arguments: argparse.Namespace) -> int:
    """Compute, write, report."""
    work = shared.work_of(arguments, arguments.samples)
    config = to_dict(load_config(arguments.config, arguments.changes))
    named = {}
    if arguments.captions:
        named["--captions"] = list(read_captions(arguments.captions))
    if arguments.embeddings:
        named[f"--embeddings {arguments.embeddings}"] = read_names(arguments.embeddings)
    settings = LatentSettings(arguments.draw, arguments.storage)
    vae = read_kl_autoencoder(arguments.vae)
    made, kept = precompute_latents(config, vae, Path(arguments.output), work, settings, named, arguments.overwrite)
    print(f"{made} files of latents written, {kept} were there, of the autoencoder {vae.digest[:12]}")
    return 0


def precompute_latents(
    config: dict[str, Any],
    vae: Autoencoder,
    folder: Path,
    work: Work,
    settings: LatentSettings | None = None,
    named: dict[str, list[str]] | None = None,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Write the latents of a configuration's training set.

    Args:
      config: plain dict of a whole configuration; its seed is that of crops, degradations and the encoder's draws.
      vae: the autoencoder.
      folder: of the records: 'hr_latent', 'lr_latent' [h, w, C], (z - shift) · scaling; 'image', a number in the
        list of photographs' names beside the manifest.
      work: how many, and in what portions.
      settings: what is stored.
      named: (source → names of photographs) that every photograph must be among, such as those with captions.
      overwrite: replace records of another configuration or autoencoder.

    Returns:
      numbers of files written, and found written already.

    Raises:
      ConfigError, ValueError, FileNotFoundError, ImportError: what cannot be used, in one line.
    """
    settings = settings or LatentSettings()
    crops = shared.open_crops(config, folder)
    crop, pixels = config["data"]["crop"], vae.module.pixels_per_latent
    if crop % pixels:
        raise ConfigError(f"data.crop {crop} must be a multiple of the {pixels} pixels of a latent position")
    for source, names in (named or {}).items():
        check_captions(dict.fromkeys(names), crops.source.names, source)
    sharding = shared.devices_of(work.batch)
    manifest = latents_manifest(config, work.samples, work.per_file, vae.digest, **settings._asdict())
    write_names(folder, manifest, crops.source.names, overwrite)
    key = jax.random.fold_in(jax.random.key(config["training"]["seed"]), LATENT)
    frozen = {AUTOENCODER: vae.params}
    encode = shared.compute_on(sharding, crops.preset, frozen, _entries(vae.module, crops.preset.scale, settings), key)

    def compute(batch: Any, numbers: np.ndarray) -> dict[str, jax.Array]:
        return {**encode(batch, numbers), PHOTO_INDEX: batch["record"]}

    records_of = shared.computed(crops.dataset, compute, work.batch, lambda name, value: value)
    return shared.write_files(folder, work, records_of)


def _entries(module: KLAutoencoder, scale: int, settings: LatentSettings) -> shared.Entries:
    def entries(frozen: Frozen, ready: dict[str, jax.Array], keys: jax.Array) -> dict[str, jax.Array]:
        pictures = jnp.stack([ready["hr"], upsample_bicubic(ready["lr"], scale)], axis=1)  # [B, 2, H, W, 3]
        pictures = jnp.round(jnp.clip(pictures, 0.0, 1.0) * 255.0) / 255.0
        images = to_model_range(pictures).reshape(-1, *pictures.shape[2:])
        gaussian: Any = module.apply({"params": frozen[AUTOENCODER]}, images, method="encode")
        z = gaussian.mean
        if settings.draw == "sample":
            shape = (2, *z.shape[1:])
            noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys).reshape(z.shape)
            z = z + gaussian.standard_deviation * noise
        z = module.normalised(z).astype(settings.storage).reshape(-1, 2, *z.shape[1:])
        return {HR_LATENT: z[:, 0], LR_LATENT: z[:, 1]}

    return entries
