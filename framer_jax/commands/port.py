"""`framer-jax port`: weights of PyTorch in our format, and ours in PyTorch's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.commands.port_check import check
from framer_jax.porting.files import sha256_of
from framer_jax.porting.maps import to_torch
from framer_jax.porting.resshift import RELEASED
from framer_jax.porting.table import MAPS, arguments_in, map_named
from framer_jax.porting.torch_files import write_state
from framer_jax.porting.weights import check_same_structure, flatten_names, load_weights, save_weights
from framer_jax.recipes.pretrained import build, expected_params, read
from framer_jax.recipes.weights_by_path import PUBLISHED, network_of
from framer_jax.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("inputs", nargs="+", metavar="IN", help="checkpoint; several if each holds a part of the model")
    parser.add_argument("output", metavar="OUT", help="file to write: *.safetensors; with --to torch also *.pth")
    parser.add_argument("--model", required=True, choices=list(MAPS), help="what the checkpoint is")
    parser.add_argument("--to", choices=("jax", "torch"), default="jax", help="whose format to write (default: ours)")
    parser.add_argument(
        "--check",
        metavar="FOLDER",
        help="first compare every layer's output with the original, imported from this clone of its repository",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Convert, write, and say what was written."""
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"{output} exists: name another file, or use --overwrite")
    convert = port_to_torch if arguments.to == "torch" else port_to_jax
    inputs = [Path(path) for path in arguments.inputs]
    for name, value in convert(arguments.model, inputs, output, arguments.check).items():
        print(f"{name:<12} {value}")
    return 0


def port_to_jax(model: str, inputs: list[Path], output: Path, original: str | None = None) -> dict[str, Any]:
    """Write a checkpoint in our format, checked against the code in folder `original` if given; the facts to print.

    Raises:
      ValueError, FileNotFoundError, ImportError: as framer_jax.recipes.pretrained.read, `check` and `save_weights`.
    """
    found = read(model, *inputs)
    checked = _checked(model, found.params, found.arguments, original)
    parameters = _count(flatten_names(found.params)[0])
    metadata = {
        "framer_jax_version": __version__,
        "model": model,
        "arguments": found.arguments,
        "parameters": parameters,
        "source": found.source,
    }
    save_weights(output, found.params, metadata)
    facts = _facts(output, model, parameters) | {"arguments": json.dumps(found.arguments)}
    if variant := map_named(model).describe(found.arguments):
        facts["variant"] = variant
    return facts | checked | _described(found.source)


def port_to_torch(model: str, inputs: list[Path], output: Path, original: str | None = None) -> dict[str, Any]:
    """Write a file of ours, ported or trained, in PyTorch's names, checked as by `port_to_jax`; the facts to print.

    Raises:
      ValueError, FileNotFoundError, ImportError: the input is not of this model, or as `check` and `write_state`.
    """
    if len(inputs) != 1:
        raise ValueError("--to torch takes one file of framer_jax")
    weights = map_named(model)
    params, metadata = load_weights(inputs[0])
    if metadata.get("model", model) != model:
        raise ValueError(f"{inputs[0]}: holds {metadata['model']}, not {model}")
    _refuse_departures(model, metadata, inputs[0])
    if weights.group and set(params) == {weights.group}:
        params = params[weights.group]
    source = str(inputs[0])
    arguments = weights.arguments(to_torch(weights, params, source)) | _given_arguments(model, metadata)
    state = to_torch(weights, params, source, arguments)
    check_same_structure(params, expected_params(model, build(model, arguments)), inputs[0].name)
    checked = _checked(model, params, arguments, original)
    write_state(output, state)
    parameters = _count(flatten_names(params)[0])
    made_of = {"files": [{"file": inputs[0].name, "sha256": sha256_of(inputs[0])}]}
    facts = _facts(output, model, parameters) | {"tensors": len(state)} | checked | _described(made_of)
    return facts | (_pipeline_notes(metadata) if model == "resshift_unet" else {})


def _refuse_departures(model: str, metadata: dict[str, Any], path: Path) -> None:
    """What the original code cannot do must not become a file of it, which would give other pictures there."""
    trained = metadata.get("config", {}).get("recipe", {}).get("denoiser", {}).get(model, {})
    for name, released in RELEASED.items() if model == "resshift_unet" else ():
        if (value := trained.get(name, released)) != released:
            raise ValueError(
                f"{path}: trained with recipe.denoiser.{model}.{name} {value!r}, which the PyTorch code does not have: "
                f"only models trained with {released!r} can be carried over"
            )


def _given_arguments(model: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its constructor arguments: tensors do not tell them all, such as the nominal side."""
    if "arguments" in metadata:
        return arguments_in(metadata)
    recipe = metadata.get("config", {}).get("recipe", {})
    section, name = network_of(recipe)
    return arguments_in({"arguments": recipe[section][name]}) if name == model else {}


def _pipeline_notes(metadata: dict[str, Any]) -> dict[str, str]:
    """What the released samplers, which expect a ResShift chain on VQ-f4 latents, would not do with a trained model."""
    recipe = metadata.get("config", {}).get("recipe", {})
    departures = []
    if recipe.get("name") not in (None, *PUBLISHED):
        departures.append(f"its recipe is {recipe['name']}")
    if recipe.get("space", {}).get("name", "vq_f4") != "vq_f4":
        departures.append(f"its latents are of {recipe['space']['name']}")
    if recipe.get("resshift", {}).get("residual"):
        departures.append("its chain is residual")
    if not departures:
        return {}
    return {"note": f"{', '.join(departures)}: the released samplers do not run such a model, only its network"}


def _checked(model: str, params: dict[str, Any], arguments: dict[str, Any], original: str | None) -> dict[str, Any]:
    if original is None:
        return {}
    *layers, output = check(model, params, arguments, original)
    worst = max(layers, key=lambda found: found.relative)
    return {
        "checked": f"{len(layers)} layers, relative differences up to {worst.relative:.1e} ({worst.layer}); "
        f"output {output.relative:.1e}"
    }


def _facts(output: Path, model: str, parameters: int) -> dict[str, Any]:
    return {"written": output, "sha256": sha256_of(output), "model": model, "parameters": f"{parameters:,}"}


def _described(source: dict[str, Any]) -> dict[str, Any]:
    """Source files with their checksums, and what was left out of them."""
    lines = {f"source {number}": f"{file['file']}  {file['sha256']}" for number, file in enumerate(source["files"], 1)}
    if source.get("taken_off"):
        lines["taken off"] = ", ".join(source["taken_off"])
    if source.get("dropped"):
        lines["dropped"] = f"{source['dropped']} constants that the model computes itself"
    return lines


def _count(leaves: dict[str, Any]) -> int:
    return sum(int(np.size(leaf)) for leaf in leaves.values())
