"""The Real-ESRGAN degradation in PyTorch, the peer of tools/benchmark_degradation.py.

This is a driver only. The primitives (kernels, filtering, noise, JPEG, sharpening) are loaded by path from CHECKOUT,
your checkout of BasicSR (github:XPixelGroup/BasicSR, from which Real-ESRGAN imports them; tested with 1.4.2), none of
which is included here. PyTorch comes from the extra `[torch]`; the primitives also need opencv-python-headless.
Importing this module needs none of them.

The order of the operations and what is drawn once per batch (resizings, kind of noise, second blur, final order) or
once per image (kernels, noise level, gray noise, JPEG quality) are those of Real-ESRGAN's `feed_data` up to the LR
image. The crop, the pool of pairs and the second sharpening, which the pool needs, are not included.

Time it on an idle machine only: one more busy process on the same cores slowed PyTorch's small parallel operations by a
large factor (its threads wait for each other), which would flatter framer_jax.
"""

from __future__ import annotations

import importlib.util
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from framer_jax.degradations.presets import BlurPreset, DegradationPreset, LowPassPreset, ResizePreset, StagePreset

if TYPE_CHECKING:
    import torch

STAGES = ("usm", "blur1", "resize1", "noise1", "jpeg1", "blur2", "resize2", "noise2", "final")
"""The timed stages. `final` is the resize to the LR size, the final filter and the second JPEG, in either order."""

MODES = ("area", "bilinear", "bicubic")

FILES = {
    "degradations": "basicsr/data/degradations.py",
    "filtering": "basicsr/utils/img_process_util.py",
    "jpeg": "basicsr/utils/diffjpeg.py",
}
"""The only files of the checkout that are loaded; importing its package would import all of BasicSR."""

KINDS = {
    f"{form}otropic_{kind}": f"{prefix}{suffix}"
    for form, suffix in (("is", "iso"), ("anis", "aniso"))
    for kind, prefix in (("gaussian", ""), ("generalized_gaussian", "generalized_"), ("plateau", "plateau_"))
}
"""Kernel kinds of framer_jax → those of BasicSR."""


class Primitives(NamedTuple):
    """The functions and classes of the checkout."""

    mixed_kernel: Callable[..., Any]
    low_pass_kernel: Callable[..., Any]
    filter: Callable[..., Any]
    gaussian_noise: Callable[..., Any]
    poisson_noise: Callable[..., Any]
    jpeg: Callable[..., Any]
    usm: Callable[..., Any]


class Kernels(NamedTuple):
    """One kernel per image, [B, side, side] float32 each: first blur, second blur, final filter."""

    first: torch.Tensor
    second: torch.Tensor
    last: torch.Tensor


