"""Networks in ncnn's format, in which Real-ESRGAN's weights are packaged: a text `.param` and a binary `.bin`.

Only the layers of RRDBNet and SRVGGNetCompact are read, and what the text says about them is checked: the same tensors
under another activation or other residual factors would be another network. The layout of both files is described in
the documentation of ncnn (BSD-3-Clause, Tencent).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framer_jax.porting.maps import StateDict

MAGIC = "7767517"
"""First line of a `.param` file."""

FLOAT16, FLOAT32 = 0x01306B47, 0
"""Flags in front of the weights of a convolution."""

LEAKY_RELU = {"9": (2,), "-23310": (1, 0.2)}
"""Activation fused behind a convolution of RRDBNet: leaky ReLU with slope 0.2."""

RESIDUAL = {"0": (1,), "-23301": (2, 0.2, 1.0)}
"""Sum of a branch times 0.2 and its input."""

NEAREST = 1
"""Value of '0' of an Interp layer that upsamples by nearest neighbor; '1' and '2' are its factors."""

RRDB_CONVOLUTIONS, RRDB_OTHERS = 15, ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
"""Convolutions of a block, and those behind the blocks."""


class Layer(NamedTuple):
    """One line of a `.param` file.

    Attributes:
      kind: type of the layer, such as Convolution.
      name: its name.
      values: its parameters: key → one number, or the length of an array and its entries.
    """

    kind: str
    name: str
    values: dict[str, tuple[float, ...]]

    def size(self, key: str) -> int:
        """A parameter that is a size or a count."""
        return int(self.values[key][0])


def is_ncnn(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a network in ncnn's format: its `.param`, or a `.bin` with the `.param` next to it."""
    path = Path(path)
    return path.suffix == ".param" or (path.suffix == ".bin" and path.with_suffix(".param").is_file())


