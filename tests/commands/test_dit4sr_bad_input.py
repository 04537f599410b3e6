"""Files of FRAMER_D that do not fit: each is one line of the command line, before any training."""

import json

import numpy as np
import pytest

from framer_jax import cli
from framer_jax.checkpoints.autoencoder import read_kl_autoencoder
from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.commands.precompute.embeddings import embed_captions, write_text
from framer_jax.commands.precompute.work import Work
from framer_jax.commands.provenance import latents_manifest
from framer_jax.data.captions import Caption, caption_line
from framer_jax.data.latents import HR_LATENT, LR_LATENT, PHOTO_INDEX
from framer_jax.data.records import file_name, write_names, write_records
from framer_jax.data.text import ENCODERS
from framer_jax.porting.diffusers_folder import INDEX, STEMS, SUFFIXES, write_folder
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from framer_jax.recipes.components.text import text_sizes
from tests.support.paths import CONFIGS
from tests.support.texts import encoder
from tests.support.tiny import RUN, TINY, config, overrides, photos, ported, random_weights

KIND = ("recipe.name=dit4sr", "recipe.space.name=kl", "recipe.text.condition=captions")

NAMES = ("photo_0.png", "photo_1.png", "photo_2.png")


def folder_of(place, max_shard_bytes=10**9, **changes):
    """A transformer in a folder in Diffusers' layout."""
    arguments = {**TINY["mmdit"], **changes}
    params = random_weights(network_shapes("mmdit", build_network("mmdit", arguments)))
    state = to_torch(MAPS["mmdit"], params, "ours", arguments)
    transformer_config = {
        "in_channels": arguments["channels"],
        "num_layers": arguments["depth"],
        "num_attention_heads": arguments["heads"],
        "attention_head_dim": arguments["head_width"],
        "dual_attention_layers": list(range(arguments["dual_blocks"])),
        "qk_norm": "rms_norm" if arguments["qk_norm"] else None,
        "joint_attention_dim": arguments["context_width"],
        "pooled_projection_dim": arguments["pooled_width"],
        "patch_size": arguments["patch"],
        "pos_embed_max_size": arguments["position_grid"],
        "sample_size": arguments["position_base"] * arguments["patch"],
    }
    write_folder(place / "transformer", transformer_config, state, max_shard_bytes)
    return place


def encoders(length=2):
    """Encoders with `length` tokens of T5, and the sizes of their embeddings."""
    sizes = text_sizes(config(*KIND, f"recipe.text.t5_length={length}")["recipe"])
    return {name: encoder(name, sizes) for name in ENCODERS}, sizes


def embeddings(place, names=NAMES, length=2):
    """Embeddings of captions of photographs."""
    text_encoders, sizes = encoders(length)
    captions = {name: Caption(name, "", f"This is {name}.") for name in names}
    embed_captions(captions, text_encoders, place, Work(len(names), 2), sizes)
    return place


