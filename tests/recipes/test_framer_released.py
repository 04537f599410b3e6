"""FRAMER's released variant through the whole recipe of DiT4SR: velocities of the blocks, clean latents, term, total.

Only the draws (sigma, noisy latent, negatives) are replaced, by those of the fixtures.
"""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.data.text import POOLED_TEXT, TEXT, TextSettings, zero_text
from framer_jax.losses.framer import released
from framer_jax.recipes import framer as framer_file
from framer_jax.recipes.components.latent_space import LatentSpace
from framer_jax.recipes.components.lr_condition import LATENT_ENTRIES
from framer_jax.recipes.components.text import NULL
from framer_jax.recipes.dit4sr import recipe as recipe_file
from framer_jax.recipes.dit4sr.recipe import DENOISER, dit4sr
from framer_jax.recipes.dit4sr.settings import Dit4srSettings
from framer_jax.recipes.framer import HEADS, framer
from tools.parity.cases import channels_first, channels_last, load_case
from tools.parity.transformers import port_transformer

LAMBDA = 0.1


class Blocks(nn.Module):
    """A denoiser whose blocks predict what its parameters hold, whatever its inputs are."""

    shape: tuple[int, ...]
    count: int
    taps: str = "prediction"
    size_multiple: int = 1

    @nn.compact
    def __call__(self, x, t, condition):
        zeros = nn.initializers.zeros
        predictions = tuple(self.param(f"block_{index}", zeros, self.shape) for index in range(self.count))
        return predictions[-1], predictions


def latents(channels):
    """A latent space whose autoencoder training on precomputed latents never uses."""
    return LatentSpace(channels, 8, encode=None, decode=None, channel_scale=np.ones(channels, np.float32))


def fix_draws(monkeypatch, noisy, sigma, negatives):
    monkeypatch.setattr(recipe_file.process, "draw_sigma", lambda *arguments: jnp.asarray(sigma, jnp.float32))
    monkeypatch.setattr(recipe_file.process, "forward", lambda *arguments: noisy)
    monkeypatch.setattr(framer_file, "draw_negatives", lambda *arguments: jnp.asarray(negatives, jnp.int32))


def evaluate(recipe, params, batch):
    def total(params):
        loss = recipe.updates[0].loss(params, recipe.frozen, {}, batch, jax.random.key(0), jnp.int32(0))
        return loss.values.mean(), loss

    return jax.jit(jax.value_and_grad(total, has_aux=True))(params)


def test_loss_and_gradients_of_the_released_code(fixtures, monkeypatch):
    """Its last student is not its teacher, so that `last_is_student`, which repeats the last tap, is off here."""
    arrays = np.load(fixtures / "framer_loss_B3.npz", allow_pickle=False)
    meta = json.loads(str(arrays["meta"]))
    layers, allowed = meta["config"]["layers"], meta["float32_vs_float64"]
    noisy, sigma = channels_last(arrays["in/noisy"]), arrays["in/sigmas"].reshape(-1)
    velocities = [*(arrays[f"in/student_{index}"] for index in range(layers)), arrays["in/teacher"]]
    sizes = TextSettings(1, 1, (1, 1), 2)
    settings, nulls = Dit4srSettings(trainable=""), {NULL: zero_text(sizes)}
    denoiser = Blocks(noisy.shape, layers + 1)
    base = dit4sr(denoiser, latents(16), 4, settings, sizes, nulls, batch_entries=LATENT_ENTRIES)
    variant = released(quantile=meta["config"]["cutoff"], temperature=meta["config"]["tau"], last_is_student=False)
    assert variant.weight == LAMBDA
    fix_draws(monkeypatch, noisy, sigma, arrays["in/neg_idx"])
    params = {f"block_{index}": channels_last(velocity) for index, velocity in enumerate(velocities)}
    clean = jax.random.normal(jax.random.key(1), noisy.shape, jnp.float32)
    (value, loss), gradient = evaluate(
        framer(base, variant), {DENOISER: params, HEADS: {}}, {"hr_latent": clean, "lr_latent": clean}
    )
    error = np.asarray(noisy) - sigma[:, None, None, None] * np.asarray(params[f"block_{layers}"]) - np.asarray(clean)
    flow = np.square(error.astype(np.float64)).mean()
    term = np.asarray(loss.metrics["framer_term"]).mean()
    assert abs(term / LAMBDA - arrays["out/loss"]) <= allowed["out/loss"]["atol"]
    assert value == pytest.approx(flow + LAMBDA * arrays["out/loss"], rel=1e-6)
    for index in range(layers):
        error_of = np.abs(
            channels_first(gradient[DENOISER][f"block_{index}"]) / LAMBDA - arrays[f"grad/student_{index}"]
        )
        assert error_of.max() <= allowed[f"grad/student_{index}"]["atol"], index
    # The teacher's gradient is that of the flow's loss alone.
    of_flow = -2.0 * sigma[:, None, None, None] * error / error.size
    np.testing.assert_allclose(gradient[DENOISER][f"block_{layers}"], of_flow, rtol=1e-5, atol=1e-9)


