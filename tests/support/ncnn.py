"""Small networks in ncnn's format, as converters write them."""

import re

import numpy as np

FLOAT16 = 0x01306B47

OUTER = ("conv_first", "body", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
"""Parts of an RRDBNet in the order of its layers."""


def _position(key):
    return OUTER.index(key.split(".")[0]), [int(number) for number in re.findall(r"\d+", key)]


def write_ncnn(path, state, *, half=True):
    """Write PATH.param and PATH.bin of an RRDBNet for x4, or of an SRVGG with PReLU, from BasicSR's names."""
    keys = sorted((key.removesuffix(".weight") for key in state if key.endswith(".weight")), key=_position)
    is_srvgg = "body.1.weight" in state
    lines, data = ["Input data 0 1 data"], bytearray()
    for key in keys:
        weight = state[f"{key}.weight"]
        if weight.ndim == 1:
            lines.append(f"PReLU {key} 1 1 a b 0={weight.size}")
            data += weight.astype("<f4").tobytes()
            continue
        fused = not is_srvgg and key.endswith(("conv1", "conv2", "conv3", "conv4", "up1", "up2", "hr"))
        activation = " 9=2 -23310=1,2.000000e-01" if fused else ""
        lines.append(f"Convolution {key} 1 1 a b 0={len(weight)} 1=3 4=1 5=1 6={weight.size}{activation}")
        data += np.uint32(FLOAT16 if half else 0).tobytes() + weight.astype("<f2" if half else "<f4").tobytes()
        data += bytes(-len(data) % 4) + state[f"{key}.bias"].astype("<f4").tobytes()
    if is_srvgg:
        lines += ["PixelShuffle shuffle 1 1 a b 0=4", "Interp up 1 1 a b 0=1 1=4.000000e+00 2=4.000000e+00"]
    else:
        blocks = sum(key.endswith("rdb1.conv1") for key in keys)
        lines += ["Eltwise sum 2 1 a b c 0=1 -23301=2,2.000000e-01,1.0"] * 4 * blocks
        lines += ["Interp up 1 1 a b 0=1 1=2.000000e+00 2=2.000000e+00"] * 2
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n"
    path.with_suffix(".param").write_text(text)
    path.with_suffix(".bin").write_bytes(bytes(data))
    return path.with_suffix(".param")
