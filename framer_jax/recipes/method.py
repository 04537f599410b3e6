"""All that the rest of the library knows about a method: one record per method, no method's name anywhere else.

A *method* is one published way to train a super-resolver. Its package `framer_jax/recipes/<method>/` defines the record
`METHOD`, and `framer_jax/recipes/table.py` lists it. Commands, checkpoints, inference and configurations are derived
from these records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from framer_jax.knobs import knob
from framer_jax.recipes.base import PIXELS, Params, Recipe

Config = Mapping[str, Any]
"""The `recipe` section of a configuration: plain nested mappings."""

KnobPath = tuple[str, ...]
"""Path of a knob in the `recipe` section, such as ('space', 'checkpoint')."""

PURPOSES = ("training", "precompute", "inference", "description")
"""Purposes of building a recipe. Training needs all weights that its configuration names, precomputing a teacher's
outputs those that they depend on, inference those that `sample` and `mean` use; a description has names and shapes only
and reads no weights."""

WITH_TEACHER = ("training", "precompute")
"""The purposes that need a teacher."""

DTYPES = ("float32", "bfloat16")
"""Dtypes of computation, and of frozen parameters: Stable Diffusion 3.5's are published in two bytes each."""

INSTALLED = "installed"
"""The value of a knob for the weights of an installed package; a file of this name is ./installed."""

PHOTOS, CAPTIONED_PHOTOS, LATENTS, TEACHER_OUTPUTS = "photos", "captioned photos", "latents", "teacher"
"""Kinds of training data: photographs, photographs with embeddings of their captions, precomputed latents, and
precomputed outputs of a teacher."""


@dataclass(frozen=True)
class CommonSettings:
    """The knobs of the `recipe` section that every method has."""

    scale: int = knob(4, "Upsampling factor per axis.", at_least=1, at_most=16)
    dtype: str = knob("float32", "Compute dtype of the network; parameters stay float32.", choices=DTYPES)


class Pretrained(NamedTuple):
    """A published network, read from its files.

    Attributes:
      module: the flax module; call it with {'params': params}.
      params: nested dict of float32 NumPy arrays.
      source: where the weights came from, see framer_jax.porting.table.Ported.
      arguments: the constructor arguments that the files determine.
    """

    module: Any
    params: Params
    source: dict[str, Any]
    arguments: dict[str, Any]


class WeightReader(Protocol):
    """How a method reads weights that its configuration names (framer_jax.checkpoints.reader implements it).

    Every function raises FileNotFoundError, ImportError or ValueError in one line that starts with the knob's name.
    """

    def network(
        self, knob_name: str, path: str, model: str, what: str, dtype: Any = None, **demands: Any
    ) -> Pretrained:
        """The published network at `path`, of weight map `model`; `demands` are constructor arguments it must have."""
        ...

    def transformer(
        self, knob_name: str, path: str, models: tuple[str, ...], what: str, configured: Config
    ) -> tuple[str, Pretrained]:
        """The published network at `path` and its weight map, the first of `models` that the file is of.

        Arguments that its tensors do not determine, such as the number of heads, are taken from `configured`.
        """
        ...

    def trained(self, knob_name: str, path: str, what: str, config: Config, recipe: Recipe) -> Params:
        """The exported groups of a trained or published model that fits `recipe`, which `config` describes."""
        ...

    def teacher(self, knob_name: str, path: str, what: str, published: Config) -> tuple[Recipe, Params]:
        """A trained model with the recipe it belongs to; `published` describes weights that carry no configuration."""
        ...

    def lora(self, knob_name: str, path: str, model: str, params: Params) -> Params:
        """The factors of a LoRA on `params` (unstacked blocks), scaled so that every alpha equals its rank."""
        ...

    def scheduler(self, knob_name: str, path: str) -> Mapping[str, Any] | None:
        """The configuration of the scheduler in the pipeline that the network at `path` belongs to, None for none."""
        ...

    def note(self, knob_name: str, text: str) -> None:
        """Log what was assumed for a knob."""
        ...


