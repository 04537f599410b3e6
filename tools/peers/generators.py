"""RRDBNet and SRVGGNetCompact as plain PyTorch modules, written from their papers, with the keys of the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class DenseBlock(nn.Module):
    """Five convolutions, each of all features before it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for index in range(4):
            setattr(self, f"conv{index + 1}", _conv(channels + index * growth, growth))
        self.conv5 = _conv(channels + 4 * growth, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        features = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features.append(functional.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        return x + 0.2 * self.conv5(torch.cat(features, 1))


class ResidualDenseBlock(nn.Module):
    """Three dense blocks and a skip."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(channels, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """For x4, without pixel unshuffle."""

    def __init__(self, channels: int, blocks: int, growth: int, image_channels: int) -> None:
        super().__init__()
        self.conv_first = _conv(image_channels, channels)
        self.body = nn.Sequential(*(ResidualDenseBlock(channels, growth) for _ in range(blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (_conv(channels, channels) for _ in range(4))
        self.conv_last = _conv(channels, image_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        shallow = self.conv_first(x)
        h = shallow + self.conv_body(self.body(shallow))
        for conv in (self.conv_up1, self.conv_up2):
            h = functional.leaky_relu(conv(functional.interpolate(h, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(functional.leaky_relu(self.conv_hr(h), 0.2))


class Compact(nn.Module):
    """SRVGGNetCompact with PReLU."""

    def __init__(self, scale: int, channels: int, depth: int, image_channels: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        for inputs in (image_channels, *[channels] * depth):
            layers += [_conv(inputs, channels), nn.PReLU(channels)]
        self.body = nn.Sequential(*layers, _conv(channels, image_channels * scale**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        nearest = functional.interpolate(x, scale_factor=self.scale, mode="nearest")
        return functional.pixel_shuffle(self.body(x), self.scale) + nearest


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The peer of a weight map, 'rrdbnet' or 'srvgg', for constructor arguments of framer_jax's module."""
    sizes = {key: arguments[key] for key in ("channels", "image_channels")}
    if name == "rrdbnet":
        return RRDBNet(**sizes, blocks=arguments["blocks"], growth=arguments["growth"]).eval()
    return Compact(**sizes, scale=arguments["scale"], depth=arguments["depth"]).eval()
