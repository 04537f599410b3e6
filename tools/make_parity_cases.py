"""Write parity fixtures of other configurations than the published ones, by running the original PyTorch code.

    python tools/make_parity_cases.py OUT --resshift CLONE --swinir CLONE

It needs PyTorch and diffusers, in an environment of their own, and clones of the repositories of ResShift and SwinIR.
The files are like those that tools/check_parity.py reads; weights are drawn from their names and not stored.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from tools.parity.drawn_weights import named_weight
from tools.peers.clones import build_from, stand_in_for_small_packages

TOLERANCE = 2e-5
"""Largest error that passes, relative to the largest value of the output; differences in float32 are near 2e-6."""

CONSTANTS = ("relative_position_index", "attn_mask", "pos_embed.pos_embed")
"""Ends of the keys that keep the values that the model computes."""


class Case(NamedTuple):
    """One file.

    Attributes:
      name: its name without '.npz'.
      family: which comparison it is for.
      config: constructor arguments, and whatever else the comparison needs.
      make: () → the original module.
      inputs: name → array, images channels first.
      outputs: (module, inputs as tensors) → pairs of an output's name and a tensor.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    make: Callable[[], Any]
    inputs: Mapping[str, Any]
    outputs: Callable[[Any, Mapping[str, Any]], Iterator[tuple[str, Any]]]


SWINIR: Mapping[str, dict[str, Any]] = {
    "swinir_heads_positions": {
        "upscale": 2,
        "in_chans": 3,
        "img_size": 16,
        "window_size": 8,
        "img_range": 1.0,
        "depths": [2, 2],
        "embed_dim": 24,
        "num_heads": [2, 4],
        "mlp_ratio": 1.5,
        "qkv_bias": False,
        "ape": True,
        "patch_norm": False,
        "upsampler": "pixelshuffledirect",
        "resi_connection": "3conv",
    },
    "swinir_gray_range": {
        "upscale": 1,
        "in_chans": 1,
        "img_size": 7,
        "window_size": 7,
        "img_range": 20.0,
        "depths": [2],
        "embed_dim": 12,
        "num_heads": [3],
        "mlp_ratio": 2.6,
        "upsampler": "",
        "resi_connection": "1conv",
    },
}

_UNET: dict[str, Any] = {
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 3,
    "dropout": 0,
    "dims": 2,
    "use_fp16": False,
    "num_head_channels": 16,
    "swin_depth": 2,
    "swin_embed_dim": 32,
    "window_size": 8,
    "cond_lq": True,
}

UNETS: Mapping[str, dict[str, Any]] = {
    "resshift_unet_blocks_mask": _UNET
    | {
        "image_size": 16,
        "attention_resolutions": [16, 8],
        "channel_mult": [1, 2],
        "num_res_blocks": [1, 2],
        "conv_resample": True,
        "use_scale_shift_norm": False,
        "resblock_updown": True,
        "mlp_ratio": 2,
        "cond_mask": True,
        "lq_size": 16,
    },
    "resshift_unet_plain_finer_mask": _UNET
    | {
        "image_size": 32,
        "attention_resolutions": [16],
        "channel_mult": [1, 1, 2],
        "num_res_blocks": [2, 1, 1],
        "conv_resample": False,
        "use_scale_shift_norm": True,
        "resblock_updown": False,
        "mlp_ratio": 1.5,
        "cond_mask": True,
        "lq_size": 64,
    },
}

VQ: Mapping[str, dict[str, Any]] = {
    "resshift_vq_levels": {
        "embed_dim": 3,
        "n_embed": 64,
        "ddconfig": {
            "double_z": False,
            "z_channels": 4,
            "resolution": 32,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 2],
            "num_res_blocks": [1, 2],
            "attn_resolutions": [16],
            "dropout": 0.0,
            "padding_mode": "zeros",
        },
    }
}

