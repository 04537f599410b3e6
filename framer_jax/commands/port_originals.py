"""The original networks that `framer-jax port --check` compares with: how they are built, called and matched to ours.

A clone's code is imported from the folder that the user names, diffusers also from the installed package.
"""

from __future__ import annotations

import importlib
import inspect
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.models.dit4sr_transformer import resolve_lr_attention
from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import StateDict
from framer_jax.porting.table import map_named

Arguments = Mapping[str, Any]

Pair = tuple[np.ndarray, np.ndarray]
"""One layer's output: ours and the original's."""


def same_layout(layer: str, ours: np.ndarray, theirs: np.ndarray) -> Pair:
    """For originals whose layers return what ours return, except that channels come first."""
    return ours, theirs


class Original(NamedTuple):
    """How the original of a map is built and called.

    Attributes:
      make: (our constructor arguments, its state dict) → the PyTorch module with these weights, and no others; imports
        from the user's folder. A RuntimeError says that it does not take them.
      call: (module, inputs as tensors, images channels first) → its output.
      ours: (our module, inputs) → the same output of ours.
      match: (the original's layer, our output, its output) → both with their numbers in one order.
      unused: regex of layers that the original holds and never runs.
      built_from: arguments that tensors may leave open and that `make` passes on to the original.
    """

    make: Callable[[Arguments, StateDict], Any]
    call: Callable[..., Any]
    ours: Callable[..., jax.Array]
    match: Callable[[str, np.ndarray, np.ndarray], Pair] = same_layout
    unused: str = "$^"
    built_from: tuple[str, ...] = ()


def _filled(make: Callable[[Arguments], Any]) -> Callable[[Arguments, StateDict], Any]:
    """A function that builds a module and loads the given weights into it."""

    def made(arguments: Arguments, state: StateDict) -> Any:
        import torch

        module = make(arguments)
        module.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in state.items()}, strict=True)
        return module

    return made


def _make_unet(arguments: Arguments) -> Any:
    size, levels = arguments["image_size"], arguments.get("swin_levels")
    levels = range(len(arguments["multipliers"])) if levels is None else levels
    network = importlib.import_module("models.unet").UNetModelSwin
    # ResShift's network adds the channels of the LR image itself and takes its side; SinSR's takes the sum.
    adds_lq = "lq_size" in inspect.signature(network).parameters
    masked = arguments.get("condition_channels") == 4
    return network(
        image_size=size,
        in_channels=arguments["out_channels"] + (0 if adds_lq else arguments.get("condition_channels", 3)),
        model_channels=arguments["channels"],
        out_channels=arguments["out_channels"],
        num_res_blocks=list(arguments["blocks"]),
        attention_resolutions=[size >> level for level in levels],
        channel_mult=list(arguments["multipliers"]),
        num_head_channels=arguments["head_channels"],
        conv_resample=arguments.get("resampling", "conv") != "plain",
        use_scale_shift_norm=arguments.get("time", "scale_shift") == "scale_shift",
        resblock_updown=arguments.get("resampling") == "block",
        swin_depth=arguments["swin_blocks"],
        swin_embed_dim=arguments["swin_channels"],
        window_size=arguments["window"],
        mlp_ratio=arguments["mlp_ratio"],
        cond_lq=True,
        **({"lq_size": arguments["condition_size"], "cond_mask": masked} if adds_lq else {}),
    )


def _make_autoencoder(arguments: Arguments) -> Any:
    resolution, blocks = 256, arguments["blocks"]
    details = {
        "double_z": False,
        "z_channels": arguments.get("inner_channels") or arguments["latent_channels"],
        "resolution": resolution,
        "in_channels": 3,
        "out_ch": 3,
        "ch": arguments["channels"],
        "ch_mult": list(arguments["multipliers"]),
        "num_res_blocks": blocks if isinstance(blocks, int) else list(blocks),
        "attn_resolutions": [resolution >> level for level in arguments["attention_levels"]],
        "dropout": 0.0,
        "padding_mode": "zeros",
    }
    return importlib.import_module("ldm.models.autoencoder").VQModelTorch(
        ddconfig=details, n_embed=arguments["codes"], embed_dim=arguments["latent_channels"]
    )


