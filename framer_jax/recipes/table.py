"""From a plain configuration to a recipe, by explicit tables: a new method is one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from framer_jax.data.text import Text, TextSettings, zero_text
from framer_jax.losses.framer import paper, released
from framer_jax.losses.wavelet_kd import WaveletKdSettings
from framer_jax.models.dit import DiffusionTransformer
from framer_jax.models.dit4sr_transformer import DiT4SR
from framer_jax.models.mmdit import MMDiT, arranged
from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.swinir import SwinIR
from framer_jax.models.unet import UNet
from framer_jax.trees import check_same_structure
from framer_jax.recipes.augkd import VIEWS, AugKdSettings, augkd
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.dit4sr import Dit4srSettings, dit4sr
from framer_jax.recipes.dtkd import Rise, dtkd
from framer_jax.recipes.flow import FlowSettings, flow
from framer_jax.recipes.framer import framer
from framer_jax.recipes.latent_space import LatentSpace
from framer_jax.recipes.perceptual import Perceptual, lpips_distance
from framer_jax.recipes.resshift import ResShiftSettings, resshift
from framer_jax.recipes.sampling import UNCHANGED, Sampling, changed, places_of
from framer_jax.recipes.sinsr import SinSRSettings, sinsr
from framer_jax.recipes.spaces import SPACES, pick
from framer_jax.recipes.stable_diffusion import read_base, read_lora, read_student, read_transformer
from framer_jax.recipes.swinir import swinir
from framer_jax.recipes.teacher import Teacher
from framer_jax.recipes.text import AVOIDED, NULL, WANTED, read_texts, text_settings, text_widths
from framer_jax.recipes.tsd_sr import tsd_sr
from framer_jax.recipes.tsd_sr_settings import TsdSrSettings
from framer_jax.recipes.weights_by_path import (
    BESIDE,
    Place,
    beside,
    digests,
    is_published_student,
    is_published_transformer,
    is_trained,
    pretrained_at,
    read_groups,
    required,
)

Config = Mapping[str, Any]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _tuples(config: Config) -> dict[str, Any]:
    """The keyword arguments of a settings class: lists (from JSON) become tuples."""
    return {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in config.items()}


DENOISERS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "dit": DiffusionTransformer,
    "resshift_unet": SwinUNet,
    "dit4sr": lambda out_channels, **arguments: DiT4SR(channels=out_channels, **arguments),
    "mmdit": lambda out_channels, **arguments: MMDiT(channels=out_channels, **arguments),
}

TOLD = {"dit4sr": "dit4sr", "tsd_sr": "mmdit"}
"""Recipes that tell their denoiser a text and show it the LR image as a latent → the one denoiser that they take."""

STUDENTS: dict[str, Callable[..., nn.Module]] = {"swinir": SwinIR}
"""Networks that map LR images to HR images in one pass."""

GLOBAL_DENOISERS = frozenset({"dit", *TOLD.values()})
"""Those in which every place sees every other: they work best on inputs as large as their training crops."""


PURPOSES = ("training", "inference", "description")
"""What a recipe is built for. The first needs all weights that its configuration names, the second those that `sample`
and `mean` use, the third, which only asks for names and shapes, none."""


def _perceptual(config: Config, purpose: str) -> Perceptual | None:
    section = "tsd_sr" if config["name"] == "tsd_sr" else "resshift"
    if purpose != "training" or not config[section].get("perceptual_weight"):
        return None
    model = f"lpips_{config['lpips']['net']}"
    dtype = DTYPES[config["dtype"]]
    return lpips_distance(*pretrained_at(config["lpips"]["weights"], "recipe.lpips.weights", "LPIPS", model, dtype)[:2])


def _resshift(config: Config, denoiser: nn.Module, space: LatentSpace, purpose: str) -> Recipe:
    settings = ResShiftSettings(scale=config["scale"], **config["resshift"])
    return resshift(denoiser, space, settings, _perceptual(config, purpose))


def _sinsr(config: Config, denoiser: nn.Module, space: LatentSpace, purpose: str) -> Recipe:
    chain = ResShiftSettings(scale=config["scale"], **config["resshift"])
    teacher: Params | None = None
    if purpose == "training":
        knob, what = "recipe.sinsr.teacher", "the trained ResShift denoiser (a file, not a folder)"
        path = required(config["sinsr"]["teacher"], knob, what, "resshift_unet")
        teacher = read_groups(path, {**config, "name": "resshift"}).params
        check_same_structure(teacher, expected_params(resshift(denoiser, space, chain)), f"recipe.sinsr.teacher {path}")
    weights = {key: value for key, value in config["sinsr"].items() if key != "teacher"}
    return sinsr(denoiser, space, chain, SinSRSettings(**weights), teacher)


def _flow(config: Config, denoiser: nn.Module, space: LatentSpace, purpose: str) -> Recipe:
    return flow(denoiser, space, FlowSettings(scale=config["scale"], **config["flow"]))


def _dit4sr(config: Config, denoiser: nn.Module, space: LatentSpace, purpose: str) -> Recipe:
    options = {name: value for name, value in config["dit4sr"].items() if name != "base"}
    settings, text = Dit4srSettings(scale=config["scale"], **options), text_settings(config["text"])
    if purpose == "description":
        return dit4sr(denoiser, space, settings, text, {NULL: zero_text(text)})
    path = config["dit4sr"]["base"]
    if not path and settings.trainable:
        raise ValueError(
            f"recipe.dit4sr.base is empty, and recipe.dit4sr.trainable {settings.trainable!r} leaves parameters "
            "untrained: set it to the path of Stable Diffusion 3.5's transformer, or train everything (trainable '')"
        )
    own = {name: getattr(denoiser, name) for name in ("channels", "positions", "position_base")}
    arguments = {**config["denoiser"]["dit4sr"], **text_widths(config["text"]), **own}
    base = arranged(read_base(path, arguments), denoiser) if path else None  # type: ignore[arg-type]
    return dit4sr(denoiser, space, settings, text, _texts(config, text, purpose, (WANTED, AVOIDED)), base)


def _tsd_sr(config: Config, denoiser: nn.Module, space: LatentSpace, purpose: str) -> Recipe:
    paths = ("base", "teacher_lora")
    options = {name: value for name, value in config["tsd_sr"].items() if name not in paths}
    settings, text = TsdSrSettings(scale=config["scale"], **options), text_settings(config["text"])
    if purpose == "description":
        return tsd_sr(denoiser, space, settings, text, {NULL: zero_text(text)})
    what = "Stable Diffusion 3's transformer"
    path = required(config["tsd_sr"]["base"], "recipe.tsd_sr.base", what, "mmdit", folder=True)
    arguments = {**config["denoiser"]["mmdit"], **text_widths(config["text"])}
    base = read_transformer("recipe.tsd_sr.base", path, arguments)
    teacher = None
    prompted = config["text"][WANTED] or config["text"]["condition"] == "captions"
    if purpose == "training" and settings.guidance != 1 and not prompted:
        raise ValueError(
            f"recipe.tsd_sr.guidance {settings.guidance} leads from the null text to a prompt, and there is none: set "
            "recipe.text.wanted or recipe.text.condition=captions, or recipe.tsd_sr.guidance=1"
        )
    if purpose == "training" and (path := config["tsd_sr"]["teacher_lora"]):
        teacher = arranged(read_lora("recipe.tsd_sr.teacher_lora", path, "mmdit", base), denoiser)  # type: ignore[arg-type]
    base = arranged(base, denoiser)  # type: ignore[arg-type]
    texts = _texts(config, text, purpose)
    return tsd_sr(denoiser, space, settings, text, texts, base, teacher, _perceptual(config, purpose))


def _texts(config: Config, sizes: TextSettings, purpose: str, any_length: tuple[str, ...] = ()) -> dict[str, Text]:
    """The texts that a recipe needs; those of training have the lengths of its captions, but for `any_length`."""
    return read_texts(config["text"], sizes, any_length if purpose == "training" else (NULL, WANTED, AVOIDED))


def _swinir(config: Config, student: nn.Module, purpose: str) -> Recipe:
    return swinir(student, config["scale"])


def _dtkd(config: Config, student: nn.Module, purpose: str) -> Recipe:
    settings = dict(config["dtkd"])
    rise = Rise(settings.pop("weight"), settings.pop("schedule"), settings.pop("ramp_steps"))
    teacher = _teacher(config, purpose) if rise.weight else None
    try:
        distance = WaveletKdSettings(**_tuples(settings))
    except ValueError as error:
        raise ValueError(str(error).replace("wavelet_kd.", "recipe.dtkd.")) from error
    return dtkd(student, config["scale"], rise, distance, teacher)


def _augkd(config: Config, student: nn.Module, purpose: str) -> Recipe:
    settings = AugKdSettings(**_tuples(config["augkd"]))
    teacher = _teacher(config, purpose) if any(map(settings.weight_of, VIEWS)) else None
    return augkd(student, config["scale"], settings, teacher)


def _teacher(config: Config, purpose: str) -> Teacher | None:
    """The trained recipe that `recipe.teacher` names."""
    if purpose != "training":
        return None
    section = config["teacher"]
    knob = "recipe.teacher.weights"
    path = required(section["weights"], knob, "the trained teacher (a file, not a folder)", "MODEL")
    trained = is_trained(path)
    if not trained and not section["published"]:
        raise ValueError(
            f"{knob} {path}: published weights carry no configuration: give recipe.teacher.published the `recipe` of "
            "the one that they belong to, as configs/dtkd_swinir_small.py does"
        )
    try:
        found = open_recipe(Path(path), None if trained else section["published"])
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{knob}: {error}" + ("" if trained else " (recipe.teacher.published)")) from error
    if found.recipe.scale != config["scale"]:
        raise ValueError(f"{knob} {path} enlarges by {found.recipe.scale}, the student by {config['scale']}")
    options = {name: section[name] for name in ("output", "samples", "compare")}
    return Teacher(found.recipe, found.params, **options)


LATENT_RECIPES: dict[str, Callable[[Config, nn.Module, LatentSpace, str], Recipe]] = {
    "resshift": _resshift,
    "sinsr": _sinsr,
    "flow": _flow,
    "dit4sr": _dit4sr,
    "tsd_sr": _tsd_sr,
}
"""Of a denoiser in a latent space."""

STUDENT_RECIPES: dict[str, Callable[[Config, nn.Module, str], Recipe]] = {
    "swinir": _swinir,
    "dtkd": _dtkd,
    "augkd": _augkd,
}
"""Of a network that maps LR images to HR images in one pass."""

READINGS = {"paper": paper, "released": released}


def build_recipe(config: Config, purpose: str = "training") -> Recipe:
    """Build the recipe that a configuration's `recipe` entry describes (configs/default.py documents its keys).

    Args:
      config: the entry.
      purpose: one of `PURPOSES`.

    Raises:
      ValueError: an unknown name; the message lists the known ones. Or the path of weights that the purpose needs is
        empty, or they are of another recipe; the message names the knob.
      FileNotFoundError, ImportError: those weights cannot be read.
    """
    dtype = pick(DTYPES, config["dtype"], "compute dtype")
    builder = pick({**LATENT_RECIPES, **STUDENT_RECIPES}, config["name"], "recipe")
    if config["name"] in STUDENT_RECIPES:
        name = config["student"]["name"]
        student = pick(STUDENTS, name, "student")(
            scale=config["scale"], dtype=dtype, **_tuples(config["student"][name])
        )
        return builder(config, student, purpose)
    space = pick(SPACES, config["space"]["name"], "latent space")(config["space"], dtype, purpose)
    name = config["denoiser"]["name"]
    make = pick(DENOISERS, name, "denoiser")
    _check_told(config["name"], name)
    arguments = _tuples(config["denoiser"][name]) | (text_widths(config["text"]) if config["name"] in TOLD else {})
    denoiser = make(out_channels=space.channels, dtype=dtype, **arguments)
    _check_grid(config, denoiser, space)
    return builder(config, denoiser, space, purpose)


def _check_told(recipe: str, denoiser: str) -> None:
    """Denoisers that are told a text, and recipes that tell one, belong together."""
    if TOLD.get(recipe, denoiser) != denoiser:
        raise ValueError(f"recipe.name {recipe} takes recipe.denoiser.name {TOLD[recipe]}, not {denoiser}")
    if recipe not in TOLD and denoiser in TOLD.values():
        fitting = ", ".join(name for name, takes in TOLD.items() if takes == denoiser)
        raise ValueError(f"recipe.denoiser.name {denoiser} is for recipe.name {fitting}, not {recipe}")


def _check_grid(config: Config, denoiser: nn.Module, space: LatentSpace) -> None:
    """The LR image must lie on the latents' grid, or on one that the denoiser halves to it."""
    if config["name"] in TOLD:  # which show it as a latent
        return
    wanted = config["scale"] << getattr(denoiser, "halvings", 0)
    if space.image_pixels_per_latent != wanted:
        raise ValueError(
            f"recipe.space {config['space']['name']!r} has a latent per {space.image_pixels_per_latent} HR pixels of a "
            f"side, but recipe.scale {config['scale']} and denoiser {config['denoiser']['name']!r} need {wanted}: use "
            "another autoencoder or scale, or resshift_unet with a condition_size that fits"
        )


