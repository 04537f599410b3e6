"""Loading models of the transformers library from local files; nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

DTYPES = ("auto", "float32", "bfloat16", "float16")


def import_transformers() -> Any:
    """Import the package transformers.

    Raises:
      ImportError: transformers or PyTorch is not installed.
    """
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise ImportError(
            f"captions and embeddings need PyTorch and transformers ({error}): pip install 'framer_jax[torch]'"
        ) from error
    return transformers


def local_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a model.

    Args:
      name: a folder, or the name of a model that was downloaded from the Hugging Face hub before.

    Raises:
      FileNotFoundError: neither exists.
      ImportError: `name` is not a folder, and transformers is not installed.
    """
    if Path(name).is_dir():
        return Path(name)
    import_transformers()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name}: no such folder, and no model of that name in the local cache (models are not downloaded): "
            f"run `hf download {name}` first, or give a folder"
        ) from error


def load_pretrained(load: Any, folder: Path, what: str, **options: Any) -> Any:
    """Call `load(folder, **options)` with local files only.

    Args:
      load: a `from_pretrained` function of transformers.
      folder: folder of the model.
      what: what the error message calls the model.
      options: keyword arguments of `load`.

    Raises:
      ValueError: transformers cannot load the folder.
    """
    try:
        return load(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: no {what} that transformers can read ({reason}): download it again") from error


def load_pretrained_model(load: Any, folder: Path, what: str, **options: Any) -> Any:
    """Call `load_pretrained` for a model whose weights must all come from the files.

    Raises:
      ValueError: see `load_pretrained`; or weights are missing or have another shape, so that transformers would
        initialise them randomly.
    """
    model, info = load_pretrained(load, folder, what, output_loading_info=True, **options)
    if missing := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ValueError(
            f"{folder}: lacks {len(missing)} weights of a {what}, such as {missing[0]}: it is incomplete or another "
            "model, download it again"
        )
    return model.eval()


def device_and_dtype(dtype: str) -> tuple[Any, Any]:
    """(PyTorch device, PyTorch dtype): the GPU if there is one; 'auto' is float16 on a GPU and float32 on a CPU."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        dtype = "float16" if device.type == "cuda" else "float32"
    return device, getattr(torch, dtype)
