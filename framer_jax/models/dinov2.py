"""DINOv2, a vision transformer whose features losses and conditions compare: ViT-S, B, L and g with patches of 14.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (2023, arXiv 2304.07193); registers: Darcet
et al., "Vision Transformers Need Registers" (2023, arXiv 2309.16588); LayerScale: Touvron et al., "Going Deeper with
Image Transformers" (ICCV 2021); SwiGLU: Shazeer, "GLU Variants Improve Transformer" (2020). Weights are read from a
file by framer_jax.porting; none are included. Norms and softmax are float32 whatever the compute dtype.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.layers import ATTENTIONS, Dtype, LayerNorm, attention

MEAN, STANDARD_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's statistics of RGB in [0, 1]."""

MLPS = ("gelu", "swiglu")
"""The MLP of a block: two linear layers with a GELU between them, or SwiGLU (ViT-g)."""

CUBIC, CUBIC_ANTIALIAS = -0.75, -0.5
"""The cubic kernel's parameter in PyTorch's bicubic interpolation, without and with antialiasing."""


class Features(NamedTuple):
    """What DINOv2 says of images; N patches of an image are in row-major order.

    Attributes:
      cls: the class token after the last norm, [B, W] float32.
      patches: patch tokens after the last norm, [B, N, W] float32.
      registers: register tokens after the last norm, [B, R, W] float32; R is 0 without registers.
      before_norm: all tokens before the last norm: class, registers, patches, [B, 1 + R + N, W] float32.
    """

    cls: jax.Array
    patches: jax.Array
    registers: jax.Array
    before_norm: jax.Array


def normalise(image: jax.Array) -> jax.Array:
    """RGB [..., 3] in [0, 1] → float32 with ImageNet's mean subtracted, divided by its standard deviation."""
    mean, deviation = jnp.asarray(MEAN, jnp.float32), jnp.asarray(STANDARD_DEVIATION, jnp.float32)
    shape = (1,) * (image.ndim - 1) + (3,)
    return (image.astype(jnp.float32) - mean.reshape(shape)) / deviation.reshape(shape)


def cubic_kernel(distance: np.ndarray, parameter: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981) at distances in samples; 0 from 2 on."""
    d = np.abs(distance)
    near = ((parameter + 2) * d - (parameter + 3)) * d * d + 1
    far = parameter * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def resize_matrix(size: int, native: int, offset: float = 0.0, antialias: bool = False) -> np.ndarray:
    """The bicubic interpolation of one axis, as PyTorch computes it, as a matrix [size, native] float64.

    Args:
      size: number of samples to make.
      native: number of given samples.
      offset: added to `size` in the factor size / native that determines where the samples lie, not in their number.
      antialias: whether the kernel widens where there are fewer samples than given; the edge is then cut off and the
        rest scaled to a sum of 1, and repeated otherwise.
    """
    step = native / (size + offset)  # of given samples per sample
    center = (np.arange(size)[:, None] + 0.5) * step - 0.5  # [size, 1]
    if antialias:
        weights = cubic_kernel((np.arange(native)[None] - center) / max(step, 1.0), CUBIC_ANTIALIAS)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(center).astype(int) + np.arange(-1, 3)[None]  # [size, 4]
    matrix = np.zeros((size, native))
    rows = np.broadcast_to(np.arange(size)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, native - 1)), cubic_kernel(center - taps, CUBIC))
    return matrix


def resize_positions(table: jax.Array, rows: int, columns: int, offset: float, antialias: bool) -> jax.Array:
    """The position embeddings of a grid of patches other than the native one; the native one gets them unchanged.

    Args:
      table: [1, G², W] float32, of a square grid.
      rows: rows of the new grid.
      columns: columns of the new grid.
      offset: see `resize_matrix`.
      antialias: see `resize_matrix`.

    Returns:
      [1, rows · columns, W] float32.
    """
    side = round(table.shape[1] ** 0.5)
    if (rows, columns) == (side, side):
        return table
    by_row, by_column = (
        jnp.asarray(resize_matrix(size, side, offset, antialias), jnp.float32) for size in (rows, columns)
    )
    grid = table.reshape(side, side, -1)  # [G, G, W]
    grid = jnp.einsum("hi,ijc->hjc", by_row, grid, precision="highest")  # [rows, G, W]
    grid = jnp.einsum("wj,hjc->hwc", by_column, grid, precision="highest")  # [rows, columns, W]
    return grid.reshape(1, rows * columns, -1)


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values.

    Attributes:
      heads: number of heads, a divisor of the width.
      implementation: one of framer_jax.models.layers.ATTENTIONS.
      dtype: compute dtype.
    """

    heads: int
    implementation: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, W] → [B, N, W]."""
        batch, count, width = x.shape
        h = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(x)  # [B, N, 3 W]
        h = h.reshape(batch, count, 3, self.heads, width // self.heads)
        attended = attention(h[:, :, 0], h[:, :, 1], h[:, :, 2], self.implementation)  # [B, N, heads, W / heads]
        return nn.Dense(width, dtype=self.dtype, name="out")(attended.reshape(batch, count, width))


class FeedForward(nn.Module):
    """The MLP of a block.

    Attributes:
      kind: one of `MLPS`.
      hidden: hidden width.
      dtype: compute dtype.
    """

    kind: str
    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, W] → [B, N, W]."""
        width = x.shape[-1]
        if self.kind == "swiglu":
            h = nn.Dense(2 * self.hidden, dtype=self.dtype, name="swiglu_0")(x)
            gate, value = jnp.split(h, 2, axis=-1)  # [B, N, hidden] each
            return nn.Dense(width, dtype=self.dtype, name="swiglu_1")(nn.silu(gate) * value)
        h = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="dense_0")(x), approximate=False)  # [B, N, hidden]
        return nn.Dense(width, dtype=self.dtype, name="dense_1")(h)


