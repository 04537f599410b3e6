"""`framer-jax info`: versions and devices, what a weights file or a configuration holds, and what a picture costs."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framer_jax.config import load_config, split_variant, to_dict
from framer_jax.evaluation.cost import MODES, Cost, CostSettings, as_json, as_text, frozen_shapes, measure
from framer_jax.inference.model import STARTER, load_model
from framer_jax.porting.table import MAPS
from framer_jax.porting.weights import read_metadata
from framer_jax.trees import flatten_names
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.table import add_framer, build_recipe
from framer_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
EXTRAS = {"photos": "scikit-image", "eval": "matplotlib", "tensorboard": "tensorboardX", "torch": "torch"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="?", help="a weights file, a training directory, a configuration, or 'starter'")
    parser.add_argument("--json", action="store_true", help="print JSON")
    cost = parser.add_argument_group("cost of a picture")
    cost.add_argument("--cost", action="store_true", help="count parameters, MACs, FLOPs and memory, and time it")
    cost.add_argument("--size", metavar="HxW", help="LR pixels, one number for a square (64)")
    cost.add_argument("--batch", type=int, help="pictures at a time (1)")
    cost.add_argument("--runs", type=int, help="timed calls (10)")
    cost.add_argument("--mode", choices=MODES, help="all steps of the sampler, or the one-step estimate (sample)")


def run(arguments: argparse.Namespace) -> int:
    """Print."""
    if settings := cost_settings(arguments):
        cost = cost_of(arguments.what, settings)
        print(json.dumps(as_json(cost), indent=1) if arguments.json else "\n".join(as_text(cost)))
        return 0
    facts = describe(arguments.what) if arguments.what else environment()
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        for name, value in _lines(facts):
            print(f"{name:<40} {value}")
    return 0


def cost_settings(arguments: argparse.Namespace) -> CostSettings | None:
    """What to measure, None if --cost is not given.

    Raises:
      ValueError: an option that needs another one, or not such a size or count.
    """
    given = {name: getattr(arguments, name) for name in ("size", "batch", "runs", "mode")}
    given = {name: value for name, value in given.items() if value is not None}
    if not arguments.cost:
        if given:
            raise ValueError(f"--{next(iter(given))} belongs to --cost: add --cost, or leave it out")
        return None
    if not arguments.what:
        raise ValueError("--cost of what? Name a weights file, a training directory, a configuration, or 'starter'")
    if (size := given.pop("size", None)) is not None:
        found = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
        if not found:
            raise ValueError(f"--size {size!r}: give LR pixels as HEIGHTxWIDTH, or one number for a square")
        given |= {"height": int(found[1]), "width": int(found[2] or found[1])}
    return CostSettings(**given)


def cost_of(what: str, settings: CostSettings) -> Cost:
    """What a picture costs; frozen weights, and all those of a configuration, are stand-ins of the same shapes.

    Raises:
      ValueError, FileNotFoundError: what is none of those, or does not take that size or mode.
    """
    if split_variant(what)[0].suffix == ".py":
        config = to_dict(load_config(what))["recipe"]
        recipe = build_recipe(config, "description")
        return measure(recipe, expected_params(recipe), {**recipe.frozen, **frozen_shapes(config)}, settings)
    if (ported := read_metadata(what).get("model")) in MAPS:
        raise ValueError(f"{what}: a ported {ported} carries no recipe: name a configuration that uses it")
    model = load_model(None if what == "starter" else what, purpose="description")
    frozen = {**model.recipe.frozen, **frozen_shapes(model.metadata["config"]["recipe"])}
    return measure(model.recipe, model.params, frozen, settings)


def environment() -> dict[str, Any]:
    """What is installed, and where computation happens."""
    return {
        "framer_jax": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "extras": {extra: _installed(package) for extra, package in EXTRAS.items()},
        "backend": jax.default_backend(),
        "devices": [f"{device.id}: {device.device_kind}" for device in jax.devices()],
        "starter model": str(STARTER) if STARTER.is_file() else "missing",
    }


def describe(what: str) -> dict[str, Any]:
    """Recipe, size and configuration of a model or of a configuration file.

    Raises:
      ValueError, FileNotFoundError: what is none of these.
    """
    if split_variant(what)[0].suffix == ".py":
        config = to_dict(load_config(what))
        recipe = build_recipe(config["recipe"], "description")
        framed = add_framer(recipe, config["framer"])
        sizes = {name: int(np.prod(leaf.shape)) for name, leaf in flatten_names(expected_params(recipe))[0].items()}
        return {"recipe": framed.name, "parameters": sum(sizes.values()), "config": config}
    if (ported := read_metadata(what)).get("model") in MAPS:
        return {"file": what, "bytes": Path(what).stat().st_size, **ported}
    model = load_model(None if what == "starter" else what, purpose="description")
    leaves = flatten_names(model.params)[0]
    return {
        "file": str(model.path),
        "bytes": model.path.stat().st_size,
        "recipe": model.recipe.name,
        "scale": model.recipe.scale,
        "parameters": sum(int(np.size(leaf)) for leaf in leaves.values()),
        **model.metadata,
    }


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _lines(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
