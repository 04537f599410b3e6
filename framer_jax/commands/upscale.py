"""`framer-jax upscale`: upscale an image or a folder of images, with a JSON sidecar next to every SR image."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.markup import escape

from framer_jax.checkpoints.autoencoder import read_preview
from framer_jax.checkpoints.sampling import Sampling
from framer_jax.commands.engine_option import Plan, ShardedCommand, add_engine_options, run_sharded
from framer_jax.commands.override_option import add_override_option
from framer_jax.commands.published import check_denoise_strength, open_model, open_named_model
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.commands.shard_option import add_shard_option, parse_shard
from framer_jax.commands.upscale_output import add_output_arguments, file_settings, output_of, result_settings
from framer_jax.config import ConfigError
from framer_jax.console import message_console
from framer_jax.inference.folder import Origin, upscale_files
from framer_jax.inference.model import Model, settings_for
from framer_jax.inference.named_models import MODELS, named_model
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.upscale_summary import Summary, merge_summaries
from framer_jax.recipes.base import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("input", help="image file or folder")
    parser.add_argument(
        "output",
        nargs="?",
        help="file name (if the input is a file) or folder; default: photo_x4.png next to photo.jpg, photos_x4 next to "
        "photos",
    )
    add_model_arguments(parser)
    add_sampler_arguments(parser)
    _add_image_arguments(parser)
    _add_file_arguments(parser)
    add_output_arguments(parser)
    add_engine_options(parser)
    add_quiet_option(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name a model."""
    parser.add_argument(
        "--weights",
        help="weights file or training directory, or published weights: of SwinIR, RRDBNet and SRVGG (*.pth, or "
        "*.param of ncnn) by themselves, others with --recipe; default: the standard model",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a model by its name, such as realesrgan-x4plus; `framer-jax models` lists them"
    )
    parser.add_argument(
        "--denoise-strength",
        type=float,
        metavar="S",
        help="of realesr-general-x4v3: from 0 (keeps noise) to 1 (the model alone, the default), blended with its twin "
        "realesr-general-wdn-x4v3 next to it",
    )
    parser.add_argument(
        "--recipe",
        metavar="CONFIG",
        help="configuration of published weights, ported or not, such as resshift_v1",
    )
    add_override_option(parser, "override one knob of the configuration of --recipe")


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--protocol",
        default=UpscaleSettings.protocol,
        choices=tuple(PROTOCOLS),
        help="tiling and noise, framer_jax's or those of a method's released code: "
        + "; ".join(f"{name}: {protocol.summary}" for name, protocol in PROTOCOLS.items()),
    )
    parser.add_argument(
        "--mode", default="sample", choices=("sample", "mean"), help="the full sampler, or the one-step mean"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    parser.add_argument(
        "--tile", type=int, help="side of a tile in LR pixels, which bounds the memory; default: at most 128"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        help="LR pixels that neighboring tiles share; default: the protocol's",
    )
    parser.add_argument(
        "--tile-batch",
        type=int,
        default=4,
        help="number of tiles computed at a time (4); "
        "with another number, compilers may round otherwise: 1/255 in a few values of a million",
    )
    parser.add_argument(
        "--devices", type=int, help="number of devices that compute tiles at the same time; default: all of them"
    )
    parser.add_argument(
        "--preview",
        type=int,
        metavar="N",
        help="also write what the sampler estimates every N steps, as OUTPUT_step_K.png next to the output",
    )
    parser.add_argument(
        "--preview-decoder",
        metavar="TAESD",
        help="decode these previews with a tiny autoencoder (folder or file), for recipes in the latent space kl; "
        "default: as the result",
    )
    parser.add_argument(
        "--color-fix",
        choices=("none", "adain", "wavelet"),
        help="color fix of the whole image; default: the first of "
        + "; ".join(f"{name}: {', '.join(protocol.color_fixes)}" for name, protocol in PROTOCOLS.items()),
    )
    parser.add_argument("--color-strength", type=float, default=1.0, help="strength of the color fix, 0 to 1 (1)")


def _add_file_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--flatten", metavar="COLOR", help="put all transparent images on this color, also for formats that keep them"
    )
    parser.add_argument("--recursive", action="store_true", help="search subfolders of the input")
    parser.add_argument("--suffix", default="", help="text appended to the name of every output")
    parser.add_argument("--extension", default=".png", help="file format of outputs that are not named (.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument("--skip-existing", action="store_true", help="skip images whose output exists")
    add_shard_option(parser, "only every N-th image of a folder, from image I on, for job arrays")
    parser.add_argument("--continue-on-error", action="store_true", help="report unreadable images and continue")


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that change a model's sampler."""
    group = parser.add_argument_group("sampler", "settings to use instead of those in the model's configuration")
    group.add_argument("--steps", type=int, metavar="N", help="number of sampling steps")
    group.add_argument("--guidance", type=float, metavar="G", help="scale of classifier-free guidance; 1 for none")
    group.add_argument(
        "--mean-share",
        type=float,
        metavar="S",
        help="of ResShift models: share of the one-step mean, for less texture, from 0 (the sample alone) to 1 (the "
        "mean alone); the model diffusion has 0.4",
    )
    group.add_argument(
        "--prompt-embedding",
        metavar="FILE",
        help="embedding of the prompt for all images, from `framer-jax precompute embeddings`",
    )
    group.add_argument("--negative-embedding", metavar="FILE", help="embedding of the negative prompt")
    group.add_argument(
        "--pixel-scale",
        type=float,
        metavar="S",
        help="how much degradation is removed, by two adjustable LoRAs; 1 as trained",
    )
    group.add_argument(
        "--semantic-scale",
        type=float,
        metavar="S",
        help="how much detail is generated, by two adjustable LoRAs; 1 as trained",
    )


def run(arguments: argparse.Namespace) -> int:
    """Upscale; the exit status is 1 if some images failed."""
    parse_shard(arguments.shard)
    result_settings(arguments), file_settings(arguments)  # refused before a model is read
    refused = {"images that are replaced --in-place have no fixed shards: name an output": arguments.in_place}
    return run_sharded(arguments, ShardedCommand(_check, _upscale, _merge, _report), refused)


def _check(arguments: argparse.Namespace) -> Plan[Summary]:
    planned = _upscale(arguments, dry_run=True)
    return Plan(len(planned.written) + len(planned.skipped) + len(planned.failed), planned)


def _merge(arguments: argparse.Namespace, planned: Summary, parts: Sequence[Summary]) -> Summary:
    return merge_summaries(planned, parts)


def _report(arguments: argparse.Namespace, summary: Summary) -> int:
    if arguments.json:
        print(json.dumps(summary.as_json(), indent=1))
    elif summary.exit_status or not arguments.quiet:
        print(summary)
    return summary.exit_status


def _upscale(arguments: argparse.Namespace, dry_run: bool = False) -> Summary:
    shard = parse_shard(arguments.shard)
    result, files = result_settings(arguments), file_settings(arguments)
    model = named_by(arguments)
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
        preview=arguments.preview,
        devices=arguments.devices,
    )
    recipe = with_preview_decoder(model, arguments.preview_decoder, arguments.preview)
    console = message_console(arguments.quiet)
    output = output_of(arguments, recipe.scale)
    summary = upscale_files(
        arguments.input,
        output,
        recipe,
        model.params,
        settings,
        result=result,
        files=files,
        origin=Origin(model.path, model.metadata["config"], model.frozen_weights, model.overrides),
        recursive=arguments.recursive,
        suffix=arguments.suffix,
        extension=arguments.extension,
        overwrite=arguments.overwrite,
        # Another engine checks for existing results before it starts; a shard may be begun twice.
        skip_existing=arguments.skip_existing or (arguments.engine != "local" and not dry_run),
        shard=shard,
        continue_on_error=arguments.continue_on_error,
        flatten_onto=arguments.flatten,
        console=console,
        dry_run=dry_run,
    )
    if summary.written and arguments.output is None and output is not None:
        console.print(escape(f"written to {output}"), soft_wrap=True)
    return summary


