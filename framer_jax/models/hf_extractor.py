"""HF-Diff's feature extractor: a shallow encoder, invertible modules, and the classifier that pre-trains them.

"HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for One-Step Diffusion-Based Image Super-Resolution"
(arXiv 2411.13548, 2024), Eq. 5. Its file of this network was not released; the code that calls it takes two outputs, as
the encoder of CDDFuse returns them (Zhao et al., "CDDFuse: Correlation-Driven Dual-Branch Feature Decomposition for
Multi-Modality Image Fusion", CVPR 2023), whose detail branch is the variant 'released'. The paper gives neither the
number of modules nor the layers of their maps, of the encoder and of the classifier: those are choices of this library.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.layers import Dtype

VARIANTS = ("paper", "released")
"""Invertible modules as in HF-Diff's Eq. 5, with maps of two convolutions; or as in CDDFuse's detail branch, with a 1x1
convolution in front of each module and maps of inverted residual layers."""

RELEASED = {
    "variant": "released",
    "image_channels": 0,
    "channels": 64,
    "modules": 3,
    "expansion": 2,
    "classifier_layers": 0,
    "classes": 0,
}
"""Arguments of CDDFuse's detail branch, of which a file exists: 54,528 parameters, without encoder and classifier."""


class TwoLayerMap(nn.Module):
    """Two 3x3 convolutions with a ReLU between them; the second starts at zero, so that a module starts as identity.

    Attributes:
      hidden: channels between the convolutions.
      dtype: compute dtype.
    """

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, H, W, C] float32 → [B, H, W, C] float32."""
        channels = z.shape[-1]
        h = nn.Conv(self.hidden, (3, 3), dtype=self.dtype, name="conv_1")(z.astype(self.dtype))  # [B, H, W, hidden]
        last = nn.Conv(channels, (3, 3), kernel_init=nn.initializers.zeros, dtype=self.dtype, name="conv_2")
        return last(nn.relu(h)).astype(jnp.float32)


class InvertedResidualMap(nn.Module):
    """A 1x1 convolution to more channels, a depthwise 3x3 one with reflected borders, a 1x1 one back; no biases.

    CDDFuse's inverted residual block, which adds no skip (Sandler et al., "MobileNetV2", CVPR 2018, does).

    Attributes:
      hidden: channels of the depthwise convolution.
      dtype: compute dtype.
    """

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, H, W, C] float32 → [B, H, W, C] float32, H and W at least 2."""
        channels = z.shape[-1]
        expand = nn.Conv(self.hidden, (1, 1), use_bias=False, dtype=self.dtype, name="expand")
        h = nn.relu6(expand(z.astype(self.dtype)))  # [B, H, W, hidden]
        h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        depthwise = nn.Conv(
            self.hidden,
            (3, 3),
            padding="VALID",
            feature_group_count=self.hidden,
            use_bias=False,
            dtype=self.dtype,
            name="depthwise",
        )
        h = nn.relu6(depthwise(h))
        project = nn.Conv(channels, (1, 1), use_bias=False, dtype=self.dtype, name="project")
        return project(h).astype(jnp.float32)


