"""TAESD and TAESD3: tensor names of diffusers' `AutoencoderTiny`, and the authors' two files with one naming.

The authors publish encoder and decoder as files of their own, in which both are plain lists (`0.weight`,
`1.conv.0.weight`, …). Which half a file holds follows from its keys: only the encoder has an entry 0 with tensors, only
the decoder an entry 19.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framer_jax.porting.diffusers_folder import CONFIG, find_model, read_files
from framer_jax.porting.maps import Rule, StateDict, WeightMap
from framer_jax.porting.stability import Layout

ENCODER, DECODER = "encoder", "decoder"

ENCODER_LAYERS, ENCODER_BLOCKS = (0, 2, 6, 10, 14), (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
DECODER_LAYERS, DECODER_BLOCKS = (1, 7, 12, 17, 19), (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)
"""Entries of the authors' lists with a convolution, and with a residual block."""

DECODER_OFFSET = 1
"""The decoder's entry 0, which limits the latents' range and has no tensors, is no layer in diffusers."""

KEY = re.compile(r"(?:(encoder|decoder)\.)?(\d+)\.((?:conv\.\d+\.)?(?:weight|bias))")
"""A key of the authors' files, or of their module with both halves."""

NAMES = {"taesd": 4, "taesd3": 16}
"""Names of the authors' pairs of files, which are also those of the latent spaces → channels of the latents."""

PAIR = re.compile(r"(?P<name>\w*?)_?(?P<half>encoder|decoder)\.(?:safetensors|pth|pt|bin)")
"""File name of one half."""


def _half(half: str, layers: Sequence[int], blocks: Sequence[int], offset: int) -> tuple[Rule, ...]:
    return (
        *(Rule(f"{half}.layers.{index - offset}", f"{half}/layer_{index}") for index in layers),
        *(Rule(f"{half}.layers.{index - offset}.conv.{{k}}", f"{half}/block_{index}/conv_{{k}}") for index in blocks),
    )


def tiny_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.tiny_autoencoder.TinyAutoencoder; the shapes determine them all.

    Raises:
      KeyError: a layer is missing, such as all of the half that lies in another file.
      ValueError: encoder and decoder are of two autoencoders.
    """
    for half in (ENCODER, DECODER):
        if not any(key.startswith(f"{half}.") for key in state):
            raise KeyError(f"the {half} (give both files, or the folder that holds them)")
    first, last = state["encoder.layers.0.weight"], state["encoder.layers.14.weight"]
    inputs = state["decoder.layers.0.weight"].shape[1]
    if inputs != last.shape[0]:
        raise ValueError(
            f"the encoder gives {last.shape[0]} channels, the decoder takes {inputs}: they are of two autoencoders"
        )
    return {"latent_channels": inputs, "channels": first.shape[0]}


def tiny_variant(arguments: Mapping[str, Any]) -> str:
    """'TAESD3 (16 latent channels, 64 wide)'."""
    channels = arguments["latent_channels"]
    name = next((name.upper() for name, each in NAMES.items() if each == channels), "TAESD")
    return f"{name} ({channels} latent channels, {arguments['channels']} wide)"


CLASS = "AutoencoderTiny"
"""Name of the class in diffusers."""

FIXED: Mapping[str, Any] = {
    "act_fn": "relu",
    "force_upcast": False,
    "in_channels": 3,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}
"""Settings of which our module supports one value, which is also the default of a config.json without them."""

UNUSED = ("force_upcast", "latent_magnitude", "latent_shift")
"""Those that do not change what encoder and decoder compute."""


def arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of our module from a config.json of diffusers.

    Args:
      config: its content; missing settings have the defaults of diffusers.
      source: its name in errors, usually a path.

    Raises:
      ValueError: it has a setting that our module does not support.
    """
    for name, value in FIXED.items():
        if name not in UNUSED and (setting := config.get(name, value)) != value:
            raise ValueError(f"{source}: {name} {setting!r} is not supported, only {value!r}")
    widths = {name: config.get(f"{name}_block_out_channels", [64] * 4) for name in (ENCODER, DECODER)}
    if len({*widths[ENCODER], *widths[DECODER]}) != 1 or {len(each) for each in widths.values()} != {4}:
        raise ValueError(f"{source}: widths {widths} are not supported, only four equal ones on both sides")
    return {"latent_channels": config.get("latent_channels", 4), "channels": widths[ENCODER][0]}


