"""ResShift's and SinSR's networks and samplers in PyTorch, from your clone of ResShift; none of its code is included.

Both methods have the same U-Net, autoencoder and forward process, so that one clone is enough.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tools.peers.clones import build_from, module_of, stand_in_for_small_packages

UNET: Mapping[str, Any] = {
    "image_size": 64,
    "in_channels": 3,
    "model_channels": 160,
    "out_channels": 3,
    "attention_resolutions": [64, 32, 16, 8],
    "dropout": 0,
    "channel_mult": [1, 2, 2, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "swin_depth": 2,
    "swin_embed_dim": 192,
    "window_size": 8,
    "mlp_ratio": 4,
    "cond_lq": True,
    "lq_size": 64,
}
"""The published U-Net of 119 M parameters (configs/realsr_swinunet_realesrgan256.yaml)."""

AUTOENCODER: Mapping[str, Any] = {
    "embed_dim": 3,
    "n_embed": 8192,
    "ddconfig": {
        "double_z": False,
        "z_channels": 3,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
        "padding_mode": "zeros",
    },
}
"""The published autoencoder VQ-f4."""

PROCESS: Mapping[str, Any] = {
    "sf": 4,
    "schedule_name": "exponential",
    "schedule_kwargs": {"power": 0.3},
    "etas_end": 0.99,
    "kappa": 2.0,
    "predict_type": "xstart",
    "scale_factor": 1.0,
    "normalize_input": True,
    "latent_flag": True,
}
"""What the published forward processes have in common; steps and least noise are those of a case."""


def build(clone: Path, module: str, network: str, config: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """A network of the clone for inference, with random values in all its weights, norms and biases included."""
    stand_in_for_small_packages()
    torch.manual_seed(seed)
    built: torch.nn.Module = build_from(clone, module, network, copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return built


def unet(clone: Path) -> torch.nn.Module:
    """The U-Net."""
    return build(clone, "models.unet", "UNetModelSwin", UNET, 0)


def autoencoder(clone: Path) -> torch.nn.Module:
    """The autoencoder."""
    return build(clone, "ldm.models.autoencoder", "VQModelTorch", AUTOENCODER, 1)


class Call(torch.nn.Module):
    """The U-Net at one timestep: (x) → estimate of x_0; the LR image is `x` too."""

    def __init__(self, network: torch.nn.Module, timestep: int) -> None:
        super().__init__()
        self.network = network
        self.timestep = torch.tensor([timestep])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] → [1, 3, H, W]."""
        result: torch.Tensor = self.network(x, self.timestep, lq=x)
        return result


class Coder(torch.nn.Module):
    """One direction of the autoencoder, with the quantizer in the decoder."""

    def __init__(self, network: torch.nn.Module, direction: str) -> None:
        super().__init__()
        self.network = network
        self.direction = direction

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] → [1, 3, H / 4, W / 4], or back."""
        result: torch.Tensor = getattr(self.network, self.direction)(x)
        return result


class Sampler(torch.nn.Module):
    """The original's sampler: LR image in [0, 1] → SR image; in one step as SinSR does, if `one_step`."""

    def __init__(
        self,
        clone: Path,
        network: torch.nn.Module,
        coder: torch.nn.Module,
        steps: int,
        min_noise_level: float,
        one_step: bool = False,
    ) -> None:
        super().__init__()
        make = module_of(clone, "models.script_util").create_gaussian_diffusion
        self.process = make(steps=steps, min_noise_level=min_noise_level, **copy.deepcopy(dict(PROCESS)))
        self.network, self.coder, self.one_step = network, coder, one_step

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] → [1, 3, 4 H, 4 W]."""
        y = 2 * lr - 1
        if self.one_step:
            z = self.process.encode_first_stage(y, self.coder, up_sample=True)
            x = self.process.prior_sample(z)
            last = torch.tensor([self.process.num_timesteps - 1])
            z = self.network(self.process._scale_input(x, last), last, lq=y)
            result: torch.Tensor = self.process.decode_first_stage(z, self.coder)
        else:
            result = self.process.p_sample_loop(
                y=y, model=self.network, first_stage_model=self.coder, clip_denoised=False, model_kwargs={"lq": y}
            )
        return result / 2 + 0.5
