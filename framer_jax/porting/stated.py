"""Arguments of a network that its tensors do not determine: where their values are stated, and which are assumed.

Such values come, the later the stronger, from config.json in a model's folder or next to a file (in diffusers' format,
or of ours for networks without one), from the header of a safetensors file or from NAME.json next to a pickle, both as
`framer-jax port --to torch` writes them, and from the caller, such as `--set`. Those that nothing states have the
values of published models, and a note says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.knobs import as_tuple, nearest
from framer_jax.porting.diffusers_folder import CONFIG, ModelFiles, read_config
from framer_jax.porting.files import atomic_write
from framer_jax.porting.maps import StateDict, WeightMap

ARGUMENTS_KEY = "framer_jax_arguments"
"""Entry of a safetensors header, or of NAME.json next to a pickle: {'model': …, 'arguments': …} as JSON."""

CONFIG_KEY = f"_{ARGUMENTS_KEY}"
"""The same in a config.json; diffusers leaves out entries that begin with an underscore."""


class Statement(NamedTuple):
    """Values of arguments that something states.

    Attributes:
      source: what states them, for messages.
      values: argument → value.
      strict: whether values that contradict the tensors are an error; otherwise those that the tensors leave open and
        that fit them are taken, and of a config.json nothing.
      is_config: whether it is a config.json, which may have settings that are no arguments of ours.
    """

    source: str
    values: Mapping[str, Any]
    strict: bool = False
    is_config: bool = False


class Settled(NamedTuple):
    """The arguments of a network.

    Attributes:
      arguments: constructor arguments of our module.
      assumed: names of those that nothing states.
      notes: one sentence each, on what was assumed and on what was not used.
    """

    arguments: dict[str, Any]
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def stated_by_files(
    weights: WeightMap, files: ModelFiles, header: Mapping[str, str], is_folder: bool
) -> tuple[list[Statement], list[str]]:
    """What the files of a model state besides their tensors: (statements, the weaker ones first; notes).

    Args:
      weights: the weight map.
      files: the model's files.
      header: texts of the safetensors header.
      is_folder: whether the folder was named; its config.json is then that of the model, and otherwise only if its
        class is that of the network.

    Raises:
      ValueError: the folder's config.json is of another class, or has a setting that our module lacks.
    """
    notes: list[str] = []
    statements = []
    config = _config(files)
    if config is not None and {"model", "arguments"} <= config.keys():
        statements += _of_text(weights, str(files.folder / CONFIG), json.dumps(config))
    elif config is not None and weights.config_class:
        stated = config.get("_class_name", weights.config_class)
        expected = f"{'an' if weights.config_class.startswith(('A', 'SD')) else 'a'} {weights.config_class}"
        if stated == weights.config_class:
            statements.append(_of_config(weights, config, files.folder / CONFIG, is_folder))
        elif is_folder:
            raise ValueError(f"{files.folder / CONFIG}: describes a {stated}, not {expected}")
        else:
            notes.append(f"{CONFIG} next to it describes a {stated}, not {expected}, and is not used")
    path = files.folder / files.weights[0]
    for source, text in ((f"the header of {path}", header.get(ARGUMENTS_KEY, "")), _sidecar(path)):
        statements += _of_text(weights, source, text)
    return statements, notes


def _config(files: ModelFiles) -> dict[str, Any] | None:
    """The folder's config.json, or the one next to a file; None if there is none, or one that cannot be read."""
    if files.config is not None:
        return files.config
    try:
        return read_config(files.folder) if (files.folder / CONFIG).is_file() else None
    except ValueError:  # next to a file may lie anything
        return None


def _of_config(weights: WeightMap, config: Mapping[str, Any], path: Path, is_folder: bool) -> Statement:
    try:
        values = weights.read_config(config, str(path))
    except KeyError as error:
        raise ValueError(f"{path}: {CONFIG} is not that of a {weights.name}: it lacks {error}") from error
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"{path}: {CONFIG} is not that of a {weights.name} ({error})") from error
    own = config.get(CONFIG_KEY, {})
    own = own.get("arguments", {}) if isinstance(own, Mapping) and own.get("model") == weights.name else {}
    return Statement(str(path), {**own, **values}, is_folder, is_config=True)


def _sidecar(path: Path) -> tuple[str, str]:
    """(name, content) of the file of arguments next to a pickle, which has no header; the content is '' without one."""
    file = sidecar_of(path)
    return str(file), file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def sidecar_of(path: Path) -> Path:
    """Path of the file with the arguments of a pickle."""
    return path.with_name(f"{path.name}.json")


def _of_text(weights: WeightMap, source: str, text: str) -> list[Statement]:
    """The statement in a header or next to a pickle; [] if there is none, or one of another network."""
    try:
        content = json.loads(text or "{}")
        if content.get("model") != weights.name:
            return []
        return [Statement(source, {name: as_tuple(value) for name, value in content["arguments"].items()})]
    except (ValueError, AttributeError, KeyError):  # next to a pickle may lie anything
        return []


