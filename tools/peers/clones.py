"""Classes of the originals' repositories, imported from your clones; none of their code is included here."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("models", "ldm")
"""Top-level packages that several of the repositories have."""


def build_from(clone: str | Path, module: str, network: str, config: Mapping[str, Any]) -> Any:
    """Build a class of a clone.

    Args:
      clone: folder of the repository.
      module: its module, such as 'models.unet'.
      network: name of the class or function.
      config: its arguments.

    Raises:
      ImportError: the folder lacks the module.
    """
    return getattr(module_of(clone, module), network)(**config)


def module_of(clone: str | Path, module: str) -> Any:
    """A module of a clone; modules of the same name from another clone are forgotten.

    The clone stays first in the path, because torch.compile imports the modules of what it compiles by name.

    Raises:
      ImportError: the folder lacks it.
    """
    root = Path(clone).resolve()
    for name, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if name.split(".")[0] in PACKAGES and not (file and Path(file).is_relative_to(root)):
            del sys.modules[name]
    sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{clone} has no {module}, or a package that it needs is missing: {error}") from error


def stand_in_for_small_packages() -> None:
    """Provide the few functions of timm and einops that the originals import, where they are not installed."""

    def rearrange(x: Any, pattern: str) -> Any:
        orders = {"b c h w -> b h w c": (0, 2, 3, 1), "b h w c -> b c h w": (0, 3, 1, 2), "n d -> d n": (1, 0)}
        return x.permute(*orders[pattern])

    layers: Any = types.ModuleType("timm.models.layers")
    layers.DropPath = lambda rate: torch.nn.Identity()  # in evaluation
    layers.to_2tuple = lambda value: value if isinstance(value, tuple) else (value, value)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    einops: Any = types.ModuleType("einops")
    einops.rearrange, einops.repeat = rearrange, None
    modules = {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models")}
    modules |= {"timm.models.layers": layers, "einops": einops}
    for name, module in modules.items():
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = module
