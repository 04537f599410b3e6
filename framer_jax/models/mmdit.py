"""The transformer of Stable Diffusion 3 and 3.5 (MMDiT, MMDiT-X): every published size is a configuration of it.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024). Written from the names
and shapes of the released checkpoints; published weights come through framer_jax.porting. One tap per block, of the
image tokens; the last one is FRAMER's teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from framer_jax.models.dit import from_patches
from framer_jax.models.joint_blocks import Block, FeedForward, Head, JointAttention, Repeated
from framer_jax.models.joint_inputs import POSITIONS, Condition, Tokens
from framer_jax.models.layers import ATTENTIONS, Dtype
from framer_jax.models.lora import COLLECTION

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "sd3_medium": {},
    "sd35_medium": {"qk_norm": True, "dual_blocks": 13, "position_grid": 384},
    "sd35_large": {"qk_norm": True, "depth": 38, "heads": 38},
}
"""Published model → the arguments in which it differs from the defaults."""

TAPS = ("hidden", "prediction")
"""The image tokens after each block as a map; or these through the model's own head, as FRAMER does with DiT4SR."""

REMAT = {
    "none": None,
    "everything": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What of a block is computed again for the gradient instead of kept: nothing, everything, or attention and what is
cheap (results of linear layers are kept)."""

RUNS = ("dual", "single")
"""Blocks of equal structure that a scan stacks: with a second attention, and without; the last block stays alone."""

Taps = tuple[jax.Array, ...]

Grid = tuple[int, int]
"""Rows and columns of tokens."""

Maker = Callable[..., nn.Module]


class JointTransformer(nn.Module):
    """What all transformers of this family share; the defaults are Stable Diffusion 3 medium.

    Attributes:
      channels: of the latents.
      depth: number of blocks.
      heads: of the attention.
      head_width: width of each; heads · head_width is the width of the tokens, a multiple of 4.
      dual_blocks: the first so many blocks attend over the image alone beside the joint attention.
      qk_norm: queries and keys are normed.
      context_width: of the text tokens that come in.
      pooled_width: of the pooled text embedding.
      patch: side of a token's patch, in latent positions.
      position_grid: side of the square of known positions, in tokens; an image lies in its centre.
      position_base: positions are counted in units of position_grid / position_base tokens.
      positions: one of framer_jax.models.joint_inputs.POSITIONS.
      taps: one of `TAPS`.
      attention: who computes attention, one of framer_jax.models.layers.ATTENTIONS.
      remat: what is computed twice, one of `REMAT`.
      scan: blocks of equal structure are one program with stacked parameters, which compiles faster; `stacked` makes
        such parameters.
      dtype: compute dtype; norms, softmax, modulation and the head are float32.
    """

    channels: int = 16
    depth: int = 24
    heads: int = 24
    head_width: int = 64
    dual_blocks: int = 0
    qk_norm: bool = False
    context_width: int = 4096
    pooled_width: int = 2048
    patch: int = 2
    position_grid: int = 192
    position_base: int = 64
    positions: str = "sine"
    taps: str = "hidden"
    attention: str = "auto"
    remat: str = "none"
    scan: bool = False
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        choices = {"taps": TAPS, "positions": POSITIONS, "attention": ATTENTIONS, "remat": REMAT}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.width % 4:
            raise ValueError(f"heads · head_width must be a multiple of 4, not {self.width}")
        if not 0 <= self.dual_blocks <= self.depth or self.depth < 1:
            raise ValueError(f"dual_blocks must be from 0 to depth ({self.depth}), not {self.dual_blocks}")
        if self.attention == "cudnn" and jnp.dtype(self.dtype).itemsize != 2:
            raise ValueError("attention 'cudnn' needs dtype bfloat16 or float16: choose one of them, or 'auto'")
        super().__post_init__()

    @property
    def width(self) -> int:
        """Width of the tokens."""
        return self.heads * self.head_width

    @property
    def multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return self.patch

    def predict(
        self, latents: tuple[jax.Array, ...], timestep: jax.Array, context: jax.Array, pooled: jax.Array
    ) -> tuple[jax.Array, Taps]:
        """Within a descendant's `__call__`: the prediction for the first of several latents.

        Args:
          latents: [B, H, W, channels] float32 each; their tokens become one sequence.
          timestep: see MMDiT.
          context: see MMDiT.
          pooled: see MMDiT.

        Returns:
          see MMDiT; taps are of the first latent's tokens.
        """
        grid = self._grid(latents, context, pooled)
        condition = nn.silu(Condition(self.width, name="condition")(timestep, pooled))  # [B, width]
        # An example's latents side by side, so that a batch split over devices stays where it is.
        together = jnp.stack(latents, axis=1).reshape(-1, *latents[0].shape[1:])  # [B S, H, W, channels]
        image = self._tokens(together).reshape(latents[0].shape[0], -1, self.width)  # [B, S N, width]
        text = nn.Dense(self.width, dtype=self.dtype, name="context")(context.astype(self.dtype))
        streams = self._blocks(image, text, condition, grid)
        # Computed again too: its norms are float32, and the predictions of all blocks would keep one each.
        head = self._rematerialised(Head)(self.patch**2 * self.channels, name="head")
        predicted = [
            from_patches(head(tokens, condition), grid, self.patch)
            for tokens in (streams if self.taps == "prediction" else streams[-1:])
        ]
        if self.taps == "prediction":
            return predicted[-1], tuple(predicted)
        return predicted[-1], tuple(tokens.reshape(-1, *grid, self.width) for tokens in streams)

    def parts(self, grid: Grid) -> tuple[Maker, Maker]:
        """What makes the attentions, and the image stream's perceptrons, of images of `grid` tokens."""
        attention = partial(JointAttention, self.heads, self.qk_norm, self.attention, dtype=self.dtype)
        return attention, partial(FeedForward, dtype=self.dtype)

    def _tokens(self, latent: jax.Array) -> jax.Array:
        return Tokens(
            width=self.width,
            patch=self.patch,
            grid=self.position_grid,
            base=self.position_base,
            positions=self.positions,
            dtype=self.dtype,
            name="tokens",
        )(latent)

    def _blocks(self, image: jax.Array, text: jax.Array, condition: jax.Array, grid: Grid) -> list[jax.Array]:
        """The first latent's tokens after each block."""
        kept, outputs = grid[0] * grid[1], []
        runs = runs_of(self.depth, self.dual_blocks) if self.scan else {}
        for name, run in runs.items():
            run_of = nn.scan(
                self._rematerialised(Repeated),
                variable_axes={"params": 0, COLLECTION: 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=len(run),
            )
            blocks = run_of(*self.parts(grid), name == RUNS[0], False, self.dtype, kept, name=f"blocks_{name}")
            (image, text), tokens = blocks((image, text), condition)
            outputs += list(tokens)
        for index in range(len(outputs), self.depth):
            dual, last = index < self.dual_blocks, index == self.depth - 1
            block_of = self._rematerialised(Block)
            block = block_of(*self.parts(grid), dual, last, self.dtype, name=f"block_{index}")
            image, text = block(image, text, condition)
            outputs.append(image[:, :kept])
        return outputs

    def _rematerialised(self, block: Any) -> Any:
        if self.remat == "none":
            return block
        return nn.remat(block, policy=REMAT[self.remat], prevent_cse=not self.scan)

    def _grid(self, latents: tuple[jax.Array, ...], context: jax.Array, pooled: jax.Array) -> Grid:
        """The latents' tokens by rows and columns, of inputs that fit."""
        shape = latents[0].shape
        fitting = len(shape) == 4 and shape[-1] == self.channels and not any(side % self.patch for side in shape[1:3])
        if not fitting or any(latent.shape != shape for latent in latents):
            raise ValueError(
                f"latents must be [B, H, W, {self.channels}], sides multiples of {self.patch}, and alike; got "
                + " and ".join(str(latent.shape) for latent in latents)
            )
        grid = (shape[1] // self.patch, shape[2] // self.patch)
        if max(grid) > self.position_grid:
            raise ValueError(
                f"latents {shape} have more than {self.position_grid} tokens a side, and no positions for them: use "
                "tiles"
            )
        wanted = ((shape[0], *context.shape[1:2], self.context_width), (shape[0], self.pooled_width))
        if (context.shape, pooled.shape) != wanted:
            raise ValueError(
                f"{shape[0]} latents need a context [{shape[0]}, T, {self.context_width}] and pooled text "
                f"[{shape[0]}, {self.pooled_width}], not {context.shape} and {pooled.shape}"
            )
        return grid


class MMDiT(JointTransformer):
    """The denoiser; its attributes are those of JointTransformer."""

    @nn.compact
    def __call__(
        self, latent: jax.Array, timestep: jax.Array, context: jax.Array, pooled: jax.Array
    ) -> tuple[jax.Array, Taps]:
        """Predict the velocity.

        Args:
          latent: [B, H, W, channels] float32 noisy latents, of about unit variance.
          timestep: [B] float32 in 0..1000, 1000 σ.
          context: [B, T, context_width] text tokens.
          pooled: [B, pooled_width] pooled text embedding.

        Returns:
          prediction [B, H, W, channels] float32, and `depth` taps: [B, H / patch, W / patch, width] in the compute
          dtype if hidden, [B, H, W, channels] float32 if predictions.

        Raises:
          ValueError: inputs of other shapes, or more tokens than there are positions.
        """
        return self.predict((latent,), timestep, context, pooled)


def runs_of(depth: int, dual_blocks: int) -> dict[str, range]:
    """Which blocks a scan stacks, by the name of their run; runs of none are left out."""
    border = min(dual_blocks, depth - 1)
    runs = dict(zip(RUNS, (range(border), range(border, depth - 1)), strict=True))
    return {name: run for name, run in runs.items() if run}


def stacked(params: Mapping[str, Any], model: JointTransformer) -> dict[str, Any]:
    """Parameters for `scan` from those without: `blocks_dual` and `blocks_single` in place of `block_0`, ….

    Args:
      params: nested mappings of arrays, as porting gives them; or a part of them that is the same in all blocks of a
        run, such as control layers alone; or factors of a LoRA.
      model: whose they are.

    Raises:
      ValueError: blocks of one run hold different parameters.
    """
    rest = dict(params)
    for name, run in runs_of(model.depth, model.dual_blocks).items():
        blocks = {block: rest.pop(block) for block in (f"block_{index}" for index in run) if block in rest}
        if not blocks:
            continue
        first = next(iter(blocks))
        others = [block for block in blocks if flatten_dict(blocks[block]).keys() != flatten_dict(blocks[first]).keys()]
        if others or len(blocks) != len(run):
            other = others[0] if others else next(f"block_{i}" for i in run if f"block_{i}" not in blocks)
            raise ValueError(
                f"{first} and {other} hold different parameters, which a scan cannot stack: use them without scan"
            )
        rest[f"blocks_{name}"] = jax.tree.map(_stack, *blocks.values())
    return rest


def _stack(*leaves: Any) -> Any:
    """One array of many, which stay on the host if they are there."""
    return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)


def unstacked(params: Mapping[str, Any], model: JointTransformer) -> dict[str, Any]:
    """The inverse of `stacked`.

    Raises:
      ValueError: a run of another length than the model's.
    """
    rest = dict(params)
    for name, run in runs_of(model.depth, model.dual_blocks).items():
        blocks = rest.pop(f"blocks_{name}", None)
        if blocks is None:
            continue
        if wrong := {leaf.shape[:1] for leaf in jax.tree.leaves(blocks)} - {(len(run),)}:
            raise ValueError(
                f"blocks_{name} holds {wrong.pop()[0]} blocks instead of {len(run)}: they are of another model"
            )
        for place, index in enumerate(run):
            rest[f"block_{index}"] = jax.tree.map(lambda leaf, place=place: leaf[place], blocks)
    return rest


def arranged(params: Mapping[str, Any], model: JointTransformer) -> dict[str, Any]:
    """Parameters, or a part of them, as a model has them: stacked if it scans, block by block if not.

    Args:
      params: as for `stacked`, in either arrangement.
      model: whose they shall be.

    Raises:
      ValueError: as `stacked` and `unstacked`.
    """
    apart = unstacked(params, model)
    return stacked(apart, model) if model.scan else apart
