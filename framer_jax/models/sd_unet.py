"""The U-Net of Stable Diffusion 2, the base of PiSA-SR, SeeSR and OSEDiff, with knobs for every size.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022). The defaults are the
published configuration with 865,910,724 parameters, the same in Stable Diffusion 2.0 and 2.1, which predict the noise
(`-base`) or the velocity (without). Written from the names and shapes of the released checkpoints; published weights
are read by framer_jax.porting. One tap per block: down 0 … down L-1, middle, up 0 … up L-1, of which up 0 is the
coarsest; the last one is FRAMER's teacher.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.denoiser import IMAGE_TOKENS, TEXT, Condition, Taps, condition_entry
from framer_jax.models.layers import ATTENTIONS, GROUPS, Dtype, GroupNorm, ResidualBlock, TimeEmbedding
from framer_jax.models.resampling import upsampling_conv
from framer_jax.models.resshift_unet import downsampling_conv
from framer_jax.models.sd_blocks import REMAT, SpatialTransformer

EPSILON = 1e-5
"""Added to the variance in the norms of residual blocks and of the output."""


class ControlResiduals(NamedTuple):
    """What a ControlNet adds to a U-Net's features.

    Attributes:
      down: one map for each skip connection, in the order of the way down: [B, H_i, W_i, C_i] each.
      middle: added to the output of the middle block.
    """

    down: tuple[jax.Array, ...]
    middle: jax.Array


class Encoded(NamedTuple):
    """Result of the way down and of the middle block.

    Attributes:
      skips: the first convolution's output, and that of every residual block (with its attention) and downsampling.
      taps: outputs of the blocks: down 0 … down L-1, middle.
    """

    skips: tuple[jax.Array, ...]
    taps: Taps


class Contexts(NamedTuple):
    """The tokens that a map's positions attend to, in the compute dtype.

    Attributes:
      text: [B, T, context_width].
      image: [B, N, image_context_width]; None of a network without attention to image tokens.
    """

    text: jax.Array
    image: jax.Array | None = None


class SDNetwork(nn.Module):
    """Base class of the U-Net and of its ControlNet: what both have, the way down and the middle block.

    The knobs are documented where they are defined.

    Attributes:
      context_width: features of the text tokens.
      image_context_width: features of image tokens, to which a further attention layer after each one of the text
        attends (SeeSR); 0 for no such layers, as published by Stability AI. Before any training they change nothing.
      dtype: compute dtype; parameters, norms, softmax and the time embedding are float32.
    """

    channels: tuple[int, ...] = knob(
        (320, 640, 1280, 1280), "Width of each level, from the finest.", at_least=1, at_most=65536
    )
    blocks: int = knob(
        2,
        "Residual blocks per level on the way down; the way up has one more per level.",
        at_least=1,
        at_most=1000,
    )
    attention_levels: tuple[int, ...] = knob(
        (0, 1, 2),
        "Levels with attention after each residual block, 0 the finest; the middle block always has one.",
        at_least=0,
        at_most=63,
        empty=True,
    )
    heads: tuple[int, ...] = knob(
        (5, 10, 20, 20), "Number of attention heads of each level, a divisor of its width.", at_least=1, at_most=1024
    )
    groups: int = knob(GROUPS, "Groups of the group norms, a divisor of all widths.", at_least=1, at_most=65536)
    context_width: int = 1024
    image_context_width: int = 0
    attention: str = knob(
        "auto",
        "Implementation of attention: auto (JAX's choice; of many tokens on TPUs as splash), XLA, cuDNN (bfloat16 or "
        "float16 only), JAX's Pallas kernel on TPUs (splash; elsewhere XLA), or explicit products.",
        choices=ATTENTIONS,
        execution=True,
    )
    remat: str = knob(
        "none",
        "What residual blocks and attention layers recompute for the gradient instead of storing it.",
        choices=REMAT,
        execution=True,
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        levels = len(self.channels)
        if len(self.heads) != levels:
            raise ValueError(f"heads is {self.heads}: it must hold one number for each of the {levels} levels")
        for width, heads in zip(self.channels, self.heads, strict=True):
            if width % heads:
                raise ValueError(
                    f"heads is {self.heads}: {heads} heads do not divide the width of their level, {width}"
                )
            if width % self.groups:
                raise ValueError(f"groups is {self.groups}: it must divide all channels, {self.channels}")
        if list(self.attention_levels) != sorted(set(self.attention_levels) & set(range(levels))):
            raise ValueError(
                f"attention_levels is {self.attention_levels}: it must hold ascending levels, 0 to {levels - 1}"
            )
        if self.attention == "cudnn" and jnp.dtype(self.dtype).itemsize != 2:
            raise ValueError("attention is cudnn: it needs dtype bfloat16 or float16; choose one of them, or auto")
        super().__post_init__()

    @property
    def size_multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return 2 ** (len(self.channels) - 1)

    def embed_time(self, t: jax.Array) -> jax.Array:
        """Within `__call__`: [B] → [B, 4 channels[0]] float32."""
        return TimeEmbedding(4 * self.channels[0], sinusoids=self.channels[0], name="time")(t)

    def embed_latents(self, x: jax.Array) -> jax.Array:
        """Within `__call__`: latents [B, H, W, C] → [B, H, W, channels[0]] in the compute dtype."""
        return nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="conv_in")(x.astype(self.dtype))

    def encode(self, h: jax.Array, time: jax.Array, contexts: Contexts) -> Encoded:
        """Within `__call__`: the way down and the middle block.

        Args:
          h: [B, H, W, channels[0]], the first convolution's output.
          time: [B, 4 channels[0]] float32.
          contexts: what the attention layers attend to.
        """
        skips, taps, last = [h], [], len(self.channels) - 1
        for level, width in enumerate(self.channels):
            for index in range(self.blocks):
                h = self.block(level, f"down_{level}_block_{index}")(h, time)
                if level in self.attention_levels:
                    h = self.attend(level, f"down_{level}", index, h, contexts)
                skips.append(h)
            if level < last:
                h = downsampling_conv(width, self.dtype, f"down_{level}_downsample")(h)
                skips.append(h)
            taps.append(h)
        h = self.block(last, "middle_block_0")(h, time)
        h = self.attend(last, "middle", 0, h, contexts)
        taps.append(self.block(last, "middle_block_1")(h, time))
        return Encoded(tuple(skips), tuple(taps))

    def block(self, level: int, name: str) -> nn.Module:
        """A residual block of a level."""
        norm = partial(GroupNorm, self.groups, EPSILON)
        block: nn.Module = self._rematerialised(ResidualBlock)(self.channels[level], self.dtype, norm, "add", name=name)
        return block

    def attend(self, level: int, block: str, index: int, h: jax.Array, contexts: Contexts) -> jax.Array:
        """The attention layers after a residual block: to the text, and to image tokens where there are any."""
        h = self._transformer(level, f"{block}_attention_{index}")(h, contexts.text)
        if contexts.image is None:
            return h
        attended: jax.Array = self._transformer(level, f"{block}_image_attention_{index}")(h, contexts.image)
        return attended

    def _transformer(self, level: int, name: str) -> nn.Module:
        transformer: nn.Module = self._rematerialised(SpatialTransformer)(
            self.heads[level], self.groups, self.attention, self.dtype, name=name
        )
        return transformer

    def check_latents(self, x: jax.Array, channels: int, network: str) -> None:
        """Raise ValueError if latents do not fit; the message begins with the network's name."""
        multiple = self.size_multiple
        if x.ndim != 4 or x.shape[-1] != channels or any(side % multiple for side in x.shape[1:3]):
            raise ValueError(
                f"{network} needs latents [B, H, W, {channels}] with sides that are multiples of {multiple}, got "
                f"{x.shape}: pad the image, or choose tiles of such a size"
            )

    def contexts(self, x: jax.Array, condition: Condition) -> Contexts:
        """The condition's tokens in the compute dtype; raises ValueError if they do not fit the latents or lack."""
        text = self._tokens(x, condition, TEXT, self.context_width, "use the text encoder of this network's release")
        if not self.image_context_width:
            return Contexts(text)
        remedy = "set image_context_width to the width of the image encoder"
        return Contexts(text, self._tokens(x, condition, IMAGE_TOKENS, self.image_context_width, remedy))

    def _tokens(self, x: jax.Array, condition: Condition, name: str, width: int, remedy: str) -> jax.Array:
        tokens = condition_entry(condition, name)
        if tokens.ndim != 3 or tokens.shape[0] != x.shape[0] or tokens.shape[-1] != width:
            words = name.replace("_", " ").removesuffix(" tokens")
            raise ValueError(
                f"{x.shape[0]} latents need {words} tokens [{x.shape[0]}, T, {width}], got {tokens.shape}: {remedy}"
            )
        return tokens.astype(self.dtype)

    def _rematerialised(self, module: Any) -> Any:
        return module if self.remat == "none" else nn.remat(module, policy=REMAT[self.remat])


