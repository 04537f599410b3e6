"""Learned metrics without a reference, as pyiqa computes them on the CPU: MUSIQ, MANIQA and CLIP-IQA.

The weights are the user's: files that are named, or those in the folders where pyiqa keeps what it has downloaded.
Nothing is downloaded here: a file must exist before pyiqa is asked for a network, which is built without weights, and
no name of a host can be resolved meanwhile. A metric that cannot be computed is left out with the reason.

Sources: Ke et al., "MUSIQ: Multi-scale image quality transformer", ICCV 2021; Yang et al., "MANIQA: Multi-dimension
attention network for no-reference image quality assessment", CVPRW 2022; Wang et al., "Exploring CLIP for assessing the
look and feel of images", AAAI 2023. pyiqa is github.com/chaofengc/IQA-PyTorch; all this is about its version 0.1.16.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from framer_jax.porting.files import sha256_of
from framer_jax.porting.torch_files import read_checkpoint

OPTION = "--pyiqa-weights"
"""The option of the command line that names weights."""

COMMAND = "pip install 'framer_jax[eval]'"
"""What installs pyiqa."""

SEED = 0
"""Seed of PyTorch's and NumPy's random numbers before each image; versions of pyiqa differ in whether MANIQA's crops
are random."""

REPOSITORY = "chaofengc/IQA-PyTorch-Weights"
"""Where the authors of pyiqa publish weights, on the Hugging Face hub."""

LONGEST_REASON = 300
"""Characters of an error of another library that are shown."""

Pixels = npt.NDArray[np.float32]


class LearnedMetric(NamedTuple):
    """What is needed to compute a metric with pyiqa.

    Attributes:
      pyiqa_name: its name there, which decides the architecture and its settings.
      file: name of the file with its weights.
      description: the variant in words.
      is_clip: whether the file is OpenAI's CLIP, which pyiqa reads itself and keeps in another folder.
    """

    pyiqa_name: str
    file: str
    description: str
    is_clip: bool = False


LEARNED = {
    "musiq-koniq": LearnedMetric(
        "musiq", "musiq_koniq_ckpt-e95806b9.pth", "MUSIQ (2021) trained on KonIQ-10k, as pyiqa, about 0 to 100"
    ),
    "maniqa-koniq": LearnedMetric(
        "maniqa", "ckpt_koniq10k.pt", "MANIQA (2022) trained on KonIQ-10k, as pyiqa, about 0 to 1"
    ),
    "maniqa-pipal": LearnedMetric(
        "maniqa-pipal", "MANIQA_PIPAL-ae6d356b.pth", "MANIQA (2022) trained on PIPAL, as pyiqa, about 0 to 1"
    ),
    "clipiqa": LearnedMetric(
        "clipiqa", "RN50.pt", "CLIP-IQA (2023) on CLIP's ResNet-50 with five pairs of prompts, as pyiqa, 0 to 1", True
    ),
}
"""Metric → how pyiqa computes it; higher is better for each of them."""

SMALLEST_SIDE = 32
"""The smallest side of an image, one patch of MUSIQ and one position of CLIP; MANIQA enlarges images below 225."""


class LearnedNetwork(NamedTuple):
    """A metric that is ready to score.

    Attributes:
      metric: a key of `LEARNED`.
      score: image [H, W, 3] in [0, 1] → its score.
      files: name and SHA-256 of the file that it was read from.
      settings: what else decides its scores: version of pyiqa, and seed.
      installed: the weights are never those of an installed package.
    """

    metric: str
    score: Callable[[Pixels], float]
    files: tuple[Mapping[str, str], ...]
    settings: Mapping[str, Any]
    installed: tuple[str, ...] = ()


def parse_weights(texts: Sequence[str]) -> dict[str, Path]:
    """Read 'METRIC=FILE' texts into metric → file.

    Raises:
      ValueError: another form, no learned metric, or two files for one metric.
    """
    files: dict[str, Path] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or not path or name not in LEARNED or name in files:
            raise ValueError(
                f"{OPTION} {text!r}: give METRIC=FILE, once for each metric, with one of {', '.join(LEARNED)}"
            )
        files[name] = Path(path)
    return files


def load_learned(
    ids: Iterable[str], files: Mapping[str, str | os.PathLike[str]]
) -> tuple[dict[str, LearnedNetwork], dict[str, str]]:
    """Load the learned metrics among ids.

    Args:
      ids: metrics; those that are no keys of `LEARNED` are ignored.
      files: metric → its weights; by default, they are looked for where pyiqa keeps its own.

    Returns:
      metric → its network; and metric → one line that says why it cannot be computed, and what to do about it.

    Raises:
      FileNotFoundError: a named file does not exist.
      ValueError: a file is named for a metric that is not computed.
    """
    requested = [name for name in LEARNED if name in set(ids)]
    for name, path in files.items():
        if name not in requested:
            raise ValueError(f"{OPTION} {name}={path}: the metric is not computed: leave it out, or score {name} too")
        if not Path(path).is_file():
            raise FileNotFoundError(f"{OPTION} {name}={path}: there is no such file: correct the path")
    networks, reasons = {}, {}
    for name in requested:
        weights = Path(files[name]) if name in files else find_weights(name)
        if weights is None or not is_installed():
            reasons[name] = missing(name, weights)
            continue
        try:
            networks[name] = LearnedNetwork(name, _load(name, weights), _digest(weights), _settings())
        except Exception as error:  # pyiqa and what it imports fail in many ways: the other metrics are scored anyway
            reasons[name] = f"{name} is left out: pyiqa cannot load {weights} ({_in_one_line(error)})"
    return networks, reasons


def is_installed() -> bool:
    """Whether pyiqa is installed; it is not imported."""
    try:
        return importlib.util.find_spec("pyiqa") is not None
    except (ImportError, ValueError):
        return False


def find_weights(name: str) -> Path | None:
    """The weights of a metric in the folders of `weight_folders`; None if none of them has the file."""
    return next((file for folder in weight_folders(name) for file in _files_in(folder, LEARNED[name].file)), None)


def weight_folders(name: str) -> list[Path]:
    """The folders where pyiqa keeps the weights of a metric: PyTorch's hub folder, and the cache of Hugging Face.

    The environment variables of these libraries count (TORCH_HOME, HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME).
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    torch = Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser()
    if LEARNED[name].is_clip:
        return [torch / "hub" / "clip", Path("~/.cache/clip").expanduser()]
    hugging_face = Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or hugging_face / "hub").expanduser()
    return [torch / "hub" / "pyiqa", hub / f"models--{REPOSITORY.replace('/', '--')}"]


