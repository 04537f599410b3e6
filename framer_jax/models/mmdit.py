"""The transformer of Stable Diffusion 3 and 3.5 (MMDiT, MMDiT-X); with knobs for every published size.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024). Written from the names
and shapes of the released checkpoints; published weights are read by framer_jax.porting. One tap per block: its image
tokens; the last one is FRAMER's teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from framer_jax.knobs import as_tuple, check_knobs, knob
from framer_jax.models.denoiser import POOLED_TEXT, TAP_KINDS, TEXT, Condition, Taps, condition_entry
from framer_jax.models.dit import from_patches
from framer_jax.models.joint_blocks import Block, FeedForward, Head, JointAttention, ScanBody
from framer_jax.models.joint_inputs import POSITIONS, PatchEmbedding, TimeTextEmbedding
from framer_jax.models.layers import ATTENTIONS, Dtype
from framer_jax.models.lora import COLLECTION

REMAT = {
    "none": None,
    "everything": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""Rematerialisation policies: what is recomputed for the gradient instead of stored: nothing, everything, or attention
and other cheap operations (outputs of linear layers are stored)."""

SEGMENTS = ("dual", "single")
"""Segments of blocks with equal structure, which a scan stacks: with a second attention, and without. The last block is
in none; see `scanned_segments`."""

Grid = tuple[int, int]
"""Rows and columns of tokens."""

Constructor = Callable[..., nn.Module]


