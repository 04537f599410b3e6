"""Files and folders of LoRAs, and the scale that they state.

A LoRA adds alpha / rank · B A. Alpha is not in the factors: it stands in `.alpha` tensors (kohya), in the header of a
safetensors file (diffusers: `lora_adapter_metadata`; kohya: `ss_network_alpha`), or in PEFT's `adapter_config.json`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from framer_jax.porting.diffusers_folder import read_object
from framer_jax.porting.maps import StateDict
from framer_jax.porting.torch_files import read_checkpoint
from framer_jax.porting.weights import is_container

ADAPTER_CONFIG = "adapter_config.json"

FILES = ("adapter_model", "pytorch_lora_weights")
"""Stems of the weights file in a folder of PEFT and of diffusers."""

HEADER = "lora_adapter_metadata"
"""Entry of the header in which diffusers states the settings of every part of a pipeline, as JSON."""

KOHYA_ALPHA = "ss_network_alpha"

RANK = "rank"
"""Alpha in the header of our files, whose factors are scaled so that alpha equals the rank."""

OTHER_PARTS = re.compile(r"(text_encoder(_\d)?\.|lora_te\d?_)")
"""Prefixes of a pipeline's text encoders in the keys of a LoRA."""

LORA_KEY = re.compile(r"\.lora[_.](A|B|down|up|linear_layer)\b|\.lora_[AB]\.|_lora\.(down|up)\.")
"""What the keys of a LoRA, of any program, contain."""

CHANGED_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)
"""Initialisations of PEFT that also change the base's weights."""


class StatedAlpha(NamedTuple):
    """What a file states about alpha.

    Attributes:
      alpha: of every module; None if it is not stated, infinite if it is the rank.
      by_module: regex of a module's name → its alpha, as PEFT matches it.
      by_root_of_rank: the addition is scaled by alpha / √rank (rank-stabilised LoRA).
    """

    alpha: float | None = None
    by_module: Mapping[str, float] = MappingProxyType({})
    by_root_of_rank: bool = False

    def of(self, module: str, rank: int) -> float | None:
        """Alpha of a module in PyTorch's name, for a scale of alpha / rank; None if none is stated."""
        patterns = (pattern for pattern in self.by_module if re.match(rf"(.*\.)?({pattern})$", module))
        pattern = next(patterns, None)
        alpha = self.alpha if pattern is None else self.by_module[pattern]
        if alpha is None:
            return None
        if math.isinf(alpha):
            return float(rank)
        return alpha * math.sqrt(rank) if self.by_root_of_rank else alpha


UNSTATED = StatedAlpha()


class LoraFile(NamedTuple):
    """A LoRA as it was read.

    Attributes:
      tensors: key → array, without the parts of text encoders.
      stated: what the file, or the configuration next to it, states about alpha.
      notes: what was left out or cast, one sentence each.
      paths: the files, with adapter_config.json if it was read.
    """

    tensors: StateDict
    stated: StatedAlpha
    notes: tuple[str, ...]
    paths: tuple[Path, ...]