class Block(nn.Module):
    """Attention and an MLP, each after a norm, with a learned scale per channel (LayerScale) and a skip.

    Attributes:
      heads: number of heads.
      mlp: one of `MLPS`.
      hidden: hidden width of the MLP.
      layer_scale: whether there are the learned scales.
      attention: one of framer_jax.models.layers.ATTENTIONS.
      dtype: compute dtype.
    """

    heads: int
    mlp: str
    hidden: int
    layer_scale: bool = True
    attention: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, W] in the compute dtype → the same."""
        h = Attention(self.heads, self.attention, self.dtype, name="attention")(LayerNorm(name="norm_0")(x))
        x = x + self._scaled(h, "scale_0")
        h = FeedForward(self.mlp, self.hidden, self.dtype, name="mlp")(LayerNorm(name="norm_1")(x))
        return x + self._scaled(h, "scale_1")

    def _scaled(self, h: jax.Array, name: str) -> jax.Array:
        if not self.layer_scale:
            return h
        scale = self.param(name, nn.initializers.ones, (h.shape[-1],))
        return h * scale.astype(h.dtype)[None, None, :]


class DINOv2(nn.Module):
    """The vision transformer of DINOv2. The default arguments are those of ViT-S/14 without registers.

    Attributes:
      width: features of a token, a multiple of `heads`.
      depth: number of blocks.
      heads: number of attention heads.
      hidden: hidden width of the MLPs.
      mlp: one of `MLPS`.
      patch: side of a patch in pixels.
      image_size: side in pixels of the square images for whose grid of patches the positions are stored.
      registers: number of register tokens.
      layer_scale: whether blocks have LayerScale.
      position_offset: added to the number of patches of an axis where positions are interpolated: 0.1 in the released
        models without registers, 0 in those with.
      position_antialias: whether that interpolation is antialiased: in the released models with registers.
      attention: one of framer_jax.models.layers.ATTENTIONS.
      dtype: compute dtype; norms and softmax, interpolated positions and the features are float32.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    mlp: str = "gelu"
    patch: int = 14
    image_size: int = 518
    registers: int = 0
    layer_scale: bool = True
    position_offset: float = 0.1
    position_antialias: bool = False
    attention: str = "auto"
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        for name, choices in {"mlp": MLPS, "attention": ATTENTIONS}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(choices)}")
        for name in ("width", "depth", "heads", "hidden", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}: it must divide the width, {self.width}")
        if self.image_size < self.patch or self.image_size % self.patch:
            raise ValueError(f"image_size is {self.image_size}: it must be a multiple of patch ({self.patch})")
        if self.registers < 0 or self.position_offset < 0:
            raise ValueError("registers and position_offset must be at least 0")
        super().__post_init__()

    def setup(self) -> None:
        """Create the submodules and the tokens."""
        normal, zeros, width = nn.initializers.normal(0.02), nn.initializers.zeros, self.width
        sides = (self.patch, self.patch)
        self.patch_embedding = nn.Conv(width, sides, sides, "VALID", dtype=self.dtype)
        self.cls_token = self.param("cls_token", normal, (1, 1, width))
        self.mask_token = self.param("mask_token", zeros, (1, width))
        self.positions = self.param("positions", normal, (1, 1 + (self.image_size // self.patch) ** 2, width))
        if self.registers:
            self.register_tokens = self.param("register_tokens", normal, (1, self.registers, width))
        self.block = [
            Block(self.heads, self.mlp, self.hidden, self.layer_scale, self.attention, self.dtype)
            for _ in range(self.depth)
        ]
        self.norm_out = LayerNorm()

    def __call__(self, image: jax.Array, masked: jax.Array | None = None) -> Features:
        """Features of images.

        Args:
          image: RGB [B, H, W, 3] in [0, 1]; H and W are multiples of `patch`, of any size.
          masked: patches that the mask token replaces, [B, N] bool; None for none.

        Raises:
          ValueError: the images have other sides or channels.
        """
        self._check(image)
        return self.from_normalised(normalise(image), masked)

    def from_normalised(self, x: jax.Array, masked: jax.Array | None = None) -> Features:
        """As `__call__`, of images that `normalise` has normalised already."""
        rows, columns = self._check(x)
        tokens = self._tokens(x.astype(self.dtype), rows, columns, masked)  # [B, 1 + R + N, W]
        for block in self.block:
            tokens = block(tokens)
        before_norm = tokens.astype(jnp.float32)
        normal = self.norm_out(before_norm)  # [B, 1 + R + N, W]
        first = 1 + self.registers
        return Features(normal[:, 0], normal[:, first:], normal[:, 1:first], before_norm)

    def _check(self, image: jax.Array) -> tuple[int, int]:
        """Rows and columns of patches of images; ValueError if their shape is none that the network takes."""
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"DINOv2 takes images [B, H, W, 3], got {image.shape}")
        height, width = image.shape[1:3]
        if height % self.patch or width % self.patch or not (height and width):
            nearest = tuple(max(1, round(side / self.patch)) * self.patch for side in (height, width))
            raise ValueError(
                f"DINOv2 takes images whose sides are multiples of {self.patch}, got {(height, width)}: resize or crop "
                f"them, for example to {nearest}"
            )
        return height // self.patch, width // self.patch

    def _tokens(self, x: jax.Array, rows: int, columns: int, masked: jax.Array | None) -> jax.Array:
        """The input of the first block: class, registers and patches, [B, 1 + R + N, W] in the compute dtype."""
        batch = x.shape[0]
        patches = self.patch_embedding(x).reshape(batch, rows * columns, self.width)  # [B, N, W]
        if masked is not None:
            patches = jnp.where(masked[..., None], self.mask_token.astype(self.dtype)[None], patches)
        positions = self.positions.astype(jnp.float32)  # [1, 1 + G², W]
        grid = resize_positions(positions[:, 1:], rows, columns, self.position_offset, self.position_antialias)
        patches = patches + grid.astype(self.dtype)
        cls = (self.cls_token.astype(jnp.float32) + positions[:, :1]).astype(self.dtype)  # [1, 1, W]
        parts = [jnp.broadcast_to(cls, (batch, 1, self.width)), patches]
        if self.registers:  # which have no positions
            registers = self.register_tokens.astype(self.dtype)
            parts.insert(1, jnp.broadcast_to(registers, (batch, self.registers, self.width)))
        return jnp.concatenate(parts, axis=1)