def named_by(arguments: argparse.Namespace) -> Model:
    """The model that the arguments of `add_model_arguments` and `add_sampler_arguments` name.

    Raises:
      ConfigError, ValueError, FileNotFoundError, ImportError: they contradict each other, or name no usable model.
    """
    if arguments.overrides and not arguments.recipe:
        raise ConfigError("--set overrides a knob of the configuration that --recipe names: give --recipe too")
    check_denoise_strength(arguments.denoise_strength)
    sampling = Sampling(**{name: getattr(arguments, name) for name in Sampling._fields})
    if arguments.model is None:
        weights = None if arguments.weights is None else Path(arguments.weights)
        if arguments.weights in MODELS and not Path(arguments.weights).exists():
            raise FileNotFoundError(f"--weights {weights}: no such file; a model by name is --model {weights}")
        return open_model(weights, arguments.recipe, arguments.overrides, sampling, arguments.denoise_strength)
    named_model(arguments.model)
    for option in ("weights", "recipe"):
        if getattr(arguments, option):
            raise ValueError(f"--model {arguments.model} has its own {option}: omit --{option}, or omit --model")
    return open_named_model(arguments.model, sampling, arguments.denoise_strength)


def with_preview_decoder(model: Model, path: str | None, every: int | None) -> Recipe:
    """The model's recipe, whose previews the decoder of a TAESD decodes; as it is without a path.

    Raises:
      ConfigError: a decoder, and no previews.
      ValueError, FileNotFoundError, ImportError: as of framer_jax.checkpoints.autoencoder.read_preview.
    """
    if path is None:
        return model.recipe
    if not every:
        raise ConfigError("--preview-decoder decodes previews: give --preview N too")
    space = model.metadata["config"]["recipe"].get("space", {}).get("name", "")
    frozen = read_preview(path, model.recipe.frozen, space, "--preview-decoder")
    return replace(model.recipe, frozen={**model.recipe.frozen, **frozen})
