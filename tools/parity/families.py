"""One function per family of fixtures: (case, options) → pairs of an output's name and framer_jax's value of it.

Outputs that a file does not contain may be yielded; they are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.degradations.matlab_bicubic import matlab_bicubic
from framer_jax.diffusion import flow
from framer_jax.diffusion.samplers import flow_euler
from framer_jax.evaluation import niqe
from framer_jax.frequency import bands, wavelets
from framer_jax.inference import color_fix, tiler
from framer_jax.losses.flow_matching import loss_weight, prediction_taps_to_clean
from framer_jax.losses.framer import framer_loss, released
from tools.parity import (
    adversarial,
    diffusion,
    dinov2,
    hf_extractor,
    losses,
    one_pass,
    perceptual,
    ported,
    sd_unet,
    stable_diffusion,
    supresdiffgan,
    tiny_autoencoder,
    transformers,
)
from tools.parity.cases import Case, Options, Outputs, channels_first, channels_last
from tools.parity.degradations import realesrgan_family


def framer_loss_family(case: Case, options: Options) -> Outputs:
    """The released FRAMER loss, its factors, masks and gradients."""
    arrays = case.arrays
    settings = released(quantile=case.config["cutoff"], temperature=case.config["tau"])
    noisy, sigma = channels_last(arrays["in/noisy"]), jnp.asarray(arrays["in/sigmas"].reshape(-1))
    velocities = [channels_last(arrays[f"in/student_{layer}"]) for layer in range(case.config["layers"])]
    teacher = channels_last(arrays["in/teacher"])
    negatives = jnp.asarray(arrays["in/neg_idx"], jnp.int32)

    @jax.jit
    def loss(velocities: list[jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        taps = prediction_taps_to_clean((*velocities, teacher), noisy, sigma, "prediction")
        result = framer_loss(taps, negatives, settings)
        return result.values.mean(), result.diagnostics

    (value, diagnostics), gradients = jax.value_and_grad(loss, has_aux=True)(velocities)
    width = teacher.shape[2]
    (clean,) = prediction_taps_to_clean((teacher,), noisy, sigma, "prediction")
    magnitude = jnp.abs(bands.spectrum(clean))

    def centred(half: jax.Array) -> np.ndarray:
        return channels_first(np.fft.fftshift(np.asarray(bands.full_layout(half, width)), (1, 2)))

    low = bands.quantile_mask(magnitude, width, settings.quantile)
    yield "out/loss", value
    yield "out/avg_w_low", diagnostics["factor_low"].mean()
    yield "out/avg_w_high", diagnostics["factor_high"].mean()
    yield "out/teacher_magnitude", centred(magnitude)
    yield "out/low_mask", centred(low)
    yield "out/high_mask", centred(~low)
    for layer, gradient in enumerate(gradients):
        yield f"grad/student_{layer}", channels_first(gradient)


def color_fix_family(case: Case, options: Options) -> Outputs:
    """AdaIN and wavelet color transfer, and the weights of latent tiles (known up to a factor)."""
    output, source = case.arrays["in/output"], case.arrays["in/source"]  # [1, 3, H, W]

    def per_channel(function: Callable[..., np.ndarray], *images: np.ndarray) -> np.ndarray:
        batch = zip(*images, strict=True)
        return np.stack([[function(*channels) for channels in zip(*image, strict=True)] for image in batch])

    yield "out/adain", per_channel(color_fix.adain, output, source)
    yield "out/wavelet", per_channel(color_fix.wavelet, output, source)
    low = per_channel(color_fix.low_pass, output)
    yield "out/low", low
    yield "out/high", output - low
    for height, width in case.config["tiles"]:
        name = f"out/tile_weights_{height}x{width}"
        if name in case.arrays:
            weights = tiler.tile_weights(height, width, reference_midpoint=True)
            yield name, weights * (case.arrays[name].max() / weights.max())


def dwt_family(case: Case, options: Options) -> Outputs:
    """Wavelet bands: `haar_decompose` for Haar, `decompose` for other wavelets and odd sizes."""
    image = channels_last(case.arrays["in/img"])
    for wavelet in case.config["wavelets"]:
        for mode in case.config["modes"]:
            prefix = f"out/{wavelet}_{mode}"
            names = [name for name in case.arrays if name.startswith(f"{prefix}/level")]
            for levels in sorted({int(name.split("/level")[1].split("/")[0]) for name in names}):
                if wavelet == "haar" and not any(side % 2**levels for side in image.shape[1:3]):
                    decomposition = wavelets.haar_decompose(image, levels)
                else:
                    decomposition = wavelets.decompose(image, wavelet, levels, mode)
                yield f"{prefix}/level{levels}/LL", channels_first(decomposition.low)
                for name, value in decomposition.details[0]._asdict().items():
                    yield f"{prefix}/level{levels}/{name}", channels_first(value)


def niqe_family(case: Case, options: Options) -> Outputs:
    """Luma, window, features and scores; scores with the published pristine model need --niqe-model."""
    image = case.arrays["in/image"][None] / np.float32(255)
    plane = niqe.luma_levels(image, "studio")
    features, _ = niqe.niqe_features(plane)
    drawn = niqe.NiqeModel(
        case.arrays["in/mu"].astype(np.float64), case.arrays["in/cov"].astype(np.float64), "drawn", ""
    )
    yield "out/y_rounded", plane[0]
    yield "out/window", niqe.gaussian_window()
    yield "out/features", features[0]
    yield "out/niqe_drawn_model", niqe.gaussian_distance(features[0], drawn)
    for name in case.arrays:
        if matched := re.fullmatch(r"out/half_size_(\d+)", name):
            side = int(matched[1])
            crop = jnp.asarray(plane[:, :side, :side, None], jnp.float32) / 255.0
            yield name, matlab_bicubic(crop, scale=0.5)[0, :, :, 0]
    if options.niqe_model is not None:
        model = niqe.load_niqe_model(options.niqe_model)
        for border in case.config["crop_border"]:
            yield f"out/niqe_y_crop{border}", niqe.niqe(image, model, crop_border=border)[0]


def schedulers_family(case: Case, options: Options) -> Outputs:
    """Stable Diffusion's schedulers, and those of flow matching: tables, Euler steps and loss weights."""
    if "sd2" in case.config:
        yield from diffusion.stable_diffusion_schedulers(case)
    shift = case.config["shift"]
    x, noise = channels_last(case.arrays["in/x"]), channels_last(case.arrays["in/n"])
    yield "out/fm_train_sigmas", flow.training_sigmas(shift)
    yield "out/fm_train_timesteps", flow.training_sigmas(shift) * flow.TRAINING_STEPS
    for steps in case.config["flow_steps"]:
        sigmas = flow.sampling_sigmas(steps, shift)
        yield f"out/fm{steps}_sigmas", sigmas
        yield f"out/fm{steps}_timesteps", sigmas[:-1] * flow.TRAINING_STEPS
        three = flow_euler(sigmas[:4], lambda x, sigma: noise, x)
        yield f"out/fm{steps}_3steps_constant_v", channels_first(three)
    for name in case.arrays:
        if scheme := re.fullmatch(r"out/weight_(\w+)", name):
            yield name, loss_weight(jnp.asarray(case.arrays["in/sigmas"]), scheme[1])


