"""Fixtures of models with weight maps: ResShift, SinSR, their autoencoder, SwinIR and LPIPS."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion import resshift as process
from framer_jax.diffusion.resshift import SINSR_SQRT_ETA_CAP
from framer_jax.diffusion.samplers import resshift_ancestral, resshift_deterministic
from framer_jax.losses.lpips import lpips_terms
from framer_jax.models.denoiser import IMAGE
from framer_jax.models.resshift_unet import SwinUNet
from framer_jax.models.vgg import Lpips
from framer_jax.models.vq_autoencoder import VQAutoencoder, nearest_code
from framer_jax.porting.maps import to_torch
from framer_jax.porting.swin import INDEX, MASK
from framer_jax.porting.table import MAPS
from framer_jax.recipes.components.latent_space import upsample_bicubic
from framer_jax.recipes.resshift.recipe import predictor
from framer_jax.recipes.sinsr.recipe import distillation_terms, student_schedule, trajectory_endpoints
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.configurations import UnsupportedError, require, swinir_arguments, unet_arguments, vq_arguments
from tools.parity.porting import port_model, port_state


def port_unet(case: Case, model: str = "model") -> tuple[SwinUNet, dict[str, Any]]:
    """The denoiser of a fixture."""
    params, module = port_model(case, model, "resshift_unet", unet_arguments(case.config["unet"]))
    return module, params


def port_autoencoder(case: Case, model: str = "vq") -> tuple[VQAutoencoder, dict[str, Any]]:
    """The autoencoder of a fixture, whose configuration is in 'vq' or the whole one."""
    params, module = port_model(case, model, "vq_f4", vq_arguments(case.config.get("vq", case.config)))
    return module, params


def apply_and_capture(model: Any, params: dict[str, Any], *inputs: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """(the output of a module, the outputs of all modules within it)."""

    @jax.jit
    def run(params: dict[str, Any], *inputs: Any) -> Any:
        return model.apply({"params": params}, *inputs, capture_intermediates=True, **options)

    output, state = run(params, *inputs)
    return output, state["intermediates"]


def resshift_unet_family(case: Case, options: Options) -> Outputs:
    """The denoiser's output for every call, and the outputs of its blocks for the first one."""
    model, params = port_unet(case)
    for call in range(case.config["calls"]):
        x, lq = (channels_last(case.arrays[f"in/{name}{call}"]) for name in ("x", "lq"))
        if f"in/mask{call}" in case.arrays:  # unless it is the last channel of lq already
            lq = jnp.concatenate([lq, channels_last(case.arrays[f"in/mask{call}"])], axis=-1)
        t = jnp.asarray(case.arrays[f"in/t{call}"], jnp.float32)
        (y, _), inner = apply_and_capture(model, params, x, t, {IMAGE: lq})
        yield f"out/y{call}", channels_first(y)
        if call == 0:
            yield from _unet_blocks(inner)


def _unet_blocks(inner: dict[str, Any]) -> Outputs:
    def output(name: str) -> Any:
        return inner[name]["__call__"][0]

    yield "hid/time_embed", output("time")
    yield "hid/input_blocks.0", channels_first(output("conv_in"))
    yield "hid/middle_block", channels_first(output("middle_2"))
    for direction, torch_name in (("down", "input_blocks"), ("up", "output_blocks")):
        for index in range(len(inner)):
            # The original's list entry is a block, perhaps followed by a Swin layer or a resampling, or a resampling.
            candidates = [f"{direction}_{index}_{part}" for part in ("block", "swin", "to_coarse", "to_fine")]
            if present := [name for name in candidates if name in inner]:
                yield f"hid/{torch_name}.{index}", channels_first(output(present[-1]))


