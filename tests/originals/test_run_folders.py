"""Runs on Stable Diffusion 2 as folders that diffusers' own classes open strictly, each layer compared."""

import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.data.text import CLIP_H
from framer_jax.inference.model import save_model
from framer_jax.recipes.base import expected_params
from tests.commands.test_port import port
from tests.support.originals import diffusers
from tests.support.tiny import config, ported, random_weights, text

CLASSES = {"sd_unet": "UNet2DConditionModel", "controlnet": "ControlNetModel", "kl_autoencoder": "AutoencoderKL"}

RUNS = {
    "pisa_sr": ("recipe.space.name=taesd",),
    "osediff": ("recipe.space.name=kl",),
    "multistep_sd": ("recipe.space.name=taesd",),
}
"""Method → overrides of its run; the files are filled in below."""

NETWORKS = [
    ("pisa_sr", "sd_unet"),
    ("osediff", "sd_unet"),
    ("osediff", "kl_autoencoder"),
    ("multistep_sd", "sd_unet"),
    ("multistep_sd", "controlnet"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "model"), NETWORKS)
def test_a_run_is_a_folder_of_diffusers(tmp_path, method, model, capsys):
    ported(tmp_path / "base.safetensors", "sd_unet")
    space = "taesd" if "taesd" in RUNS[method][0] else "kl_autoencoder"
    changes = {"quantisation_convs": True, "shift": 0.0} if space == "kl_autoencoder" else {}
    ported(tmp_path / "space.safetensors", space, **changes)
    text(tmp_path / "null.safetensors", encoders=(CLIP_H,))
    settings = config(
        f"recipe.name={method}",
        *RUNS[method],
        f"recipe.space.checkpoint={tmp_path}/space.safetensors",
        f"recipe.{method}.base_checkpoint={tmp_path}/base.safetensors",
        f"recipe.text.null_embedding={tmp_path}/null.safetensors",
        "recipe.text.condition=null",
    )
    recipe, run = build_recipe(settings["recipe"], "inference"), tmp_path / "weights.safetensors"
    save_model(run, recipe, random_weights(expected_params(recipe)), {"config": settings, "step": 0})
    status = port(run, tmp_path / "out", "--model", model, "--to", "diffusers", "--check", "installed")
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "checked" in printed.out, "every layer was compared"
    opened, report = getattr(diffusers, CLASSES[model]).from_pretrained(
        tmp_path / "out", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values()), report
    assert sum(value.numel() for value in opened.parameters()) > 1000
