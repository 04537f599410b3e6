"""The model card of a training run's weights: a page next to them with what a user should know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from framer_jax.commands.provenance import portable
from framer_jax.data.settings import describe_degradation
from framer_jax.paths import AnyPath
from framer_jax.porting.files import atomic_write
from framer_jax.recipes.base import Params
from framer_jax.recipes.components.networks import network_section
from framer_jax.recipes.method import value_at
from framer_jax.version import __version__

CARD = "card.md"
"""File name of the card in a run's work directory."""


def write_card(workdir: AnyPath, name: str, params: Params, metadata: Mapping[str, Any]) -> None:
    """Write the card, or update it after further steps.

    Args:
      workdir: work directory of the run.
      name: name of the recipe.
      params: the exported groups.
      metadata: metadata of the weights: 'config', 'step', 'weights', 'init' and, of a text-conditioned recipe, 'text'.
    """
    with atomic_write(workdir / CARD) as temporary:
        text = card(name, params, metadata)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of folders may be no UTF-8


def card(name: str, params: Params, metadata: Mapping[str, Any]) -> str:
    """The card as Markdown; arguments as of `write_card`."""
    config = portable(metadata["config"])
    recipe, data, training = config["recipe"], config["data"], config["training"]
    section, network = network_section(recipe)
    count = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
    variant = config["framer"]["variant"]
    rows = {
        "recipe": f"{name}, x{recipe['scale']}",
        section: f"{network}, {count:,} parameters in these weights",
        "FRAMER": "not used" if variant == "none" else f"variant '{variant}', in training only",
        "text": metadata.get("text"),
        "needs": "; ".join(_needed(recipe, metadata["weights"])),
        "started from": metadata["init"] and f"the weights with SHA-256 {metadata['init']}",
        "data": _training_data(data),
        "training": f"{metadata['step']} of {training['steps']} steps, global batch {training['global_batch']}, "
        f"seed {training['seed']}",
        "written by": f"framer_jax {__version__}",
    }
    lines = [f"| {row} | {value} |" for row, value in rows.items() if value]
    end = "The whole configuration is in the weights: `framer-jax info FILE` prints it."
    return "\n".join([f"# {name}", "", "| | |", "|---|---|", *lines, "", end, ""])


def _training_data(data: Mapping[str, Any]) -> str:
    crops = f"crops of {data['crop']} pixels"
    if pairs := data.get("pairs"):
        return f"pairs of LR images {pairs[0]} and HR images {pairs[1]}, {crops}"
    return f"{data['train']}, {crops}, degradation {describe_degradation(data)}"


def _needed(recipe: Mapping[str, Any], digests: Mapping[str, str]) -> list[str]:
    """The frozen weights that the run computed with."""
    paths = {knob: value_at(recipe, tuple(knob.split(".")[1:])) for knob in digests}
    return [f"`{knob}`: {paths[knob]} (SHA-256 {digest[:12]}…)" for knob, digest in digests.items()]