def is_lora(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder holds a LoRA, by the names in it; False if it cannot be read."""
    path = Path(path)
    if path.is_dir():
        return (path / ADAPTER_CONFIG).is_file() or _weights_in(path) is not None
    if not path.is_file():
        return False
    try:
        if is_container(path):
            with safe_open(path, framework="numpy") as file:
                keys = list(file.keys())
        else:
            keys = list(read_checkpoint(path).tensors)
    except (ValueError, ImportError, OSError, SafetensorError):
        return False
    return any(LORA_KEY.search(key) for key in keys)


def read_lora(path: str | os.PathLike[str], part: str = "") -> LoraFile:
    """Read a LoRA and the alpha that it states.

    Args:
      path: a file, or a folder of PEFT (`adapter_config.json`, `adapter_model.safetensors`) or of diffusers
        (`pytorch_lora_weights.safetensors`).
      part: the part of a pipeline that is adapted, such as 'transformer', whose settings are read from a header of
        several parts.

    Raises:
      FileNotFoundError: there is no such file, or the folder lacks its weights.
      ValueError: it cannot be read; it is another kind of adapter than a LoRA, or changes the base's weights.
      ImportError: it is a pickle, and PyTorch is not installed.
    """
    path = Path(path)
    file = _weights_in(path) if path.is_dir() else path
    if file is None:
        names = " or ".join(f"{stem}.safetensors" for stem in FILES)
        raise FileNotFoundError(f"{path}: lacks {names}: give the folder of a LoRA, or its file")
    content = read_checkpoint(file)
    paths = [file]
    stated = _stated_in_header(content.header, part, str(file))
    config = file.parent / ADAPTER_CONFIG
    if config.is_file() and (path.is_dir() or file.stem == FILES[0]):
        paths.append(config)
        stated = _stated(read_object(config), str(config))
    others = [key for key in content.tensors if OTHER_PARTS.match(key)]
    notes = content.notes
    if others and len(others) < len(content.tensors):
        notes += (f"left out {len(others)} tensors of text encoders, such as {others[0]!r}",)
        content = content._replace(
            tensors={key: value for key, value in content.tensors.items() if not OTHER_PARTS.match(key)}
        )
    return LoraFile(content.tensors, stated, notes, tuple(paths))


def _weights_in(folder: Path) -> Path | None:
    names = (f"{stem}{suffix}" for stem in FILES for suffix in (".safetensors", ".bin"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _stated_in_header(header: Mapping[str, str], part: str, source: str) -> StatedAlpha:
    """Alpha in the header of a safetensors file."""
    settings: dict[str, Any] = {}
    if HEADER in header:
        try:
            settings = dict(json.loads(header[HEADER]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source}: {HEADER} in its header is not a JSON object ({error})") from error
    settings = {**{key: value for key, value in header.items() if "alpha" in key}, **settings}
    if settings.get("lora_alpha") == RANK:
        return StatedAlpha(math.inf)
    prefix = f"{part}."
    parts = sorted({key.removesuffix("lora_alpha") for key in settings if key.endswith(".lora_alpha")})
    if f"{prefix}lora_alpha" not in settings and len(others := [name for name in parts if "text" not in name]) == 1:
        prefix = others[0]  # 'unet.' for a file that was made for another pipeline
    stated = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    if not stated:
        stated = {key: value for key, value in settings.items() if "." not in key}
    if "lora_alpha" not in stated and KOHYA_ALPHA in header:
        stated["lora_alpha"] = header[KOHYA_ALPHA]
    return _stated(stated, source)


def _stated(settings: Mapping[str, Any], source: str) -> StatedAlpha:
    """Alpha in the settings of PEFT's `LoraConfig`.

    Raises:
      ValueError: they describe another adapter than a LoRA that is added to the base.
    """
    if (kind := settings.get("peft_type", "LORA")) != "LORA":
        raise ValueError(f"{source}: an adapter of kind {kind}, not a LoRA")
    if settings.get("use_dora"):
        raise ValueError(f"{source}: a DoRA, which also scales the base's weights: it cannot be read as a LoRA")
    if isinstance(start := settings.get("init_lora_weights"), str) and CHANGED_BASE.search(start):
        raise ValueError(
            f"{source}: made with init_lora_weights {start!r}, which changes the base's weights: convert it with PEFT "
            "(save_pretrained with path_initial_model_for_weight_conversion)"
        )
    try:
        alpha = settings.get("lora_alpha")
        by_module = {str(name): float(value) for name, value in (settings.get("alpha_pattern") or {}).items()}
        stated = StatedAlpha(None if alpha is None else float(alpha), by_module, bool(settings.get("use_rslora")))
        for pattern in by_module:
            re.compile(pattern)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise ValueError(f"{source}: its lora_alpha or alpha_pattern cannot be read ({error})") from error
    if not all(math.isfinite(value) for value in (stated.alpha or 0, *by_module.values())):
        raise ValueError(f"{source}: its lora_alpha or alpha_pattern is not finite: correct it, or give --alpha")
    return stated