def files_of(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The two files of a network, of which one is named: the text and the binary one.

    Raises:
      FileNotFoundError: one of them is missing.
    """
    text, binary = (Path(path).with_suffix(suffix) for suffix in (".param", ".bin"))
    for file in (text, binary):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; a network of ncnn is a .param and a .bin with one name")
    return text, binary


def read_ncnn(path: str | os.PathLike[str]) -> StateDict:
    """Read a network of ncnn under the names that BasicSR gives its tensors.

    Args:
      path: its `.param` or `.bin` file; the other one lies next to it.

    Returns:
      float32 tensors: of RRDBNet ('conv_first.weight', 'body.0.rdb1.conv1.weight', …) or, if the network has PReLU, of
      SRVGGNetCompact ('body.0.weight', …).

    Raises:
      FileNotFoundError: one of the two files is missing.
      ValueError: a file is damaged, they do not belong together, or the network is another one; the message says which.
    """
    text, binary = files_of(path)
    layers = list(_layers(text))
    data = binary.read_bytes()
    tensors, position = [], 0
    for layer in layers:
        if layer.kind in ("Convolution", "PReLU"):
            arrays, position = _tensors(layer, data, position, binary)
            tensors.append((layer, arrays))
    if position != len(data):
        raise ValueError(
            f"{binary}: holds {len(data)} bytes, and {text.name} describes {position}: the files do not belong together"
        )
    named = _srvgg_names if any(layer.kind == "PReLU" for layer in layers) else _rrdbnet_names
    names = named([layer for layer, _ in tensors], layers, text)
    return {
        f"{name}.{tensor}": array
        for name, (_, arrays) in zip(names, tensors, strict=True)
        for tensor, array in arrays.items()
    }


def _layers(path: Path) -> Iterator[Layer]:
    """The layers of a `.param` file."""
    try:
        magic, counts, *lines = path.read_text(encoding="ascii").split("\n")
        number = int(counts.split()[0])
    except (UnicodeDecodeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: not a .param file of ncnn") from error
    if magic.strip() != MAGIC:
        raise ValueError(f"{path}: not a .param file of ncnn (it begins with {magic[:20]!r}, not {MAGIC})")
    lines = [line for line in lines if line.strip()]
    if len(lines) != number:
        raise ValueError(f"{path}: damaged, it announces {number} layers and holds {len(lines)}")
    for line in lines:
        try:
            kind, name, inputs, outputs, *words = line.split()
            pairs = [word.split("=", 1) for word in words[int(inputs) + int(outputs) :]]
            values = {key: tuple(map(float, value.split(","))) for key, value in pairs}
        except ValueError as error:
            raise ValueError(f"{path}: damaged, cannot read the layer {line.strip()[:60]!r}") from error
        yield Layer(kind, name, values)


def _tensors(layer: Layer, data: bytes, position: int, path: Path) -> tuple[StateDict, int]:
    """The tensors of a layer, which begin at a position of the file, and the position behind them."""

    def take(count: int, dtype: str) -> np.ndarray:
        nonlocal position
        size = count * np.dtype(dtype).itemsize
        if count < 0 or position + size > len(data):
            raise ValueError(f"{path}: damaged, it ends within the layer {layer.name}")
        values = np.frombuffer(data, dtype, count, position)
        position += size
        return values

    try:
        outputs = layer.size("0")
        kernel, count = (0, 0) if layer.kind == "PReLU" else (layer.size("1"), layer.size("6"))
    except (KeyError, OverflowError, ValueError) as error:  # missing, infinite, not a number
        raise ValueError(f"{path.with_suffix('.param')}: the layer {layer.name} lacks its sizes") from error
    if layer.kind == "PReLU":
        return {"weight": take(outputs, "<f4").astype(np.float32)}, position
    shape = (outputs, count // max(1, outputs * kernel * kernel), kernel, kernel)
    if min(shape) < 1 or math.prod(shape) != count or layer.values.get("5") != (1,):
        raise ValueError(f"{path.with_suffix('.param')}: {layer.name} is not a convolution with a bias of one size")
    (flag,) = take(1, "<u4")
    if flag not in (FLOAT16, FLOAT32):
        raise ValueError(f"{path}: {layer.name} is stored as {flag:#x}; float16 and float32 can be read")
    weight = take(count, "<f2" if flag == FLOAT16 else "<f4").astype(np.float32).reshape(shape)
    position += -position % 4  # weights in float16 are padded
    return {"weight": weight, "bias": take(outputs, "<f4").astype(np.float32)}, position


def _srvgg_names(with_tensors: Sequence[Layer], layers: Sequence[Layer], path: Path) -> list[str]:
    kinds = [layer.kind for layer in with_tensors]
    if kinds != ["Convolution", "PReLU"] * (len(kinds) // 2) + ["Convolution"]:
        raise ValueError(f"{path}: a network with PReLU that is not an SRVGGNetCompact")
    if any("9" in layer.values for layer in with_tensors if layer.kind == "Convolution"):
        raise ValueError(f"{path}: its convolutions have activations besides PReLU: this is not an SRVGGNetCompact")
    scale = next((layer.values["0"][0] for layer in layers if layer.kind == "PixelShuffle" and "0" in layer.values), 0)
    _check_resizing(layers, [scale], path)
    return [f"body.{index}" for index in range(len(with_tensors))]


def _rrdbnet_names(with_tensors: Sequence[Layer], layers: Sequence[Layer], path: Path) -> list[str]:
    blocks, rest = divmod(len(with_tensors) - 1 - len(RRDB_OTHERS), RRDB_CONVOLUTIONS)
    if blocks < 1 or rest:
        raise ValueError(f"{path}: {len(with_tensors)} convolutions are not those of an RRDBNet for x4")
    dense = [f"body.{i}.rdb{j}.conv{k}" for i in range(blocks) for j in (1, 2, 3) for k in range(1, 6)]
    names = ["conv_first", *dense, *RRDB_OTHERS]
    activated = [name for name in names if name.endswith(("conv1", "conv2", "conv3", "conv4", "up1", "up2", "hr"))]
    for name, layer in zip(names, with_tensors, strict=True):
        fused = {key: value for key, value in layer.values.items() if key in LEAKY_RELU}
        if fused != (LEAKY_RELU if name in activated else {}):
            raise ValueError(f"{path}: {layer.name} has another activation than {name} of an RRDBNet")
    residuals = [layer for layer in layers if layer.kind == "Eltwise"]
    if any(layer.values != RESIDUAL for layer in residuals) or len(residuals) != 4 * blocks:
        raise ValueError(f"{path}: its residual branches are not those of an RRDBNet")
    _check_resizing(layers, [2, 2], path)
    return names


def _check_resizing(layers: Sequence[Layer], factors: Sequence[float], path: Path) -> None:
    """Refuse a network that resizes otherwise than by nearest neighbor with these factors, one after another."""
    resizing = [layer.values for layer in layers if layer.kind == "Interp"]
    expected = [{"0": (NEAREST,), "1": (factor,), "2": (factor,)} for factor in factors]
    if resizing != expected:
        last = resizing[-1].get("1", (0.0,))[0] if resizing else 0.0
        remedy = f" (it resizes its result by {last:g}: take the file of the unresized network)" if 0 < last < 1 else ""
        raise ValueError(f"{path}: it does not resize as the published networks do{remedy}")
