"""Models of transformers that lie on this machine: nothing is fetched, and what is missing is one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def transformers() -> Any:
    """The package.

    Raises:
      ImportError: it, or PyTorch, is not installed.
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
      name: a folder, or a name on the Hugging Face hub that was fetched before.

    Raises:
      FileNotFoundError: neither is there.
      ImportError: a name, and transformers is not installed.
    """
    if Path(name).is_dir():
        return Path(name)
    transformers()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name}: no such folder, and no model of that name in the local cache; nothing is fetched at run time: "
            f"run `hf download {name}` first, or give a folder"
        ) from error


def loaded(load: Any, folder: Path, what: str, **options: Any) -> Any:
    """`load(folder, **options)` from local files alone.

    Args:
      load: a `from_pretrained` of transformers.
      folder: of the model.
      what: the error calls it.
      options: of `load`.

    Raises:
      ValueError: transformers cannot make one of the folder.
    """
    try:
        return load(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{folder}: no {what} that transformers can read ({text[:300]}): fetch it again") from error


def loaded_model(load: Any, folder: Path, what: str, **options: Any) -> Any:
    """As `loaded`, for a model: every weight comes from the files.

    Raises:
      ValueError: as `loaded`; or weights are missing or of another shape, which transformers would draw at random.
    """
    model, info = loaded(load, folder, what, output_loading_info=True, **options)
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ValueError(
            f"{folder}: lacks {len(lacking)} weights of a {what}, such as {lacking[0]}: it is of another model, or "
            "incomplete"
        )
    return model.eval()


def device_and_dtype(dtype: str) -> tuple[Any, Any]:
    """(PyTorch's device, its dtype): the GPU if there is one; 'auto' is float16 there and float32 elsewhere."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        dtype = "float16" if device.type == "cuda" else "float32"
    return device, getattr(torch, dtype)


DTYPES = ("auto", "float32", "bfloat16", "float16")
