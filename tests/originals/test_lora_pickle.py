"""Pickles of LoRAs as PyTorch writes them: read by its safe loader, and refused where they would run code."""

import os

import numpy as np
import pytest

from framer_jax.porting.lora_pickle import read_lora_pickle
from tests.support.originals import torch


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