def by_the_specification(velocities, noisy, sigma, negatives, cutoff):
    """(students' mean of the released loss, of one image each), written out in float64: [B]; all [B, C, H, W]."""
    sigma = sigma.reshape(-1, 1, 1, 1)
    maps = [noisy.astype(np.float64) - sigma * velocity for velocity in velocities]
    spectra = [np.abs(np.fft.fftshift(np.fft.fft2(x), axes=(2, 3))) for x in maps]
    *students, teacher = spectra
    count = len(teacher)
    bound = np.quantile(teacher.reshape(count, -1), cutoff, axis=1).reshape(-1, 1, 1, 1)
    total = np.zeros(count)

    def unit(spectrum, mask):
        flat = (spectrum * mask).reshape(count, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def magnitude(spectrum, mask):
        return ((spectrum * mask).sum((2, 3)) / (mask.sum((2, 3)) + 1e-9)).mean(1)

    for index, student in enumerate(students):
        for mask, kind in ((teacher < bound, "intra"), (teacher >= bound, "inter")):
            q, k, n = (unit(x, mask) for x in (student, teacher, students[negatives[index]]))
            aligned = (q * k).sum(1)
            if kind == "intra":
                logits, label = np.stack([aligned, (q * n).sum(1)], axis=1), np.zeros(count, int)
            else:
                logits, label = np.concatenate([q @ k.T, q @ n.T], axis=1), np.arange(count)
            loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(count), label]
            of_student, of_teacher = magnitude(student, mask), magnitude(teacher, mask)
            weight = 1 / (1 + np.abs(of_teacher - of_student) / (of_student + 1e-9))
            total += weight * np.maximum(aligned, 0) * loss / len(students)
    return total


def test_on_the_features_that_the_released_code_decodes(fixtures, monkeypatch):
    case = load_case(fixtures / "dit4sr_sd35_tiny.npz")
    params, model = port_transformer(case, "dit4sr_transformer")
    denoiser = model.clone(taps="prediction")
    text, pooled = case.arrays["in/e"], case.arrays["in/p"]
    sizes = TextSettings(4, text.shape[1] - 4, (1, pooled.shape[-1] - 1), text.shape[-1])
    entries = (*LATENT_ENTRIES, TEXT, POOLED_TEXT)
    base = dit4sr(denoiser, latents(16), 4, Dit4srSettings(), sizes, {NULL: zero_text(sizes)}, params, entries)
    # With 16 x 16 x 16 numbers the quantile 0.2 is one of them, and rounding decides its side.
    variant = released(quantile=0.3)
    noisy, sigma, negatives = channels_last(case.arrays["in/x"]), case.arrays["in/t"] / 1000, [2, 0, 0]
    fix_draws(monkeypatch, noisy, sigma, negatives)
    clean = jax.random.normal(jax.random.key(1), noisy.shape, jnp.float32)
    batch = {
        "hr_latent": clean,
        "lr_latent": channels_last(case.arrays["in/lr"]),
        "text": jnp.asarray(text),
        "pooled_text": jnp.asarray(pooled),
    }
    recipe = framer(base, variant)
    loss = jax.jit(recipe.updates[0].loss)(
        {**base.initial_params, HEADS: {}}, base.frozen, {}, batch, jax.random.key(0), jnp.int32(0)
    )
    velocities = [case.arrays[f"out/decoded_{index}"] for index in range(denoiser.depth + 1)]
    expected = by_the_specification(velocities, case.arrays["in/x"], sigma, negatives, variant.quantile)
    np.testing.assert_allclose(loss.metrics["framer_term"] / LAMBDA, expected, rtol=1e-4)
    error = case.arrays["in/x"] - sigma.reshape(-1, 1, 1, 1) * velocities[-1] - channels_first(clean)
    flow = np.square(error.astype(np.float64)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(loss.values, flow + LAMBDA * expected, rtol=1e-4)
