"""`framer-jax port`: convert weights of PyTorch to framer_jax, and back: a file, a Diffusers folder, a LoRA."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.checkpoints.groups import present_metadata
from framer_jax.checkpoints.merge import add_lora, is_mergeable_run, merge_run
from framer_jax.checkpoints.networks import build_network, network_shapes, read_network
from framer_jax.commands.port_check import INSTALLED, check
from framer_jax.commands.port_facts import as_lines, count_parameters, source_facts, written_facts
from framer_jax.commands.port_originals import control_differences
from framer_jax.commands.port_published import port_to_published
from framer_jax.commands.port_values import option_statements, read_values, statement_facts, write_torch
from framer_jax.porting.files import PathLike, check_output_folder, check_outputs, sha256_of
from framer_jax.porting.lora import LoraLayers, write_layers
from framer_jax.porting.lora_files import RANK, is_lora
from framer_jax.porting.maps import to_torch
from framer_jax.porting.stated import settle, without_constants
from framer_jax.porting.table import MAPS, Ported, arguments_in, map_named, model_in
from framer_jax.porting.torch_files import write_state
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.components.networks import network_section
from framer_jax.recipes.table import method_of
from framer_jax.trees import check_same_structure, flatten_names
from framer_jax.version import __version__

FORMS = ("jax", "torch", "diffusers", "lora", "published")


class Inputs(NamedTuple):
    """What is ported.

    Attributes:
      files: the checkpoint; several files if each holds a part of the model.
      loras: LoRAs that are added to it.
      alpha: alpha of all LoRAs; None for what they state.
    """

    files: list[Path]
    loras: list[Path]
    alpha: float | None


class Ours(NamedTuple):
    """A model of framer_jax that is ported to PyTorch.

    Attributes:
      params: nested dict of arrays, without a group around them.
      arguments: constructor arguments of its module that the tensors do not determine.
      files: the files it was read from, 'file' and 'sha256' each.
      metadata: metadata of the file.
      lora: the LoRA that a run trained, None if it trained none.
      assumed: names of the arguments that were assumed when it was ported from PyTorch.
    """

    params: dict[str, Any]
    arguments: dict[str, Any]
    files: list[dict[str, str]]
    metadata: dict[str, Any]
    lora: LoraLayers | None = None
    assumed: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help="checkpoint: a file, a folder of Diffusers, or one of its shards or their index; several if each holds a "
        "part of the model; LoRAs (files, or folders of PEFT) behind it are added to it",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        help="to write: *.safetensors; --to torch: also *.pth; --to diffusers: a folder",
    )
    parser.add_argument("--model", required=True, metavar="MODEL", help=f"what the checkpoint is: {', '.join(MAPS)}")
    parser.add_argument(
        "--to",
        choices=FORMS,
        default="jax",
        help="jax: framer_jax's format (default); torch: a state dict; diffusers: a folder of config.json and weights; "
        "lora: the LoRA of a trained run alone, in PEFT's names; published: a run as its method's authors publish "
        "theirs, *.pkl",
    )
    parser.add_argument(
        "--check",
        metavar="FOLDER",
        help="first compare every layer's output with the original, imported from this clone of its repository; "
        f"'{INSTALLED}': with the installed package (diffusers)",
    )
    parser.add_argument(
        "--variant", default="", metavar="NAME", help="variant of the weights in a folder of Diffusers, such as fp16"
    )
    parser.add_argument(
        "--alpha", type=float, metavar="A", help="alpha of the LoRAs; default: what they state, else their rank"
    )
    parser.add_argument(
        "--set",
        dest="values",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of the network that its tensors do not determine, such as head_width of a transformer without "
        "query norms, value_range of SwinIR, scaling of an autoencoder; those that nothing states are printed as "
        "assumed; repeatable",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file, or a folder of a model")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Convert the weights, write them and report what was written."""
    output = Path(arguments.output)
    check_output(arguments.output, arguments.inputs, arguments.to)
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"{output} exists: name another file, or use --overwrite")
    model = map_named(arguments.model).name
    inputs = [Path(path) for path in arguments.inputs]
    options = {"original": arguments.check, "variant": arguments.variant, "alpha": arguments.alpha}
    options["values"] = read_values(arguments.values)
    if arguments.to == "published":
        facts = port_to_published(model, inputs, output, **options)
    elif arguments.to == "jax":
        facts = port_to_jax(model, inputs, output, **options)
    else:
        facts = port_to_torch(model, inputs, output, arguments.to, **options)
    if arguments.json:
        print(json.dumps(facts, indent=1, default=str))
        return 0
    for name, text in as_lines(facts):
        print(f"{name:<12} {text}")
    return 0


