"""`framer-jax precompute latents`: degraded crops as latents of an autoencoder, as DiT4SR and FRAMER_D train on them.

The HR crop and the bicubically upsampled LR image, both rounded to 8 bits, are encoded once. A record holds the index
of its photograph, not the embedding of its caption, which is four times as large; the reader joins the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.checkpoints.autoencoder import Autoencoder, read_autoencoder
from framer_jax.commands.engine_option import Plan
from framer_jax.commands.precompute import work as shared
from framer_jax.commands.precompute.work import Work, Written
from framer_jax.commands.provenance import latents_manifest
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.captions import check_captions, read_captions
from framer_jax.data.latents import HR_LATENT, LR_LATENT, PHOTO_INDEX
from framer_jax.data.records import read_names, write_names
from framer_jax.porting.files import check_output_folder
from framer_jax.recipes.base import Frozen
from framer_jax.recipes.components.latent_space import AUTOENCODER, to_model_range, upsample_bicubic
from framer_jax.recipes.components.spaces import AUTOENCODER_MAPS

DRAWS = ("sample", "mode")
"""Stored values of the encoder's Gaussian: one draw (sample), as the authors do, or its mean (mode). TAESD has none."""

STORAGES = ("float16", "float32")

LATENT = 4
"""Purpose that is folded into the root key before record numbers; the others are in framer_jax.training.state."""


class LatentSettings(NamedTuple):
    """How latents are stored.

    Attributes:
      draw: one of `DRAWS`; 'mode' for an autoencoder without a Gaussian.
      storage: dtype of the records, one of `STORAGES`.
    """

    draw: str = "sample"
    storage: str = "float16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    shared.add_config_arguments(parser)
    parser.add_argument(
        "--vae",
        required=True,
        help="autoencoder of the configuration's recipe.space.name: folder vae/ of diffusers, or of its pipeline, or "
        "one file; for taesd and taesd3 also the folder with their two files",
    )
    parser.add_argument(
        "--draw",
        choices=DRAWS,
        help="a draw of the encoder's Gaussian (default), or its mean (default for taesd and taesd3, which have none)",
    )
    parser.add_argument("--storage", default="float16", choices=STORAGES, help="dtype of the records")
    parser.add_argument("--captions", nargs="+", metavar="FILE", help="first check that every photograph has a caption")
    parser.add_argument("--embeddings", metavar="FOLDER", help="first check that every photograph has an embedding")
    shared.add_portions(parser, "crops")


def check(arguments: argparse.Namespace) -> Plan[None]:
    """The number of files; refuses an unusable configuration."""
    load_config(arguments.config, arguments.overrides)
    return shared.plan_of(shared.work_of(arguments, arguments.samples))


def compute(arguments: argparse.Namespace) -> Written:
    """Compute the latents of the shard and write them."""
    work = shared.work_of(arguments, arguments.samples)
    config = to_dict(load_config(arguments.config, arguments.overrides))
    required_names = {}
    if arguments.captions:
        required_names["--captions"] = list(read_captions(arguments.captions))
    if arguments.embeddings:
        required_names[f"--embeddings {arguments.embeddings}"] = read_names(arguments.embeddings)
    inputs = {"--vae": [arguments.vae], "--embeddings": [arguments.embeddings] if arguments.embeddings else []}
    check_output_folder("--output", arguments.output, inputs)
    space = config["recipe"].get("space", {}).get("name", "")
    try:
        vae = read_autoencoder(space, arguments.vae)
    except (ValueError, FileNotFoundError) as error:
        if space in ("", *AUTOENCODER_MAPS):
            raise
        raise ConfigError(
            f"{error} (recipe.space.name of {arguments.config} is {space}: --vae is read as an autoencoder of Stable "
            "Diffusion)"
        ) from error
    if arguments.draw == "sample" and not vae.is_gaussian:
        raise ConfigError(f"--draw sample: the autoencoder of recipe.space.name {space} has no Gaussian: omit it")
    settings = LatentSettings(arguments.draw or ("sample" if vae.is_gaussian else "mode"), arguments.storage)
    counts = precompute_latents(
        config, vae, Path(arguments.output), work, settings, required_names, arguments.overwrite
    )
    return Written(*counts, notes=(f"of the autoencoder {vae.digest[:12]}",))


def report(arguments: argparse.Namespace, written: Written) -> int:
    """Print the number of files."""
    print(", ".join([f"{written.new} files of latents written, {written.existing} were there", *written.notes]))
    return 0


def precompute_latents(
    config: dict[str, Any],
    vae: Autoencoder,
    folder: Path,
    work: Work,
    settings: LatentSettings | None = None,
    required_names: dict[str, list[str]] | None = None,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Write the latents of a configuration's training set.

    Args:
      config: plain dict of a whole configuration; its seed determines crops, degradations and the encoder's draws.
      vae: the autoencoder.
      folder: folder of the records: 'hr_latent' and 'lr_latent' [h, w, C], (z - shift) · scaling; and 'image', the
        index into the list of photograph names next to the manifest.
      work: number of records, and sizes of files and batches.
      settings: how latents are stored.
      required_names: source → names of photographs, such as those with captions; every photograph must be one of them.
      overwrite: replace records of another configuration or autoencoder.

    Returns:
      the number of files written, and of files that existed already.

    Raises:
      ConfigError, ValueError, FileNotFoundError, ImportError: an input that cannot be used, in one line.
    """
    settings = settings or LatentSettings()
    crops = shared.open_crops(config, folder)
    crop, pixels = config["data"]["crop"], vae.module.pixels_per_latent
    if crop % pixels:
        raise ConfigError(f"data.crop {crop} must be a multiple of the {pixels} pixels of a latent position")
    for source, names in (required_names or {}).items():
        check_captions(dict.fromkeys(names), crops.source.names, source)
    sharding = shared.devices_of(work.batch)
    photographs = crops.source.digests()
    manifest = latents_manifest(config, work.samples, work.per_file, photographs, vae.digest, **settings._asdict())
    write_names(folder, manifest, crops.source.names, overwrite)
    key = jax.random.fold_in(jax.random.key(config["training"]["seed"]), LATENT)
    frozen = {AUTOENCODER: vae.params}
    encode = shared.compute_on(sharding, crops.preset, frozen, _entries(vae, crops.preset.scale, settings), key)

    def compute(batch: Any, numbers: np.ndarray) -> dict[str, jax.Array]:
        return {**encode(batch, numbers), PHOTO_INDEX: batch["record"]}

    records_of = shared.computed(crops.dataset, compute, work.batch, lambda name, value: value)
    return shared.write_files(folder, work, records_of)


def _entries(vae: Autoencoder, scale: int, settings: LatentSettings) -> shared.Entries:
    def entries(frozen: Frozen, batch: dict[str, jax.Array], keys: jax.Array) -> dict[str, jax.Array]:
        images = jnp.stack([batch["hr"], upsample_bicubic(batch["lr"], scale)], axis=1)  # [B, 2, H, W, 3]
        images = jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0) / 255.0
        images = to_model_range(images).reshape(-1, *images.shape[2:])
        noise = None
        if settings.draw == "sample":
            pixels, channels = vae.module.pixels_per_latent, vae.module.latent_channels
            shape = (2, *(side // pixels for side in images.shape[1:3]), channels)
            noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys).reshape(-1, *shape[1:])
        z = vae.latents(frozen[AUTOENCODER], images, noise).astype(settings.storage)
        z = z.reshape(-1, 2, *z.shape[1:])
        return {HR_LATENT: z[:, 0], LR_LATENT: z[:, 1]}

    return entries
