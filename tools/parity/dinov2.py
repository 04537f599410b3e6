"""Fixtures of DINOv2."""

from __future__ import annotations

import numpy as np

from tools.parity.cases import Case, Options, Outputs, channels_last
from tools.parity.configurations import dinov2_arguments
from tools.parity.ported import apply_and_capture
from tools.parity.porting import port_model


def dinov2_family(case: Case, options: Options) -> Outputs:
    """The features of images that are normalised already, the embedded patches and the tokens after every block."""
    params, model = port_model(case, "model", "dinov2", dinov2_arguments(case.config))
    features, inner = apply_and_capture(model, params, channels_last(case.arrays["in/x"]), method="from_normalised")
    yield "out/cls", features.cls
    yield "out/head", features.cls
    yield "out/patch", features.patches
    yield "out/reg", features.registers
    patches = np.asarray(inner["patch_embedding"]["__call__"][0])  # [B, rows, columns, W]
    yield "hid/patch_embed", patches.reshape(len(patches), -1, patches.shape[-1])
    for index in range(model.depth):
        yield f"hid/blocks.{index}", inner[f"block_{index}"]["__call__"][0]
