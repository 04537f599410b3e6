"""RRDBNet: residual-in-residual dense blocks, the generator of ESRGAN, BSRGAN and Real-ESRGAN.

Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (ECCV Workshops 2018) and "Real-ESRGAN:
Training Real-World Blind Super-Resolution with Pure Synthetic Data" (ICCV Workshops 2021). Published weights are read
by framer_jax.porting. One tap per block; the last one is FRAMER's teacher.
"""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.denoiser import Taps
from framer_jax.models.layers import Dtype
from framer_jax.models.resampling import pixel_unshuffle, upsampling_conv

VARIANTS = ("real_esrgan", "bsrgan")
"""How a network upsamples by 2: BasicSR and Real-ESRGAN reduce the image by pixel unshuffle in front of a network for
x4; BSRGAN omits the second upsampling. At other scales the two are the same."""

UNSHUFFLE = {1: 4, 2: 2, 4: 1}
"""Scale → factor of the pixel unshuffle in front of the network for x4 (variant real_esrgan)."""

SCALES = {"real_esrgan": (1, 2, 4), "bsrgan": (2, 4)}
"""Variant → its supported upsampling factors."""

RESIDUAL_SCALE = 0.2
"""Factor of the residual branches of dense blocks and of the blocks around them."""

SMALL_INIT = nn.initializers.variance_scaling(2.0 * 0.1**2, "fan_in", "normal")
"""ESRGAN's initialization of the dense blocks: He's normal one times 0.1."""


def activation(x: jax.Array) -> jax.Array:
    """Leaky ReLU with slope 0.2."""
    return nn.leaky_relu(x, 0.2)


class DenseBlock(nn.Module):
    """Five convolutions, each of all features before it; the last one is added to the input.

    Attributes:
      growth: channels of the first four convolutions.
      dtype: compute dtype.
    """

    growth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C]."""
        features = x
        for index in range(1, 5):
            new = activation(self._conv(features, self.growth, f"conv_{index}"))
            features = jnp.concatenate([features, new], axis=-1)  # [B, H, W, C + index growth]
        return x + RESIDUAL_SCALE * self._conv(features, x.shape[-1], "conv_5")

    def _conv(self, x: jax.Array, channels: int, name: str) -> jax.Array:
        return nn.Conv(channels, (3, 3), kernel_init=SMALL_INIT, dtype=self.dtype, name=name)(x)


class ResidualDenseBlock(nn.Module):
    """A residual-in-residual dense block (RRDB): three dense blocks and a skip.

    Attributes:
      growth, dtype: see DenseBlock.
    """

    growth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C]."""
        h = x
        for index in range(1, 4):
            h = DenseBlock(self.growth, self.dtype, name=f"dense_{index}")(h)
        return x + RESIDUAL_SCALE * h


class RRDBNet(nn.Module):
    """The network. The default knobs are those of RealESRGAN_x4plus, ESRGAN and BSRGAN: 16,697,987 parameters.

    Attributes:
      scale: upsampling factor, see `SCALES`.
      dtype: compute dtype; parameters and the prediction are float32.
    """

    scale: int = 4
    variant: str = knob("real_esrgan", "How the network upsamples by 2; the same at other scales.", choices=VARIANTS)
    channels: int = knob(64, "Width of the features.", at_least=1, at_most=65536)
    blocks: int = knob(
        23, "Number of residual-in-residual dense blocks; 6 in the published anime model.", at_least=1, at_most=1000
    )
    growth: int = knob(32, "Channels that each convolution of a dense block adds.", at_least=1, at_most=65536)
    image_channels: int = knob(3, "Channels of the images: 3 for color, 1 for gray.", choices=(1, 3))
    scan: bool = knob(
        True,
        "Whether the blocks are one scanned program, which compiles faster; parameters are the same.",
        execution=True,
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.scale not in SCALES[self.variant]:
            scales = ", ".join(map(str, SCALES[self.variant]))
            raise ValueError(f"scale is {self.scale}: with variant {self.variant} it must be one of {scales}")
        super().__post_init__()

    @property
    def tap_count(self) -> int:
        """One tap per block."""
        return self.blocks

    @nn.compact
    def __call__(self, image: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, Taps]:
        """Super-resolve.

        Args:
          image: [B, H, W, image_channels] float32 in [0, 1], of any size; where the network unshuffles pixels it is
            padded to a multiple of the factor by reflection at the bottom and right.
          key: not used; the network drops nothing.

        Returns:
          prediction [B, scale H, scale W, image_channels] float32, near [0, 1] and not clipped; and the taps, one
          [B, H / f, W / f, channels] per block in the compute dtype, f the factor of the pixel unshuffle.

        Raises:
          ValueError: the image has another number of axes or channels, or is empty.
        """
        if image.ndim != 4 or image.shape[-1] != self.image_channels or 0 in image.shape:
            raise ValueError(f"RRDBNet needs images [B, H, W, {self.image_channels}], got {image.shape}")
        height, width = image.shape[1:3]
        factor = UNSHUFFLE[self.scale] if self.variant == "real_esrgan" else 1
        padded = jnp.pad(image, ((0, 0), (0, -height % factor), (0, -width % factor), (0, 0)), mode="reflect")
        shallow = self._conv(pixel_unshuffle(padded, factor).astype(self.dtype), "conv_in")
        last, taps = self._blocks(shallow)
        h = shallow + self._conv(last, "conv_body")
        for index in range(1, 2 if self.variant == "bsrgan" and self.scale == 2 else 3):
            h = activation(upsampling_conv(self.channels, self.dtype, f"up_{index}")(h))
        h = activation(self._conv(h, "fine"))
        # The last layer is float32: images feed losses.
        y = nn.Conv(self.image_channels, (3, 3), name="conv_out")(h.astype(jnp.float32))
        return y[:, : height * self.scale, : width * self.scale], taps

    def _blocks(self, h: jax.Array) -> tuple[jax.Array, Taps]:
        """The outputs of the last block and of all blocks: apart, so that a program without taps keeps none."""
        # A scan has no submodules, which initialization and whoever asks for their outputs need.
        if (
            self.scan
            and self.blocks > 1
            and not (self.is_initializing() or self.is_mutable_collection("intermediates"))
        ):
            return self._scanned_blocks(h)
        taps = []
        for index in range(self.blocks):
            h = ResidualDenseBlock(self.growth, self.dtype, name=f"block_{index}")(h)
            taps.append(h)
        return h, tuple(taps)

    def _scanned_blocks(self, h: jax.Array) -> tuple[jax.Array, Taps]:
        """As `_blocks`, with parameters that the program stacks: outside of it, every block has its own."""
        block = ResidualDenseBlock(self.growth, self.dtype, parent=None)
        params = self.variables["params"]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[f"block_{i}"] for i in range(self.blocks)))

        def step(h: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
            h = cast(jax.Array, block.apply({"params": params}, h))
            return h, h

        last, taps = jax.lax.scan(step, h, stacked)  # [B, H, W, C], [blocks, B, H, W, C]
        return last, tuple(taps[index] for index in range(self.blocks))

    def _conv(self, x: jax.Array, name: str) -> jax.Array:
        return nn.Conv(self.channels, (3, 3), dtype=self.dtype, name=name)(x)