def check_output(output: PathLike, inputs: Sequence[PathLike], form: str) -> None:
    """Refuse an output that would replace an input.

    Raises:
      ValueError: as of framer_jax.porting.files.check_outputs and check_output_folder.
    """
    if form == "diffusers":
        check_output_folder("the output", output, {"the input": inputs}, replaced=True)
    else:
        check_outputs({"the output": output}, {"the input": inputs})


def sort_inputs(paths: Sequence[Path], alpha: float | None) -> Inputs:
    """The paths of the command line: a checkpoint of one or more files, and LoRAs behind it.

    Raises:
      ValueError: there is nothing but a LoRA, an alpha without a LoRA, or an alpha that is not finite.
    """
    files = [path for number, path in enumerate(paths) if not (number and is_lora(path))]
    loras = [path for path in paths if path not in files]
    if alpha is not None and not math.isfinite(alpha):
        raise ValueError(f"--alpha {alpha!r} must be a finite number")
    if alpha is not None and not loras:
        raise ValueError("--alpha is of a LoRA, and none of the inputs is one: omit it, or name one behind the model")
    if len(files) == 1 and is_lora(files[0]):
        raise ValueError(f"{files[0]}: a LoRA alone: name the model that it is added to before it")
    return Inputs(files, loras, alpha)