def null(path, length=2):
    """The embedding of the empty text."""
    text_encoders, sizes = encoders(length)
    write_text(path, "", text_encoders, sizes)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Everything that a run needs; all of it fits."""
    place = tmp_path_factory.mktemp("bad")
    photos(place / "photos")
    ported(place / "vae.safetensors", "kl_autoencoder")
    ported(place / "base.safetensors", "mmdit")
    null(place / "null.safetensors")
    embeddings(place / "embeddings")
    digest = read_kl_autoencoder(place / "vae.safetensors").digest
    settings = config(*KIND, f"data.train={place}/photos")
    write_names(place / "latents", latents_manifest(settings, 8, 8, {}, digest, "mode", "float32"), NAMES)
    latent = np.zeros((4, 4, 4), np.float32)
    records = [{HR_LATENT: latent, LR_LATENT: latent, PHOTO_INDEX: np.int32(number % 3)} for number in range(8)]
    write_records(place / "latents" / file_name(0), records)
    return place


def knobs(place):
    files = {
        "recipe.space.checkpoint": "vae.safetensors",
        "recipe.dit4sr.base_checkpoint": "base.safetensors",
        "recipe.text.null_embedding": "null.safetensors",
        "data.train": "latents",
        "data.embeddings": "embeddings",
        "data.validation": "photos",
    }
    return overrides(*KIND, *(f"{knob}={place / file}" for knob, file in files.items()))


def error_line(capsys, *words):
    """The one line with which the command refuses."""
    capsys.readouterr()
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"framer-jax {words[0]}: ") and error.count("\n") == 1, error
    return error


def refused(place, capsys, *changes):
    sets = [word for change in (*knobs(place), *changes) for word in ("--set", change)]
    run = place / "never"
    line = error_line(capsys, "train", "--config", str(CONFIGS / "default.py"), "--workdir", str(run), *sets)
    assert not run.exists()
    return line


def test_a_folder_that_lacks_a_shard(place, capsys, tmp_path):
    folder = folder_of(tmp_path / "sd35", max_shard_bytes=40_000)
    index = json.loads((folder / "transformer" / (STEMS[0] + SUFFIXES[0] + INDEX)).read_text())
    shard = sorted(set(index["weight_map"].values()))[1]
    (folder / "transformer" / shard).unlink()
    line = refused(place, capsys, f"recipe.dit4sr.base_checkpoint={folder}")
    assert "recipe.dit4sr.base_checkpoint" in line and f"such as {shard!r}" in line and "fetch it" in line


SD3 = {"qk_norm": False, "dual_blocks": 0, "heads": 2, "head_width": 32}


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_stable_diffusion_3_is_not_3_5(place, capsys, tmp_path, layout):
    if layout == "folder":
        path = folder_of(tmp_path / "sd3", **SD3)
    else:
        path = ported(tmp_path / "sd3.safetensors", "mmdit", **SD3)
    line = refused(place, capsys, f"recipe.dit4sr.base_checkpoint={path}")
    assert "recipe.dit4sr.base_checkpoint" in line
    assert "2 blocks, 0 with dual attention, without query norms" in line
    assert "recipe.denoiser.dit4sr_transformer.dual_blocks 0, not 1" in line
    assert "recipe.denoiser.dit4sr_transformer.qk_norm False, not True" in line


def test_a_base_of_another_kind(place, capsys):
    line = refused(place, capsys, f"recipe.dit4sr.base_checkpoint={place}/vae.safetensors")
    assert "recipe.dit4sr.base_checkpoint" in line and "kl_autoencoder" in line


def test_embeddings_of_another_length(place, capsys):
    other = embeddings(place / "longer", length=4)
    line = refused(place, capsys, f"data.embeddings={other}")
    assert "longer" in line and "(5, 16)" in line and "(3, 16)" in line
    line = refused(place, capsys, f"recipe.text.null_embedding={null(place / 'long.safetensors', length=4)}")
    assert "long.safetensors" in line and "(5, 16)" in line and "(3, 16)" in line


def test_a_photograph_without_a_caption_is_named(place, capsys, tmp_path):
    other = embeddings(tmp_path / "fewer", names=NAMES[:1] + NAMES[2:])
    line = refused(place, capsys, f"data.embeddings={other}")
    assert "fewer lacks 1 of 3 photographs, such as photo_1.png" in line
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(caption_line(Caption(name, "", "A caption.")) for name in NAMES[:2]))
    sets = [word for change in (*RUN, f"data.train={place}/photos") for word in ("--set", change)]
    words = ["--config", str(CONFIGS / "default.py"), *sets, "--vae", str(place / "vae.safetensors")]
    words += ["--captions", str(captions), "--output", str(tmp_path / "none"), "--samples", "8"]
    line = error_line(capsys, "precompute", "latents", *words)
    assert "--captions lacks 1 of 3 photographs, such as photo_2.png" in line
    assert not (tmp_path / "none").exists()


def test_latents_of_another_autoencoder(place, capsys, tmp_path):
    ported(tmp_path / "other.safetensors", "kl_autoencoder", fill=0.02)
    line = refused(place, capsys, f"recipe.space.checkpoint={tmp_path}/other.safetensors")
    assert "latents: its latents are of the autoencoder" in line and "or train with theirs" in line
