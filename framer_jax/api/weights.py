"""Weights: conversion between PyTorch and framer_jax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framer_jax.api.arguments import PathLike, described, path_of, paths_of, plain_values, real_number, text_of


def port(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    model: str,
    to: str = "jax",
    overwrite: bool = False,
    check: str | None = None,
    variant: str = "",
    alpha: float | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Convert weights between PyTorch and framer_jax, as `framer-jax port` does.

    Args:
      inputs: checkpoint to read; several if each holds a part of the model; LoRAs behind it are added to it.
      output: file to write (.safetensors, or .pth with to='torch'); a folder with to='diffusers'.
      model: network that the checkpoint belongs to: a key of framer_jax.porting.table.MAPS.
      to: 'jax' for framer_jax's format, 'torch' for a PyTorch state dict, 'diffusers' for a folder of config.json and
        weights, or 'lora' for the LoRA of a trained run in PEFT's names.
      overwrite: whether an existing output may be replaced.
      check: clone of the original repository (or 'installed' for an installed package) with which the output of every
        layer is compared first; None for no comparison.
      variant: variant of the weights in a folder of Diffusers, such as 'fp16'.
      alpha: alpha of the LoRAs; None for what they state.
      values: arguments of the network that its tensors do not determine, such as {'head_width': 32}; those that nothing
        states are in the result's 'assumed'.

    Returns:
      What the command prints with --json, by name: 'written' (a path), 'sha256', 'model', 'parameters' (a number),
      'sources' (a list of 'file' and 'sha256'), 'notes' (a list), and as far as there are any 'arguments', 'stated' and
      'assumed' (dicts by name), 'checked' (a dict) and further facts.

    Raises:
      FileExistsError: the output exists and `overwrite` is False.
      ValueError, FileNotFoundError, ImportError: weights that cannot be converted, or an output that is an input; see
        framer_jax.commands.port.
      TypeError: an argument of another kind.
    """
    from framer_jax.commands.port import FORMS, check_output, port_to_jax, port_to_torch

    if to not in FORMS:
        raise ValueError(f"to is {to!r}: choose one of {', '.join(FORMS)}")
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(f"values is {described(values)}: give arguments by name, such as {{'head_width': 32}}")
    values = None if values is None else plain_values(values)
    paths = [Path(path) for path in paths_of(inputs, "inputs")]
    text_of(model, "model")
    text_of(variant, "variant")
    alpha = None if alpha is None else real_number(alpha, "alpha")
    check = None if check is None else str(path_of(check, "check"))
    if Path(path_of(output, "output")).exists() and not overwrite:
        raise FileExistsError(f"{output} exists: choose another name or set overwrite=True")
    check_output(output, paths, to)
    if to == "jax":
        return port_to_jax(model, paths, Path(output), check, variant, alpha, values)
    return port_to_torch(model, paths, Path(output), to, check, variant, alpha, values)