def config_of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `arguments_of_config`: config.json with which diffusers builds the same autoencoder."""
    widths = [arguments["channels"]] * 4
    return {
        "_class_name": CLASS,
        **FIXED,
        "block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "encoder_block_out_channels": widths,
        "latent_channels": arguments["latent_channels"],
    }


def in_authors_order(paths: Sequence[str | os.PathLike[str]], stated: Mapping[str, Any]) -> list[Path]:
    """The files of a checkpoint, the encoder first, whatever their order; a folder stands for the pair in it.

    Args:
      paths: the authors' two files; or one file; or a folder, of diffusers or with the authors' files.
      stated: expected arguments; 'latent_channels' selects one of several pairs of files.

    Raises:
      ValueError: the folder holds several pairs, and none of them has the name that is expected.
      FileNotFoundError: it holds neither a pair nor a model of diffusers.
    """
    expected = next((name for name, channels in NAMES.items() if channels == stated.get("latent_channels")), "")
    files = [file for path in paths for file in files_of(path, expected)]
    return sorted(files, key=_is_decoder) if len(files) == 2 else files


def files_of(path: str | os.PathLike[str], name: str = "") -> list[Path]:
    """The authors' files in a folder, encoder and decoder; any other path as it is.

    Args:
      path: a file, a folder of diffusers, or the folder with the pair.
      name: name of the pair, 'taesd' or 'taesd3', where there are several; '' takes the only one.

    Raises:
      ValueError, FileNotFoundError: as of `in_authors_order`.
    """
    path = Path(path)
    if not path.is_dir() or (path / CONFIG).is_file() or (path / "vae").is_dir():
        return [path]
    halves: dict[str, dict[str, Path]] = {}
    for file in sorted(path.iterdir(), key=lambda file: file.suffix == ".safetensors"):  # these take precedence
        if match := PAIR.fullmatch(file.name):
            halves.setdefault(match["name"], {})[match["half"]] = file
    pairs = {pair: [files[ENCODER], files[DECODER]] for pair, files in halves.items() if len(files) == 2}
    if not pairs:
        raise FileNotFoundError(
            f"{path}: holds neither {CONFIG} of diffusers nor two files such as taesd3_encoder.safetensors and "
            "taesd3_decoder.safetensors"
        )
    if len(pairs) > 1 and name not in pairs:
        listed = ", ".join(sorted(pairs))
        raise ValueError(f"{path}: holds several autoencoders ({listed}): give the two files of the one that you mean")
    return pairs[name if len(pairs) > 1 else next(iter(pairs))]


def is_pair_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder with files of the authors and no model of diffusers."""
    path = Path(path)
    is_plain = path.is_dir() and not (path / CONFIG).is_file() and not (path / "vae").is_dir()
    return is_plain and any(PAIR.fullmatch(file.name) for file in path.iterdir())


def _is_decoder(path: Path) -> bool:
    return path.is_file() and any(key.endswith("19.weight") for key in read_files(find_model(path)).tensors)


def _in_diffusers_names(state: StateDict) -> StateDict:
    """The authors' keys as those of diffusers; others stay as they are."""
    plain = {match[2] for key in state if (match := KEY.fullmatch(key)) and not match[1]}
    half = ENCODER if "0" in plain else DECODER if "19" in plain else ""
    tensors = {}
    for key, value in state.items():
        match = KEY.fullmatch(key)
        side = match and (match[1] or half)
        if match and side:
            key = f"{side}.layers.{int(match[2]) - (DECODER_OFFSET if side == DECODER else 0)}.{match[3]}"
        tensors[key] = value
    return tensors


AUTHORS = Layout(
    "the authors' layout of TAESD",
    # Of one half alone the convolutions of blocks: names such as 0.weight end those of many other networks' layers.
    dict.fromkeys((r"\d+\.conv\.[024]\.(?:weight|bias)", rf"(?={ENCODER}|{DECODER}){KEY.pattern}"), r"\g<0>"),
    _in_diffusers_names,
)
"""`taesd_encoder`, `taesd3_decoder` and their like, one half each, and the authors' module, which holds both."""

TAESD = WeightMap(
    name="taesd",
    rules=(
        *_half(ENCODER, ENCODER_LAYERS, ENCODER_BLOCKS, 0),
        *_half(DECODER, DECODER_LAYERS, DECODER_BLOCKS, DECODER_OFFSET),
    ),
    arguments=tiny_arguments,
    files=in_authors_order,
    folder="vae",
    read_config=arguments_of_config,
    config_class=CLASS,
    make_config=config_of_arguments,
    describe=tiny_variant,
)
"""TAESD, TAESD3 and others of this architecture for any number of latent channels."""
