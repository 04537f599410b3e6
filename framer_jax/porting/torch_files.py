"""Reading and writing PyTorch state dicts: safetensors, or pickles through PyTorch's safe loader.

A pickle can run any program when it is opened. PyTorch's `weights_only=True` loader opens tensors and nothing else, and
it is the only one used here. PyTorch is needed for pickles only, and imported when the first one is opened.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from framer_jax.porting.files import atomic_write
from framer_jax.porting.maps import StateDict
from framer_jax.porting.ncnn import is_ncnn, read_ncnn
from framer_jax.porting.state_dicts import OPTIMIZER, IsKnown, Selection, is_optimizer, is_tensor, select
from framer_jax.porting.weights import METADATA_KEY, PICKLE_STARTS, check_container, is_container, kind_of_file

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
"""Suffixes of files that PyTorch writes."""

QUANTISED = (".SCB", ".absmax", ".quant_map", ".qweight", ".qzeros", ".scale_weight", ".weight_scale", "scaled_fp8")
"""Ends of keys of quantised weights."""


class TorchFile(NamedTuple):
    """The model's tensors in a checkpoint.

    Attributes:
      tensors: key → array, without entries and prefixes, float16, bfloat16 and float64 as float32.
      removed: the entry and the prefix that were removed, such as 'params_ema, module.', or ''.
      notes: what was taken, left out or cast, one sentence each.
      header: the texts in the header of a safetensors file.
    """

    tensors: StateDict
    removed: str = ""
    notes: tuple[str, ...] = ()
    header: Mapping[str, str] = MappingProxyType({})


class _Stored(NamedTuple):
    """A tensor of a safetensors file that has not been read yet."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def read_checkpoint(path: str | os.PathLike[str], is_known: IsKnown | None = None, is_shard: bool = False) -> TorchFile:
    """Read the model in a checkpoint; of a safetensors file only its tensors are read.

    Args:
      path: a safetensors file, or a PyTorch pickle (for which the extra 'torch' must be installed), by its content; or
        a network of ncnn, its .param or its .bin file.
      is_known: whether a key is one of the model's, without prefixes; None takes all tensors.
      is_shard: whether the file holds a part of a model: all its tensors are read and their keys are kept.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: it is a pickle, and PyTorch is not installed.
      ValueError: it is truncated, not a state dict, a pickle with anything but tensors, a program, an optimizer's
        state, or a file of framer_jax.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")

    def choose(content: Mapping[str, Any]) -> Selection:
        if not is_shard:
            return select(content, str(path), is_known)
        return Selection({key: value for key, value in content.items() if is_tensor(value)})

    if is_ncnn(path):
        return TorchFile(read_ncnn(path))
    if is_container(path) or (path.suffix == ".safetensors" and not _is_pickle(path)):
        selection, arrays, header = _read_safetensors(path, choose)
    else:
        selection = choose(read_pickle(path))
        arrays = {key: _to_numpy(value, f"{path}: {key!r}") for key, value in selection.tensors.items()}
        header = {}
    if quantised := next((key for key in arrays if key.endswith(QUANTISED)), ""):
        raise ValueError(f"{path}: holds quantised weights ({quantised!r}): take the file that is not quantised")
    doubles = [key for key, value in arrays.items() if value.dtype == np.float64]
    notes = selection.notes
    if doubles:
        notes += (f"{len(doubles)} tensors of float64, such as {doubles[0]!r}, were cast to float32",)
    return TorchFile({key: _as_float32(value) for key, value in arrays.items()}, selection.removed, notes, header)


def is_torch_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like one of PyTorch or of safetensors, or is a network of ncnn."""
    return is_ncnn(path) or is_container(Path(path)) or _is_pickle(Path(path))


def read_state(path: str | os.PathLike[str]) -> tuple[StateDict, str]:
    """(tensors, what was removed from their keys) of a checkpoint whose model is not known; see `read_checkpoint`."""
    file = read_checkpoint(path)
    return file.tensors, file.removed


def write_state(path: str | os.PathLike[str], state: StateDict, header: Mapping[str, str] | None = None) -> None:
    """Write a state dict atomically; an older file is replaced.

    Args:
      path: '*.safetensors', or '*.pth', '*.pt', '*.ckpt' or '*.bin', for which PyTorch must be installed.
      state: key → array.
      header: texts for the header of a safetensors file; a pickle has none.

    Raises:
      ValueError: another suffix.
      ImportError: the suffix is that of a pickle, and PyTorch is not installed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        # The library writes the memory of an array as it is, whatever its strides.
        contiguous = {key: value if value.flags.c_contiguous else value.copy() for key, value in state.items()}
        with atomic_write(path) as temporary:
            save_file(contiguous, temporary, metadata={"format": "pt", **(header or {})})
    elif path.suffix in PICKLES:
        torch = _torch(path)
        tensors = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
        with atomic_write(path) as temporary:
            torch.save(tensors, temporary)
    else:
        suffixes = ", ".join(f"*{suffix}" for suffix in PICKLES)
        raise ValueError(f"{path}: PyTorch weights must be named *.safetensors or {suffixes}")


def write_pickle(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write nested dicts of arrays, numbers, texts and lists as a pickle of PyTorch, atomically.

    Args:
      path: its name, which ends in '.pkl' or as that of a pickle.
      content: what it holds; arrays become tensors.

    Raises:
      ValueError: another suffix.
      ImportError: PyTorch is not installed.
    """
    path = Path(path)
    if path.suffix not in (".pkl", *PICKLES):
        raise ValueError(f"{path}: name the file *.pkl")
    torch = _torch(path)

    def converted(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: converted(each) for name, each in value.items()}
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    with atomic_write(path) as temporary:
        torch.save(converted(content), temporary)


