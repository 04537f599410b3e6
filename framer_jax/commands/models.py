"""`framer-jax models`: the models that can be used by name, and what those need that cannot."""

from __future__ import annotations

import argparse
import json
from typing import Any

from framer_jax.inference.named_models import MODELS, locate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    models = list_models()
    if arguments.json:
        print(json.dumps(models, indent=1))
        return 0
    width = max(map(len, MODELS))
    for model in models:
        state = "ready" if model["usable"] else "missing"
        print(f"{model['name']:<{width}}  {state:<7}  {model['summary']}; weights {model['licence']}")
        details = (model["path"] if model["usable"] else "", model["needs"], model["note"])
        for detail in filter(None, details):
            print(f"{'':<{width}}           {detail}")
    return 0


def list_models() -> list[dict[str, Any]]:
    """What is known of each model: name, summary, licence, whether it is usable, path, needs, note."""
    return [
        {
            "name": name,
            "summary": model.summary,
            "licence": model.licence,
            "network": model.network,
            "usable": not location.missing,
            "path": str(location.path or ""),
            "needs": location.missing,
            "note": location.note,
        }
        for name, model in MODELS.items()
        for location in (locate(name),)
    ]