FAMILIES: dict[str, Callable[[Case, Options], Outputs]] = {
    "framer_loss": framer_loss_family,
    "color_fix": color_fix_family,
    "dwt": dwt_family,
    "niqe": niqe_family,
    "realesrgan_primitives": realesrgan_family,
    "schedulers": schedulers_family,
    "ddpm": diffusion.ddpm_family,
    "resshift_schedule": ported.resshift_schedule_family,
    "resshift_unet": ported.resshift_unet_family,
    "resshift_vq": ported.resshift_vq_family,
    "resshift_sampling": ported.resshift_sampling_family,
    "swinir": ported.swinir_family,
    "rrdbnet": one_pass.rrdbnet_family,
    "srvgg": one_pass.srvgg_family,
    "realesrgan_real": one_pass.realesrgan_real_family,
    "sinsr": ported.sinsr_family,
    "lpips": ported.lpips_family,
    "lpips_real": perceptual.lpips_real_family,
    "dists_real": perceptual.dists_real_family,
    "dinov2": dinov2.dinov2_family,
    "unet_discriminator_sn": adversarial.discriminator_family,
    "inn": hf_extractor.inn_family,
    "gan_losses": adversarial.gan_losses_family,
    "kl_autoencoder": stable_diffusion.kl_autoencoder_family,
    "unet_sd2": sd_unet.unet_family,
    "unet_sd2_duallora": sd_unet.unet_lora_family,
    "controlnet": sd_unet.controlnet_family,
    "taesd": tiny_autoencoder.taesd_family,
    "mmdit": transformers.mmdit_family,
    "dit4sr": transformers.dit4sr_family,
    "tsd_loss": losses.tsd_loss_family,
    "csd_loss": losses.csd_loss_family,
    "supresdiffgan_unet": supresdiffgan.unet_family,
    "supresdiffgan_disc": supresdiffgan.discriminator_family,
    "supresdiffgan_diffusion": supresdiffgan.diffusion_family,
    "vsd_loss": losses.vsd_loss_family,
}
"""Name of a family in a fixture's `meta` → its comparison. A new family is one function and one line here."""
