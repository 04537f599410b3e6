"""`framer-jax info`: the installation, the content of a model or configuration, its cost, and the knobs of a method."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from framer_jax import config as configuration
from framer_jax.checkpoints.groups import is_network
from framer_jax.checkpoints.networks import autoencoder_shapes
from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.extras import EXTRAS
from framer_jax.commands.info_memory import add_memory_arguments, check_memory_arguments, print_memory
from framer_jax.commands.override_option import add_override_option
from framer_jax.commands.published import config_of_weights, is_model_name
from framer_jax.config import is_config, load_config, to_dict
from framer_jax.console import table_width
from framer_jax.evaluation.cost import MODES, Cost, CostSettings, as_json, as_text, measure
from framer_jax.inference.model import SHIPPED, Model, load_model
from framer_jax.inference.named_models import model_file
from framer_jax.knobs import MISSING, Knob, legal_values, nearest
from framer_jax.porting.weights import read_metadata
from framer_jax.recipes import table as recipes
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.framer import add_framer
from framer_jax.trees import flatten_names
from framer_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "what",
        nargs="?",
        help="weights file, training directory, configuration, or a model's name such as 'starter' (`framer-jax "
        "models` lists them); with --knobs, name of a method",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--knobs", action="store_true", help="print every knob of a method's configuration")
    add_override_option(parser)
    add_memory_arguments(parser)
    cost = parser.add_argument_group("cost of an image")
    cost.add_argument("--cost", action="store_true", help="count parameters, MACs, FLOPs and memory, and time it")
    cost.add_argument("--size", metavar="HxW", help="size of the LR image in pixels; one number for a square (64)")
    cost.add_argument("--batch", type=int, help="number of images computed at a time (1)")
    cost.add_argument("--runs", type=int, help="number of timed calls (10)")
    cost.add_argument("--mode", choices=MODES, help="the full sampler, or the one-step mean (sample)")


def run(arguments: argparse.Namespace) -> int:
    """Print the requested information."""
    settings = cost_settings(arguments)
    check_memory_arguments(arguments)
    kinds = {"--knobs": arguments.knobs, "--cost": settings, "--memory": arguments.memory}
    if len(given := [name for name, value in kinds.items() if value]) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other: choose one")
    # Only a configuration has a training step, so that --memory means that of the name 'starter'.
    means_config = bool(arguments.what) and (is_config if arguments.memory else _means_config)(arguments.what)
    if arguments.overrides and (arguments.knobs or not means_config):
        raise ValueError("--set changes a configuration: name one, or leave it out")
    if arguments.memory:
        if not means_config:
            raise ValueError(f"--memory needs a configuration, and {arguments.what} is none")
        print_memory(to_dict(load_config(arguments.what, arguments.overrides)), arguments)
        return 0
    if arguments.knobs:
        _print_knobs(arguments.what, arguments.json)
        return 0
    if settings:
        cost = cost_of(arguments.what, settings, arguments.overrides)
        print(json.dumps(as_json(cost), indent=1) if arguments.json else "\n".join(as_text(cost)))
        return 0
    facts = describe(arguments.what, arguments.overrides) if arguments.what else environment()
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        for name, value in _lines(facts):
            print(f"{name:<40} {value}")
    return 0


def cost_settings(arguments: argparse.Namespace) -> CostSettings | None:
    """The settings of --cost, None if it is not given.

    Raises:
      ValueError: an option of --cost without it, nothing to measure, or an invalid size or count.
    """
    options = {name: getattr(arguments, name) for name in ("size", "batch", "runs", "mode")}
    options = {name: value for name, value in options.items() if value is not None}
    if not arguments.cost:
        if options:
            raise ValueError(f"--{next(iter(options))} belongs to --cost: add --cost, or leave it out")
        return None
    if not arguments.what:
        raise ValueError(
            "--cost needs a model: name a weights file, a training directory, a configuration or 'starter'"
        )
    if (size := options.pop("size", None)) is not None:
        sides = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
        if not sides:
            raise ValueError(f"--size {size!r}: give LR pixels as HEIGHTxWIDTH, or one number for a square")
        options |= {"height": int(sides[1]), "width": int(sides[2] or sides[1])}
    return CostSettings(**options)


def cost_of(what: str, settings: CostSettings, overrides: Sequence[str] = ()) -> Cost:
    """Cost of an image; frozen weights, and all weights of a configuration, are replaced by arrays of their shapes.

    Raises:
      ValueError, FileNotFoundError: `what` is no model or configuration, or does not take that size or mode.
    """
    if _means_config(what):
        config = to_dict(load_config(what, overrides))["recipe"]
        recipe = build_recipe(config, "description")
        return measure(recipe, expected_params(recipe), {**recipe.frozen, **autoencoder_shapes(config)}, settings)
    model = _model(what)
    frozen = {**model.recipe.frozen, **autoencoder_shapes(model.metadata["config"]["recipe"])}
    return measure(model.recipe, model.params, frozen, settings)


def _means_config(what: str) -> bool:
    """Whether a configuration is meant; that of a shipped model's name is meant by its file."""
    return what not in SHIPPED and is_config(what)


