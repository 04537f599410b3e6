"""Every number that the training loop needs, with its unit and one check for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw",)
MODES = ("max", "min")
MESH_AXES = ("data", "fsdp")

NUMBERS: Mapping[str, tuple[Any, str]] = {"int": (int, "a whole number"), "float": (int | float, "a number")}
"""Types of fields → what a value is an instance of, in words."""

PER_UPDATE = (
    "learning_rate",
    "warmup_steps",
    "schedule",
    "final_learning_rate",
    "optimizer",
    "b1",
    "b2",
    "epsilon",
    "weight_decay",
    "clip_norm",
)


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast, on what and how often.

    Raises:
      ValueError: one line that names the field and what it may be.
    """

    steps: int  # optimiser steps of the whole run; the schedules end here
    global_batch: int  # examples per step, over all devices, hosts and microbatches
    learning_rate: float = 1e-4  # peak, per step
    warmup_steps: int = 0  # steps of linear warm-up; step k of them has (k + 1) / warmup_steps of the peak
    schedule: str = "constant"  # after the warm-up: 'constant' | 'cosine' (to final_learning_rate at `steps`)
    final_learning_rate: float = 0.0  # end of the cosine
    optimizer: str = "adamw"
    b1: float = 0.9  # Adam's decay of the mean gradient, per update
    b2: float = 0.999  # Adam's decay of the squared gradient, per update
    epsilon: float = 1e-8  # Adam's, in units of the gradient
    weight_decay: float = 0.0  # times the learning rate, per update; off for biases, scales and all 1-D arrays
    clip_norm: float | None = None  # largest global norm of an update's gradient; None = off
    accumulate: int = 1  # microbatches per step; in-batch negatives are then drawn within a microbatch
    ema_decay: float = 0.0  # per step, warmed up as min(decay, (1 + n) / (10 + n)) after n steps; 0 = no EMA
    updates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # update name to optimiser fields of its own
    mesh: Mapping[str, int] = field(default_factory=lambda: {"data": -1, "fsdp": 1})  # devices per axis; -1 = the rest
    fsdp_min_size: int = 65536  # array elements; smaller arrays are replicated
    sharding_rules: Sequence[tuple[str, Sequence[str | None]]] = ()  # (path regex, axis name per dimension), first wins
    log_every: int = 50  # steps; scalars are averages over them
    checkpoint_every: int = 1000  # steps; the last step is always saved
    validate_every: int = 1000  # steps; the last step is always validated
    keep_last: int = 2  # checkpoints
    best_metric: str | None = None  # a scalar of `validate`; its best checkpoint is kept beside the last ones
    best_mode: str = "max"  # 'max' | 'min'
    seed: int = 0  # root of every random key
    stop_after: int | None = None  # stop at this step as if interrupted; schedules still end at `steps`

    def __post_init__(self) -> None:
        for entry in fields(self):  # whose types are names here
            value, kind = getattr(self, entry.name), NUMBERS.get(str(entry.type))
            number = kind is None or (isinstance(value, kind[0]) and not isinstance(value, bool))
            _require(number, entry.name, value, f"must be {kind[1] if kind else ''}")
        for name in (
            "steps",
            "global_batch",
            "accumulate",
            "log_every",
            "checkpoint_every",
            "validate_every",
            "keep_last",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("warmup_steps", "weight_decay", "final_learning_rate", "seed", "fsdp_min_size"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be positive")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must be in [0, 1)")
        for name in ("b1", "b2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be in [0, 1)")
        clip = self.clip_norm
        _require(clip is None or clip > 0, "clip_norm", clip, "must be positive, or None to switch it off")
        stop = self.stop_after
        _require(stop is None or stop >= 1, "stop_after", stop, "must be at least 1, or None")
        for name, allowed in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS), ("best_mode", MODES)):
            _require(getattr(self, name) in allowed, name, getattr(self, name), f"must be one of {', '.join(allowed)}")
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is longer than the run of {self.steps} steps: shorten it"
            )
        if self.best_metric and self.checkpoint_every % self.validate_every:
            raise ValueError(
                f"best_metric {self.best_metric!r} needs every checkpoint validated: make checkpoint_every "
                f"({self.checkpoint_every}) a multiple of validate_every ({self.validate_every})"
            )
        for update, changes in self.updates.items():
            unknown = sorted(set(changes) - set(PER_UPDATE))
            if unknown:
                raise ValueError(
                    f"updates[{update!r}] has unknown {', '.join(unknown)}: it may hold {', '.join(PER_UPDATE)}"
                )

    def for_update(self, name: str) -> TrainingSettings:
        """These settings with what `updates[name]` changes."""
        return replace(self, updates={}, **self.updates.get(name, {}))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All field names."""
        return tuple(entry.name for entry in fields(cls))


def check_batch(settings: TrainingSettings, devices: int, processes: int = 1) -> None:
    """Refuse a global batch that does not split evenly.

    Args:
      settings: of the run.
      devices: in the mesh.
      processes: hosts that feed it.

    Raises:
      ValueError: names the nearest batches (or accumulation) that fit.
    """
    batch, accumulate = settings.global_batch, settings.accumulate
    if batch % accumulate:
        raise ValueError(
            f"global_batch {batch} is not divisible by accumulate {accumulate}: use {_nearest(batch, accumulate)}"
        )
    unit = accumulate * devices
    if batch % unit:
        raise ValueError(
            f"global_batch {batch} is not divisible by {devices} devices x {accumulate} microbatches: "
            f"use {_nearest(batch, unit)}"
        )
    if devices % processes:
        raise ValueError(f"{devices} devices do not split over {processes} processes: use a mesh of all devices")


def _nearest(value: int, unit: int) -> str:
    below = value // unit * unit
    return f"{below} or {below + unit}" if below else f"{unit}"


def _require(good: bool, name: str, value: Any, rule: str) -> None:
    if not good:
        raise ValueError(f"training setting {name} = {value!r}: it {rule}")
