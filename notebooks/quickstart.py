# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart
#
# Upscale a photograph, look inside the network, train a small one with FRAMER and with a loss of your own, and port a
# PyTorch checkpoint: some minutes on two CPU cores, nothing is downloaded.
#
# Install it first, from a clone: `pip install -e '.[photos,eval]'` (in a notebook, `%pip install …`). `framer-jax
# doctor` says what is missing.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import framer_jax
from framer_jax.data.photos import photo_path, photo_source

FOLDER = Path(tempfile.mkdtemp(prefix="framer_jax_"))

# %% [markdown]
# ## Upscale a photograph
#
# Name your own in place of the built-in one, a cup of coffee that no model here was trained on.

# %%
PHOTO = photo_path("coffee")

original = Image.open(PHOTO).convert("RGB")
original = original.crop((200, 100, 456, 356))  # 256x256, so that it takes seconds
small = framer_jax.degrade(original, "framer_paper", seed=0, name="coffee")  # as a bad camera would have taken it
large = framer_jax.upscale(small)  # x4, the standard model
framer_jax.write_image(FOLDER / "large.png", large)


def show(images: dict) -> None:
    """Images next to each other, in one size."""
    figure, axes = plt.subplots(1, len(images), figsize=(3.2 * len(images), 3.4))
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.imshow(np.clip(np.asarray(image), 0, 255 if np.asarray(image).dtype == np.uint8 else 1))
        axis.set_title(title)
        axis.axis("off")
    figure.tight_layout()
    plt.show()


show({"degraded, 64x64": small, "starter, 256x256": large, "original": original})

# %% [markdown]
# Exact sizes, textures without seams and more: `framer_jax.upscale(image, outscale=2.5)`, `width=1920`, `wrap=True`.
# From the command line: `framer-jax upscale photo.jpg`.
#
# ## Look inside
#
# The cosine of each layer's feature map to the last layer's, in the low and the high frequencies: what FRAMER's term
# raises.

# %%
from framer_jax.evaluation.layer_figures import DepthLine, draw_depth_bands
from framer_jax.evaluation.layers import Bands, layer_similarity
from framer_jax.evaluation.lr_pairs import degraded_pairs, halves, model_degradation

starter = framer_jax.load_model("starter")
preset = model_degradation(starter, "framer_paper")
pairs = degraded_pairs(None, preset, seed=0, multiple=starter.recipe.scale * starter.recipe.lr_multiple)
fit, measure = halves(pairs, starter.recipe.scale, starter.recipe.lr_multiple)
similarity = layer_similarity(starter.recipe, starter.params, fit, measure, jax.random.key(0))
figure = plt.figure(figsize=(8, 2.6), layout="constrained")
draw_depth_bands(figure, [DepthLine("starter", "", Bands(*similarity))])
plt.show()

# %% [markdown]
# ## Train a small network with FRAMER and your own loss
#
# A *recipe* is a way to train. This one has a small SwinIR and a loss of three lines: change it. `framer(recipe, …)` is
# the same recipe with one more term; sampling stays as it is.

# %%
from framer_jax.data.pipeline import make_batches, make_prepare
from framer_jax.degradations.lookup import preset_by_name
from framer_jax.inference.model import UpscaleSettings
from framer_jax.inference.upscaler import upscale
from framer_jax.losses.framer import paper
from framer_jax.models.swinir import SwinIR
from framer_jax.recipes.base import Loss
from framer_jax.recipes.components.one_pass import one_pass_recipe, predictor
from framer_jax.recipes.framer import framer
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.state import inference_params

SCALE, STEPS, CROP = 4, 40, 64
BATCH = max(4, jax.device_count())

student = SwinIR(scale=SCALE, channels=16, depths=(2, 2), heads=2)
predict = predictor(student)


def my_loss(params, frozen, state, batch, key, step):
    """L1, and the L1 of the horizontal and vertical differences: edges count twice."""
    sr, taps = predict(params, batch["lr"], key)
    error = sr - batch["hr"]
    values = sum(
        jnp.abs(part).mean(axis=(1, 2, 3)) for part in (error, jnp.diff(error, axis=1), jnp.diff(error, axis=2))
    )
    return Loss(values, {"mine": values}, taps, state)


recipe = framer(one_pass_recipe("mine", student, SCALE, my_loss), paper(weight=0.01))

preset = preset_by_name("light_one_stage", SCALE, "released")
batches = make_batches(photo_source(crop=CROP), CROP, preset, BATCH, seed=0)
settings = TrainingSettings(steps=STEPS, global_batch=BATCH, learning_rate=5e-4, warmup_steps=5, ema_decay=0.95)
state, step = framer_jax.make_step(recipe, settings, next(batches), make_prepare(preset))

history = []
for number in range(STEPS):
    state, metrics = step(state, next(batches))
    history.append({name: float(value) for name, value in metrics.items()})
    if number % 20 == 19:
        print(f"step {number + 1}: ", {name: round(history[-1][name], 4) for name in ("mine", "framer_ratio")})
batches.close()

first, last = (np.mean([entry["mine"] for entry in part]) for part in (history[:10], history[-10:]))
print(f"loss {first:.4f} -> {last:.4f}")
assert last < first

# %%
params = inference_params(state, recipe.exported)
mine = upscale(recipe, params, small.pixels, UpscaleSettings(tile=64, overlap=8))
show({"degraded": small, f"mine, {STEPS} steps": mine, "starter": large, "original": original})

# %% [markdown]
# Forty steps are a beginning; the same from the command line, with checkpoints, logs and validation:
# `framer-jax train --config starter --workdir runs/mine --set framer.variant=paper`.
#
# ## Port a PyTorch checkpoint
#
# `framer_jax.port` converts between PyTorch's names and layouts and ours, both ways, and refuses what does not fit.
# Here the network that was just trained goes to PyTorch's names and back; for published weights, name their file.

# %%
from framer_jax.porting.weights import load_weights, save_weights

arguments = {"channels": 16, "depths": [2, 2], "heads": 2}
trained = jax.device_get(params["student"])
save_weights(FOLDER / "mine.safetensors", trained, {"model": "swinir", "arguments": arguments})
there = framer_jax.port(FOLDER / "mine.safetensors", FOLDER / "torch.safetensors", "swinir", to="torch")
back = framer_jax.port(FOLDER / "torch.safetensors", FOLDER / "back.safetensors", "swinir", values={"heads": 2})
print(there["parameters"], "parameters, there and back:", back["written"])
again, _ = load_weights(FOLDER / "back.safetensors")
assert jax.tree.all(jax.tree.map(np.array_equal, trained, again))

# %% [markdown]
# On: `notebooks/framer_from_scratch.ipynb` computes FRAMER's equations step by step, `docs/extending.md` adds a method,
# `docs/train.md` trains properly.
