"""Reading and writing PyTorch state dicts: safetensors, or pickles through PyTorch's safe loader.

A pickle can run any program when it is opened. PyTorch's `weights_only=True` loader opens tensors and nothing else, and
it is the only one used here. PyTorch is needed for pickles only, and imported when the first one is opened.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax  # noqa: F401 (registers bfloat16 with NumPy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from framer_jax.porting.files import atomic_write
from framer_jax.porting.maps import StateDict
from framer_jax.porting.weights import METADATA_KEY, check_container

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Entries under which trainers save a model's state dict, in order of preference."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that data-parallel and compiled models add to every key."""

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
"""Suffixes of files that PyTorch writes."""


def read_state(path: str | os.PathLike[str]) -> tuple[StateDict, str]:
    """Read a state dict.

    Args:
      path: a safetensors file, or a PyTorch pickle (for which the extra 'torch' must be installed).

    Returns:
      (key → array, without wrappers and prefixes, float16 and bfloat16 widened to float32;
       the wrappers and prefixes that were removed, such as 'params_ema, module.', or '').

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: it is a pickle, and PyTorch is not installed.
      ValueError: it is truncated, not a state dict, a pickle with anything but tensors, or a file of framer_jax.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    removed = []
    if wrapper := next((name for name in WRAPPERS if isinstance(content.get(name), Mapping) and content[name]), None):
        content = content[wrapper]
        removed.append(wrapper)
    for prefix in PREFIXES * 2:  # a compiled model may be wrapped for several devices, or vice versa
        if content and all(str(key).startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
            removed.append(prefix)
    invalid = [str(key) for key, value in content.items() if not (isinstance(key, str) and hasattr(value, "shape"))]
    if invalid or not content:
        raise ValueError(
            f"{path}: not a state dict of tensors (it holds {', '.join(invalid[:5]) if invalid else 'nothing'}); "
            f"known wrappers are {', '.join(WRAPPERS)}"
        )
    return {key: _to_numpy(value, f"{path}: {key!r}") for key, value in content.items()}, ", ".join(removed)


def write_state(path: str | os.PathLike[str], state: StateDict) -> None:
    """Write a state dict atomically; an older file is replaced.

    Args:
      path: '*.safetensors', or '*.pth', '*.pt', '*.ckpt' or '*.bin', for which PyTorch must be installed.
      state: key → array.

    Raises:
      ValueError: another suffix.
      ImportError: the suffix is that of a pickle, and PyTorch is not installed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        # The library writes the memory of an array as it is, whatever its strides.
        contiguous = {key: value if value.flags.c_contiguous else value.copy() for key, value in state.items()}
        with atomic_write(path) as temporary:
            save_file(contiguous, temporary, metadata={"format": "pt"})
    elif path.suffix in PICKLES:
        torch = _torch(path)
        tensors = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
        with atomic_write(path) as temporary:
            torch.save(tensors, temporary)
    else:
        suffixes = ", ".join(f"*{suffix}" for suffix in PICKLES)
        raise ValueError(f"{path}: PyTorch weights must be named *.safetensors or {suffixes}")


def _read_safetensors(path: Path) -> dict[str, Any]:
    check_container(path)
    try:
        with safe_open(path, framework="numpy") as file:
            if METADATA_KEY in (file.metadata() or {}):
                raise ValueError(
                    f"{path} is a file of framer_jax already; convert it to PyTorch weights with --to torch"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged safetensors file ({error}); fetch or write it again") from error
    except (KeyError, AttributeError, TypeError) as error:  # depends on the version of the library
        raise ValueError(f"{path}: holds tensors of a dtype that NumPy lacks ({error}); cast them first") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: cut short ({path.stat().st_size} bytes); fetch it again")
    if start[:2] != b"PK" and start[:1] != b"\x80":
        raise ValueError(f"{path}: neither a PyTorch file nor a *.safetensors file ({path.stat().st_size} bytes)")
    torch = _torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: holds Python objects in addition to tensors, or is damaged; PyTorch's safe loader refuses it, "
            "and no other is used. Save only the state dict, preferably as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: damaged or cut short ({reason}); fetch it again") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return dict(content)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: PyTorch pickles need PyTorch: pip install 'framer_jax[torch]', or use safetensors"
        ) from error
    return torch


def _to_numpy(value: Any, name: str) -> np.ndarray:
    """An array; float16 and bfloat16 become float32, which holds them exactly."""
    if not isinstance(value, np.ndarray):  # a PyTorch tensor
        value = value.detach()
        try:
            value = (value.float() if value.dtype.itemsize == 2 and value.is_floating_point() else value).numpy()
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{name} cannot be converted to NumPy: save it as a dense float32 tensor") from error
    return value.astype(np.float32) if value.dtype.name in ("float16", "bfloat16") else value
