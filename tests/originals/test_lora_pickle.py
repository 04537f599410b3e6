"""Pickles of LoRAs as PyTorch writes them: read by its safe loader, and refused where they would run code."""

import os
from functools import partial

import jax
import numpy as np
import pytest

from framer_jax.data.text import CLIP_H
from framer_jax.inference.model import load_model
from framer_jax.porting.lora_pickle import read_lora_pickle
from tests.commands.test_port import port
from tests.support.originals import torch
from tests.support.tiny import config, ported, text, weights


class Harmful:
    """Opened with pickle itself, it would run a command."""

    def __reduce__(self):
        return os.system, ("true",)


def content():
    factors = {"conv_in.lora_A.default_encoder.weight": torch.ones(2, 4, 3, 3, dtype=torch.float16)}
    factors["conv_in.lora_B.default_encoder.weight"] = torch.nn.Parameter(torch.ones(8, 2, 1, 1))
    return {"unet_lora_encoder_modules": ["conv_in"], "rank_unet": 2, "state_dict_unet": factors}


def test_the_authors_layout_is_read(tmp_path):
    torch.save(content(), tmp_path / "osediff.pkl")
    pickle = read_lora_pickle(tmp_path / "osediff.pkl")
    assert pickle.ranks == {"rank_unet": 2} and pickle.modules == {"unet_lora_encoder_modules": ("conv_in",)}
    assert {value.dtype for value in pickle.tensors["unet"].values()} == {np.dtype("float32")}


def test_a_program_is_refused(tmp_path):
    torch.save({**content(), "rank_vae": Harmful()}, tmp_path / "osediff.pkl")
    with pytest.raises(ValueError, match="PyTorch's safe loader refuses it, and no other is used") as caught:
        read_lora_pickle(tmp_path / "osediff.pkl")
    assert "\n" not in str(caught.value)


def test_a_run_is_written_as_its_authors_file_and_read_again(tmp_path, capsys):
    ported(tmp_path / "base.safetensors", "sd_unet")
    ported(tmp_path / "space.safetensors", "taesd")
    text(tmp_path / "null.safetensors", encoders=(CLIP_H,))
    changes = (
        "recipe.name=pisa_sr",
        "recipe.space.name=taesd",
        f"recipe.space.checkpoint={tmp_path}/space.safetensors",
        f"recipe.pisa_sr.base_checkpoint={tmp_path}/base.safetensors",
        f"recipe.text.null_embedding={tmp_path}/null.safetensors",
        "recipe.text.condition=null",
    )
    run = weights(tmp_path / "weights.safetensors", *changes)
    assert port(run, tmp_path / "pisa_sr.pkl", "--model", "sd_unet", "--to", "published") == 0
    assert "LoRAs of sd_unet" in capsys.readouterr().out
    trained, published = load_model(run), load_model(tmp_path / "pisa_sr.pkl", config(*changes))
    assert published.params.keys() == trained.params.keys() == {"pixel_lora", "semantic_lora"}
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), published.params, trained.params)
    assert port(run, tmp_path / "other.pkl", "--model", "controlnet", "--to", "published") == 2
    assert "a run of pisa_sr is made of sd_unet, not controlnet" in capsys.readouterr().err
    assert port(run, tmp_path / "other.pkl", "--model", "sd_unet", "--to", "published", "--alpha", "2") == 2
    assert "--to published writes a run as it is: omit --alpha" in capsys.readouterr().err
