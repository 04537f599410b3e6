"""Settings of a training run: the `training` section of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from framer_jax.knobs import LARGEST_INT, changed_repr, check_knobs, knob, nearest, regex_error, shown

MESH_AXES = ("data", "fsdp")

PER_UPDATE = (
    "learning_rate",
    "warmup_steps",
    "schedule",
    "final_learning_rate",
    "decay_factor",
    "decay_every",
    "optimizer",
    "b1",
    "b2",
    "first_moment_dtype",
    "epsilon",
    "weight_decay",
    "clip_norm",
)
"""Settings that `TrainingSettings.updates` may change for one update."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long a run trains, how it optimises, and how often it logs, validates and saves.

    Raises:
      ValueError: an illegal value, in one line that starts with the name of the setting.
    """

    seed: int = knob(0, "Root of all random keys.", at_least=0, at_most=2**32 - 1)
    steps: int = knob(2000, "Number of training steps, at which the learning rate schedule ends.", at_least=1)
    global_batch: int = knob(
        16, "Batch size over all devices, hosts and microbatches.", unit="examples per step", at_least=1, at_most=2**20
    )
    gradient_accumulation_steps: int = knob(
        1, "Microbatches per step; in-batch negatives are drawn within a microbatch.", at_least=1, at_most=2**20
    )
    learning_rate: float = knob(1e-3, "Peak learning rate.", above=0, at_most=10)
    warmup_steps: int = knob(
        100, "Steps of linear warm-up: step k uses (k + 1) / warmup_steps of the peak.", unit="steps", at_least=0
    )
    schedule: str = knob(
        "cosine",
        "Learning rate after the warm-up; 'cosine' falls to final_learning_rate at `steps`, 'staircase' is multiplied "
        "by decay_factor after every decay_every steps.",
        choices=("constant", "cosine", "staircase"),
    )
    final_learning_rate: float = knob(1e-5, "Learning rate at the end of the cosine schedule.", at_least=0, at_most=10)
    decay_factor: float = knob(
        0.95, "Factor of the staircase schedule; used with that schedule only.", above=0, at_most=1
    )
    decay_every: int = knob(
        5000, "Interval of the staircase schedule; used with that schedule only.", unit="steps", at_least=1
    )
    optimizer: str = knob("adamw", "Optimiser.", choices=("adamw",))
    b1: float = knob(0.9, "Adam's decay rate of the mean gradient, per update.", at_least=0, below=1)
    b2: float = knob(0.999, "Adam's decay rate of the mean squared gradient, per update.", at_least=0, below=1)
    first_moment_dtype: str = knob(
        "float32",
        "Dtype in which Adam keeps the mean gradient; bfloat16 halves its memory. The mean squared gradient stays "
        "float32: bfloat16 is too coarse for its small changes.",
        choices=("float32", "bfloat16"),
    )
    epsilon: float = knob(1e-8, "Adam's epsilon.", unit="units of the gradient", above=0, at_most=1)
    weight_decay: float = knob(
        0.0,
        "Decoupled weight decay, multiplied by the learning rate; not applied to biases, scales and other 1-D arrays.",
        at_least=0,
        at_most=1000,
    )
    clip_norm: float | None = knob(1.0, "Maximum global norm of an update's gradient; None: no clipping.", above=0)
    ema_decay: float = knob(
        0.999,
        "Decay of the parameters' moving average per step, min(ema_decay, (1 + n) / (10 + n)) after n steps; 0: none.",
        at_least=0,
        below=1,
    )
    mesh: Mapping[str, int] = knob(
        {"data": -1, "fsdp": 1},
        "Devices per mesh axis: the batch is split over both axes, parameters over 'fsdp'; -1: all remaining devices.",
        execution=True,
    )
    fsdp_min_size: int = knob(
        65536, "Smaller arrays are replicated.", unit="array elements", at_least=0, execution=True
    )
    sharding_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = knob(
        (),
        "Pairs of a regex of parameter paths and a mesh axis or None for each dimension; the first match decides.",
        empty=True,
        execution=True,
    )
    log_every: int = knob(50, "Interval between log entries, which are averages over it.", unit="steps", at_least=1)
    validate_every: int = knob(
        500, "Interval between validations; the last step is always validated.", unit="steps", at_least=1
    )
    checkpoint_every: int = knob(
        500, "Interval between checkpoints; the last step is always saved.", unit="steps", at_least=1
    )
    checkpoint_minutes: float | None = knob(
        None,
        "Also save when the last save is so long ago; looked at with every log entry. None: by steps only.",
        unit="minutes",
        above=0,
    )
    keep_last: int = knob(2, "Number of newest checkpoints that are kept.", at_least=1, at_most=1_000_000)
    best_metric: str | None = knob(
        "mean/psnr-y", "Validation metric whose best checkpoint is kept as well; None: no best checkpoint."
    )
    best_mode: str = knob(
        "max", "Whether the best value of best_metric is the highest or lowest.", choices=("max", "min")
    )
    stop_after: int | None = knob(
        None,
        "Step after which the run stops as if it were interrupted, with unchanged schedules.",
        unit="steps",
        at_least=1,
    )
    stop_after_minutes: float | None = knob(
        None,
        "Wall time after which the run saves and stops as if it were interrupted, for jobs with a time limit; counted "
        "when weights and data have been opened.",
        unit="minutes",
        above=0,
    )
    keep_compiled: bool = knob(
        False,
        "Keep compiled programs in compiled/ of the work directory, not in the user's cache: for machines that are "
        "replaced between restarts.",
        execution=True,
    )
    profile_step: int | None = knob(
        None,
        "First step of a trace by JAX's profiler, in profile/ of the work directory; None: no trace.",
        at_least=1,
        execution=True,
    )
    profile_steps: int = knob(3, "Number of steps in that trace.", at_least=1, at_most=1000, execution=True)
    updates: Mapping[str, Mapping[str, Any]] = knob(
        {}, "Optimiser settings of single updates, such as {'discriminator': {'learning_rate': 1e-4}}."
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}: it must not exceed steps, {self.steps}")
        if self.best_metric and self.checkpoint_every % self.validate_every:
            raise ValueError(
                f"checkpoint_every is {self.checkpoint_every}: with a best_metric it must be a multiple of "
                f"validate_every, {self.validate_every}, so that every checkpoint is validated; or set best_metric to "
                "None"
            )
        if self.schedule == "cosine" and self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate is {self.final_learning_rate}: the cosine schedule falls, so it must not exceed "
                f"learning_rate, {self.learning_rate}"
            )
        self._check_mesh()
        self._check_rules()
        for update, changes in self.updates.items():
            self._check_update(update, changes)

    def _check_mesh(self) -> None:
        for axis, size in self.mesh.items():
            if axis not in MESH_AXES:
                raise ValueError(f"mesh.{axis} is unknown: the axes are {' and '.join(MESH_AXES)}")
            if isinstance(size, bool) or not isinstance(size, int) or not (size == -1 or 1 <= size <= LARGEST_INT):
                raise ValueError(
                    f"mesh.{axis} is {shown(size)}: it must be a whole number of at least 1, or -1 for all remaining "
                    "devices"
                )
        if all(self.mesh.get(axis) == -1 for axis in MESH_AXES):
            raise ValueError("mesh.data is -1, and so is mesh.fsdp: only one of them can have all remaining devices")

    def _check_rules(self) -> None:
        for rule in self.sharding_rules:
            if not isinstance(rule, list | tuple) or len(rule) != 2:
                raise ValueError(
                    f"sharding_rules has {shown(rule)}: a rule is a pair such as ('out/kernel', ('fsdp',))"
                )
            pattern, axes = rule
            if not isinstance(pattern, str) or (error := regex_error(pattern)):
                reason = f" ({error})" if isinstance(pattern, str) else ""
                raise ValueError(f"sharding_rules has {shown(pattern)}: it must be a regular expression{reason}")
            if not isinstance(axes, list | tuple) or any(axis not in (None, *MESH_AXES) for axis in axes):
                raise ValueError(
                    f"sharding_rules has the axes {shown(axes)}: they must be a list of {', '.join(MESH_AXES)} or "
                    "None, one for each dimension"
                )

    def _check_update(self, update: str, changes: Any) -> None:
        if not isinstance(changes, Mapping):
            raise ValueError(f"updates.{update} is {changes!r}: it must be a section of {', '.join(PER_UPDATE)}")
        for name in changes:
            if name not in PER_UPDATE:
                raise ValueError(f"updates.{update}.{name} cannot be set{nearest(name, PER_UPDATE)}")
        try:
            self.for_update(update)
        except ValueError as error:
            raise ValueError(f"updates.{update}.{error}") from error

    def for_update(self, name: str) -> TrainingSettings:
        """These settings with the changes of `updates[name]`."""
        return replace(self, updates={}, **self.updates.get(name, {}))


def check_batch(settings: TrainingSettings, devices: int, processes: int = 1) -> None:
    """Refuse a global batch that cannot be split evenly.

    Args:
      settings: settings of the run.
      devices: number of devices in the mesh.
      processes: number of hosts, each of which loads its part of the batch.

    Raises:
      ValueError: the message names the nearest batch sizes that fit.
    """
    batch, microbatches = settings.global_batch, settings.gradient_accumulation_steps
    if batch % microbatches:
        raise ValueError(
            f"training.global_batch {batch} is not divisible by training.gradient_accumulation_steps {microbatches}: "
            f"use {_nearest_multiples(batch, microbatches)}"
        )
    unit = microbatches * devices
    if batch % unit:
        raise ValueError(
            f"training.global_batch {batch} is not divisible by {devices} devices x {microbatches} microbatches: "
            f"use {_nearest_multiples(batch, unit)}"
        )
    if devices % processes:
        raise ValueError(f"{devices} devices do not split over {processes} processes: use a mesh of all devices")


def _nearest_multiples(value: int, unit: int) -> str:
    lower = value // unit * unit
    return f"{lower} or {lower + unit}" if lower else f"{unit}"
