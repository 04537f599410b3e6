"""SwinIR in PyTorch, loaded from your checkout of its repository; none of its code is included here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tools.peers.clones import stand_in_for_small_packages

FILE = "models/network_swinir.py"

SMALL = {
    "upscale": 4,
    "window_size": 8,
    "img_range": 1.0,
    "depths": [6] * 4,
    "embed_dim": 60,
    "num_heads": [6] * 4,
    "mlp_ratio": 2,
    "upsampler": "nearest+conv",
    "resi_connection": "1conv",
}
"""SwinIR-small, the defaults of framer_jax.models.swinir.SwinIR."""


def load(checkout: Path) -> ModuleType:
    """Load the checkout's module.

    Raises:
      FileNotFoundError: the checkout lacks it.
    """
    path = checkout / FILE
    if not path.is_file():
        raise FileNotFoundError(f"--swinir-checkout {checkout} lacks {FILE}: give a clone of the SwinIR repository")
    stand_in_for_small_packages()
    specification = importlib.util.spec_from_file_location("_network_swinir", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def build(checkout: Path, size: int, arguments: Mapping[str, Any] | None = None, seed: int = 0) -> torch.nn.Module:
    """Build the network for inference, with random values in all its weights, norms and biases included.

    Args:
      checkout: your clone of the repository.
      size: side of the input; the network makes its masks for this size once, which is its fastest mode.
      arguments: constructor arguments; None: those of SwinIR-small.
      seed: seed of the weights.

    Raises:
      FileNotFoundError: as of `load`.
    """
    arguments = dict(SMALL if arguments is None else arguments)
    module = load(checkout)
    torch.manual_seed(seed)
    window = arguments["window_size"]
    network = module.SwinIR(img_size=-(-size // window) * window, **arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def state_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """The network's state dict, as framer_jax.porting takes it."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
