"""Settings of upscaling."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.inference.color_fix import COLOR_FIXES
from framer_jax.inference.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from framer_jax.knobs import changed_repr


@dataclass(frozen=True)
class UpscaleSettings:
    """How an image is upscaled.

    Attributes:
      mode: 'sample' for the full sampler, 'mean' for the one-call estimate.
      tile: side of a tile in LR pixels; a multiple of the recipe's lr_multiple.
      overlap: LR pixels that neighboring tiles share at least.
      tile_batch: number of tiles computed at a time; with protocols of latent tiles, of one image's latents in each
        step.
      color_fix: 'none', 'adain' or 'wavelet', on the whole image; '' for the protocol's default.
      color_strength: strength of the color fix, 0 to 1.
      seed: seed of the noise canvas.
      devices: number of devices that compute tiles at the same time, `tile_batch` each; 0 for all, and one of a CPU's.
      preview: also show what the sampler estimates every so many steps; 0 for no previews.
      protocol: one of framer_jax.inference.protocols.PROTOCOLS.
    """

    mode: str = "sample"
    tile: int = 128
    overlap: int = 16
    tile_batch: int = 4
    color_fix: str = ""
    color_strength: float = 1.0
    seed: int = 0
    protocol: str = DEFAULT_PROTOCOL
    preview: int = 0
    devices: int = 0

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        for name in ("mode", "color_fix", "protocol"):
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} {value!r} must be a string")
        if self.mode not in ("sample", "mean"):
            raise ValueError(f"unknown mode {self.mode!r}: use 'sample' or 'mean'")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}: use one of {', '.join(PROTOCOLS)}")
        fixes = PROTOCOLS[self.protocol].color_fixes
        object.__setattr__(self, "color_fix", self.color_fix or fixes[0])
        if self.color_fix not in COLOR_FIXES:
            raise ValueError(f"unknown color fix {self.color_fix!r}: use one of {', '.join(COLOR_FIXES)}")
        if self.color_fix not in fixes:
            has = "no color fix" if fixes == ("none",) else f"the color fix {', '.join(fixes)}"
            raise ValueError(f"protocol {self.protocol!r} has {has}: omit it, or choose another protocol")
        largest = 1 << 20
        limits = {
            "tile": (1, largest),
            "tile_batch": (1, largest),
            "seed": (0, (1 << 32) - 1),
            "preview": (0, largest),
            "devices": (0, largest),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"{name} {value!r} must be a whole number from {least} to {most}")
        if not isinstance(self.overlap, int) or isinstance(self.overlap, bool) or not 0 <= self.overlap < self.tile:
            raise ValueError(f"overlap {self.overlap!r} must be a whole number from 0 to tile - 1 = {self.tile - 1}")
        strength = self.color_strength
        if not isinstance(strength, int | float) or isinstance(strength, bool) or not 0 <= strength <= 1:
            raise ValueError(f"color_strength {self.color_strength!r} must lie between 0 and 1")
        if strength != 1 and self.color_fix == "none":
            raise ValueError(f"color_strength is {strength}, and there is no color fix: omit it, or choose a color_fix")
