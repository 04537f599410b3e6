"""`framer-jax train`: train a recipe from a configuration file, or continue where its work directory stands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.photos import HELD_OUT, TRAINING, photo_source
from framer_jax.data.pipeline import ValidationPair, make_batches, make_prepare, validation_pairs
from framer_jax.data.sources import ImageFiles, folder_source
from framer_jax.degradations.presets import preset_by_name
from framer_jax.diffusion.noise import noise_field
from framer_jax.evaluation.metrics import score
from framer_jax.inference.model import BEST, LAST, expected_params, load_model, save_model
from framer_jax.porting.weights import check_same_structure
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.latent_space import enlarge
from framer_jax.recipes.table import add_framer, build_recipe
from framer_jax.training.loop import TrainResult, train
from framer_jax.training.settings import TrainingSettings

Images = Mapping[str, np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--config", required=True, help="configuration file, such as configs/starter.py")
    parser.add_argument("--workdir", required=True, help="for checkpoints, weights and logs; resumed if it has any")
    parser.add_argument("--init", metavar="WEIGHTS", help="start from this file; 'starter' is the shipped model")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change one knob; repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and report."""
    config = to_dict(load_config(arguments.config, arguments.changes))
    result = train_from_config(config, arguments.workdir, init=arguments.init)
    print(result.message)
    return 0


def open_source(name: str, split: tuple[str, ...], crop: int) -> ImageFiles:
    """The images that a data entry names: 'photos' for the built-in ones, else a folder."""
    return photo_source(split, crop=crop) if name == "photos" else folder_source(name, crop=crop)


def train_from_config(config: dict[str, Any], workdir: str | Path, init: str | None = None) -> TrainResult:
    """Put a run together and let it go.

    Args:
      config: plain dict of a whole configuration (framer_jax.config.to_dict).
      workdir: of the run; afterwards holds `weights.safetensors` (newest) and `best.safetensors`.
      init: a weights file to start from, or 'starter'.

    Raises:
      ConfigError, ValueError, FileNotFoundError: whatever of it cannot be used, in one line.
    """
    workdir = Path(workdir)
    base = build_recipe(config["recipe"])
    recipe = add_framer(base, config["framer"])
    data = config["data"]
    multiple = base.scale * base.lr_multiple
    if data["crop"] % multiple:
        raise ConfigError(f"data.crop {data['crop']} must be a multiple of {multiple} for this recipe")
    try:
        settings = TrainingSettings(**config["training"])
    except TypeError as error:
        raise ConfigError(f"training: {error}") from error
    preset = preset_by_name(data["degradation"])
    source = open_source(data["train"], TRAINING, data["crop"])
    initial = starting_params(base, init) if init else None
    batches = make_batches(
        source,
        data["crop"],
        preset,
        settings.global_batch,
        settings.seed,
        num_threads=data["threads"],
        num_workers=data["workers"],
    )

    def export(params: Params, step: int, best: bool) -> None:
        if jax.process_index() == 0:
            for name in (LAST, BEST) if best else (LAST,):
                save_model(workdir / name, base, params, {"config": portable(config), "step": step})

    held_out = open_source(data["validation"], HELD_OUT, 1)
    pairs = validation_pairs(held_out, preset, multiple=multiple, limit=data["validation_count"])
    return train(
        recipe,
        batches,
        make_prepare(base.scale),
        settings,
        workdir,
        config_json=json.dumps(config),
        record_names=source.names,
        validate=make_validation(base, pairs) if pairs else None,
        export=export,
        initial_params=initial,
    )


def starting_params(recipe: Recipe, init: str) -> Params:
    """The parameters of a weights file ('starter': the shipped one); a ValueError names it if it does not fit."""
    model = load_model(None if init == "starter" else init)
    check_same_structure(model.params, expected_params(recipe), source=str(model.path))
    return model.params


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the folders above the data's own: a weights file may travel, paths need not."""
    named = {key: Path(config["data"][key]).name for key in ("train", "validation")}
    return {**config, "data": {**config["data"], **named}}


def central_crops(pairs: list[ValidationPair], scale: int, multiple: int, largest: int = 256) -> tuple[np.ndarray, ...]:
    """One batch of equal squares from the middle of every photograph: (hr [N, c, c, 3], lr [N, c / s, c / s, 3])."""
    side = min(largest, *(min(pair.hr.shape[:2]) for pair in pairs)) // (scale * multiple) * multiple  # LR pixels
    hr, lr = [], []
    for pair in pairs:
        top, left = ((length - side) // 2 for length in pair.lr.shape[:2])
        lr.append(pair.lr[top : top + side, left : left + side])
        top, left, size = top * scale, left * scale, side * scale
        hr.append(pair.hr[top : top + size, left : left + size])
    return np.stack(hr), np.stack(lr)


def make_validation(
    recipe: Recipe, pairs: list[ValidationPair]
) -> Callable[[Params, int], tuple[dict[str, float], Images]]:
    """A function (params, step) → (scores of central crops, pictures: LR enlarged | mean | sample | HR)."""
    hr, lr = central_crops(pairs, recipe.scale, recipe.lr_multiple)
    noise = noise_field(jax.random.key(0), len(pairs))
    samplers = {"sample": recipe.sample, **({"mean": recipe.mean} if recipe.mean else {})}
    compiled = {name: jax.jit(sampler) for name, sampler in samplers.items()}
    enlarged = np.clip(np.asarray(enlarge(jnp.asarray(lr), recipe.scale)), 0.0, 1.0)
    ids = ["psnr-y", "ssim-y", *(["niqe-framer"] if min(hr.shape[1:3]) >= 192 else [])]

    def scores(images: np.ndarray) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in score(images, hr, ids).items()}

    reference = scores(enlarged)

    def validate(params: Params, step: int) -> tuple[dict[str, float], Images]:
        results = {name: np.clip(np.asarray(f(params, recipe.frozen, lr, noise)), 0, 1) for name, f in compiled.items()}
        scalars = {f"bicubic/{name}": value for name, value in reference.items()}
        for name, images in results.items():
            scalars.update({f"{name}/{metric}": value for metric, value in scores(images).items()})
        strip = np.concatenate([enlarged, *(results[name] for name in sorted(results)), hr], axis=2)
        return scalars, {pair.name.replace("/", "_"): picture for pair, picture in zip(pairs, strip, strict=True)}

    return validate