def _read_safetensors(
    path: Path, choose: Callable[[Mapping[str, Any]], Selection]
) -> tuple[Selection, StateDict, dict[str, str]]:
    """(the tensors that were chosen, their arrays, the texts in the header)."""
    check_container(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            if METADATA_KEY in header:
                raise ValueError(
                    f"{path} is a file of framer_jax already; convert it to PyTorch weights with --to torch"
                )
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            stored = {name: _Stored(name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
            selection = choose(stored)
            arrays = {key: file.get_tensor(tensor.name) for key, tensor in selection.tensors.items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged safetensors file ({error}); fetch or write it again") from error
    except (KeyError, AttributeError, TypeError) as error:  # depends on the version of the library
        raise ValueError(f"{path}: holds tensors of a dtype that NumPy lacks ({error}); cast them first") from error
    return selection, arrays, header


def read_pickle(path: Path) -> dict[str, Any]:
    """What a pickle holds, as PyTorch's safe loader reads it: tensors, numbers, texts, lists and mappings of these.

    Raises:
      ImportError: PyTorch is not installed.
      ValueError: it holds anything else, is no mapping, is damaged or an optimizer's state; one line.
    """
    _check_pickle(path)
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
    if is_optimizer(content):
        raise ValueError(
            f"{path}: the state of an optimizer or a trainer, not weights: take the model's file of the same step, "
            f"with averaged weights if there is one (params_ema in it, or *_E.pth){_weights_nearby(path)}"
        )
    return dict(content)


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2).startswith(PICKLE_STARTS)


def _check_pickle(path: Path) -> None:
    """Refuse, without PyTorch, what is not a pickle of tensors.

    Raises:
      ValueError: it is empty, another kind of file, cut short, or a program.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(24)
    if not size:
        raise ValueError(f"{path}: an empty file (0 bytes); fetch it again")
    if not start.startswith(PICKLE_STARTS):
        but = f" but {kind}" if (kind := kind_of_file(start)) else ""
        param = f"; a network of ncnn needs {path.stem}.param next to it" if path.suffix == ".bin" else ""
        raise ValueError(f"{path}: neither a PyTorch file nor a *.safetensors file{but} ({size} bytes){param}")
    if start[:2] != b"PK":
        return
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: cut short ({size} bytes); fetch it again")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise ValueError(
            f"{path}: a TorchScript program, not only weights: save those of the model in it with "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if names and all(name.endswith(".npy") for name in names):
        raise ValueError(f"{path}: an archive of NumPy arrays, neither a PyTorch file nor a *.safetensors file")


def _weights_nearby(path: Path) -> str:
    """Names of files near a trainer's state that look like weights, as the end of a sentence; '' for none."""
    folders = (path.parent, path.parent.parent / "models")  # BasicSR: training_states/ next to models/
    names = [
        os.path.relpath(file, path.parent)
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.name.endswith((*PICKLES, ".safetensors")) and not OPTIMIZER.search(file.name) and file != path
    ]
    return f", such as {' or '.join(names[:3])}" if names else ""


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: PyTorch pickles need PyTorch: pip install 'framer_jax[torch]', or use safetensors"
        ) from error
    return torch


def _to_numpy(value: Any, name: str) -> np.ndarray:
    """An array of a PyTorch tensor; floats of less than four bytes, which NumPy may lack, become float32."""
    if isinstance(value, np.ndarray):
        return value
    value = value.detach()
    try:
        return (value.float() if value.dtype.itemsize < 4 and value.is_floating_point() else value).numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be converted to NumPy: save it as a dense float32 tensor") from error


def float32_array(value: Any, name: str) -> np.ndarray:
    """A tensor of `read_pickle` as a NumPy array; floats become float32. `name` begins the error."""
    return _as_float32(_to_numpy(value, name))


def _as_float32(value: np.ndarray) -> np.ndarray:
    """Floats as float32, which holds all of shorter types exactly; a float64 beyond its range becomes infinite."""
    is_float = jnp.issubdtype(value.dtype, np.floating)
    if not is_float or value.dtype == np.float32:
        return value
    with np.errstate(over="ignore"):
        return value.astype(np.float32)
