"""Which tensors of a PyTorch checkpoint are the model.

Trainers save more than a model: averaged weights next to the last ones, a discriminator, an optimizer; and they put the
model under an entry (`params_ema`) or its names behind a prefix (`module.`, `model.net_g.`). The model's place is the
one whose names its weight map knows. Averaged weights (EMA) come first, as everyone samples with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

IsKnown = Callable[[str], bool]
"""(key without any prefix) → whether it belongs to the model that is sought."""

ENTRIES = (
    *("params", "state_dict", "model_state_dict", "model", "module", "net_g", "netG", "generator", "student"),
    *("net", "network", "weights"),
)
"""Entries and prefixes under which trainers save a model, in order of preference; averaged weights come before all."""

AVERAGED = re.compile(r"(^|[^a-z])(ema|swa|averaged?)([^a-z]|$)|^shadow", re.IGNORECASE)
"""Names of averaged weights: params_ema, model_ema, ema, generator_ema, ema_state_dict, state_dict_ema, …"""

WRAPPER = "module."
"""Prefix that data-parallel models add to every key, sometimes twice."""

INNER = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that compiled, sharded and checkpointed parts add anywhere within a key."""

OPTIMIZER = re.compile(r"optim|param_groups|sched|scaler", re.IGNORECASE)
"""Entries of a trainer's state that hold no weights."""

OTHER_MODELS = (
    *("loss", "discriminator", "disc", "net_d", "netD", "perceptual", "perceptual_loss", "lpips", "lpips_loss"),
    "teacher",
)
"""Entries and prefixes of models that are only used in training."""

TRAINING_STATE = ("optimizer", "n_averaged", "step", "initted", "logvar")
"""First parts of the names of what else lies between the names of a model in training."""

WITHOUT_DOTS = "model_ema."
"""Prefix of the averaged weights of latent diffusion's code, whose names lack all dots."""

DEPTH = 4
"""Levels of entries that are searched."""

LISTED = 8
"""Names of parts that a note lists."""

FITTING = 4
"""A place fits if more than this part (1 / FITTING) of its keys is known, and of the known keys of the best one."""


class Selection(NamedTuple):
    """The model's tensors.

    Attributes:
      tensors: key without prefixes → tensor.
      removed: the entry and the prefix that were removed, such as 'params_ema, module.', or ''.
      notes: what was taken where several places hold the model, and what was left out; one sentence each.
    """

    tensors: dict[str, Any]
    removed: str = ""
    notes: tuple[str, ...] = ()


_Group = tuple[tuple[str, ...], dict[str, Any]]


class _Place(NamedTuple):
    """Where a model may be: the entries above its keys, their prefix, how many are known, all keys of the entries."""

    entries: tuple[str, ...]
    prefix: str
    known: int
    group: Mapping[str, Any]

    def label(self) -> str:
        parts = [*self.entries, self.prefix]
        return ", ".join(part for part in parts if part)

    def title(self) -> str:
        return " / ".join(part for part in (*self.entries, self.prefix) if part) or "the weights without prefix"

    def names(self) -> list[str]:
        return [*self.entries, *self.prefix.split(".")]

    def holds(self, key: str) -> bool:
        """Whether a key is one of this place, and not of a part of a trainer next to the names of a model."""
        return key.startswith(self.prefix) and not (not self.prefix and _is_other(key))

    def contains(self, other: _Place, is_known: IsKnown) -> bool:
        """Whether another place holds a part of this model's tensors, and is known by the ends of their names only."""
        keys = [key for key in other.group if other.holds(key)]
        within = self.group is other.group and other.prefix.startswith(self.prefix)
        return within and all(is_known(key.removeprefix(self.prefix)) for key in keys)

    def averaged(self) -> bool:
        return any(AVERAGED.search(name) for name in self.names())

    def rank(self) -> int:
        """Smaller for places that are preferred."""
        return min((ENTRIES.index(name) for name in self.names() if name in ENTRIES), default=len(ENTRIES))


def select(content: Mapping[str, Any], source: str, is_known: IsKnown | None = None) -> Selection:
    """The model's tensors in a checkpoint.

    Args:
      content: what the file holds: tensors (anything with a `shape`), or entries with tensors below them.
      source: name of the checkpoint in errors.
      is_known: whether a key is one of the model's; None takes all tensors of one entry.

    Raises:
      ValueError: there are no tensors, or the model is there several times and no place is preferred.
    """
    groups = list(_groups(content))
    if not groups:
        raise ValueError(_without_tensors(content, source))
    places = [place for entries, tensors in groups for place in _places(entries, tensors, is_known)]
    if not places:  # the model is not there: the weight map's error says what the file is
        return select(content, source)
    places = [place for place in places if not set(place.names()) & set(OTHER_MODELS)] or places
    best = max(place.known for place in places)
    fitting = [place for place in places if is_known is None or place.known * FITTING > best]
    complete = [place for place in fitting if is_known is None or place.known == best]
    chosen = min([place for place in complete if place.averaged()] or complete, key=_Place.rank)
    rivals = [place for place in fitting if place is not chosen and not (is_known and chosen.contains(place, is_known))]
    undecided = [
        place
        for place in rivals
        if place.averaged() == chosen.averaged() and (place.known != best or place.rank() == chosen.rank())
    ]
    if undecided and is_known is not None:
        labels = ", ".join(f"{place.title()} ({place.known} tensors)" for place in (chosen, *undecided))
        raise ValueError(f"{source}: several models in it fit: {labels}; save the one you mean as a file of its own")
    notes = [_preference(chosen, rivals)] if rivals else []
    tensors, left_out = _without_prefix(chosen, rivals, is_known)
    if left_out:
        notes.append(f"left out {left_out}")
    return Selection(tensors, chosen.label(), tuple(notes))