def _model(what: str) -> Model:
    """A model by its file or its name.

    Raises:
      ValueError: published weights that do not determine their configuration.
    """
    if what in SHIPPED:
        return load_model(SHIPPED[what], purpose="description")
    path = model_file(what)[0] if is_model_name(what) else Path(what)
    config = config_of_weights(path)
    if config is None and is_network(metadata := read_metadata(what)):
        raise ValueError(f"{what}: a ported {metadata['model']} carries no recipe: name a configuration that uses it")
    return load_model(path, config, purpose="description")


def environment() -> dict[str, Any]:
    """Versions of the packages, and the devices."""
    return {
        "framer_jax": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "extras": _installed_extras(),
        "backend": jax.default_backend(),
        "devices": [{"id": device.id, "kind": device.device_kind} for device in jax.devices()],
        **{f"{name} model": str(path) if path.is_file() else "missing" for name, path in SHIPPED.items()},
    }


def describe(what: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Recipe, number of parameters and configuration of a model or of a configuration file.

    Raises:
      ValueError, FileNotFoundError: `what` is none of these.
    """
    if _means_config(what):
        config = to_dict(load_config(what, overrides))
        recipe = build_recipe(config["recipe"], "description")
        framer_recipe = add_framer(recipe, config["framer"])
        sizes = {name: int(np.prod(leaf.shape)) for name, leaf in flatten_names(expected_params(recipe))[0].items()}
        return {"recipe": framer_recipe.name, "parameters": sum(sizes.values()), "config": config}
    if is_network(metadata := read_metadata(what)):
        return {"file": what, "bytes": Path(what).stat().st_size, **metadata}
    model = _model(what)
    leaves = flatten_names(model.params)[0]
    return {
        "file": str(model.path),
        "bytes": model.path.stat().st_size,
        "recipe": model.recipe.name,
        "scale": model.recipe.scale,
        "parameters": sum(int(np.size(leaf)) for leaf in leaves.values()),
        **model.metadata,
    }


def knob_facts(path: str, knob: Knob) -> dict[str, Any]:
    """One knob as JSON; `default` is None if `required`, or if the knob takes the value of the knob `follows`."""
    return {
        "knob": path,
        "type": knob.type.__name__,
        "default": None if knob.default is MISSING else knob.default,
        "required": knob.default is MISSING,
        "follows": knob.follows,
        "unit": knob.unit,
        "legal_values": legal_values(knob),
        "meaning": knob.meaning,
    }


def _print_knobs(name: str | None, as_json_text: bool) -> None:
    """Print every knob of a method.

    Raises:
      ValueError: no method of that name; the message names the nearest one.
    """
    methods = {method.name: method for method in recipes.METHODS}
    if name is None:
        raise ValueError(f"--knobs needs a method: name one of {', '.join(methods)}")
    if name not in methods:
        raise ValueError(f"unknown method {name!r}{nearest(name, methods)}")
    method = methods[name]
    facts = [knob_facts(path, knob) for path, knob in configuration.knob_table(name)]
    if as_json_text:
        header = {"method": name, "paper": method.paper, "summary": method.summary}
        print(json.dumps({**header, "knobs": facts}, indent=1))
        return
    print(f"{name}: {method.summary} ({method.paper})\n")
    rows = Table("knob", "default", "unit", "legal values", "meaning", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows.columns[0].no_wrap = True
    for fact in facts:
        cells = (fact["knob"], _default_text(fact), fact["unit"], fact["legal_values"], fact["meaning"])
        rows.add_row(*map(Text, cells))
    Console(width=table_width()).print(rows)


def _default_text(fact: dict[str, Any]) -> str:
    if fact["required"]:
        return "required"
    if fact["default"] is None and fact["follows"]:
        return f"that of {fact['follows']}"
    return repr(fact["default"]) if isinstance(fact["default"], str) else str(fact["default"])


def _installed_extras() -> dict[str, str]:
    """Extra → the version of the first package that it installs, or 'not installed'."""
    distributions = importlib.metadata.packages_distributions()
    names = {extra: distributions.get(EXTRAS[extra].modules[0], []) for extra in EXTRAS}
    return {extra: importlib.metadata.version(name[0]) if name else "not installed" for extra, name in names.items()}


def _lines(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{name}.")
        elif name == "devices" and not prefix:
            yield name, ", ".join(f"{device['id']}: {device['kind']}" for device in value)
        else:
            yield f"{prefix}{name}", value