class ChannelShuffle(nn.Module):
    """A learned 1x1 convolution of all channels, in float32; its inverse solves for the input.

    Attributes:
      channels: channels of input and output.
    """

    channels: int

    def setup(self) -> None:
        """Create the weights; a rotation to start with, which is well conditioned."""
        shape = (1, 1, self.channels, self.channels)
        self.kernel = self.param("kernel", nn.initializers.orthogonal(), shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.channels,))

    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, H, W, C] float32 → [B, H, W, C] float32."""
        product = jnp.einsum("bhwi,io->bhwo", z, self.kernel[0, 0], precision=jax.lax.Precision.HIGHEST)
        return product + self.bias[None, None, None, :]

    def invert(self, z: jax.Array) -> jax.Array:
        """The input of `__call__` that gives z; the error grows with the condition number of the kernel."""
        outputs = (z - self.bias[None, None, None, :]).reshape(-1, self.channels)  # [B H W, C]
        with jax.default_matmul_precision("highest"):
            inputs = jnp.linalg.solve(self.kernel[0, 0].T, outputs.T)
        return inputs.T.reshape(z.shape)


class InvertibleModule(nn.Module):
    """An additive, then an affine coupling of two halves of the channels, HF-Diff's Eq. 5.

    z₂ ← z₂ + I₁(z₁); z₁ ← z₁ · exp(I₂(z₂)) + I₃(z₂). Everything but the inside of the maps I is float32.

    Attributes:
      channels: an even number of channels.
      variant: one of `VARIANTS`.
      expansion: hidden channels of a map as a multiple of its input channels.
      exponent_limit: bound b of the exponent, b · tanh(I₂ / b); None leaves it as printed.
      dtype: compute dtype of the maps.
    """

    channels: int
    variant: str = "paper"
    expansion: int = 1
    exponent_limit: float | None = None
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Create the maps."""
        hidden = self.expansion * (self.channels // 2)
        kind = TwoLayerMap if self.variant == "paper" else InvertedResidualMap
        self.additive, self.exponent, self.shift = (kind(hidden, self.dtype) for _ in range(3))  # I₁, I₂, I₃
        if self.variant == "released":
            self.shuffle = ChannelShuffle(self.channels)

    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, H, W, C] float32 → [B, H, W, C] float32, the halves z₁ and z₂ one after the other."""
        if self.variant == "released":
            z = self.shuffle(z)
        first, second = jnp.split(z, 2, axis=-1)  # [B, H, W, C / 2] each
        second = second + self.additive(first)
        first = first * jnp.exp(self._exponent(second)) + self.shift(second)
        return jnp.concatenate([first, second], axis=-1)

    def invert(self, z: jax.Array) -> jax.Array:
        """The input of `__call__` that gives z, [B, H, W, C] float32."""
        first, second = jnp.split(z, 2, axis=-1)
        first = (first - self.shift(second)) * jnp.exp(-self._exponent(second))
        second = second - self.additive(first)
        z = jnp.concatenate([first, second], axis=-1)
        return self.shuffle.invert(z) if self.variant == "released" else z

    def _exponent(self, second: jax.Array) -> jax.Array:
        exponent: jax.Array = self.exponent(second)
        if self.exponent_limit is None:
            return exponent
        return self.exponent_limit * jnp.tanh(exponent / self.exponent_limit)


class ShallowEncoder(nn.Module):
    """A 3x3 convolution to the width of the features and one residual block of two more.

    Attributes:
      channels: output channels.
      dtype: compute dtype.
    """

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, H, W, image channels] float32 → [B, H, W, C] float32."""
        x = self._conv("conv_in")(image.astype(self.dtype))
        h = self._conv("conv_2")(nn.relu(self._conv("conv_1")(x)))
        return (x + h).astype(jnp.float32)

    def _conv(self, name: str) -> nn.Conv:
        return nn.Conv(self.channels, (3, 3), dtype=self.dtype, name=name)


class Classifier(nn.Module):
    """Convolutions with stride 2 and ReLU, the mean over positions, and a linear layer.

    Attributes:
      layers: number of convolutions.
      classes: number of logits.
      dtype: compute dtype of the convolutions.
    """

    layers: int
    classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """[B, H, W, C] float32 → logits [B, classes] float32."""
        h, channels = features.astype(self.dtype), features.shape[-1]
        for index in range(self.layers):
            conv = nn.Conv(channels, (3, 3), (2, 2), ((1, 1), (1, 1)), dtype=self.dtype, name=f"conv_{index}")
            h = nn.relu(conv(h))  # [B, ceil(H / 2^(index + 1)), …, C]
        pooled = h.astype(jnp.float32).mean(axis=(1, 2))  # [B, C]
        return nn.Dense(self.classes, name="linear")(pooled)