TRANSFORMERS: Mapping[str, dict[str, Any]] = {
    "sd3_plain_dual_tuple": {
        "sample_size": 12,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 4,
        "attention_head_dim": 12,
        "num_attention_heads": 2,
        "joint_attention_dim": 20,
        "caption_projection_dim": 24,
        "pooled_projection_dim": 16,
        "out_channels": 4,
        "pos_embed_max_size": 10,
        "dual_attention_layers": [1, 3],
        "qk_norm": None,
    }
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", metavar="OUT", help="folder to write to")
    parser.add_argument("--resshift", required=True, metavar="CLONE", help="clone of ResShift's repository")
    parser.add_argument("--swinir", required=True, metavar="CLONE", help="clone of SwinIR's repository")
    arguments = parser.parse_args()
    importlib.import_module("diffusers").SD3Transformer2DModel  # noqa: B018 (it looks for these packages)
    stand_in_for_small_packages()
    for case in _cases(arguments.resshift, arguments.swinir):
        write_case(Path(arguments.output), case)


def write_case(folder: Path, case: Case) -> None:
    """Draw the weights, run the original and write the file."""
    module = case.make().eval()
    drawn = {key: value for key, value in module.state_dict().items() if not key.endswith(CONSTANTS)}
    weights = {key: torch.from_numpy(named_weight(key, tuple(value.shape))) for key, value in drawn.items()}
    module.load_state_dict(weights, strict=False)
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    with torch.no_grad():
        outputs = {name: value.numpy() for name, value in case.outputs(module, inputs)}
    tolerances = {
        name: {"atol": TOLERANCE * float(np.abs(value).max())} if value.dtype.kind == "f" else {"atol": None}
        for name, value in outputs.items()
    }
    meta = {
        "case": case.name,
        "family": case.family,
        "config": case.config,
        "salt": "",
        "models": {"model": {"salt": "", "weight_gain": 1.0}},
        "notes": "made by tools/make_parity_cases.py",
        "reference": {"torch": torch.__version__},
        "float32_vs_float64": tolerances,
    }
    rows = [f"{key}\t{','.join(map(str, value.shape))}\tfloat32" for key, value in drawn.items()]
    buffers = {
        f"buf/{key}": value.numpy() for key, value in module.state_dict().items() if key.endswith("pos_embed.pos_embed")
    }
    path = folder / f"{case.name}.npz"
    entries: dict[str, Any] = {"meta": json.dumps(meta), "params/model": rows, **case.inputs, **outputs, **buffers}
    np.savez_compressed(path, **entries)
    print(path)


def _cases(resshift: str, swinir: str) -> Iterator[Case]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    for name, config in SWINIR.items():
        sides = (13, 16) if config.get("ape") else (10, 15)
        x = rng.random((1, config["in_chans"], *sides), dtype=np.float32)
        make = partial(build_from, swinir, "models.network_swinir", "SwinIR", config)
        yield Case(name, "swinir", config, make, {"in/x0": x}, lambda net, x: iter([("out/y0", net(x["in/x0"]))]))
    for name, config in UNETS.items():
        side, lq_side = config["image_size"], config["lq_size"]
        mask = np.where(normal(1, 1, lq_side, lq_side) > 0, np.float32(1), np.float32(-1))
        inputs: dict[str, Any] = {
            "in/x0": normal(1, 3, side, side),
            "in/t0": np.asarray([3], np.int64),
            "in/lq0": normal(1, 3, lq_side, lq_side),
        }
        make = partial(build_from, resshift, "models.unet", "UNetModelSwin", config)
        yield Case(
            name, "resshift_unet", {"unet": config, "calls": 1}, make, inputs | {"in/mask0": mask}, _unet_outputs
        )
    for name, config in VQ.items():
        inputs = {"in/x": normal(1, 3, 32, 32), "in/zr": normal(1, config["embed_dim"], 16, 16)}
        make = partial(build_from, resshift, "ldm.models.autoencoder", "VQModelTorch", config)
        yield Case(name, "resshift_vq", config, make, inputs, _vq_outputs)
    for name, config in TRANSFORMERS.items():
        inputs = {}
        for call, sides in (("_a", (8, 8)), ("_b", (6, 10))):
            inputs |= {
                f"in/x{call}": normal(1, config["in_channels"], *sides),
                f"in/t{call}": np.asarray([700.0], np.float32),
            }
            inputs |= {f"in/e{call}": normal(1, 5, 20), f"in/p{call}": normal(1, 16)}
        given = config | {"dual_attention_layers": tuple(config["dual_attention_layers"])}
        make = partial(build_from, ".", "diffusers", "SD3Transformer2DModel", given)
        yield Case(name, "mmdit", config, make, inputs, _transformer_outputs)


def _unet_outputs(module: Any, x: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "out/y0", module(x["in/x0"], x["in/t0"], lq=x["in/lq0"], mask=x["in/mask0"])


def _vq_outputs(module: Any, x: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "out/z", module.encode(x["in/x"])
    yield "out/dec_noq", module.decode(x["in/zr"], force_not_quantize=True)
    yield "out/dec_q", module.decode(x["in/zr"])


def _transformer_outputs(module: Any, x: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for call in "ab":
        latent, t, text, pooled = (x[f"in/{name}_{call}"] for name in "xtep")
        named = {"encoder_hidden_states": text, "pooled_projections": pooled, "timestep": t}
        yield f"out/{call}", module(latent, **named, return_dict=False)[0]


if __name__ == "__main__":
    main()