def is_optimizer(content: Mapping[Any, Any]) -> bool:
    """Whether a file holds the state of an optimizer or of a whole trainer, and no weights with names."""
    if "param_groups" in content and "state" in content:
        return True
    return any(OPTIMIZER.search(str(key)) for key in content) and not list(_groups(content))


def _groups(
    content: Mapping[Any, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """(entries above, tensors) of every mapping that holds tensors with names."""
    tensors = {
        INNER.sub(r"\1", key): value for key, value in content.items() if isinstance(key, str) and is_tensor(value)
    }
    if tensors:
        yield above, tensors
        if averaged := _with_dots(tensors):
            yield (*above, WITHOUT_DOTS.rstrip(".")), averaged
    for key, value in content.items():
        if isinstance(value, Mapping) and len(above) < DEPTH and not OPTIMIZER.search(str(key)):
            yield from _groups(value, (*above, str(key)))


def is_tensor(value: Any) -> bool:
    """Whether this is a tensor, of whatever library, and not an entry of a trainer."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _with_dots(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Averaged weights whose names lack dots, under the names of the weights that they are the averages of."""
    short = {key.removeprefix(WITHOUT_DOTS): value for key, value in tensors.items() if key.startswith(WITHOUT_DOTS)}
    if not short:
        return {}
    averaged = {}
    for key in tensors:
        if key.startswith(WITHOUT_DOTS):
            continue
        parts = key.split(".")
        endings = ("".join(parts[start:]) for start in range(len(parts)))
        if (ending := next((ending for ending in endings if ending in short), None)) is not None:
            averaged[key] = short[ending]
    return averaged


def _places(entries: tuple[str, ...], tensors: Mapping[str, Any], is_known: IsKnown | None) -> list[_Place]:
    """The prefixes behind which one mapping may hold the model."""
    if is_known is None:
        prefix = ""
        while all(key.startswith(prefix + WRAPPER) for key in tensors):
            prefix += WRAPPER
        return [_Place(entries, prefix, len(tensors), tensors)]
    counts: dict[str, int] = {}
    for key in tensors:
        start = 0
        while True:
            if is_known(key[start:]):
                counts[key[:start]] = counts.get(key[:start], 0) + 1
            start = key.find(".", start) + 1
            if not start:
                break
    places = [_Place(entries, prefix, known, tensors) for prefix, known in counts.items()]
    # A few keys of any network have names that are known.
    return [place for place in places if place.known * FITTING > sum(map(place.holds, tensors))]


def _is_other(key: str) -> bool:
    """Whether a key of a model in training is not of the model itself, by the first part of its name."""
    first = key.split(".")[0]
    return first in (*OTHER_MODELS, *TRAINING_STATE) or bool(AVERAGED.search(first))


def _without_prefix(place: _Place, rivals: list[_Place], is_known: IsKnown | None) -> tuple[dict[str, Any], str]:
    """(the model's tensors; first parts of the names of what is neither in it nor in a rival, '' for none)."""
    others = [rival for rival in rivals if rival.entries == place.entries]
    tensors: dict[str, Any] = {}
    parts: dict[str, int] = {}
    for key, value in place.group.items():
        first = key.split(".")[0]
        is_extra = not place.prefix and is_known and _is_other(key) and not is_known(key)
        if not key.startswith(place.prefix) or is_extra:
            if not any(other.holds(key) for other in others):
                parts[first] = parts.get(first, 0) + 1
        else:
            tensors[key.removeprefix(place.prefix)] = value
    listed = [f"{part} ({number} tensors)" for part, number in list(parts.items())[:LISTED]]
    return tensors, ", ".join([*listed, *(["..."] if len(parts) > LISTED else [])])


def _preference(chosen: _Place, rivals: list[_Place]) -> str:
    """What was taken of several."""
    others = " and ".join(place.title() for place in rivals)
    lacking = [place for place in rivals if place.averaged() and place.known < chosen.known]
    reason = f" ({lacking[0].label()} holds {lacking[0].known} of its {chosen.known} tensors)" if lacking else ""
    return f"took {chosen.title()}, not {others}{reason}"


def _without_tensors(content: Mapping[str, Any], source: str) -> str:
    names = ", ".join(str(key) for key in list(content)[:5]) or "nothing"
    if any(AVERAGED.search(str(key)) or str(key).startswith("shadow") for key in content):
        return f"{source}: holds averaged weights without names ({names}): save the model's state dict instead"
    entries = ", ".join(("params_ema", *ENTRIES[:4]))
    return f"{source}: not a state dict of tensors (it holds {names}); known wrappers are {entries}, …"