class SDUNet(SDNetwork):
    """The denoiser; its other attributes are those of SDNetwork.

    Attributes:
      out_channels: channels of the latents and of the prediction.
    """

    out_channels: int = 4

    @property
    def taps(self) -> str:
        """The taps are feature maps."""
        return "hidden"

    @property
    def tap_count(self) -> int:
        """One tap per level on the way down, one of the middle, and one per level on the way up."""
        return 2 * len(self.channels) + 1

    @property
    def downsampling(self) -> int:
        """No condition is an image; one of a ControlNet is that network's."""
        return 1

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Condition, control: ControlResiduals | None = None
    ) -> tuple[jax.Array, Taps]:
        """Predict the noise or the velocity, whichever the weights were trained for.

        Args:
          x: [B, H, W, out_channels] float32 noisy latents, of about unit variance.
          t: [B] times from 0 to 999, float32 or integers.
          condition: 'text' tokens [B, T, context_width]; with attention to them also 'image_tokens'
            [B, N, image_context_width].
          control: residuals of a ControlNet, added to the skip connections when the way down is complete, and to the
            output of the middle block; None for none.

        Returns:
          prediction [B, H, W, out_channels] float32, and `tap_count` taps in the compute dtype, the outputs of the
          blocks before any residual is added: of the down blocks after their downsampling, of the up blocks after their
          upsampling.

        Raises:
          ValueError: the condition lacks an entry, or a shape does not fit.
        """
        self.check_latents(x, self.out_channels, "the U-Net")
        contexts = self.contexts(x, condition)
        time = self.embed_time(t)
        encoded = self.encode(self.embed_latents(x), time, contexts)
        h, skips = encoded.taps[-1], encoded.skips
        if control is not None:
            check_control(control, skips, h)
            skips = tuple(skip + change.astype(skip.dtype) for skip, change in zip(skips, control.down, strict=True))
            h = h + control.middle.astype(h.dtype)
        h, taps = self._decode(h, time, contexts, list(skips))
        h = nn.silu(GroupNorm(self.groups, EPSILON, name="norm_out")(h))
        # The head and what follows it are float32: predictions feed losses and samplers.
        zeros = nn.initializers.zeros
        head = nn.Conv(self.out_channels, (3, 3), dtype=jnp.float32, kernel_init=zeros, name="conv_out")
        return head(h.astype(jnp.float32)), (*encoded.taps, *taps)

    def _decode(
        self, h: jax.Array, time: jax.Array, contexts: Contexts, skips: list[jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """From the middle to the finest level: (h, one tap per level)."""
        taps = []
        for number, level in enumerate(reversed(range(len(self.channels)))):
            for index in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.block(level, f"up_{number}_block_{index}")(h, time)
                if level in self.attention_levels:
                    h = self.attend(level, f"up_{number}", index, h, contexts)
            if level:
                h = upsampling_conv(self.channels[level], self.dtype, f"up_{number}_upsample")(h)
            taps.append(h)
        return h, taps


def check_control(control: ControlResiduals, skips: tuple[jax.Array, ...], middle: jax.Array) -> None:
    """Raise ValueError if a ControlNet's residuals do not have the shapes of a U-Net's features.

    Args:
      control: the residuals.
      skips: the features that `control.down` is added to.
      middle: the features that `control.middle` is added to.
    """
    expected, given = (
        [*(each.shape for each in down), last.shape] for down, last in ((skips, middle), (control.down, control.middle))
    )
    remedy = "use the ControlNet of this U-Net, on latents of the same size"
    if len(expected) != len(given):
        raise ValueError(
            f"control holds {len(given) - 1} residuals for {len(expected) - 1} skip connections and one for the "
            f"middle: {remedy}"
        )
    for number, (shape, other) in enumerate(zip(expected, given, strict=True)):
        if shape != other:
            name = "control.middle" if number == len(skips) else f"control.down[{number}]"
            raise ValueError(f"{name} is {other}, and the U-Net's features are {shape}: {remedy}")