class HFExtractor(nn.Module):
    """The network. The default knobs are HF-Diff's where its text has them, `RELEASED` those of CDDFuse's branch.

    Attributes:
      exponent_limit: bound of the exponents, see InvertibleModule; no parameter depends on it.
      dtype: compute dtype; parameters, couplings, features and logits are float32.
    """

    variant: str = knob("paper", "Modules as in HF-Diff's Eq. 5, or as in CDDFuse's detail branch.", choices=VARIANTS)
    image_channels: int = knob(
        3, "Channels of the images or latents; 0: no encoder, the input are features.", at_least=0, at_most=65536
    )
    channels: int = knob(128, "Width N of the features, an even number.", at_least=2, at_most=65536)
    modules: int = knob(3, "Number K of invertible modules; the paper does not state it.", at_least=1, at_most=1000)
    expansion: int = knob(
        1, "Hidden channels of a module's maps, relative to half the width; 2 in CDDFuse.", at_least=1, at_most=1024
    )
    classifier_layers: int = knob(
        2, "Number L of convolutions of the classifier; the paper does not state it.", at_least=0, at_most=1000
    )
    classes: int = knob(1000, "Classes of the pre-training; 0: no classifier.", at_least=0, at_most=10_000_000)
    exponent_limit: float | None = knob(
        None, "Bound of the exponents of the affine couplings; None for none, as printed.", above=0
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.channels % 2:
            raise ValueError(f"channels is {self.channels}: it must be even, since modules split it into equal halves")
        if self.classifier_layers and not self.classes:
            raise ValueError(f"classifier_layers is {self.classifier_layers}: without classes it must be 0")
        super().__post_init__()

    def setup(self) -> None:
        """Create the submodules."""
        if self.image_channels:
            self.encoder = ShallowEncoder(self.channels, self.dtype)
        arguments = (self.channels, self.variant, self.expansion, self.exponent_limit, self.dtype)
        self.module = [InvertibleModule(*arguments) for _ in range(self.modules)]  # module_0, module_1, …
        if self.classes:
            self.classifier = Classifier(self.classifier_layers, self.classes, self.dtype)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The features that HF-Diff compares.

        Args:
          x: images or latents [B, H, W, image_channels] float32, in [-1, 1] as the classifier sees them; features
            [B, H, W, channels] if there is no encoder. With variant 'released', H and W are at least 2.

        Returns:
          (z_0, z_K), each [B, H, W, channels] float32: the input of the invertible modules, and the detail features.
          (HF-Diff's released code takes the second of two outputs; what its first one was is not known.)

        Raises:
          ValueError: x has other axes or channels, or is too small.
        """
        self._check(x)
        shallow = self.encoder(x) if self.image_channels else x.astype(jnp.float32)
        detail = self.transform(shallow)
        if self.classes and self.is_initializing():
            self.classifier(detail)
        return shallow, detail

    def transform(self, features: jax.Array) -> jax.Array:
        """The invertible modules, z_0 → z_K: [B, H, W, channels] float32 → the same shape."""
        for module in self.module:
            features = module(features)
        return features

    def invert(self, features: jax.Array) -> jax.Array:
        """The inverse of `transform`, z_K → z_0, exact up to rounding: [B, H, W, channels] float32 → the same shape."""
        for module in reversed(self.module):
            features = module.invert(features)
        return features

    def classify(self, x: jax.Array) -> jax.Array:
        """Logits of the pre-training from z_K: x as for `__call__` → [B, classes] float32.

        Raises:
          ValueError: as `__call__`; or there is no classifier.
        """
        if not self.classes:
            raise ValueError("this extractor has no classifier: classes is 0")
        logits: jax.Array = self.classifier(self(x)[1])
        return logits

    def _check(self, x: jax.Array) -> None:
        channels = self.image_channels or self.channels
        smallest = 2 if self.variant == "released" else 1
        if x.ndim != 4 or x.shape[-1] != channels or min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"HFExtractor needs [B, H, W, {channels}] with sides of at least {smallest}, got {x.shape}"
            )