class JointTransformer(nn.Module):
    """Base class of the transformers of this family. The default knobs are those of Stable Diffusion 3 medium.

    The knobs are documented where they are defined.

    Attributes:
      channels: channels of the latents.
      context_width: features of the text tokens.
      pooled_width: features of the pooled text embedding.
      position_base: positions are counted in units of position_grid / position_base tokens.
      positions: one of framer_jax.models.joint_inputs.POSITIONS.
      dtype: compute dtype; norms, softmax, modulation and the head are float32.
    """

    channels: int = 16
    depth: int = knob(24, "Number of blocks.", at_least=1, at_most=1000)
    heads: int = knob(24, "Number of attention heads.", at_least=1, at_most=1024)
    head_width: int = knob(
        64,
        "Width of an attention head; heads times head_width is the token width, a multiple of 4.",
        at_least=1,
        at_most=4096,
    )
    dual_blocks: int = knob(
        0,
        "Number of leading blocks with a second attention, over the image alone; at most depth.",
        at_least=0,
        at_most=1000,
    )
    dual_layers: tuple[int, ...] = knob(
        (),
        "Indices of the blocks with a second attention where they are not the leading ones; (): dual_blocks counts.",
        at_least=0,
        at_most=999,
        empty=True,
    )
    qk_norm: bool = knob(False, "Whether queries and keys are normalised.")
    context_width: int = 4096
    pooled_width: int = 2048
    patch: int = knob(2, "Side of a token's patch.", unit="latent positions", at_least=1, at_most=64)
    position_grid: int = knob(
        192,
        "Side of the square grid of positions; smaller images use its center.",
        unit="tokens",
        at_least=1,
        at_most=16_384,
    )
    position_base: int = 64
    positions: str = "sine"
    taps: str = knob(
        "hidden",
        "What FRAMER compares: hidden (the image tokens after each block) or prediction (these through the network's "
        "own head).",
        choices=TAP_KINDS,
    )
    attention: str = knob(
        "auto",
        "Implementation of attention: auto (JAX's choice; of many tokens on TPUs as splash), XLA, cuDNN (bfloat16 or "
        "float16 only), JAX's Pallas kernel on TPUs (splash; elsewhere XLA), or explicit products.",
        choices=ATTENTIONS,
        execution=True,
    )
    remat: str = knob(
        "none", "What each block recomputes for the gradient instead of storing it.", choices=REMAT, execution=True
    )
    scan: bool = knob(
        False,
        "Whether blocks of equal structure are one scanned program with stacked parameters (blocks_dual/…, "
        "blocks_single/…), which compiles faster.",
        execution=True,
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.positions not in POSITIONS:
            raise ValueError(f"positions is {self.positions!r}: it must be one of {', '.join(POSITIONS)}")
        if self.position_base < 1:
            raise ValueError(f"position_base is {self.position_base}: it must be at least 1")
        if self.width % 4:
            raise ValueError(f"heads times head_width is {self.width}: it must be a multiple of 4")
        if self.dual_blocks > self.depth:
            raise ValueError(f"dual_blocks is {self.dual_blocks}: it must be from 0 to depth ({self.depth})")
        if self.dual_layers and self.dual_blocks:
            raise ValueError(
                f"dual_layers is {self.dual_layers}: dual_blocks must be 0 with it, not {self.dual_blocks}"
            )
        if list(self.dual_layers) != sorted(set(self.dual_layers) & set(range(self.depth))):
            raise ValueError(
                f"dual_layers is {self.dual_layers}: it must hold ascending indices of blocks, 0 to {self.depth - 1}"
            )
        if self.attention == "cudnn" and jnp.dtype(self.dtype).itemsize != 2:
            raise ValueError("attention is cudnn: it needs dtype bfloat16 or float16; choose one of them, or auto")
        super().__post_init__()

    @property
    def width(self) -> int:
        """Width of the tokens."""
        return self.heads * self.head_width

    @property
    def dual(self) -> frozenset[int]:
        """Indices of the blocks with a second attention."""
        return frozenset(self.dual_layers or range(self.dual_blocks))

    @property
    def tap_count(self) -> int:
        """One tap per block."""
        return self.depth

    @property
    def downsampling(self) -> int:
        """The LR image is seen as a latent, on the same grid."""
        return 1

    @property
    def size_multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return self.patch

    def predict(self, latents: tuple[jax.Array, ...], t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Within the `__call__` of a subclass: the prediction for the first of several latents.

        Args:
          latents: [B, H, W, channels] float32 each; their tokens become one sequence.
          t: see MMDiT.
          condition: see MMDiT.

        Returns:
          see MMDiT; the taps are of the first latent's tokens.
        """
        text, pooled = condition_entry(condition, TEXT), condition_entry(condition, POOLED_TEXT)
        grid = self._grid(latents, text, pooled)
        embedding = nn.silu(TimeTextEmbedding(self.width, name="condition")(t, pooled))  # [B, width]
        # The latents of an example are adjacent, so that a batch sharded over devices needs no communication.
        stacked = jnp.stack(latents, axis=1).reshape(-1, *latents[0].shape[1:])  # [B S, H, W, channels]
        image = self._tokens(stacked).reshape(latents[0].shape[0], -1, self.width)  # [B, S N, width]
        text = nn.Dense(self.width, dtype=self.dtype, name="context")(text.astype(self.dtype))
        block_tokens = self._blocks(image, text, embedding, grid)
        # The head is rematerialised too: its norms are float32, and the predictions of all blocks would store them.
        head = self._rematerialised(Head)(self.patch**2 * self.channels, name="head")
        predictions = [
            from_patches(head(tokens, embedding), grid, self.patch)
            for tokens in (block_tokens if self.taps == "prediction" else block_tokens[-1:])
        ]
        if self.taps == "prediction":
            return predictions[-1], tuple(predictions)
        return predictions[-1], tuple(tokens.reshape(-1, *grid, self.width) for tokens in block_tokens)

    def layer_constructors(self, grid: Grid) -> tuple[Constructor, Constructor]:
        """Constructors of the attentions and of the image stream's MLPs, for images of `grid` tokens."""
        attention = partial(JointAttention, self.heads, self.qk_norm, self.attention, dtype=self.dtype)
        return attention, partial(FeedForward, dtype=self.dtype)

    def _tokens(self, latent: jax.Array) -> jax.Array:
        return PatchEmbedding(
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
        count, outputs = grid[0] * grid[1], []
        segments = scanned_segments(self.depth, self.dual) if self.scan else {}
        for name, segment in segments.items():
            scanned = nn.scan(
                self._rematerialised(ScanBody),
                variable_axes={"params": 0, COLLECTION: 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=len(segment),
            )
            dual = name.startswith(SEGMENTS[0])
            body = scanned(*self.layer_constructors(grid), dual, False, self.dtype, count, name=f"blocks_{name}")
            (image, text), tokens = body((image, text), condition)
            outputs += list(tokens)
        for index in range(len(outputs), self.depth):
            dual, last = index in self.dual, index == self.depth - 1
            block_class = self._rematerialised(Block)
            block = block_class(*self.layer_constructors(grid), dual, last, self.dtype, name=f"block_{index}")
            image, text = block(image, text, condition)
            outputs.append(image[:, :count])
        return outputs

    def _rematerialised(self, module: Any) -> Any:
        if self.remat == "none":
            return module
        return nn.remat(module, policy=REMAT[self.remat], prevent_cse=not self.scan)

    def _grid(self, latents: tuple[jax.Array, ...], text: jax.Array, pooled: jax.Array) -> Grid:
        """Rows and columns of the latents' tokens, after a check of all shapes."""
        shape = latents[0].shape
        fits = len(shape) == 4 and shape[-1] == self.channels and not any(side % self.patch for side in shape[1:3])
        if not fits or any(latent.shape != shape for latent in latents):
            raise ValueError(
                f"latents must be [B, H, W, {self.channels}], of equal shape, with sides that are multiples of "
                f"{self.patch}; got {' and '.join(str(latent.shape) for latent in latents)}"
            )
        grid = (shape[1] // self.patch, shape[2] // self.patch)
        if max(grid) > self.position_grid:
            raise ValueError(
                f"latents {shape} have more than {self.position_grid} tokens per side, the size of the grid of "
                "positions: use tiles"
            )
        expected = ((shape[0], *text.shape[1:2], self.context_width), (shape[0], self.pooled_width))
        if (text.shape, pooled.shape) != expected:
            raise ValueError(
                f"{shape[0]} latents need text tokens [{shape[0]}, T, {self.context_width}] and pooled text "
                f"[{shape[0]}, {self.pooled_width}], got {text.shape} and {pooled.shape}"
            )
        return grid


class MMDiT(JointTransformer):
    """The denoiser; its attributes are those of JointTransformer."""

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Predict the velocity.

        Args:
          x: [B, H, W, channels] float32 noisy latents, of about unit variance.
          t: [B] float32 times from 0 to 1000, 1000 σ.
          condition: 'text' tokens [B, T, context_width] and 'pooled_text' [B, pooled_width].

        Returns:
          prediction [B, H, W, channels] float32, and `depth` taps: [B, H / patch, W / patch, width] in the compute
          dtype if hidden, [B, H, W, channels] float32 if predictions.

        Raises:
          ValueError: the condition lacks an entry, a shape does not fit, or there are more tokens than positions.
        """
        return self.predict((x,), t, condition)


def scanned_segments(depth: int, dual: Collection[int]) -> dict[str, range]:
    """Indices of the blocks of each segment that a scan stacks, in their order, by its name.

    Args:
      depth: number of blocks.
      dual: indices of those with a second attention.

    Returns:
      the runs of blocks of equal structure without the last block: the first of each kind has its name in `SEGMENTS`,
      later ones also a number ('single', 'dual', 'single_1', …).
    """
    segments: dict[str, range] = {}
    first = 0
    for index in range(1, depth):
        if index == depth - 1 or (index in dual) != (first in dual):
            kind = SEGMENTS[0] if first in dual else SEGMENTS[1]
            count = sum(name.startswith(kind) for name in segments)
            segments[f"{kind}_{count}" if count else kind] = range(first, index)
            first = index
    return segments


def block_structure(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a transformer's arguments that decide which blocks are alike, as tuples where they are lists."""
    names = ("depth", "dual_blocks", "dual_layers")
    return {name: as_tuple(arguments[name]) for name in names if name in arguments}


def stack_blocks(params: Mapping[str, Any], model: JointTransformer) -> dict[str, Any]:
    """Parameters for `scan`: `blocks_dual` and `blocks_single` instead of `block_0`, ….

    Args:
      params: nested mappings of arrays, with one group per block; or a part of them that is equal in all blocks of a
        segment, such as the control layers, or the factors of a LoRA.
      model: the transformer that they belong to.

    Raises:
      ValueError: blocks of one segment hold different parameters.
    """
    result = dict(params)
    for name, segment in scanned_segments(model.depth, model.dual).items():
        blocks = {block: result.pop(block) for block in (f"block_{index}" for index in segment) if block in result}
        if not blocks:
            continue
        first = next(iter(blocks))
        others = [block for block in blocks if flatten_dict(blocks[block]).keys() != flatten_dict(blocks[first]).keys()]
        if others or len(blocks) != len(segment):
            other = others[0] if others else next(f"block_{i}" for i in segment if f"block_{i}" not in blocks)
            raise ValueError(
                f"{first} and {other} hold different parameters, which a scan cannot stack: use them without scan"
            )
        result[f"blocks_{name}"] = jax.tree.map(_stack, *blocks.values())
    return result


def _stack(*leaves: Any) -> Any:
    """Stack arrays, on the host if they are there."""
    return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)


def unstack_blocks(params: Mapping[str, Any], model: JointTransformer) -> dict[str, Any]:
    """The inverse of `stack_blocks`.

    Raises:
      ValueError: a segment has another number of blocks than the model.
    """
    result = dict(params)
    for name, segment in scanned_segments(model.depth, model.dual).items():
        blocks = result.pop(f"blocks_{name}", None)
        if blocks is None:
            continue
        if wrong := {leaf.shape[:1] for leaf in jax.tree.leaves(blocks)} - {(len(segment),)}:
            raise ValueError(
                f"blocks_{name} holds {wrong.pop()[0]} blocks instead of {len(segment)}: it is from another model"
            )
        for position, index in enumerate(segment):
            result[f"block_{index}"] = jax.tree.map(lambda leaf, position=position: leaf[position], blocks)
    return result


def match_block_layout(params: Mapping[str, Any], model: JointTransformer) -> dict[str, Any]:
    """Parameters, or a part of them, in the layout of a model: stacked if it scans, one group per block if not.

    Args:
      params: see `stack_blocks`, in either layout.
      model: the transformer whose layout is returned.

    Raises:
      ValueError: see `stack_blocks` and `unstack_blocks`.
    """
    unstacked = unstack_blocks(params, model)
    return stack_blocks(unstacked, model) if model.scan else unstacked