def resshift_vq_family(case: Case, options: Options) -> Outputs:
    """Latents, nearest codes, images with and without quantisation, and the blocks of encoder and decoder."""
    model, params = port_autoencoder(case, "model")
    zr = channels_last(case.arrays["in/zr"])
    z, inner = apply_and_capture(model, params, channels_last(case.arrays["in/x"]), method="encode")
    yield "out/z", channels_first(z)
    yield from _half_blocks(inner["encoder"], "encoder", "down", "to_coarse")
    codes, index = cast(Any, model.apply({"params": params}, zr, method="quantise"))
    yield "out/q_of_zr", channels_first(codes)
    yield "out/idx_of_zr", np.ravel(index)
    image, inner = apply_and_capture(model, params, zr, method="decode")
    yield "out/dec_q", channels_first(image)
    yield from _half_blocks(inner["decoder"], "decoder", "up", "to_fine")
    yield "out/dec_noq", channels_first(apply_and_capture(model, params, zr, method="decode", quantise=False)[0])


def _half_blocks(inner: dict[str, Any], half: str, direction: str, resampling: str) -> Outputs:
    """Blocks of the encoder or the decoder."""

    def output(name: str) -> np.ndarray:
        return channels_first(inner[name]["__call__"][0])

    yield f"hid/{half}.conv_in", output("conv_in")
    yield f"hid/{half}.mid", output("middle")
    yield f"hid/{half}.conv_out", output("conv_out")
    for level in range(len(inner)):
        blocks = [name for name in inner if name.startswith(f"{direction}_{level}_")]
        if blocks:
            # A level of the fixture ends with its resampling, or else with its last residual block.
            last = max(blocks, key=lambda name: (name.endswith(resampling), "block" in name, name))
            yield f"hid/{half}.{direction}.{level}", output(last)


def swinir_family(case: Case, options: Options) -> Outputs:
    """The output of every call, the blocks of the first one, and gradients of the mean square of its output.

    In swinir_tiny_3conv an input of the last leaky ReLU lies within 2e-7 of zero, where the gradient jumps, so
    gradients are computed in float64.
    """
    params, model = port_model(case, "model", "swinir", swinir_arguments(case.config))
    for name in (name for name in case.arrays if name.startswith("in/x")):
        (y, _), inner = apply_and_capture(model, params, channels_last(case.arrays[name]))
        yield name.replace("in/x", "out/y"), channels_first(y)
        if name == "in/x0":
            yield from _swinir_blocks(inner, len(model.depths))
    if "grad/x0" not in case.arrays:
        return

    def loss(params: dict[str, Any], image: jax.Array) -> jax.Array:
        exact = model.clone(dtype=jnp.float64)
        return jnp.square(cast(Any, exact.apply({"params": params}, image))[0]).mean()

    with jax.enable_x64(True):
        image = channels_last(case.arrays["in/x0"])
        value, (params_gradient, image_gradient) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, image)
        yield "grad/loss", value
        yield "grad/x0", channels_first(image_gradient)
        gradient = to_torch(MAPS["swinir"], params_gradient, "gradient")
        yield from ((f"grad/{key}", leaf) for key, leaf in gradient.items())


def _swinir_blocks(inner: dict[str, Any], groups: int) -> Outputs:
    def output(name: str) -> Any:
        return inner[name]["__call__"][0]

    def tokens(name: str) -> np.ndarray:
        x = np.asarray(output(name))  # [B, H, W, C] → [B, H W, C]
        return x.reshape(len(x), -1, x.shape[-1])

    yield "hid/conv_first", channels_first(output("conv_in"))
    yield from ((f"hid/layers.{group}", tokens(f"group_{group}")) for group in range(groups))
    yield "hid/norm", tokens("norm_out")
    last = "conv_body" if "conv_body" in inner else "conv_body_4"
    yield "hid/conv_after_body", channels_first(output(last))


def resshift_schedule_family(case: Case, options: Options) -> Outputs:
    """All tables of every variant."""
    common = case.config["common"]
    for name, variant in case.config["variants"].items():
        schedule = make_schedule({**common, **variant})
        yield f"out/{name}/weight_loss_mse", variational_weight(schedule)
        for table in case.arrays:
            field = table.rsplit("/", 1)[1]
            if table.startswith(f"out/{name}/") and field != "weight_loss_mse":
                yield table, getattr(schedule, field)