def settle(
    weights: WeightMap,
    state: StateDict,
    arguments: Mapping[str, Any],
    statements: Sequence[Statement],
    title: str,
) -> Settled:
    """Complete the arguments that tensors determine by those that are stated.

    Args:
      weights: the weight map.
      state: the checkpoint, in PyTorch's names.
      arguments: as the tensors determine them, and assumed values of the others.
      statements: the weaker ones first.
      title: name of the checkpoint in messages.

    Raises:
      ValueError: a strict statement contradicts the tensors, names an unknown argument or has a value of another type;
        or the stated values contradict each other.
    """
    still_open = weights.assumed(state, arguments)
    stated: dict[str, Any] = {}
    notes = []
    for statement in statements:
        if differing := _contradictions(weights, statement, arguments, still_open):
            if statement.strict:
                raise ValueError(f"{title}: {differing}")
            if statement.is_config:
                notes.append(f"{CONFIG} next to it is of another model ({differing}) and is not used")
                continue
        taken = {name: value for name, value in statement.values.items() if name in still_open}
        for name, value in taken.items():
            _check_type(f"{title}: {name}", value, arguments[name])
        if statement.strict or _fits(weights, arguments, {**stated, **taken}, state):
            stated |= taken
    settled = weights.settle(arguments, stated, state)
    following = weights.linked if set(weights.linked) & stated.keys() else ()
    left = tuple(name for name in still_open if name not in stated and name not in following)
    if left:
        notes.append(assumption(settled, left))
    return Settled(settled, left, tuple(notes))


def _fits(weights: WeightMap, arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict) -> bool:
    """Whether stated values can be those of the tensors, such as heads that divide their width."""
    try:
        weights.settle(arguments, stated, state)
    except ValueError:
        return False
    return True


def _contradictions(
    weights: WeightMap, statement: Statement, arguments: Mapping[str, Any], still_open: Collection[str]
) -> str:
    """What a statement says against the tensors, in words; '' if nothing."""
    if (
        statement.strict
        and not statement.is_config
        and (unknown := [key for key in statement.values if key not in arguments])
    ):
        return f"{statement.source}: no argument {unknown[0]!r} of {weights.name}{nearest(unknown[0], arguments)}"
    differing = {
        name: value
        for name, value in statement.values.items()
        if name in arguments
        and name not in still_open
        and name not in weights.constants
        and as_tuple(value) != as_tuple(arguments[name])
    }
    if not differing:
        return ""
    listed = ", ".join(f"{name} {value!r} and {arguments[name]!r}" for name, value in differing.items())
    if not statement.is_config:
        return f"{statement.source} contradicts the tensors ({listed})"
    try:
        described = [weights.describe(values) for values in ({**arguments, **statement.values}, arguments)]
    except (KeyError, TypeError, ValueError):
        described = ["", ""]
    names = f"{described[0]} and {described[1]} " if all(described) else ""
    return f"config.json and the tensors are not of one model: {names}({listed}): fetch both again"


def _check_type(what: str, value: Any, example: Any) -> None:
    kinds: dict[type, tuple[type, ...]] = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}
    accepted = kinds.get(type(example), (object,))
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted and object not in accepted):
        raise ValueError(f"{what} is {value!r}: it must be of the type of {example!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}: it must be a finite number")


def assumption(arguments: Mapping[str, Any], names: Sequence[str]) -> str:
    """The note on assumed arguments."""
    listed = ", ".join(f"{name} {arguments[name]!r}" for name in names)
    return (
        f"assumed, as in published models, since the tensors do not tell: {listed}; state others with `framer-jax port "
        "--set NAME=VALUE`, or in config.json"
    )


def without_constants(weights: WeightMap, state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """A state dict without the constants that are computed from the arguments, and so tell nothing about them."""
    bare = {
        key: value for key, value in state.items() if not any(re.fullmatch(text, key) for text in _dropped(weights))
    }
    return {key: value for key, value in bare.items() if key not in weights.computed(bare)}


def _dropped(weights: WeightMap) -> list[str]:
    return [re.sub(r"\\{\w+\\}", r"\\d+", re.escape(text)) for text in weights.dropped]


def statement_of(weights: WeightMap, state: StateDict, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a file in PyTorch's names must state besides its tensors: {'model': …, 'arguments': …}, {} if nothing.

    Args:
      weights: the weight map.
      state: the tensors, in PyTorch's names.
      arguments: constructor arguments of our module.
    """
    bare = without_constants(weights, state, arguments)
    names = [name for name in weights.assumed(bare, {**weights.arguments(bare), **arguments}) if name in arguments]
    if not names:
        return {}
    return {"model": weights.name, "arguments": {name: arguments[name] for name in names}}


def header_of(statement: Mapping[str, Any]) -> dict[str, str]:
    """The entry of a safetensors header for what `statement_of` returns."""
    return {ARGUMENTS_KEY: json.dumps(statement, sort_keys=True)} if statement else {}


def config_entries(statement: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a config.json for what `statement_of` returns."""
    return {CONFIG_KEY: dict(statement)} if statement else {}


def write_sidecar(path: Path, statement: Mapping[str, Any]) -> None:
    """Write what `statement_of` returns next to a pickle, atomically; a stale file is removed if it returns nothing."""
    file = sidecar_of(path)
    if not statement:
        if _of_any(file):
            file.unlink()
        return
    with atomic_write(file) as temporary:
        Path(temporary).write_text(json.dumps(statement, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _of_any(file: Path) -> bool:
    """Whether a file is one that `write_sidecar` wrote."""
    try:
        return set(json.loads(file.read_text(encoding="utf-8"))) == {"model", "arguments"}
    except (OSError, ValueError, TypeError):
        return False