def _files_in(folder: Path, name: str) -> list[Path]:
    paths = [folder / name, *sorted(folder.glob(f"snapshots/*/{name}"))]
    return [path for path in paths if path.is_file()]


def missing(name: str, weights: Path | None = None) -> str:
    """What a metric lacks and what to do about it, in one line.

    Args:
      name: a key of `LEARNED`.
      weights: its weights, if they are there.
    """
    row = LEARNED[name]
    parts = [] if is_installed() else [f"pyiqa is not installed ({COMMAND})"]
    if weights is None:
        folders = " or ".join(map(str, weight_folders(name)))
        source = "CLIP's ResNet-50 of OpenAI" if row.is_clip else f"it is published as {REPOSITORY} on Hugging Face"
        parts.append(
            f"there is no {row.file} in {folders} ({source}): put it there, or give its path ({OPTION} {name}=FILE)"
        )
    return f"{name} is left out: {'; '.join(parts)}"


def learned_scores(network: LearnedNetwork, images: npt.ArrayLike, crop_border: int = 0) -> Pixels:
    """Scores of images, one at a time on the CPU, so that they depend on no other image.

    Args:
      network: of the metric.
      images: [B, H, W, 3] in [0, 1].
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32.

    Raises:
      ValueError: images smaller than `SMALLEST_SIDE`, or pyiqa fails.
    """
    pixels = np.asarray(images, np.float32)
    height, width = (side - 2 * crop_border for side in pixels.shape[1:3])
    if min(height, width) < SMALLEST_SIDE:
        least = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise ValueError(f"{network.metric} needs images of at least {least} pixels; got {height}x{width}")
    inner = pixels[:, crop_border : crop_border + height, crop_border : crop_border + width].clip(0.0, 1.0)
    scores: list[float] = []
    for index, image in enumerate(inner):
        repeated = index > 0 and np.array_equal(image, inner[index - 1])  # how batches are filled up
        try:
            scores.append(scores[-1] if repeated else network.score(image))
        except Exception as error:  # of pyiqa, or of what it imports
            raise ValueError(f"{network.metric}: pyiqa cannot score the image ({_in_one_line(error)})") from error
    return np.asarray(scores, np.float32)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    shown = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def _digest(path: Path) -> tuple[Mapping[str, str], ...]:
    return ({"file": path.name, "sha256": sha256_of(path)},)


def _settings() -> dict[str, Any]:
    return {"pyiqa": importlib.metadata.version("pyiqa"), "seed": SEED}


def _load(name: str, path: Path) -> Callable[[Pixels], float]:
    """A metric with the weights of a file, as a function of an image [H, W, 3].

    Raises:
      Exception: whatever pyiqa, or what it imports, raises.
    """
    row = LEARNED[name]
    with _offline(), _quiet():
        import pyiqa
        import torch

        device = torch.device("cpu")
        if row.is_clip:
            model = pyiqa.create_metric(row.pyiqa_name, device=device, backbone=str(path))
        else:
            with _untrained_trunk() if "maniqa" in row.pyiqa_name else contextlib.nullcontext():
                model = pyiqa.create_metric(row.pyiqa_name, device=device, pretrained=False)
            known = model.net.state_dict().keys()
            state = read_checkpoint(path, lambda key: key in known).tensors
            model.net.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in state.items()})

    def score(image: Pixels) -> float:
        batch = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
        with _offline(), _quiet(), _seeded(torch), torch.no_grad():
            return float(model(batch))

    return score


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """No name of a host can be resolved, which the hub's library knows."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    before, resolve = {name: os.environ.get(name) for name in names}, socket.getaddrinfo

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError("framer_jax downloads nothing")

    os.environ.update(dict.fromkeys(names, "1"))
    socket.getaddrinfo = refuse
    try:
        yield
    finally:
        socket.getaddrinfo = resolve
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and the log of the libraries, which are about their own code."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _untrained_trunk() -> Iterator[None]:
    """Let MANIQA build its ViT without weights: it asks timm to download some, which its own weights then replace."""
    from pyiqa.archs.maniqa_arch import timm

    create = timm.create_model

    def without_weights(name: str, **options: Any) -> Any:
        return create(name, **{**options, "pretrained": False})

    timm.create_model = without_weights
    try:
        yield
    finally:
        timm.create_model = create


@contextlib.contextmanager
def _seeded(torch: Any) -> Iterator[None]:
    """Random numbers of PyTorch and NumPy from `SEED`; those of the caller go on afterwards."""
    state = np.random.get_state()  # noqa: NPY002 - what pyiqa draws its crops from
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