def variational_weight(schedule: process.Schedule) -> np.ndarray:
    """The weight of the error of x_0 in the variational bound, [T] (Eq. 8); framer_jax trains without it."""
    return 0.5 / schedule.posterior_variance_clipped * (schedule.alpha / schedule.etas) ** 2


CHAIN_FIXED: Mapping[str, tuple[Any, ...]] = {
    "schedule_name": ("exponential",),
    "scale_factor": (1.0, 1, None),
    "predict_type": ("xstart",),
    "weighted_mse": (False,),
    "latent_flag": (True,),
    "normalize_input": (True,),
}


def make_schedule(config: Mapping[str, Any], sqrt_eta_cap: float | None = None) -> process.Schedule:
    """The schedule of an original configuration.

    Args:
      config: arguments of the original's diffusion.
      sqrt_eta_cap: cap of the first √η, which SinSR's code has.

    Raises:
      UnsupportedError: a setting of which framer_jax has another value only.
    """
    require(config, CHAIN_FIXED)
    return process.make_schedule(
        steps=config["steps"],
        kappa=config["kappa"],
        min_noise_level=config["min_noise_level"],
        etas_end=config["etas_end"],
        power=config["schedule_kwargs"]["power"],
        sampling_steps=config.get("timestep_respacing"),
        sqrt_eta_cap=sqrt_eta_cap,
    )


class LatentDenoiser:
    """A denoiser in the latent space of an autoencoder, as sampling and distillation use it."""

    def __init__(self, case: Case, unet: str) -> None:
        self.vq, self.vq_params = port_autoencoder(case)
        self.unet, self.unet_params = port_unet(case, unet)
        self.lq = channels_last(case.arrays["in/y"])
        self.programs: dict[int, Any] = {}  # number of steps of the schedule → compiled estimate

    def encode(self, image: jax.Array) -> jax.Array:
        """The latent of an image."""
        return cast(Any, apply_compiled(self.vq, "encode", self.vq_params, image))

    def decode(self, z: jax.Array, quantise: bool) -> np.ndarray:
        """The image of a latent, channels first."""
        return channels_first(apply_compiled(self.vq, "decode", self.vq_params, z, quantise=quantise))

    def estimate(self, schedule: process.Schedule, x: jax.Array, index: jax.Array) -> jax.Array:
        """The recipe's estimate of the clean latent from x at an index, [B] or one for all examples."""
        if schedule.steps not in self.programs:
            self.programs[schedule.steps] = jax.jit(
                lambda params, x, index, lq: predictor(self.unet)({"denoiser": params}, schedule, x, index, lq)[0]
            )
        return self.programs[schedule.steps](self.unet_params, x, jnp.broadcast_to(index, x.shape[:1]), self.lq)


@partial(jax.jit, static_argnames=("model", "method", "quantise"))
def apply_compiled(model: Any, method: str | None, params: dict[str, Any], *inputs: jax.Array, **options: Any) -> Any:
    """Apply a module; equal modules share a compiled program."""
    return model.apply({"params": params}, *inputs, method=method, **options)


