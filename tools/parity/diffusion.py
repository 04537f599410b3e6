"""Fixtures of variance-preserving processes: Stable Diffusion's schedulers, and SupResDiffGAN's diffusion."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion import ddpm
from framer_jax.diffusion.samplers import ddim
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import Config, UnsupportedError, require

DDIM = re.compile(
    r"out/(?P<snr>ddim|zero_snr)_(?P<prediction>epsilon|v)_(?P<spacing>[a-z]+)(?P<steps>\d+)_(?P<what>\w+)"
)
"""Names of the outputs of DDIM: a network, a spacing and a number of steps, and after how many steps."""

DDPM = re.compile(r"out/ddpm_(?P<prediction>epsilon|v)_(?P<spacing>[a-z]+)(?P<steps>\d+)_(?P<number>\d+)")
"""Names of the outputs of DDPM: a network, a spacing, a number of steps, and a position in the grid."""


def schedule_of(config: Config, zero_terminal_snr: bool = False) -> ddpm.Schedule:
    """The schedule of a configuration of diffusers' schedulers.

    Raises:
      UnsupportedError: another kind of schedule.
    """
    require(config, {"beta_schedule": ("scaled_linear",), "clip_sample": (False,), "set_alpha_to_one": (False,)})
    steps, first, last = (config[name] for name in ("num_train_timesteps", "beta_start", "beta_end"))
    return ddpm.scaled_linear_schedule(steps, first, last, zero_terminal_snr)


def ddpm_family(case: Case, options: Options) -> Outputs:
    """Tables, forward process, conversions of predictions, steps of DDIM and DDPM, and zero terminal SNR."""
    schedule = schedule_of(case.config)
    x0, noise, x, output, drawn = (channels_last(case.arrays[f"in/{name}"]) for name in ("x0", "n", "x", "m", "r"))
    t = jnp.asarray(case.arrays["in/t"], jnp.int32)
    yield from _tables(schedule, x0, t, noise)
    for prediction in ("epsilon", "v"):
        yield f"out/x0_from_{prediction}", channels_first(ddpm.predicted_x0(schedule, x, t, output, prediction))
    yield "out/epsilon_from_v", channels_first(ddpm.predicted_noise(schedule, x, t, output, "v"))
    for name, prediction in (("onestep_x0", "epsilon"), ("osediff_step", "epsilon"), ("onestep_x0_v", "v")):
        yield f"out/{name}", channels_first(ddpm.one_step_x0(schedule, x, output, prediction))
    rescaled = schedule_of(case.config, zero_terminal_snr=True)
    yield "out/zero_snr_alphas_cumprod", rescaled.alphas_cumprod
    for name in case.arrays:
        if parts := DDIM.fullmatch(name):
            offset = case.config["steps_offset"] if parts["spacing"] == "leading" else 0
            used = schedule if parts["snr"] == "ddim" else rescaled
            grid = ddpm.ddim_grid(used, int(parts["steps"]), parts["spacing"], offset)
            yield name, _ddim_output(used, grid, parts["prediction"], parts["what"], x, output, drawn)
        elif parts := DDPM.fullmatch(name):
            offset = case.config["steps_offset"]
            grid = ddpm.ddpm_grid(schedule, int(parts["steps"]), parts["spacing"], offset)
            clean = _denoiser(schedule, parts["prediction"], output)
            yield name, channels_first(_step(grid, clean, x, int(parts["number"]), 1.0, drawn))


def _tables(schedule: ddpm.Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array) -> Outputs:
    """The schedule, the forward process, and v."""
    yield "out/betas", schedule.betas
    yield "out/alphas_cumprod", schedule.alphas_cumprod
    yield "out/add_noise", channels_first(ddpm.forward(schedule, x0, t, noise))
    yield "out/velocity", channels_first(ddpm.training_target(schedule, x0, t, noise, "v"))


def _denoiser(schedule: ddpm.Schedule, prediction: str, output: jax.Array) -> Any:
    """An estimate of x_0 from a network whose output is constant."""
    return lambda x, t: ddpm.predicted_x0(schedule, x, t, output, prediction)


def _step(grid: ddpm.Grid, clean: Any, x: jax.Array, number: int, eta: float, noise: jax.Array) -> jax.Array:
    index = jnp.int32(number)
    return ddpm.ddim_step(grid, x, clean(x, jnp.int32(grid.times[number])), index, eta, noise)


def _part(grid: ddpm.Grid, part: slice) -> ddpm.Grid:
    """Some steps of a grid."""
    return ddpm.Grid(grid.times[part], grid.alphas_cumprod[part], grid.alphas_cumprod_prev[part])


def _ddim_output(
    schedule: ddpm.Schedule,
    grid: ddpm.Grid,
    prediction: str,
    what: str,
    x: jax.Array,
    output: jax.Array,
    noise: jax.Array,
) -> np.ndarray:
    """The times of a grid, or x after some of its steps.

    Raises:
      UnsupportedError: the name of the output says something else.
    """
    clean = _denoiser(schedule, prediction, output)
    if what == "timesteps":
        return grid.times
    if what == "eta1":
        return channels_first(_step(grid, clean, x, 2, 1.0, noise))
    if what == "last2":
        return channels_first(ddim(_part(grid, slice(-2, None)), clean, ddim(_part(grid, slice(3)), clean, x)))
    if not (counted := re.fullmatch(r"step(\d+)", what)):
        raise UnsupportedError(f"{what!r} is not supported as the name of an output of DDIM")
    return channels_first(ddim(_part(grid, slice(int(counted[1]))), clean, x))


def stable_diffusion_schedulers(case: Case) -> Outputs:
    """The part of the schedulers' fixture that is of Stable Diffusion 2: tables, forward process and steps of DDIM."""
    schedule = schedule_of(case.config["sd2"])
    x, noise = channels_last(case.arrays["in/x"]), channels_last(case.arrays["in/n"])
    yield from _tables(schedule, x, jnp.asarray(case.arrays["in/t"], jnp.int32), noise)
    clean = _denoiser(schedule, case.config["sd2"]["prediction_type"], noise)
    for steps in case.config["ddim_steps"]:
        grid = ddpm.ddim_grid(schedule, steps)
        three = ddim(_part(grid, slice(3)), clean, x)
        yield f"out/ddim{steps}_timesteps", grid.times
        yield f"out/ddim{steps}_3steps_constant_eps", channels_first(three)
        yield f"out/ddim{steps}_then_last2", channels_first(ddim(_part(grid, slice(-2, None)), clean, three))