@dataclass(frozen=True)
class WeightFile:
    """A knob that holds the path of weights or embeddings.

    Attributes:
      path: the knob.
      role: what the file is, in words: 'autoencoder', 'base model', 'text embedding', 'teacher'.
      inference: upscaling needs it too, so it is kept next to the run's weights.
      part: the part to take where the folder of a whole Diffusers pipeline is given.
      training_only: only the loss reads it: neither upscaling nor a teacher's precomputed outputs depend on it.
      unless_trained: another knob; the file is not used if that one names a trained model of framer_jax.
      installed: (config) → the file of an installed package that a knob without a path, or with 'installed', stands
        for, '' for none; None where there is no such package.
    """

    path: KnobPath
    role: str
    inference: bool = False
    part: str = ""
    training_only: bool = False
    unless_trained: KnobPath = ()
    installed: Callable[[Config], str] | None = None

    @property
    def knob(self) -> str:
        """The knob's full name, such as 'recipe.space.checkpoint'."""
        return ".".join(("recipe", *self.path))


class Build(Protocol):
    """(config, purpose, data, reader) → Recipe; see `PURPOSES` and the kinds of training data above."""

    def __call__(self, config: Config, purpose: str, data: str, reader: WeightReader) -> Recipe:
        """Build the recipe that a configuration describes."""
        ...


class BatchEntries(Protocol):
    """(config, data) → the entries that prepared batches of this kind of training data have.

    Raises ValueError for data that the method cannot train on.
    """

    def __call__(self, config: Config, data: str) -> tuple[str, ...]:
        """The entries of a batch."""
        ...


class Published(NamedTuple):
    """Weights in the layout that the method's authors publish, where that is more than one network's checkpoint.

    Attributes:
      matches: (path, config) → whether a file or folder has this layout.
      in_folder: (folder) → whether a folder may have this layout, without knowing the configuration.
      open: (path, config, purpose, reader) → the recipe and its exported groups.
      initialize: (path, config, recipe, reader) → the groups that training starts from; None where training names such
        weights by the knob of its base model.
      files: names of the files that identify such a folder; their digests together are the folder's.
      example: name of a shipped configuration, for error messages.
      content: (run) → what the authors' file would hold, arrays for tensors; None where there is no such single file.
    """

    matches: Callable[[Path, Config], bool]
    in_folder: Callable[[Path], bool]
    open: Callable[[Path, Config, str, WeightReader], tuple[Recipe, Params]]
    initialize: Callable[[Path, Config, Recipe, WeightReader], Params] | None
    files: tuple[str, ...]
    example: str
    content: Callable[[TrainedRun], dict[str, Any]] | None = None


class TrainedRun(NamedTuple):
    """A weights file of a training run, as `Method.merge` takes it.

    Attributes:
      path: the file.
      config: its configuration's `recipe` section.
      groups: the exported groups.
      dependency: (knob path) → the file that it was trained with, checked by its digest.
      reader: reads the dependencies.
    """

    path: Path
    config: Config
    groups: Params
    dependency: Callable[[KnobPath], Path]
    reader: WeightReader


class MergedNetwork(NamedTuple):
    """One whole network of a run: the trained parameters merged into the base.

    Attributes:
      params: all layers, unstacked, with the LoRA merged; nested dict of float32 NumPy arrays.
      arguments: constructor arguments of the module that the run's configuration determines.
      lora_factors: the factors of the LoRA alone, {} if none was trained.
      lora_alpha: (rank) → alpha of that LoRA.
      dependencies: the files other than the run's that went into it.
    """

    params: Params
    arguments: dict[str, Any]
    lora_factors: Params
    lora_alpha: Callable[[int], float]
    dependencies: tuple[Path, ...]


@dataclass(frozen=True)
class UpscaleProtocol:
    """How a method's released code upscales images; framer_jax.inference.protocols carries it out.

    Attributes:
      summary: one sentence for `framer-jax upscale --help` and the documentation.
      tiles: 'strided' (tiles of the LR image at a fixed stride, moved inwards at the far edges, fresh noise per tile,
        plain average), 'windows' (the image grows by its mirror image to more than whole windows of the network, and is
        one tile, or tiles at a fixed stride, averaged), 'adjacent' (the whole image, or tiles side by side, each
        computed with pixels of the image around it, which are cut off) or 'latent' (the image is upsampled first and is
        one canvas of latents; the denoiser sees tiles of it in each step, whose predictions are blended with Gaussian
        weights).
      tile: side of a tile, pixels of the result; 0 for the whole image ('windows' and 'adjacent' only).
      overlap: (tile side in LR pixels) → LR pixels that tiles share; 'adjacent': that are computed around a tile.
      color_fixes: the color fixes that may follow; the first one is the default.
      shorter_side: 'latent' only: the result's shorter side is at least this many pixels before it is resized.
      autoencoder_tiles: 'latent' only: sides of the encoder's and the decoder's tiles, pixels of the result.
    """

    summary: str
    tiles: str
    tile: int
    overlap: Callable[[int], int]
    color_fixes: tuple[str, ...]
    shorter_side: int = 0
    autoencoder_tiles: tuple[int, int] = (0, 0)


