"""SRVGGNetCompact: a plain stack of convolutions on LR pixels, the small generators of Real-ESRGAN.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (ICCV Workshops 2021)
and the release's realesr-general-x4v3 and realesr-animevideov3. Published weights are read by framer_jax.porting. One
tap per activation; the last one is FRAMER's teacher.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.denoiser import Taps
from framer_jax.models.layers import Dtype
from framer_jax.models.resampling import pixel_shuffle

ACTIVATIONS = ("prelu", "relu", "leaky_relu")
"""PReLU with one slope per channel, ReLU, or leaky ReLU with slope 0.1."""

LEAKY_SLOPE = 0.1

FIRST_SLOPE = 0.25
"""Slope of PReLU before training (He et al. 2015)."""


class Activation(nn.Module):
    """One of `ACTIVATIONS`.

    Attributes:
      kind: its name.
      dtype: compute dtype.
    """

    kind: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C]."""
        if self.kind != "prelu":
            return nn.leaky_relu(x, LEAKY_SLOPE if self.kind == "leaky_relu" else 0.0)
        slope = self.param("slope", nn.initializers.constant(FIRST_SLOPE), (x.shape[-1],), jnp.float32)
        return jnp.where(x >= 0, x, slope.astype(self.dtype)[None, None, None, :] * x)


class SRVGG(nn.Module):
    """The network. The default knobs are those of realesr-general-x4v3: 1,213,296 parameters.

    Attributes:
      scale: upsampling factor.
      dtype: compute dtype; parameters and the prediction are float32.
    """

    scale: int = 4
    channels: int = knob(64, "Width of the convolutions.", at_least=1, at_most=65536)
    depth: int = knob(
        32,
        "Number of convolutions between the first and the last; 16 in the published animevideov3.",
        at_least=0,
        at_most=1000,
    )
    activation: str = knob("prelu", "Activation after every convolution but the last.", choices=ACTIVATIONS)
    image_channels: int = knob(3, "Channels of the images: 3 for color, 1 for gray.", choices=(1, 3))
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.scale < 1:
            raise ValueError(f"scale is {self.scale}: it must be at least 1")
        super().__post_init__()

    @property
    def tap_count(self) -> int:
        """One tap per activation."""
        return self.depth + 1

    @nn.compact
    def __call__(self, image: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, Taps]:
        """Super-resolve.

        Args:
          image: [B, H, W, image_channels] float32 in [0, 1], of any size.
          key: not used; the network drops nothing.

        Returns:
          prediction [B, scale H, scale W, image_channels] float32, near [0, 1] and not clipped: the network's output
          plus the image, upsampled by nearest neighbor; and the taps, `depth` + 1 arrays [B, H, W, channels] in the
          compute dtype.

        Raises:
          ValueError: the image has another number of axes or channels, or is empty.
        """
        if image.ndim != 4 or image.shape[-1] != self.image_channels or 0 in image.shape:
            raise ValueError(f"SRVGG needs images [B, H, W, {self.image_channels}], got {image.shape}")
        h, taps = image.astype(self.dtype), []
        for index in range(self.depth + 1):
            # Names hold the indices in the checkpoints' list: convolution, activation.
            h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name=f"body_{2 * index}")(h)
            h = Activation(self.activation, self.dtype, name=f"body_{2 * index + 1}")(h)
            taps.append(h)
        # The last layer is float32: images feed losses.
        y = nn.Conv(self.image_channels * self.scale**2, (3, 3), name=f"body_{2 * self.depth + 2}")(
            h.astype(jnp.float32)
        )
        nearest = jnp.repeat(jnp.repeat(image, self.scale, axis=1), self.scale, axis=2)
        return pixel_shuffle(y, self.scale) + nearest, tuple(taps)
