"""`framer-jax upscale`: one photograph or folders of them, ×4, with a JSON sidecar beside each result."""

from __future__ import annotations

import argparse

from rich.console import Console

from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.inference.folder import Origin, upscale_files
from framer_jax.inference.model import load_model, settings_for
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.recipes.sampling import Sampling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("input", help="image file or folder")
    parser.add_argument("output", help="file name (if the input is one file) or folder")
    parser.add_argument(
        "--weights",
        help="weights file or training directory, or with --recipe published weights; default: the starter model",
    )
    parser.add_argument(
        "--recipe",
        metavar="CONFIG",
        help="configuration of published weights, ported or not, such as resshift_v1.py or dit4sr_sd35.py",
    )
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change one knob of --recipe"
    )
    parser.add_argument(
        "--protocol",
        default=UpscaleSettings.protocol,
        choices=tuple(PROTOCOLS),
        help="tiles and noise: ours; that of ResShift's released code (then --tile is 512, 256 or 64); or those of "
        "DiT4SR's and TSD-SR's, with tiles within the sampler's steps and a colour fix",
    )
    changes = parser.add_argument_group("the sampler", "instead of what the model's configuration says")
    changes.add_argument("--steps", type=int, metavar="N", help="steps of the sampler")
    changes.add_argument("--guidance", type=float, metavar="G", help="factor of classifier-free guidance; 1: none")
    changes.add_argument(
        "--prompt-embedding", metavar="FILE", help="what is asked of every picture; `precompute embeddings` makes it"
    )
    changes.add_argument("--negative-embedding", metavar="FILE", help="what guidance leads away from")
    parser.add_argument("--mode", default="sample", choices=("sample", "mean"), help="full sampler, or one-step mean")
    parser.add_argument("--seed", type=int, default=0, help="of the noise canvas")
    parser.add_argument("--tile", type=int, help="side of a tile, LR pixels; bounds the memory; default: 128, or less")
    parser.add_argument(
        "--overlap", type=int, help="LR pixels shared by neighbouring tiles; default: 16 (dit4sr: 48, tsd_sr: 16)"
    )
    parser.add_argument("--tile-batch", type=int, default=4, help="tiles computed at a time")
    parser.add_argument(
        "--color-fix",
        choices=("none", "adain", "wavelet"),
        help="on the whole image; default: none (dit4sr: adain, tsd_sr: wavelet)",
    )
    parser.add_argument("--color-strength", type=float, default=1.0, help="0 to 1")
    parser.add_argument("--recursive", action="store_true", help="search folders below the input")
    parser.add_argument("--suffix", default="", help="added to every output's name")
    parser.add_argument("--extension", default=".png", help="format of outputs in a folder")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument("--skip-existing", action="store_true", help="leave existing outputs alone")
    parser.add_argument("--continue-on-error", action="store_true", help="name bad images and go on with the rest")


def run(arguments: argparse.Namespace) -> int:
    """Upscale; status 1 if some images failed."""
    if arguments.changes and not arguments.recipe:
        raise ConfigError("--set changes the configuration that --recipe names: give that too")
    config = to_dict(load_config(arguments.recipe, arguments.changes)) if arguments.recipe else None
    sampling = Sampling(arguments.steps, arguments.guidance, arguments.prompt_embedding, arguments.negative_embedding)
    model = load_model(arguments.weights, config, sampling=sampling)
    settings = settings_for(
        model,
        mode=arguments.mode,
        protocol=arguments.protocol,
        tile=arguments.tile,
        overlap=arguments.overlap,
        tile_batch=arguments.tile_batch,
        color_fix=arguments.color_fix,
        color_strength=arguments.color_strength,
        seed=arguments.seed,
    )
    summary = upscale_files(
        arguments.input,
        arguments.output,
        model.recipe,
        model.params,
        settings,
        origin=Origin(model.path, model.metadata["config"], model.frozen_weights, model.changes),
        recursive=arguments.recursive,
        suffix=arguments.suffix,
        extension=arguments.extension,
        overwrite=arguments.overwrite,
        skip_existing=arguments.skip_existing,
        continue_on_error=arguments.continue_on_error,
        console=Console(stderr=True),
    )
    print(summary)
    return summary.exit_status