def port_to_jax(
    model: str,
    paths: Sequence[Path],
    output: Path,
    original: str | None = None,
    variant: str = "",
    alpha: float | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a checkpoint in framer_jax's format; returns the facts to print.

    Args:
      model: name of the weight map.
      paths: the checkpoint, several files if each holds a part of the model, and the LoRAs that are added to it.
      output: the file to write.
      original: folder of the original code, with which the network is compared first; None for no comparison.
      variant: variant of the weights in a folder of Diffusers.
      alpha: alpha of the LoRAs; None for what they state.
      values: arguments of the network that its tensors do not determine.

    Raises:
      ValueError, FileNotFoundError, ImportError: as framer_jax.checkpoints.networks.read_network, `read_ours`,
        framer_jax.checkpoints.merge.add_lora, `check` and `save_weights`.
    """
    inputs = sort_inputs(paths, alpha)
    if len(inputs.files) == 1 and is_mergeable_run(inputs.files[0]):
        ours = read_ours(model, inputs.files[0], values)
        ported = Ported(ours.params, ours.arguments, {"files": ours.files})
    else:
        ported = read_network(model, *inputs.files, variant=variant, statements=option_statements(values))
    params, source = _with_loras(model, ported.params, ported.source, inputs)
    ported = Ported(params, ported.arguments, source)
    checked = _checked(model, ported.params, ported.arguments, original, ported.source.get("assumed", ()))
    parameters = count_parameters(flatten_names(ported.params)[0])
    metadata = {
        "framer_jax_version": __version__,
        "model": model,
        "arguments": ported.arguments,
        "parameters": parameters,
        "source": ported.source,
    }
    save_weights(output, ported.params, metadata)
    facts = written_facts(output, model, parameters) | {"arguments": ported.arguments}
    if variant := map_named(model).describe(ported.arguments):
        facts["variant"] = variant
    if assumed := {name: ported.arguments[name] for name in ported.source.get("assumed", ())}:
        facts["assumed"] = assumed
    return facts | checked | source_facts(ported.source)


def _with_loras(
    model: str, params: dict[str, Any], source: dict[str, Any], inputs: Inputs
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and their origin after all LoRAs were added."""
    for path in inputs.loras:
        params, origin = add_lora(model, params, path, inputs.alpha)
        source = source | {key: [*source.get(key, ()), *values] for key, values in origin.items()}
    return params, source


def port_to_torch(
    model: str,
    paths: Sequence[Path],
    output: Path,
    form: str = "torch",
    original: str | None = None,
    variant: str = "",
    alpha: float | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a file of framer_jax, ported or trained, in PyTorch's names; returns the facts to print.

    Args:
      model: name of the weight map.
      paths: one file of framer_jax, and LoRAs that are added to it; a run with a frozen base is merged with it.
      output: the file or folder to write.
      form: 'torch', 'diffusers' or 'lora'.
      original: as for `port_to_jax`.
      variant: must be '', as there is no folder to read.
      alpha: alpha of the LoRAs; None for what they state.
      values: as for `port_to_jax`; the file states all such arguments, in its header, in config.json, or next to a
        pickle.

    Raises:
      ValueError, FileNotFoundError, ImportError: the input is not of this model, or has no such form, or as `check`,
        `write_state` and `write_folder`.
    """
    inputs = sort_inputs(paths, alpha)
    if len(inputs.files) != 1:
        raise ValueError(f"--to {form} takes one file of framer_jax")
    if variant:
        raise ValueError(f"--variant is of a folder of Diffusers, and --to {form} takes a file of framer_jax: omit it")
    weights = map_named(model)
    if form == "diffusers" and weights.make_config is None:
        known = ", ".join(name for name, other in MAPS.items() if other.make_config)
        raise ValueError(f"--to diffusers: there are no folders of {model}, only of {known}: use --to torch")
    if form == "lora" and original is not None:
        raise ValueError("--check compares whole models: use it with --to diffusers, which has the LoRA within")
    path = inputs.files[0]
    ours = read_ours(model, path, values)
    if form == "lora":
        if inputs.loras:
            raise ValueError(f"--to lora writes the LoRA of a run alone: omit {inputs.loras[0]}")
        return _port_lora(model, ours, path, output)
    params, source = _with_loras(model, ours.params, {"files": ours.files}, inputs)
    ours = ours._replace(params=params)
    state = to_torch(weights, ours.params, str(path), ours.arguments)
    checked = _checked(model, ours.params, ours.arguments, original, ours.assumed)
    statement = write_torch(weights, ours.arguments, state, output, form)
    facts = written_facts(output, model, count_parameters(flatten_names(ours.params)[0]))
    stated, assumed_notes = statement_facts(output, statement, ours.assumed)
    notes = _pipeline_notes(ours.metadata) if model == "resshift_unet" else _network_notes(model, ours.arguments)
    return facts | stated | {"tensors": len(state)} | checked | source_facts(source, [*assumed_notes, *notes])


def read_ours(model: str, path: Path, values: Mapping[str, Any] | None = None) -> Ours:
    """A file of framer_jax, ported or trained, as one whole model.

    Args:
      model: name of the weight map.
      path: the file.
      values: arguments that tensors do not determine, instead of the file's.

    Raises:
      ValueError, FileNotFoundError, ImportError: it is not of this model, is not whole, or as
        framer_jax.checkpoints.merge.merge_run.
    """
    weights = map_named(model)
    if is_mergeable_run(path):
        run = merge_run(path, model)
        ours = Ours(run.params, run.arguments, run.files, {}, run.lora)
    else:
        params, metadata = load_weights(path)
        metadata = present_metadata(metadata, path)
        if (stated := model_in(metadata)) and stated != model:
            raise ValueError(f"{path} holds {stated}, not {model}: use --model {stated}")
        _refuse_release_differences(model, metadata, path)
        if weights.group and set(params) == {weights.group}:
            params = params[weights.group]
        files = [{"file": path.name, "sha256": sha256_of(path)}]
        ours = Ours(params, _known_arguments(model, metadata), files, metadata)
    state = to_torch(weights, ours.params, str(path))
    arguments = weights.arguments(state) | ours.arguments
    settled = settle(
        weights, without_constants(weights, state, arguments), arguments, option_statements(values), str(path)
    )
    assumed = ours.metadata.get("source", {}).get("assumed", ())
    arguments = settled.arguments
    check_same_structure(ours.params, network_shapes(model, build_network(model, arguments)), path.name)
    return ours._replace(arguments=arguments, assumed=tuple(name for name in assumed if name in settled.assumed))


def _port_lora(model: str, ours: Ours, path: Path, output: Path) -> dict[str, Any]:
    """Write the LoRA of a run without its base."""
    if ours.lora is None:
        raise ValueError(
            f"{path}: no LoRA was trained in it: --to lora takes a run of one, such as one with lora_modules"
        )
    weights = map_named(model)
    state = write_layers(weights, ours.params, {"": ours.lora}, prefix=weights.folder, alphas=False)
    write_state(output, state, {"lora_alpha": RANK})
    facts = written_facts(output, f"LoRA of {model}", count_parameters(state)) | {"tensors": len(state)}
    note = "the LoRA alone, of alpha = rank: parameters that were trained with it are not in it"
    return facts | source_facts({"files": ours.files}, [note])


def _network_notes(model: str, arguments: dict[str, Any]) -> list[str]:
    """A note on arguments with which the released code would compute something else; [] without any."""
    if model != "dit4sr_transformer" or not (differences := control_differences(arguments)):
        return []
    return [f"{differences}: DiT4SR's released code computes something else, framer_jax reads it"]


def _refuse_release_differences(model: str, metadata: dict[str, Any], path: Path) -> None:
    """Refuse models that the original code cannot compute: a file in its format would give other images there."""
    trained = metadata.get("config", {}).get("recipe", {}).get("denoiser", {}).get(model, {})
    for name, released in map_named(model).fixed_arguments.items():
        if (value := trained.get(name, released)) != released:
            raise ValueError(
                f"{path}: trained with recipe.denoiser.{model}.{name} {value!r}, which the PyTorch code does not have: "
                f"only models trained with {released!r} can be ported to it"
            )


def _known_arguments(model: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """The constructor arguments that a file states: tensors do not determine them all, such as the nominal side."""
    if "arguments" in metadata:
        return arguments_in(metadata)
    recipe = metadata.get("config", {}).get("recipe", {})
    section, name = network_section(recipe)
    return arguments_in({"arguments": recipe[section][name]}) if name == model else {}


def _pipeline_notes(metadata: dict[str, Any]) -> list[str]:
    """A note on the differences of a trained model from what the released samplers run; [] without any."""
    recipe = metadata.get("config", {}).get("recipe")
    if recipe is None:
        return []
    method = method_of(recipe)
    differences = [] if method.published_network else [f"its method is {method.name}"]
    differences += method.release_differences(recipe)
    if not differences:
        return []
    return [f"{', '.join(differences)}: the released samplers do not run such a model, only its network"]


def _checked(
    model: str, params: dict[str, Any], arguments: dict[str, Any], original: str | None, assumed: Sequence[str]
) -> dict[str, Any]:
    if original is None:
        return {}
    *layers, output = check(model, params, arguments, original, assumed)
    worst = max(layers, key=lambda difference: difference.relative)
    values = {"layers": len(layers), "largest": worst.relative, "layer": worst.layer, "output": output.relative}
    return {"checked": values}
