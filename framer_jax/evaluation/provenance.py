"""What scores depend on: variants and weights of metrics, versions, the machine, and how the images were made."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from framer_jax.evaluation.learned import LearnedNetwork
from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.niqe import NiqeModel, shipped_niqe_model
from framer_jax.evaluation.scoring import ScoreSettings
from framer_jax.inference.result_files import sidecar_path
from framer_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "numpy", "pillow", "pyiqa", "torch")
"""Packages that scores may depend on."""


def metric_entries(settings: ScoreSettings) -> dict[str, Any]:
    """Metric id → its variant in words, and digests of the weights that it compares with: what makes scores comparable.

    Args:
      settings: what is computed.
    """
    metrics: dict[str, Any] = {}
    model: NiqeModel | None = settings.niqe_model
    for name in settings.ids:
        row = METRICS[name]
        metrics[name] = {"variant": row.description, "higher_is_better": row.higher_is_better}
        if row.needs_tile_lines and settings.tile_lines is not None:
            metrics[name]["tile_lines"] = settings.tile_lines._asdict()
        used = model if row.needs_niqe_model else shipped_niqe_model() if name == "niqe-framer" else None
        if used is not None:
            metrics[name] |= {"niqe_model": used.name, "niqe_model_sha256": used.sha256}
        if (network := settings.networks.get(name)) is not None:
            metrics[name]["weights"] = [dict(file) for file in network.files]
            metrics[name] |= network.settings if isinstance(network, LearnedNetwork) else {}
    return metrics


def score_metadata(settings: ScoreSettings) -> dict[str, Any]:
    """Versions, machine, crops and metrics of scores, as plain JSON."""
    return {
        "framer_jax": __version__,
        "jax": jax.__version__,
        "versions": {name: number for name in PACKAGES if (number := _version(name))},
        "machine": machine(),
        "crop_border": settings.crop_border,
        "mod_crop": settings.mod_crop,
        "metrics": metric_entries(settings),
    }


def machine() -> dict[str, Any]:
    """The machine that computes: its operating system, processor, accelerators and the version of Python."""
    devices = jax.devices()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": f"{len(devices)} of {devices[0].device_kind}",
        "backend": jax.default_backend(),
    }


def _processor() -> str:
    """The processor's name, by Linux if it says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def upscale_settings(images: Sequence[Path]) -> dict[str, Any]:
    """Summarise the records that `framer-jax upscale` writes next to its images.

    Returns:
      'recorded': the number of images that have a record; and if there are any, lists of the distinct values of
      'recipe', 'checkpoint' (its digest), 'protocol', 'mode', 'color_fix' and 'changes' (of the sampler's knobs).
    """
    summary: dict[str, Any] = {"recorded": 0}
    for image in images:
        try:
            record = json.loads(sidecar_path(image).read_text(encoding="utf-8"))
            settings = record["settings"]
            facts = {name: settings[name] for name in ("protocol", "mode", "color_fix")}
            facts |= {"recipe": record["recipe"], "changes": record.get("changes", {})}
            facts["checkpoint"] = (record["checkpoint"] or {}).get("sha256")
        except (OSError, ValueError, KeyError, TypeError):  # no record, or one of another program
            continue
        summary["recorded"] += 1
        for name, value in facts.items():
            if value not in (values := summary.setdefault(name, [])):
                values.append(value)
    return summary