def resshift_sampling_family(case: Case, options: Options) -> Outputs:
    """Sampling loops with the fixture's noise, step by step and by the sampler, and the training loss."""
    denoiser = LatentDenoiser(case, "unet")
    upsampled = upsample_bicubic(denoiser.lq, case.config["common"]["sf"])
    yield "out/y_bicubic_x4", channels_first(upsampled[:1, :, :, :1])
    z_y, z_gt = denoiser.encode(upsampled), denoiser.encode(channels_last(case.arrays["in/gt"]))
    for name, variant in case.config["variants"].items():
        schedule = make_schedule({**case.config["common"], **variant})
        yield f"out/{name}/z_y", channels_first(z_y)
        for output, value in _sampling_loop(case, denoiser, name, schedule, z_y):
            yield f"out/{name}/{output}", value
        start = channels_last(case.arrays[f"in/{name}/init_noise"])
        count = len(
            start
        )  # one example is trained in the middle of the chain, several from its first to its last index
        last = schedule.steps - 1
        indices = [schedule.steps // 2] if count == 1 else [last * number // (count - 1) for number in range(count)]
        index = jnp.asarray(indices, jnp.int32)
        z_t = process.forward(schedule, z_gt, z_y, index, start)
        prediction = denoiser.estimate(schedule, z_t, index)
        yield f"out/{name}/train_z_t", channels_first(z_t)
        yield f"out/{name}/train_pred", channels_first(prediction)
        yield f"out/{name}/train_mse", jnp.square(prediction - z_gt).mean(axis=(1, 2, 3))


def _sampling_loop(
    case: Case, denoiser: LatentDenoiser, name: str, schedule: process.Schedule, z_y: jax.Array
) -> Outputs:
    """The latents of every step, the sampler's latent and its images."""
    arrays, last = case.arrays, schedule.steps - 1
    noise = [channels_last(arrays[f"in/{name}/init_noise"])]
    noise += [channels_last(arrays[f"in/{name}/step_noise"][index]) for index in range(last, 0, -1)]
    draws = jnp.stack(noise)
    z = process.prior(schedule, z_y, draws[0])
    yield "z_T", channels_first(z)
    for number, index in enumerate(range(last, 0, -1), start=1):
        x0 = denoiser.estimate(schedule, z, jnp.int32(index))
        z = process.posterior_step(schedule, z, x0, jnp.int32(index), draws[number])
        yield f"x0_t{index}", channels_first(x0)
        yield f"z_after_t{index}", channels_first(z)

    z_0 = resshift_ancestral(
        schedule, lambda x, index: denoiser.estimate(schedule, x, index), z_y, lambda number: draws[number]
    )
    yield "z_0", channels_first(z_0)
    vectors, codebook = z_0.reshape(-1, z_0.shape[-1]), denoiser.vq_params["codebook"]
    reference = arrays[f"out/{name}/code_idx"]
    # A latent near a tie between two codes may get either one; elsewhere the codes must agree.
    codes = np.asarray(nearest_code(vectors, jnp.asarray(codebook)))
    tied = arrays[f"out/{name}/code_gap"] <= case.tolerances[f"out/{name}/z_0"]
    yield "code_idx", np.where(tied, reference, codes)
    yield "code_gap", code_gap(np.asarray(vectors), np.asarray(codebook))
    if np.array_equal(codes, reference):
        yield "sr", denoiser.decode(z_0[:1], True)
    yield "sr_noq", denoiser.decode(z_0[:1], False)


def code_gap(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Squared distance to the second nearest code minus that to the nearest code, [N]."""
    distance = np.square(vectors[:, None].astype(np.float64) - codebook[None]).sum(axis=-1)
    nearest = np.partition(distance, 1, axis=1)
    return nearest[:, 1] - nearest[:, 0]


def sinsr_family(case: Case, options: Options) -> Outputs:
    """Coefficients of the deterministic step, the teacher's sampling loop, and the student's step with its losses."""
    schedule = make_schedule(case.config["diffusion"], SINSR_SQRT_ETA_CAP)
    for name, table in zip("kmj", process.deterministic_coefficients(schedule), strict=True):
        yield f"out/{name}", table
    yield "out/sqrt_etas", schedule.sqrt_etas
    teacher = LatentDenoiser(case, "teacher")
    z_y = teacher.encode(upsample_bicubic(teacher.lq, case.config["diffusion"]["sf"]))
    start = process.prior(schedule, z_y, channels_last(case.arrays["in/noise"]))
    yield "out/z_T", channels_first(start)
    z_0 = resshift_deterministic(schedule, lambda x, index: teacher.estimate(schedule, x, index), z_y, start)
    yield "out/teacher_z0", channels_first(z_0)
    student = LatentDenoiser(case, "student")
    one_step = channels_first(student.estimate(schedule, start, jnp.int32(schedule.steps - 1)))
    yield "out/student_pred", one_step
    yield "out/student_one_step_z0", one_step
    z_gt = teacher.encode(channels_last(case.arrays["in/gt"]))
    yield from _sinsr_losses(schedule, teacher, student, (z_gt, z_y), channels_last(case.arrays["in/noise"]))


def _sinsr_losses(
    schedule: process.Schedule,
    teacher: LatentDenoiser,
    student: LatentDenoiser,
    pair: tuple[jax.Array, jax.Array],
    noise: jax.Array,
) -> Outputs:
    """The terms of the recipe's loss per example, and the gradients of their means under the checkpoint's names."""
    fixed = student_schedule(schedule)
    endpoints = trajectory_endpoints(schedule, lambda x, index: teacher.estimate(schedule, x, index), pair[1], noise)

    @jax.jit  # so that all calls share one program; compiling them together takes a minute
    def predict(params: Any, x: jax.Array, index: jax.Array) -> Any:
        return predictor(student.unet)({"denoiser": params}, fixed, x, index, student.lq)

    def terms(params: Any) -> dict[str, jax.Array]:
        made = distillation_terms(
            schedule,
            lambda x, index: predict(params, x, index),
            pair[0],
            endpoints,
            np.ones(noise.shape[-1], np.float32),
        )
        losses = made.terms
        total = losses.distillation + losses.inverse + losses.consistency
        return {"mse": losses.distillation, "mse_xT": losses.inverse, "mse_gt": losses.consistency, "loss": total}

    values, pullback = jax.vjp(terms, student.unet_params)
    for name, value in values.items():
        yield f"out/loss/{name}", value
        mean = {other: jnp.full_like(value, float(other == name) / len(value)) for other in values}
        gradient = to_torch(MAPS["resshift_unet"], pullback(mean)[0], name)
        trainable = {key: leaf for key, leaf in gradient.items() if not key.endswith((INDEX, MASK))}
        yield f"grad/{name}/global_norm", np.sqrt(sum(float(np.square(leaf).sum()) for leaf in trainable.values()))
        yield from ((f"grad/{name}/{key}", leaf) for key, leaf in trainable.items())


def lpips_family(case: Case, options: Options) -> Outputs:
    """The distance, its terms, the features of the first image, and the gradient.

    The gradient jumps where a ReLU's input changes sign, and in lpips_vgg one input lies within 2e-7 of zero, so that
    float32 sums in another order have the other sign. The gradient's convolutions are therefore computed in float64.
    """
    if (name := f"lpips_{case.config['net']}") not in MAPS:
        raise UnsupportedError(f"net {case.config['net']!r} is not supported, only vgg and alex")
    state = case.weights["model"] | case.weights["lin"]
    params, model = port_state(state, name, name, {"net": case.config["net"]})
    images = [channels_last(case.arrays[f"in/{word}"]) for word in ("x0", "x1")]
    features, terms = jax.jit(partial(_lpips_terms, model))(images[0], images[1], params)
    yield "out/distance", np.asarray(sum(terms))[:, None, None, None]
    for number, (term, feature) in enumerate(zip(terms, features, strict=True)):
        yield f"out/layer{number}", term[:, None, None, None]
        yield f"hid/feat{number}", channels_first(feature)

    def distance(*inputs: Any) -> jax.Array:
        return jnp.stack(_lpips_terms(model.clone(dtype=jnp.float64), *inputs)[1]).sum()

    with jax.enable_x64(True):
        yield "grad/x0", channels_first(jax.jit(jax.grad(distance))(images[0], images[1], params))


def _lpips_terms(model: Lpips, x0: jax.Array, x1: jax.Array, params: dict[str, Any]) -> tuple[Any, Any]:
    """(features of x0, the terms of its distance to x1)."""
    features, heads = cast(Any, model.apply({"params": params}, x0))
    other, _ = cast(Any, model.apply({"params": params}, x1))
    return features, lpips_terms(features, other, heads)
