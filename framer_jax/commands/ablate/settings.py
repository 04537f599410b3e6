"""What an ablation was asked to do: from files and options, kept in `ablation.json`, the same in every call."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.commands.ablate.pairs import PATHS, PairSource, pair_source
from framer_jax.config import ConfigError, call_file, load_config, shipped_folder, split_variant, to_dict
from framer_jax.evaluation.ablation import Ablation, Overlay, check_seeds, merged, with_arms
from framer_jax.evaluation.metrics import check_metric_ids
from framer_jax.knobs import nearest
from framer_jax.overrides import parse_override
from framer_jax.porting.files import atomic_write, sha256_of
from framer_jax.recipes.framer import framer_settings
from framer_jax.training.checkpoint import saved_steps
from framer_jax.training.compatibility import LEARNING_RATE, MAY_CHANGE
from framer_jax.training.loop import CHECKPOINTS
from framer_jax.version import __version__

RECORD = "ablation.json"

PAIRS, RUNS, IMAGES, SCORES = "pairs", "runs", "images", "scores"
"""Folders of an ablation."""

SEED_KNOB = "training.seed"

_DECIDE = (
    *("training.steps", "training.updates", "data.train", "data.embeddings"),
    *(f"training.{name}" for name in LEARNING_RATE),
)

MAY_GROW = ("seeds", "arms")
"""What a later call may have more of."""

FREE = tuple(name for name in MAY_CHANGE if not name.startswith(_DECIDE))
"""Knobs and sections that trained weights do not depend on: they may differ between calls."""


class AblationSettings(NamedTuple):
    """What is asked.

    Attributes:
      output: folder of everything.
      ablations: the ablations, whose arms share their names.
      files: name or path of each ablation's file → its SHA-256, for people; arms are compared.
      arms: name → overlay of all arms.
      selected: the arms that --arms chose, None for all.
      base: configuration that the arms change.
      overrides: `KEY=VALUE` overrides of every run.
      init: weights that every run starts from, or None.
      seeds: seeds of the trainings.
      metrics: ids of metrics.
      steps: number of sampling steps, None for the configuration's.
      pairs: the images to upscale and their references.
    """

    output: Path
    ablations: tuple[Ablation, ...]
    files: Mapping[str, str]
    arms: Mapping[str, Overlay]
    selected: tuple[str, ...] | None
    base: str
    overrides: tuple[str, ...]
    init: str | None
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    steps: int | None
    pairs: PairSource


def ablation_file(name: str) -> tuple[Path, tuple[str, ...]]:
    """File and variant of an ablation, given by the name of one that ships or as a Python file, with ':VARIANT'.

    Raises:
      ConfigError: there is none of that name; the message names the nearest.
    """
    file, variant = split_variant(name)
    if file.suffix == ".py":
        return file, variant
    folder = shipped_folder() / "ablations"
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    if str(file) not in names:
        raise ConfigError(f"no ablation named {str(file)!r}{nearest(str(file), names)}; or give the path of a file")
    return folder / f"{file}.py", variant


def load_ablation(name: str) -> Ablation:
    """The ablation of a file.

    Raises:
      ConfigError: as of `ablation_file`, or the file gives no ablation.
    """
    file, variant = ablation_file(name)
    ablation = call_file(file, "get_ablation", variant)
    if not isinstance(ablation, Ablation):
        raise ConfigError(f"{file}: get_ablation() must return an Ablation, not {type(ablation).__name__}")
    return ablation


def read_settings(arguments: argparse.Namespace) -> AblationSettings:
    """The settings of a call; options that are not given are those of the first call, or else the ablation's.

    Raises:
      ConfigError, ValueError, FileNotFoundError: names or options that cannot be used, or that differ from those of the
        first call; one line that names them.
    """
    output, record = Path(arguments.output), _read_record(Path(arguments.output))
    names = [name.strip() for name in arguments.ablation.split(",") if name.strip()]
    if not names:
        raise ConfigError("no ablation is named: give the name of one that ships, or a Python file")
    loaded = [load_ablation(name) for name in names]
    selected = _words(arguments.arms) or record.get("selected")
    ablations, arms = merged(loaded)
    if selected is not None:
        if unknown := [name for name in selected if name not in arms]:
            raise ConfigError(f"--arms: there is no arm {unknown[0]!r}{nearest(unknown[0], arms)}")
        ablations = tuple(with_arms(ablation, selected) for ablation in ablations)
        arms = {name: overlay for name, overlay in arms.items() if name in selected}
    settings = AblationSettings(
        output=output,
        ablations=ablations,
        files={name: sha256_of(ablation_file(name)[0]) for name in names},
        arms=arms,
        selected=None if selected is None else tuple(selected),
        base=arguments.base or record.get("base") or _common("--base", (each.base for each in loaded)),
        overrides=tuple(arguments.overrides or record.get("overrides", ())),
        init=arguments.init or record.get("init"),
        seeds=tuple(
            _seeds(arguments.seeds) or record.get("seeds") or _common("--seeds", (each.seeds for each in loaded))
        ),
        metrics=tuple(_words(arguments.metrics) or record.get("metrics") or _all_metrics(loaded)),
        steps=_steps(arguments.steps, record, loaded),
        pairs=pair_source(arguments, record.get("pairs", {})),
    )
    check_seeds(settings.seeds)
    check_metric_ids(settings.metrics)
    if record and has_begun(output):
        _check_same(output / RECORD, record, record_of(settings))
    return settings


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _seeds(text: str | None) -> list[int]:
    try:
        return [int(word) for word in _words(text) or ()]
    except ValueError:
        raise ConfigError(f"--seeds {text}: give whole numbers, such as 0,1,2") from None


def _steps(given: int | None, record: Mapping[str, Any], loaded: Sequence[Ablation]) -> int | None:
    if given is not None and given < 1:
        raise ConfigError(f"--steps is {given}: it must be at least 1")
    if given is not None or record:
        return given or record.get("steps")
    return _common("--steps", (ablation.steps for ablation in loaded))


def _all_metrics(loaded: Sequence[Ablation]) -> list[str]:
    return list(dict.fromkeys(name for ablation in loaded for name in ablation.metrics))


def _common(option: str, values: Iterable[Any]) -> Any:
    """The value that all ablations have."""
    first, *others = values
    for other in others:
        if other != first:
            raise ConfigError(f"the ablations differ in {option} ({first} and {other}): give it, or run each alone")
    return first


def arm_config(base: str, overlay: Overlay, overrides: Sequence[str], seed: int) -> tuple[str, tuple[str, ...]]:
    """Configuration and overrides of a run.

    Args:
      base: the base configuration.
      overlay: the arm; its overrides come after the others, so that it differs from the other arms in any case.
      overrides: overrides of every run.
      seed: seed of the training, the last override.

    Raises:
      ConfigError: the overlay takes a variant of the base, and the base has one already.
    """
    config = overlay.config or base
    if config.startswith(":"):
        if variant := split_variant(base)[1]:
            raise ConfigError(f"--base {base}: the arms take variants of the base themselves: omit ':{variant[0]}'")
        config = base + config
    return config, (*overrides, *overlay.overrides, f"{SEED_KNOB}={seed}")


def arm_configs(
    base: str, arms: Mapping[str, Overlay], overrides: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """Arm → its whole configuration as a plain dict; arguments as of `arm_config`.

    Raises:
      ConfigError: an override that is not legal, an override of the seed, or two arms with the same configuration.
    """
    if any(parse_override(override)[0] == SEED_KNOB for override in overrides):
        raise ConfigError(f"--set {SEED_KNOB}: the seeds are those of --seeds")
    configs: dict[str, dict[str, Any]] = {}
    contents: dict[str, str] = {}
    for arm, overlay in arms.items():
        name, changes = arm_config(base, overlay, overrides, seed)
        try:
            configs[arm] = to_dict(load_config(name, changes))
        except ConfigError as error:
            raise ConfigError(f"the arm {arm!r} on {name}: {error}") from error
        same = contents.setdefault(_content(configs[arm]), arm)
        if same != arm:
            raise ConfigError(
                f"the arms {same!r} and {arm!r} are the same training on {base}: choose another --base, such as one "
                "with FRAMER for its ablations, or one of the two with --arms"
            )
    return configs


def _content(config: Mapping[str, Any]) -> str:
    """A configuration as text; sections of FRAMER that train alike are equal."""
    framer = framer_settings(config["framer"])
    trained = "none" if framer is None or framer.objective == "none" else repr(framer)
    return json.dumps({**config, "framer": trained}, sort_keys=True)


def record_of(settings: AblationSettings) -> dict[str, Any]:
    """The content of `ablation.json`."""
    return {
        "framer_jax": __version__,
        "files": dict(settings.files),
        "base": settings.base,
        "init": settings.init,
        "overrides": list(settings.overrides),
        "arms": {
            name: {"config": overlay.config, "overrides": list(overlay.overrides)}
            for name, overlay in settings.arms.items()
        },
        "selected": None if settings.selected is None else list(settings.selected),
        "seeds": list(settings.seeds),
        "metrics": list(settings.metrics),
        "steps": settings.steps,
        "pairs": settings.pairs._asdict(),
    }


def has_begun(output: Path) -> bool:
    """Whether a training has saved a step, or a job its scores; before that, what is asked may be corrected."""
    runs, scores = output / RUNS, output / SCORES
    if scores.is_dir() and any(scores.iterdir()):
        return True
    return runs.is_dir() and any(saved_steps(run / CHECKPOINTS) for run in runs.iterdir())


def write_record(settings: AblationSettings) -> None:
    """Write `ablation.json`; jobs of an array that start together write the same."""
    path, content = settings.output / RECORD, record_of(settings)
    saved = _read_record(settings.output)
    has_grown = bool(saved) and any(len(content[name]) > len(saved[name]) for name in MAY_GROW)
    if has_grown or not (saved and has_begun(settings.output)):
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_record(output: Path) -> dict[str, Any]:
    """The record of the first call, {} before it."""
    path = output / RECORD
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = _compared(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or of another program: remove it, or give another --output") from error
    return record


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in every call, by what an error calls it; without arms and seeds, which may be added."""
    overlays = {
        f"the overlay of {name}": (overlay["config"], sorted(overlay["overrides"]))
        for name, overlay in record["arms"].items()
    }
    changed = dict(map(parse_override, record["overrides"]))
    free = tuple(f"{name}." for name in FREE)
    overrides = {f"--set {key}": value for key, value in changed.items() if not f"{key}.".startswith(free)}
    names = ("base", "init", "metrics", "steps")
    return {
        **overlays,
        **{f"--{name}": record[name] for name in names},
        **overrides,
        **{f"{name} of the images": value for name, value in record["pairs"].items() if name not in PATHS},
    }


def _check_same(path: Path, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    for name in MAY_GROW:
        if missing := [str(item) for item in saved[name] if item not in present[name]]:
            raise ConfigError(
                f"{path}: the {name} {', '.join(missing)} of earlier calls are missing: give all {name}, or another "
                "--output (more may be added)"
            )
    added = [f"the overlay of {arm}" for arm in present["arms"] if arm not in saved["arms"]]
    before, now = _compared(saved), _compared(json.loads(json.dumps(present)))
    now = {name: value for name, value in now.items() if name not in added}
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            raise ConfigError(
                f"{path}: {name} was {before.get(name)} in the first call, and is {now.get(name)} now: give the same, "
                "or another --output"
            )