def load_primitives(checkout: Path) -> Primitives:
    """Load the few files that are needed from a checkout of BasicSR.

    Args:
      checkout: the folder that holds `basicsr/`.

    Raises:
      FileNotFoundError: the checkout lacks a file: it is not BasicSR, or older than 1.3.4.
      ImportError: PyTorch, OpenCV or SciPy is not installed.
    """
    missing = [name for name in FILES.values() if not (checkout / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{checkout} lacks {', '.join(missing)}: give a checkout of BasicSR 1.3.4 or later "
            "(github:XPixelGroup/BasicSR; the Real-ESRGAN repository itself does not contain the primitives)"
        )
    # BasicSR's kernels module silences NumPy's floating-point warnings for the whole process; errstate restores them.
    with _torchvision_stub(), np.errstate():
        modules = {name: _load(checkout / file, f"_basicsr_{name}") for name, file in FILES.items()}
    degradations = modules["degradations"]
    return Primitives(
        mixed_kernel=degradations.random_mixed_kernels,
        low_pass_kernel=degradations.circular_lowpass_kernel,
        filter=modules["filtering"].filter2D,
        gaussian_noise=degradations.random_add_gaussian_noise_pt,
        poisson_noise=degradations.random_add_poisson_noise_pt,
        jpeg=modules["jpeg"].DiffJPEG,
        usm=modules["filtering"].USMSharp,
    )


def _load(path: Path, name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@contextmanager
def _torchvision_stub() -> Iterator[None]:
    """Replace torchvision, of which BasicSR imports one function, from a module whose name depends on the version."""

    def rgb_to_grayscale(image: torch.Tensor, num_output_channels: int = 1) -> torch.Tensor:
        assert num_output_channels == 1
        red, green, blue = image.unbind(dim=-3)
        return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(dim=-3)

    names = [
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "torchvision.transforms.functional_tensor",
    ]
    replaced = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    for name in names:
        sys.modules[name] = ModuleType(name)
    for name in names[2:]:
        vars(sys.modules[name])["rgb_to_grayscale"] = rgb_to_grayscale
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(replaced)


def draw_kernels(primitives: Primitives, preset: DegradationPreset, batch: int, seed: int) -> Kernels:
    """Draw the kernels of a batch, as the original dataset does.

    The primitives draw from the global generators of `random` and NumPy, which this function seeds.
    """
    import torch

    assert preset.first is not None and preset.second is not None
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what the primitives draw from)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = [
            (
                _stage_kernel(primitives, preset.first.blur),
                _stage_kernel(primitives, preset.second.blur),
                _final_kernel(primitives, preset.low_pass),
            )
            for _ in range(batch)
        ]
    return Kernels(*(torch.from_numpy(np.stack(kernels).astype(np.float32)) for kernels in zip(*drawn, strict=True)))


def _stage_kernel(primitives: Primitives, blur: BlurPreset | None) -> np.ndarray:
    assert blur is not None
    size = random.choice(blur.sizes)
    if _uniform(0, 1) < blur.low_pass:
        kernel = primitives.low_pass_kernel(_uniform(math.pi / (3 if size < 13 else 5), math.pi), size)
    else:
        kernel = primitives.mixed_kernel(
            [KINDS[kind] for kind, _ in blur.kinds],
            [odds for _, odds in blur.kinds],
            size,
            blur.sigma,
            blur.sigma,
            (-math.pi, math.pi),
            blur.generalized_beta,
            blur.plateau_beta,
        )
    return np.pad(kernel, (max(blur.sizes) - size) // 2)


def _final_kernel(primitives: Primitives, low_pass: LowPassPreset | None) -> np.ndarray:
    assert low_pass is not None
    canvas = max(low_pass.sizes)
    if _uniform(0, 1) < low_pass.probability:
        return primitives.low_pass_kernel(_uniform(*low_pass.cutoff), random.choice(low_pass.sizes), pad_to=canvas)
    kernel = np.zeros((canvas, canvas))
    kernel[canvas // 2, canvas // 2] = 1.0
    return kernel


def _uniform(low: float, high: float) -> float:
    return np.random.uniform(low, high)  # noqa: NPY002 (one stream with the primitives)


class Peer:
    """The pipeline for batches of one shape; see `make_peer`."""

    def __init__(
        self,
        primitives: Primitives,
        preset: DegradationPreset,
        shape: tuple[int, int, int, int],
        seed: int,
        usm: bool,
        device: str,
    ) -> None:
        self._primitives = primitives
        self._preset = preset
        self._shape = shape
        self._seed = seed
        self._device = device
        self._jpeg = primitives.jpeg(differentiable=False).to(device)
        self._usm = primitives.usm().to(device) if usm else None

    def __call__(self, hr: torch.Tensor, kernels: Kernels) -> tuple[torch.Tensor, dict[str, float]]:
        """Degrade one batch.

        Call n of a peer seeds its generators, PyTorch's global one among them, with seed + n, so that its result does
        not depend on other peers that run alternately with it.

        Args:
          hr: [B, 3, H, W] float32 in [0, 1], on the peer's device.
          kernels: from `draw_kernels`, on the peer's device.

        Returns:
          (LR images [B, 3, H / 4, W / 4], multiples of 1/255; wall seconds per stage, whose sum is the whole call).

        Raises:
          ValueError: a shape other than the one that the peer was made for.
        """
        import torch

        if tuple(hr.shape) != self._shape:
            raise ValueError(f"this peer takes HR images {list(self._shape)}, not {list(hr.shape)}: make another peer")
        torch.manual_seed(self._seed)
        draws = _Draws(self._seed)
        self._seed += 1
        with torch.no_grad():
            return self._degrade(hr, kernels, draws)

    def _degrade(self, hr: torch.Tensor, kernels: Kernels, draws: _Draws) -> tuple[torch.Tensor, dict[str, float]]:
        from torch.nn.functional import interpolate

        preset, blur = self._preset, self._primitives.filter
        first, second = preset.first, preset.second
        assert first is not None and second is not None and second.blur is not None
        height, width = (side // preset.scale for side in self._shape[2:])
        clock = _Clock(self._device)
        image = hr if self._usm is None else self._usm(hr)
        clock.lap("usm")

        image = blur(image, kernels.first)
        clock.lap("blur1")
        scale, mode = draws.resizing(first.resize)
        image = interpolate(image, scale_factor=scale, mode=mode)
        clock.lap("resize1")
        image = self._add_noise(image, first, draws)
        clock.lap("noise1")
        image = self._compress(image, first)
        clock.lap("jpeg1")

        if draws.happens(second.blur.probability):
            image = blur(image, kernels.second)
        clock.lap("blur2")
        scale, mode = draws.resizing(second.resize)
        # In this stage the scale is relative to the LR image, before it is truncated to whole pixels.
        inner = [int(side / preset.scale * scale) for side in self._shape[2:]]
        image = interpolate(image, size=inner, mode=mode)
        clock.lap("resize2")
        image = self._add_noise(image, second, draws)
        clock.lap("noise2")

        filter_first = draws.happens(preset.low_pass_first)
        if not filter_first:
            image = self._compress(image, second)
        image = blur(interpolate(image, size=[height, width], mode=draws.mode()), kernels.last)
        if filter_first:
            image = self._compress(image, second)
        lr = (image * 255.0).round().clamp(0, 255) / 255.0
        clock.lap("final")
        return lr, clock.seconds

    def _add_noise(self, image: torch.Tensor, stage: StagePreset, draws: _Draws) -> torch.Tensor:
        """Add noise of one kind to the whole batch; the primitive draws level and gray noise per image."""
        noise = stage.noise
        assert noise is not None
        if draws.happens(noise.gaussian):
            return self._primitives.gaussian_noise(image, noise.sigma, noise.gray, clip=True, rounds=False)
        return self._primitives.poisson_noise(image, noise.poisson_scale, noise.gray, clip=True, rounds=False)

    def _compress(self, image: torch.Tensor, stage: StagePreset) -> torch.Tensor:
        """Compress as JPEG with one quality per image."""
        assert stage.jpeg_quality is not None
        quality = image.new_empty(len(image)).uniform_(*stage.jpeg_quality)
        # The only difference from the original: in torch 2.13 the output of the JPEG is channels-last in memory, for
        # which the `view` of the next filter raises if there is more than one image.
        return self._jpeg(image.clamp(0, 1), quality=quality).contiguous()


class _Draws:
    """The draws made once per batch, from the two kinds of generators that the original uses."""

    def __init__(self, seed: int) -> None:
        self._choices = random.Random(seed)
        self._numbers = np.random.RandomState(seed)

    def happens(self, probability: float) -> bool:
        return self._numbers.uniform() < probability

    def mode(self) -> str:
        return self._choices.choice(MODES)

    def resizing(self, resize: ResizePreset) -> tuple[float, str]:
        """(scale, mode)."""
        low, high = resize.range
        odds = (resize.up, resize.down, resize.keep)
        ends = self._choices.choices(((1, high), (low, 1), None), odds)[0]
        return 1.0 if ends is None else self._numbers.uniform(*ends), self.mode()


class _Clock:
    """Wall seconds of each stage; `lap` waits for the GPU."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._on_gpu = device.startswith("cuda")
        self._last = self._now()

    def lap(self, stage: str) -> None:
        now = self._now()
        self.seconds[stage] = now - self._last
        self._last = now

    def _now(self) -> float:
        if self._on_gpu:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


def make_peer(
    primitives: Primitives,
    preset: DegradationPreset,
    batch: int,
    size: int,
    seed: int,
    usm: bool,
    device: str = "cpu",
) -> Peer:
    """Make the function that degrades one batch: (hr, kernels) → (lr, seconds per stage).

    Args:
      primitives: from `load_primitives`.
      preset: ranges and probabilities of two stages, the second of which is always applied.
      batch: images per batch.
      size: side of the HR images, pixels.
      seed: seed of all draws except the kernels.
      usm: sharpen the HR images first, once (as x4plus; FRAMER's table does not say).
      device: PyTorch's name of the device.
    """
    return Peer(primitives, preset, (batch, 3, size, size), seed, usm, device)