def _make_swinir(arguments: Arguments) -> Any:
    groups, head = len(arguments["depths"]), arguments["head"]
    return importlib.import_module("models.network_swinir").SwinIR(
        img_size=arguments["image_size"],
        in_chans=arguments["image_channels"],
        embed_dim=arguments["channels"],
        depths=list(arguments["depths"]),
        num_heads=list(arguments.get("group_heads") or [arguments["heads"]] * groups),
        window_size=arguments["window"],
        mlp_ratio=arguments["mlp_ratio"],
        qkv_bias=arguments.get("qkv_bias", True),
        ape=arguments.get("absolute_positions", False),
        patch_norm=arguments.get("input_norm", True),
        upscale=arguments["scale"],
        img_range=arguments["value_range"],
        upsampler="" if head == "none" else head,
        resi_connection=arguments["residual"],
    )


def _make_rrdbnet(arguments: Arguments) -> Any:
    image, scale = arguments["image_channels"], arguments["scale"]
    channels, blocks, growth = arguments["channels"], arguments["blocks"], arguments["growth"]
    if (arguments["variant"], scale) == ("bsrgan", 2):
        network = importlib.import_module("models.network_rrdbnet").RRDBNet
        return network(in_nc=image, out_nc=image, nf=channels, nb=blocks, gc=growth, sf=scale)
    network = importlib.import_module("basicsr.archs.rrdbnet_arch").RRDBNet
    return network(image, image, scale=scale, num_feat=channels, num_block=blocks, num_grow_ch=growth)


def _make_srvgg(arguments: Arguments) -> Any:
    image, activation = arguments["image_channels"], arguments["activation"].replace("_", "")
    return importlib.import_module("basicsr.archs.srvgg_arch").SRVGGNetCompact(
        image,
        image,
        num_feat=arguments["channels"],
        num_conv=arguments["depth"],
        upscale=arguments["scale"],
        act_type=activation,
    )


def _opened(name: str, module: str, network: str) -> Callable[[Arguments, StateDict], Any]:
    """A function that loads a Diffusers folder, as `--to diffusers` writes it, with a class of the given module.

    Missing or unexpected weights and other shapes are errors; diffusers itself would draw them randomly and warn.
    """

    def made(arguments: Arguments, state: StateDict) -> Any:
        kind = getattr(importlib.import_module(module), network, None)
        if kind is None:
            raise ImportError(f"{module} has no {network}")
        make_config = map_named(name).make_config
        assert make_config is not None, name
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / name
            write_folder(folder, make_config(arguments), state)
            opened, report = kind.from_pretrained(
                folder, output_loading_info=True, low_cpu_mem_usage=False, local_files_only=True
            )
        if faults := [f"{kind}: {', '.join(map(str, keys[:4]))}" for kind, keys in report.items() if keys]:
            raise RuntimeError("; ".join(faults))
        return opened

    return made


def control_differences(arguments: Arguments) -> str:
    """Arguments with which a DiT4SR transformer differs from what its released code computes, '' if there are none."""
    released = {"variant": "released", "lr_attention": "joint", "control_scale": 1.2}
    values = {"variant": "correct", "lr_attention": "auto", **arguments}
    values["lr_attention"] = resolve_lr_attention(values["lr_attention"], values["variant"])
    return ", ".join(f"{name} {values[name]!r}" for name, value in released.items() if values.get(name, value) != value)


def _released_control_transformer(arguments: Arguments, state: StateDict) -> Any:
    if differences := control_differences(arguments):
        raise ValueError(f"--check: {differences}: the released code of DiT4SR does not compute such a model")
    return _opened("dit4sr_transformer", "model_dit4sr.transformer_sd3", "SD3Transformer2DModel")(arguments, state)


def _heads_second(layer: str, ours: np.ndarray, theirs: np.ndarray) -> Pair:
    """Norms of queries and keys see [B, heads, N, D] there, [B, N, heads, D] here."""
    if re.search(r"\.norm_(added_)?[qk]$", layer):
        theirs = theirs.transpose(0, 2, 1, 3).reshape(-1)
    return ours, theirs