def add_framer(recipe: Recipe, config: Config) -> Recipe:
    """Apply FRAMER as a configuration's `framer` entry says; reading 'none' gives the recipe back.

    Knobs that are None keep the value of the reading.

    Raises:
      ValueError: an unknown reading, or a value that a knob does not take.
    """
    if config["reading"] == "none":
        return recipe
    changes = {key: value for key, value in config.items() if key != "reading" and value is not None}
    return framer(recipe, pick(READINGS, config["reading"], "reading of FRAMER")(**changes))


class Trained(NamedTuple):
    """A recipe and its parameters, from a file.

    Attributes:
      recipe: the method.
      params: the groups of `recipe.exported`.
      metadata: of the file; 'config' is the configuration it was trained with.
      frozen_weights: digests of what else the recipe computes with, such as the autoencoder, by their knobs.
      changes: of the configuration for this use: knob → value.
    """

    recipe: Recipe
    params: Params
    metadata: dict[str, Any]
    frozen_weights: dict[str, str]
    changes: dict[Place, Any]


def open_recipe(
    path: Path, config: Config | None = None, purpose: str = "inference", sampling: Sampling = UNCHANGED
) -> Trained:
    """Read a weights file and build the recipe that it belongs to.

    Args:
      path: of a trained model of ours, or with a `config` published weights, ported or not.
      config: a configuration's `recipe` entry to use instead of the one in the file, which it must not contradict.
      purpose: of `PURPOSES`.
      sampling: what to change of the sampler.

    Raises:
      FileNotFoundError: nothing there, or not the autoencoder that the recipe needs.
      ValueError: not such a file, or one that does not fit the recipe that its configuration describes.
    """
    if config is not None and is_published_transformer(path, config):
        return _open_transformer(path, config, purpose, sampling)
    if config is not None and is_published_student(path, config):
        changes = places_of(config, sampling)
        recipe = build_recipe(wanted := changed(config, changes), purpose)
        return Trained(recipe, read_student(path, wanted, recipe), {}, digests(wanted, "inference"), changes)
    params, metadata = read_groups(path, config)
    if config is None and "config" not in metadata:
        raise ValueError(f"{path}: the weights carry no configuration, so their recipe is unknown; export them again")
    recorded = metadata.get("weights", {})
    try:
        original = metadata["config"]["recipe"] if config is None else config
        changes = places_of(original, sampling)
        wanted = changed(original, changes)
        if config is None and purpose == "inference":
            wanted = beside(wanted, path, recorded, [place for place in BESIDE if place not in changes])
        recipe = build_recipe(wanted, purpose)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: its configuration is of another version or damaged ({type(error).__name__}: {error}); "
            f"it was written by framer_jax {metadata.get('framer_jax_version', 'of unknown version')}"
        ) from error
    check_same_structure(params, expected_params(recipe), source=str(path))
    frozen = digests(wanted, "inference") if purpose == "inference" else {}
    own = frozen.keys() - {".".join(("recipe", *place)) for place in changes}
    if other := [knob for knob, digest in frozen.items() if knob in own and recorded.get(knob, digest) != digest]:
        raise ValueError(f"{path} was trained with other weights than those of {other[0]}: name the ones it belongs to")
    return Trained(recipe, params, metadata, frozen, changes)


def _open_transformer(path: Path, config: Config, purpose: str, sampling: Sampling) -> Trained:
    """A whole transformer, of DiT4SR or of Stable Diffusion: the recipe as training would start from it."""
    section = config["dit4sr"]
    if section["base"] and Path(section["base"]).resolve() != path.resolve():
        raise ValueError(
            f"{path} is a whole transformer, and recipe.dit4sr.base names another, {section['base']}: leave that empty"
        )
    if section["lora"]:
        raise ValueError(f"{path}: a transformer without the LoRA of recipe.dit4sr.lora: leave that empty")
    changes = places_of(config, sampling)
    wanted = changed(config, changes)
    try:
        recipe = build_recipe(changed(wanted, {("dit4sr", "base"): str(path)}), purpose)
    except (ValueError, FileNotFoundError) as error:  # it is no base here
        raise type(error)(str(error).replace("recipe.dit4sr.base", "weights")) from error
    return Trained(
        recipe,
        dict(recipe.initial_params),
        {},
        digests(changed(wanted, {("dit4sr", "base"): ""}), "inference"),
        changes,
    )
