"""A trained recipe as the frozen teacher of another network: what it outputs for an LR image, as 8-bit images.

Only its output images are compared with, so any recipe can teach: a diffusion sampler of many steps, its one-step mean,
or a larger one-pass network. No gradient reaches the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.knobs import changed_repr, check_knobs, knob, settings_from
from framer_jax.recipes.base import PIXELS, Batch, Frozen, Params, Recipe, Sampler
from framer_jax.recipes.method import PHOTOS, TEACHER_OUTPUTS, WITH_TEACHER, Config, WeightFile, WeightReader
from framer_jax.recipes.tracing import leaves_read

TEACHER = "teacher"
"""The entry of `frozen` with everything a teacher computes with; the entry of a batch with its output images."""

OUTPUTS = ("sample", "mean")
COMPARISONS = ("all", "one")

WEIGHT_FILES = (
    WeightFile(("teacher", "checkpoint"), "teacher"),
    WeightFile(
        ("teacher", "published", "space", "checkpoint"),
        "autoencoder of the teacher",
        unless_trained=("teacher", "checkpoint"),
    ),
)

RENAMED_KNOBS = {"teacher.weights": "teacher.checkpoint"}


@dataclass(frozen=True)
class TeacherSettings:
    """The section `recipe.teacher`, which training needs."""

    checkpoint: str = knob(
        "", "Path of a trained model of framer_jax, of any method, or of published weights.", empty=True
    )
    published: dict[str, Any] = knob(
        {}, "Published weights only: the `recipe` section that they belong to, set by the configuration file."
    )
    output: str = knob("sample", "Which of the teacher's outputs the student learns from.", choices=OUTPUTS)
    samples: int = knob(1, "Outputs per image (or record), each from its own noise.", at_least=1, at_most=1000)
    compare: str = knob(
        "all",
        "all: compare with every output, the mean of the distances; one: with one drawn output.",
        choices=COMPARISONS,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True)
class Teacher:
    """A recipe that teaches.

    Attributes:
      recipe: the teacher's recipe.
      params: its trained groups.
      settings: which of its outputs are compared with.

    Raises:
      ValueError: the recipe has no such output, or it does not depend on noise and there are to be several samples.
    """

    recipe: Recipe
    params: Params = field(repr=False)
    settings: TeacherSettings = field(default_factory=TeacherSettings)

    def __post_init__(self) -> None:
        output, samples = self.settings.output, self.settings.samples
        if output == "mean" and self.recipe.mean is None:
            raise ValueError(f"a teacher of recipe {self.recipe.name!r} has no mean: set recipe.teacher.output=sample")
        if samples > 1 and not self._depends_on_noise():
            raise ValueError(
                f"recipe.teacher.samples is {samples}, but the {output} of a teacher of recipe {self.recipe.name!r} "
                "does not depend on noise, so its outputs would be equal: set recipe.teacher.samples=1"
            )

    @property
    def sampler(self) -> Sampler:
        """The function of the recipe that teaches."""
        sampler: Sampler = getattr(self.recipe, self.settings.output)
        return sampler

    def _depends_on_noise(self) -> bool:
        side = 8 * self.recipe.lr_multiple
        lr = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        noise = leaves_read(self.sampler, self.params, self.recipe.frozen, lr, noise_field(jax.random.key(0), 1))[3]
        return any(jax.tree.leaves(noise))

    @property
    def frozen(self) -> Frozen:
        """The entry of `frozen` that `teacher_outputs` reads."""
        return {TEACHER: {"params": self.params, "frozen": self.recipe.frozen}}


def teacher_outputs(teacher: Teacher, frozen: Frozen, lr: jax.Array, noise: NoiseField, samples: int) -> jax.Array:
    """The teacher's outputs for LR images.

    Args:
      teacher: the teacher.
      frozen: has the teacher's entry.
      lr: [B, H, W, 3] float32 in [0, 1], any size.
      noise: noise of the batch; sample k uses the k-th key that is folded out of it.
      samples: number of outputs K for each image.

    Returns:
      [B, K, sH, sW, 3] float32, on the 256 levels of [0, 1], as an image on disk would be; no gradient.
    """
    weights = frozen[TEACHER]
    sampler = any_size(teacher.sampler, teacher.recipe)

    def one_output(number: jax.Array) -> jax.Array:  # one after the other: the memory of one
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(noise.key)
        image = sampler(weights["params"], weights["frozen"], lr, NoiseField(keys, noise.origin))
        return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0) / 255.0  # [B, sH, sW, 3]

    if samples > 1:
        outputs = jax.lax.map(one_output, jnp.arange(samples, dtype=jnp.int32))
    else:
        outputs = one_output(jnp.int32(0))[None]
    return jax.lax.stop_gradient(outputs.swapaxes(0, 1))


def any_size(function: Sampler, recipe: Recipe) -> Sampler:
    """A recipe's sampler for LR images of any size: padded by reflection to the sides it needs, then cropped."""

    def run(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        height, width = lr.shape[1:3]
        padding = [-side % recipe.lr_multiple for side in (height, width)]
        padded = jnp.pad(lr, ((0, 0), (0, padding[0]), (0, padding[1]), (0, 0)), mode="reflect")
        return function(params, frozen, padded, noise)[:, : height * recipe.scale, : width * recipe.scale]

    return run


def teacher_targets(
    teacher: Teacher | None,
    frozen: Frozen,
    batch: Batch,
    images: jax.Array,
    noise: NoiseField,
    key: jax.Array,
    in_batch: bool,
    entry: str = TEACHER,
) -> jax.Array:
    """The teacher outputs that one step compares with: precomputed ones of the batch, or new ones.

    Args:
      teacher: the teacher.
      frozen: has the teacher's entry.
      batch: has the precomputed outputs, [B, K, sH, sW, 3], if `in_batch`.
      images: LR images [B, H, W, 3] in [0, 1], the teacher's input otherwise.
      noise: as of `teacher_outputs`.
      key: draws one of several precomputed outputs.
      in_batch: whether the batch has precomputed outputs.
      entry: their name in the batch.

    Returns:
      [B, K or 1, sH, sW, 3], as `TeacherSettings.compare` says.

    Raises:
      ValueError: there is no teacher; the message says what to do.
    """
    if teacher is None:
        raise ValueError(
            "the student learns from a teacher, and this recipe was built without one: build it for the purpose "
            "'training', with the teacher's path in recipe.teacher.checkpoint"
        )
    settings = teacher.settings
    if not in_batch:  # one new output is as good as any other
        samples = settings.samples if settings.compare == "all" else 1
        return teacher_outputs(teacher, frozen, images, noise, samples)
    outputs = batch[entry]
    if settings.compare == "all":
        return outputs
    chosen = jax.random.randint(key, (outputs.shape[0],), 0, outputs.shape[1], jnp.int32)
    return jnp.take_along_axis(outputs, chosen[:, None, None, None, None], axis=1)


def read_teacher(config: Config, purpose: str, reader: WeightReader) -> Teacher | None:
    """The trained recipe that `recipe.teacher` names; None unless the student is to be trained.

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be read, or has another scale than the student.
    """
    if purpose not in WITH_TEACHER:
        return None
    settings = settings_from(TeacherSettings, config["teacher"], "recipe.teacher")
    what = "the trained teacher (a file, not a folder)"
    knob_name = WEIGHT_FILES[0].knob
    recipe, params = reader.teacher(knob_name, settings.checkpoint, what, settings.published)
    if recipe.scale != config["scale"]:
        raise ValueError(
            f"{knob_name} {settings.checkpoint} upsamples by {recipe.scale}, the student by {config['scale']}: use a "
            "teacher of the same scale"
        )
    return Teacher(recipe, params, settings)


def distilled_batch_entries(config: Config, data: str, teacher_entries: tuple[str, ...]) -> tuple[str, ...]:
    """Batch entries of a method that learns from a teacher: photographs, or records with the teacher's outputs.

    Raises:
      ValueError: other training data.
    """
    if data not in (PHOTOS, TEACHER_OUTPUTS):
        raise ValueError(
            f"recipe.name {config['name']} cannot train on {data}: set data.train to photographs, or to records that "
            "`framer-jax precompute teacher` wrote"
        )
    return (*PIXELS, *teacher_entries) if data == TEACHER_OUTPUTS else PIXELS


def teacher_identity(config: Config) -> dict[str, Any]:
    """The knobs of `recipe.teacher` that its outputs depend on besides its weights."""
    section = config["teacher"]
    return {f"recipe.teacher.{name}": section.get(name) for name in ("output", "samples")}