def _noise_alone(layer: str, ours: np.ndarray, theirs: np.ndarray) -> Pair:
    """DiT4SR calls these layers once for the noise and again for the LR tokens, ours once for [noise | LR]."""
    if layer == "pos_embed.proj":
        ours = ours[:1]
    if re.search(r"\.to_[qkv]$", layer):
        ours = ours[:, : ours.shape[1] // 2]
    return _heads_second(layer, ours, theirs)


def _channels_before_tokens(layer: str, ours: np.ndarray, theirs: np.ndarray) -> Pair:
    """The norm before an autoencoder's attention sees [B, C, N] there."""
    if layer.endswith(".group_norm"):
        theirs = theirs.transpose(0, 2, 1).reshape(-1)
    return ours, theirs


def _call_transformer(module: Any, latent: Any, timestep: Any, context: Any, pooled: Any, *lr: Any) -> Any:
    named = {"encoder_hidden_states": context, "pooled_projections": pooled, "timestep": timestep}
    return module(latent, *lr, **named, return_dict=False)[0]


def _call_controlnet(module: Any, latent: Any, timestep: Any, text: Any, image: Any) -> Any:
    """The middle residual; theirs takes images in [0, 1], ours in [-1, 1]."""
    named = {"encoder_hidden_states": text, "controlnet_cond": 0.5 * image + 0.5}
    return module(latent, timestep, **named, return_dict=False)[1]


TRANSFORMER_ARGUMENTS = ("heads", "head_width", "position_grid", "position_base")

ORIGINALS: Mapping[str, Original] = {
    "resshift_unet": Original(
        _filled(_make_unet),
        lambda module, x, t, lq: module(x, t, lq=lq),
        lambda module, x, t, condition: module(x, t, condition)[0],
        built_from=("image_size",),
    ),
    # Without codes: a latent near a tie may rightly fall on either side.
    "vq_f4": Original(
        _filled(_make_autoencoder),
        lambda module, image: module.decode(module.encode(image), force_not_quantize=True),
        lambda module, image: module.decode(module.encode(image), quantise=False),
    ),
    "swinir": Original(
        _filled(_make_swinir),
        lambda module, image: module(image),
        lambda module, image: module(image)[0],
        built_from=("value_range", "image_size"),
    ),
    "rrdbnet": Original(
        _filled(_make_rrdbnet), lambda module, image: module(image), lambda module, image: module(image)[0]
    ),
    "srvgg": Original(
        _filled(_make_srvgg),
        lambda module, image: module(image),
        lambda module, image: module(image)[0],
        built_from=("activation",),
    ),
    "kl_autoencoder": Original(
        _opened("kl_autoencoder", "diffusers", "AutoencoderKL"),
        lambda module, image: module.decode(module.encode(image).latent_dist.mean).sample,
        lambda module, image: module(image),
        _channels_before_tokens,
        built_from=("groups",),
    ),
    # diffusers' whole forward pass rounds latents to 8 bits in between, ours does not.
    "taesd": Original(
        _opened("taesd", "diffusers", "AutoencoderTiny"),
        lambda module, image: module.decode(module.encode(image).latents).sample,
        lambda module, image: module(image),
    ),
    "mmdit": Original(
        _opened("mmdit", "diffusers", "SD3Transformer2DModel"),
        _call_transformer,
        lambda module, *inputs: module(*inputs)[0],
        _heads_second,
        built_from=TRANSFORMER_ARGUMENTS,
    ),
    "sd_unet": Original(
        _opened("sd_unet", "diffusers", "UNet2DConditionModel"),
        lambda module, latent, timestep, text: module(latent, timestep, text, return_dict=False)[0],
        lambda module, *inputs: module(*inputs)[0],
        built_from=("heads", "groups"),
    ),
    "controlnet": Original(
        _opened("controlnet", "diffusers", "ControlNetModel"),
        _call_controlnet,
        lambda module, *inputs: module(*inputs).middle,
        built_from=("heads", "groups"),
    ),
    "dit4sr_transformer": Original(
        _released_control_transformer,
        _call_transformer,
        lambda module, *inputs: module(*inputs)[0],
        _noise_alone,
        unused=r"\.attn2\.(add_[qkv]_proj|to_add_out|norm_added_[qk])$",
        built_from=TRANSFORMER_ARGUMENTS,
    ),
}
"""Name of a weight map → its original, of the repositories of ResShift, SinSR, SwinIR, BasicSR, BSRGAN and DiT4SR, and
of diffusers."""