class Networks(NamedTuple):
    """The networks that a method trains.

    Attributes:
      section: 'denoiser' (in a latent space) or 'student' (LR image to HR image in one pass); also its group's name.
      names: of framer_jax.recipes.components.networks.NETWORKS; the first one is the default.
    """

    section: str
    names: tuple[str, ...]


def _entries_of_photos(config: Config, data: str) -> tuple[str, ...]:
    if data != PHOTOS:
        raise ValueError(f"recipe.name {config['name']} cannot train on {data}: set data.train to photographs")
    return PIXELS


def _no_differences(config: Config) -> list[str]:
    return []


def _any_crop(config: Config, crop: int) -> None:
    pass


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
      name: in configurations, and of its package.
      paper: authors, title, venue.
      summary: one sentence.
      networks: what it trains.
      sections: further sections of the configuration's `recipe`, name → settings class.
      build: builds the recipe.
      weight_files: knobs that hold paths.
      check_crop: (config, side of a training crop in HR pixels) raises ValueError if the knobs do not fit it.
      conditioning: what the denoiser is conditioned on besides the LR image: 'none' or 'text'.
      text_summary: (condition, caption dropout) → one line for logs and model cards, of a method with text.
      batch_entries: what its batches hold, for each kind of training data.
      sampling_overrides: names of the command line and the API (steps, guidance, …) → knobs.
      identity: knobs and sections, besides the network and the scale, that trained parameters depend on.
      sampler_knobs: knobs that the sampler's images depend on and trained parameters do not.
      records_identity: (config) → further knobs that a teacher's precomputed outputs depend on; it returns None for a
        configuration without a teacher, which can train on any records of its data. None for methods that cannot train
        on such records.
      published_network: whether published checkpoints of its network are models of this method.
      check_file_name: (name of a published file, config) raises ValueError where the name contradicts the
        configuration.
      published: another published layout, or None.
      release_differences: (config) → differences of a trained model from what the released samplers can run.
      merge: weight map → function that merges a run, which holds only what was trained, into that whole network.
      protocols: the upscaling protocols of its released code, by name.
      tiny: overrides with which a test trains it for a step; file knobs are filled in by the test.
      former_names: names that old configurations have for it.
      renamed_knobs: former knob → present knob, both within `recipe`.
    """

    name: str
    paper: str
    summary: str
    networks: Networks
    sections: Mapping[str, type]
    build: Build
    weight_files: tuple[WeightFile, ...] = ()
    check_crop: Callable[[Config, int], None] = _any_crop
    conditioning: str = "none"
    text_summary: Callable[[str, float], str] | None = None
    batch_entries: BatchEntries = _entries_of_photos
    sampling_overrides: Mapping[str, KnobPath] = field(default_factory=dict)
    identity: tuple[KnobPath, ...] = ()
    sampler_knobs: tuple[KnobPath, ...] = ()
    records_identity: Callable[[Config], dict[str, Any] | None] | None = None
    published_network: bool = False
    check_file_name: Callable[[str, Config], None] | None = None
    published: Published | None = None
    release_differences: Callable[[Config], list[str]] = _no_differences
    merge: Mapping[str, Callable[[TrainedRun], MergedNetwork]] = field(default_factory=dict)
    protocols: Mapping[str, UpscaleProtocol] = field(default_factory=dict)
    tiny: tuple[str, ...] = ()
    former_names: tuple[str, ...] = ()
    renamed_knobs: Mapping[str, str] = field(default_factory=dict)


def value_at(config: Config, path: KnobPath) -> Any:
    """The value of a knob; None where a section or the knob is missing."""
    value: Any = config
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def with_values(config: Config, values: Mapping[KnobPath, Any]) -> dict[str, Any]:
    """The configuration with other values at some knobs; the original stays as it is."""
    result = dict(config)
    for (key, *rest), value in values.items():
        result[key] = with_values(result.get(key, {}), {tuple(rest): value}) if rest else value
    return result
