"""Rectified flow: diffusers' FlowMatchEulerDiscreteScheduler, its weights and densities for training, its pipeline."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.networks import build_network, read_network
from framer_jax.diffusion import flow
from framer_jax.diffusion.guidance import guided_prediction
from framer_jax.diffusion.samplers import flow_euler
from framer_jax.losses.flow_matching import loss_weight
from tests.originals.test_transformers import TINY, transformer
from tests.support.originals import close, diffusers, normal, tensor, torch


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.5])
@pytest.mark.parametrize("steps", [1, 2, 28])
def test_the_sigmas_are_those_of_the_scheduler(shift, steps):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    np.testing.assert_allclose(flow.training_sigmas(shift), scheduler.sigmas, rtol=1e-6)
    np.testing.assert_allclose(flow.training_sigmas(shift) * flow.TRAINING_STEPS, scheduler.timesteps, rtol=1e-6)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(flow.sampling_sigmas(steps, shift), scheduler.sigmas, rtol=2e-6)


def test_noising_and_steps_are_those_of_the_scheduler():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    x0, noise = (normal(seed, 3, 4, 4, 2) for seed in (0, 1))
    chosen = np.asarray([0, 400, 998])
    noisy = scheduler.scale_noise(tensor(x0), scheduler.timesteps[chosen], tensor(noise))
    close(flow.forward(x0, jnp.asarray(flow.training_sigmas()[chosen], jnp.float32), noise), noisy)
    steps = 5
    scheduler.set_timesteps(steps)
    x = tensor(noise)
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.sin(3 * x) + timestep / 1000, timestep, x).prev_sample
    ours = flow_euler(flow.sampling_sigmas(steps), lambda x, sigma: jnp.sin(3 * x) + sigma, noise)
    close(ours, x)


@pytest.mark.parametrize("scheme", ["none", "logit_normal", "sigma_sqrt", "cosmap"])
def test_loss_weights_are_those_of_the_trainer(scheme):
    sigma = np.linspace(0.01, 1, 50, dtype=np.float32)
    theirs = diffusers.training_utils.compute_loss_weighting_for_sd3(scheme, tensor(sigma))
    np.testing.assert_allclose(loss_weight(sigma, scheme), theirs, rtol=1e-6)


@pytest.mark.parametrize("scheme", ["mode", "uniform"])
def test_densities_of_training_times_are_those_of_the_trainer(monkeypatch, scheme):
    """The same uniform numbers for both."""
    u = np.linspace(0, 1, 40, endpoint=False, dtype=np.float32)
    monkeypatch.setattr(torch, "rand", lambda *a, **k: tensor(u))
    monkeypatch.setattr(jax.random, "uniform", lambda *a, **k: jnp.asarray(u))
    theirs = diffusers.training_utils.compute_density_for_timestep_sampling(scheme, 40, mode_scale=1.29)
    np.testing.assert_allclose(flow.draw_position(jax.random.key(0), 40, scheme, mode_scale=1.29), theirs, atol=1e-6)


def test_the_logit_normal_density_has_the_trainers_quantiles():
    theirs = diffusers.training_utils.compute_density_for_timestep_sampling(
        "logit_normal", 40_000, 0.5, 0.7, generator=torch.Generator().manual_seed(0)
    )
    ours = flow.draw_position(jax.random.key(0), 40_000, "logit_normal", logit_mean=0.5, logit_std=0.7)
    levels = np.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(np.quantile(ours, levels), np.quantile(theirs, levels), atol=8 / math.sqrt(40_000))


def test_the_pipeline_makes_the_same_latents(tmp_path):
    """Transformer, scheduler and guidance together, as StableDiffusion3Pipeline runs them."""
    model, scale, steps = transformer(qk_norm="rms_norm", dual_attention_layers=(0,)), 4.5, 3
    model.save_pretrained(tmp_path)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    absent = dict.fromkeys(f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))
    pipeline = diffusers.StableDiffusion3Pipeline(transformer=model, scheduler=scheduler, vae=None, **absent)
    pipeline.set_progress_bar_config(disable=True)
    start = normal(0, 2, 8, 6, 4)
    texts = [normal(seed, 2, 5, TINY["joint_attention_dim"]) for seed in (1, 2)]
    pooled = [normal(seed, 2, TINY["pooled_projection_dim"]) for seed in (3, 4)]
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    theirs = pipeline(
        **{name: tensor(value) for name, value in zip(names, texts + pooled, strict=True)},
        height=8 * pipeline.vae_scale_factor,
        width=6 * pipeline.vae_scale_factor,
        latents=tensor(start),
        guidance_scale=scale,
        num_inference_steps=steps,
        output_type="latent",
    ).images
    ported = read_network("mmdit", tmp_path)
    module = build_network("mmdit", ported.arguments)
    prompt, negative = ({"text": text, "pooled_text": p} for text, p in zip(texts, pooled, strict=True))

    def predict(x, time, condition):
        return module.apply({"params": ported.params}, x, time, condition)[0]

    def velocity(x, sigma):
        time = jnp.full((2,), flow.TRAINING_STEPS * sigma)
        return guided_prediction(predict, (x, time), prompt, negative, scale)

    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda x: flow_euler(flow.sampling_sigmas(steps, 3.0), velocity, x))(start)
    close(ours, theirs, 1e-4)
