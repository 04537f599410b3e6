"""Fixtures of SupResDiffGAN: its generator, its discriminator, and its diffusion process."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion import ddpm
from framer_jax.models.denoiser import LR_LATENT
from framer_jax.models.pair_discriminator import STATISTICS, PairDiscriminator
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import pair_discriminator_arguments, supresdiffgan_unet_arguments
from tools.parity.porting import port_model

DISCRIMINATOR = "pair_discriminator"


def unet_family(case: Case, options: Options) -> Outputs:
    """The estimate of the clean latent, and the taps."""
    params, model = port_model(case, "model", "supresdiffgan_unet", supresdiffgan_unet_arguments(case.config))
    x, lr = (channels_last(case.arrays[f"in/{name}"]) for name in ("x_t", "lr"))
    run = jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs))
    estimate, taps = run(params, x, jnp.asarray(case.arrays["in/alpha_bar"]), {LR_LATENT: lr})
    yield "out/x0", channels_first(estimate)
    levels = len(model.channels)
    names = [*(f"down_{level}" for level in range(levels)), "mid", *(f"up_{level}" for level in range(levels))]
    for name, tap in zip(names, taps, strict=True):
        yield f"hid/{name}", channels_first(tap)


def discriminator_family(case: Case, options: Options) -> Outputs:
    """Probabilities with both kinds of statistics, the blocks, and the moving statistics after a training call."""
    arguments = pair_discriminator_arguments(case.config)
    params, _ = port_model(case, "model", DISCRIMINATOR, arguments)
    module = PairDiscriminator(**arguments)
    variables = {"params": params["network"], STATISTICS: params["statistics"]}
    first, second = jnp.split(channels_last(case.arrays["in/x"]), 2, axis=-1)

    def probabilities(logits: Any) -> np.ndarray:
        return np.asarray(jax.nn.sigmoid(logits)).reshape(-1, 1, 1, 1)

    @jax.jit
    def evaluate(variables: Any) -> Any:
        return module.apply(variables, first, second, capture_intermediates=True)

    logits, captured = evaluate(variables)
    yield "out/eval", probabilities(logits)
    for name, output in captured["intermediates"].items():
        if name.startswith("block_"):
            yield f"hid/{name.replace('block_', 'blocks.')}", channels_first(output["__call__"][0])
    train = jax.jit(lambda variables: module.apply(variables, first, second, True, mutable=[STATISTICS]))
    logits, state = train(variables)
    yield "out/train", probabilities(logits)
    after = {"network": params["network"], "statistics": state[STATISTICS]}
    for key, value in to_torch(MAPS[DISCRIMINATOR], after, "after").items():
        yield f"out/after/{key}", value


def diffusion_family(case: Case, options: Options) -> Outputs:
    """The cosine schedule, its shorter one, the forward process, and steps of DDPM and DDIM from given estimates."""
    schedule = ddpm.cosine_schedule(case.config["T"])
    short = ddpm.cosine_schedule(case.config["steps"])
    for suffix, tables in (("", schedule), ("_short", short)):
        yield f"out/beta{suffix}", tables.betas
        yield f"out/alpha_bar{suffix}", tables.alphas_cumprod
    x0, noise, x = (channels_last(case.arrays[f"in/{name}"]) for name in ("x0", "eps", "x_t"))
    t, t1 = (jnp.asarray(case.arrays[f"in/{name}"], jnp.int32) for name in ("t", "t1"))
    yield "out/forward", channels_first(ddpm.forward(schedule, x0, t, noise))
    grid = ddpm.ddpm_grid(schedule)
    number = jnp.int32(schedule.steps - 1) - t1
    yield "out/posterior_ddpm", channels_first(ddpm.ddim_step(grid, x, x0, number, 1.0, noise))
    yield "out/posterior_ddim", channels_first(ddpm.ddim_step(grid, x, x0, number))
