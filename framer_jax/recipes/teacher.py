"""A trained recipe as the frozen teacher of another network: what it makes of an LR image, as 8-bit pictures.

Only its pictures are compared, so anything can teach: a diffusion sampler of many steps, its one-step mean, or a larger
one-pass network. No gradient reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.recipes.base import Batch, Frozen, LossFunction, Params, Precompute, Recipe, Sampler, Update
from framer_jax.recipes.swinir import STUDENT, init, one_pass
from framer_jax.recipes.tracing import leaves_read

TEACHER = "teacher"
"""The entry of `frozen` that everything a teacher computes with has; the entry of a batch with its pictures."""

OUTPUTS = ("sample", "mean")
COMPARISONS = ("all", "one")


@dataclass(frozen=True)
class Teacher:
    """A recipe that teaches.

    Attributes:
      recipe: the teacher's.
      params: its trained groups.
      output: which of its functions teaches, of `OUTPUTS`.
      samples: pictures per image, each from noise of its own.
      compare: a student is compared with 'all' of them in a step, or with 'one' that is drawn.

    Raises:
      ValueError: a value outside its choices, a recipe that has no such output, or several samples without noise.
    """

    recipe: Recipe
    params: Params = field(repr=False)
    output: str = "sample"
    samples: int = 1
    compare: str = "all"

    def __post_init__(self) -> None:
        for name, known in (("output", OUTPUTS), ("compare", COMPARISONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"recipe.teacher.{name} is {getattr(self, name)!r}: choose {' or '.join(known)}")
        if self.samples < 1:
            raise ValueError(f"recipe.teacher.samples is {self.samples}: it must be at least 1")
        if self.output == "mean" and self.recipe.mean is None:
            raise ValueError(f"a teacher of recipe {self.recipe.name!r} has no mean: set recipe.teacher.output=sample")
        if self.samples > 1 and not self._draws():
            raise ValueError(
                f"recipe.teacher.samples is {self.samples}, but the {self.output} of a teacher of recipe "
                f"{self.recipe.name!r} has no noise: its pictures would be equal: set recipe.teacher.samples=1"
            )

    def _draws(self) -> bool:
        """Whether its pictures depend on the noise."""
        side = 8 * self.recipe.lr_multiple
        lr = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        function = getattr(self.recipe, self.output)
        noise = leaves_read(function, self.params, self.recipe.frozen, lr, noise_field(jax.random.key(0), 1))[3]
        return any(jax.tree.leaves(noise))

    @property
    def frozen(self) -> Frozen:
        """What `pictures` finds in what it is given."""
        return {TEACHER: {"params": self.params, "frozen": self.recipe.frozen}}


def pictures(teacher: Teacher, frozen: Frozen, lr: jax.Array, noise: NoiseField, samples: int) -> jax.Array:
    """What the teacher makes of LR images.

    Args:
      teacher: see Teacher.
      frozen: has the teacher's entry.
      lr: [B, H, W, 3] float32 in [0, 1], any size.
      noise: of the batch; sample k draws from the k-th key that is folded out of it.
      samples: how many of each.

    Returns:
      [B, samples, sH, sW, 3] float32, on the 256 levels of [0, 1], as a picture on disk would be; no gradient.
    """
    own = frozen[TEACHER]
    function: Sampler | None = getattr(teacher.recipe, teacher.output)
    assert function is not None  # Teacher says so

    def one(number: jax.Array) -> jax.Array:  # one after the other: the memory of one
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(noise.key)
        picture = any_size(function, teacher.recipe)(own["params"], own["frozen"], lr, NoiseField(keys, noise.origin))
        return jnp.round(jnp.clip(picture, 0.0, 1.0) * 255.0) / 255.0  # [B, sH, sW, 3]

    found = jax.lax.map(one, jnp.arange(samples, dtype=jnp.int32)) if samples > 1 else one(jnp.int32(0))[None]
    return jax.lax.stop_gradient(found.swapaxes(0, 1))


def any_size(function: Sampler, recipe: Recipe) -> Sampler:
    """A recipe's function for LR images of any size: filled up by reflection to the sides it needs, and cropped."""

    def run(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        height, width = lr.shape[1:3]
        more = [-side % recipe.lr_multiple for side in (height, width)]
        filled = jnp.pad(lr, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), mode="reflect")
        return function(params, frozen, filled, noise)[:, : height * recipe.scale, : width * recipe.scale]

    return run


def taught(
    teacher: Teacher | None,
    frozen: Frozen,
    batch: Batch,
    images: jax.Array,
    noise: NoiseField,
    key: jax.Array,
    entry: str = TEACHER,
) -> jax.Array:
    """The teacher's pictures that one step compares with: those that the batch brings, or fresh ones.

    Args:
      teacher: see Teacher.
      frozen: has the teacher's entry.
      batch: may have precomputed pictures, [B, K, sH, sW, 3].
      images: [B, H, W, 3] in [0, 1], what it is asked about if the batch has none.
      noise: as of `pictures`.
      key: of the draw of one of several precomputed pictures.
      entry: their name in the batch.

    Returns:
      [B, K or 1, sH, sW, 3], as `Teacher.compare` says.

    Raises:
      ValueError: there is no teacher; the message says what to do.
    """
    if teacher is None:
        raise ValueError(
            "the student learns from a teacher, and this recipe was built without: build it for the purpose "
            "'training', with the teacher's path in recipe.teacher.weights"
        )
    if entry not in batch:  # of fresh pictures, one is as good as any other
        return pictures(teacher, frozen, images, noise, teacher.samples if teacher.compare == "all" else 1)
    found = batch[entry]
    if teacher.compare == "all":
        return found
    chosen = jax.random.randint(key, (found.shape[0],), 0, found.shape[1], jnp.int32)
    return jnp.take_along_axis(found, chosen[:, None, None, None, None], axis=1)


def taught_student(
    name: str,
    student: nn.Module,
    scale: int,
    loss: LossFunction,
    teacher: Teacher | None,
    precompute: Precompute | None,
) -> Recipe:
    """The recipe of a one-pass network that a teacher's pictures enter the loss of.

    Args:
      name: of the recipe.
      student: as of framer_jax.recipes.swinir.swinir; group 'student'.
      scale: its enlargement.
      loss: of its one update.
      teacher: None where nothing will be trained, or without one.
      precompute: what of the teacher can be written to disk; without a teacher it is left out.
    """
    sample = one_pass(student)
    return Recipe(
        name=name,
        scale=scale,
        init=partial(init, student),
        updates=(Update(STUDENT, (STUDENT,), loss),),
        sample=sample,
        mean=sample,
        exported=(STUDENT,),
        frozen=teacher.frozen if teacher else {},
        precompute=precompute if teacher else None,
    )
