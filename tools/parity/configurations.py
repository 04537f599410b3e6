"""What the configuration of an original model means in framer_jax: constructor arguments, or what is not supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framer_jax.models.hf_extractor import RELEASED
from framer_jax.models.swin import hidden_width
from framer_jax.porting.controlnet import CONTROL_FIXED, controlnet_arguments_of_config
from framer_jax.porting.dinov2 import PUBLISHED, gated_width
from framer_jax.porting.kl_autoencoder import arguments_of_config
from framer_jax.porting.mmdit import mmdit_arguments_of_config
from framer_jax.porting.sd_unet import UNET_FIXED as SD_UNET_FIXED
from framer_jax.porting.sd_unet import unet_arguments_of_config

Config = Mapping[str, Any]


class UnsupportedError(ValueError):
    """A family, or a configuration, that framer_jax does not have; one line that names the setting."""


def require(config: Config, supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse settings of which framer_jax has only some values; a missing setting has the first one."""
    for name, values in supported.items():
        if (value := config.get(name, values[0])) not in values:
            raise UnsupportedError(f"{name} {value!r} is not supported, only {' or '.join(map(repr, values))}")


def _refuse_unknown(config: Config, known: set[str]) -> None:
    """Refuse settings that the comparison does not know: they may change what the original computes."""
    if unknown := sorted(key for key in config.keys() - known if not key.startswith("_")):
        raise UnsupportedError(f"{unknown[0]} {config[unknown[0]]!r} is not known to this tool")


def swinir_arguments(config: Config) -> dict[str, Any]:
    """Arguments of SwinIR from those of the original's constructor; missing ones have its defaults."""
    heads = tuple(config.get("num_heads", (6, 6, 6, 6)))
    channels, window = config.get("embed_dim", 96), config.get("window_size", 7)
    require(config, SWINIR_FIXED)
    taken = {"upscale", "in_chans", "img_size", "window_size", "img_range", "depths", "embed_dim", "num_heads"}
    taken |= {"mlp_ratio", "qkv_bias", "ape", "patch_norm", "upsampler", "resi_connection"}
    _refuse_unknown(config, taken | SWINIR_FIXED.keys() | SWINIR_UNUSED)
    size = config.get("img_size", 64)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if sides[0] != sides[1] or sides[0] < window:
        raise UnsupportedError(f"img_size {size!r} is not supported, only one side of at least the window ({window})")
    upsampler = config.get("upsampler", "")
    if upsampler not in ("pixelshuffle", "pixelshuffledirect", "nearest+conv"):  # the original takes any other as none
        if config.get("upscale", 2) != 1:
            raise UnsupportedError(
                f"upscale {config.get('upscale', 2)} with upsampler {upsampler!r} is not supported, only 1"
            )
        upsampler = "none"
    return {
        "scale": config.get("upscale", 2),
        "head": upsampler,
        "channels": channels,
        "depths": tuple(config.get("depths", (6, 6, 6, 6))),
        "heads": heads[0],
        "group_heads": heads if len(set(heads)) > 1 else (),
        "window": window,
        "mlp_ratio": _ratio(channels, config.get("mlp_ratio", 4.0)),
        "qkv_bias": config.get("qkv_bias", True),
        "input_norm": config.get("patch_norm", True),
        "absolute_positions": config.get("ape", False),
        "residual": config.get("resi_connection", "1conv"),
        "image_channels": config.get("in_chans", 3),
        "value_range": config.get("img_range", 1.0),
        "image_size": sides[0],
    }


SWINIR_FIXED: Mapping[str, tuple[Any, ...]] = {"patch_size": (1, (1, 1), [1, 1]), "qk_scale": (None,)}

SWINIR_UNUSED = {"drop_rate", "attn_drop_rate", "drop_path_rate", "use_checkpoint", "weight_gain"}
"""Settings without an effect in evaluation, or of the fixture."""


def _ratio(width: int, ratio: float) -> int | float:
    """The ratio of the widths that a ratio gives after rounding, as tensors show it."""
    hidden = hidden_width(width, ratio)
    return hidden // width if hidden % width == 0 else hidden / width


UNET_FIXED: Mapping[str, tuple[Any, ...]] = {"dims": (2,), "patch_norm": (False,), "cond_lq": (True,)}

UNET_UNUSED = {"dropout", "use_fp16", "num_heads", "in_channels", "weight_gain"}


def unet_arguments(config: Config) -> dict[str, Any]:
    """Arguments of SwinUNet from those of UNetModelSwin, ResShift's or SinSR's; see `swinir_arguments`."""
    require(config, UNET_FIXED)
    taken = {"image_size", "model_channels", "out_channels", "num_res_blocks", "attention_resolutions", "channel_mult"}
    taken |= {"conv_resample", "num_head_channels", "use_scale_shift_norm", "resblock_updown", "swin_depth", "lq_size"}
    taken |= {"swin_embed_dim", "window_size", "mlp_ratio", "cond_mask"}
    _refuse_unknown(config, taken | UNET_FIXED.keys() | UNET_UNUSED)
    size, window = config["image_size"], config.get("window_size", 8)
    masked, latent = config.get("cond_mask", False), config["out_channels"]
    # SinSR's constructor counts the LR image in in_channels and has no lq_size, which is 256 in ResShift's by default.
    adds_condition = "lq_size" in config or config["in_channels"] == latent
    if config["in_channels"] != latent + (0 if adds_condition else 3):
        raise UnsupportedError(f"in_channels {config['in_channels']} is not supported with out_channels {latent}")
    lq_size = config.get("lq_size", 256) if adds_condition else size
    if lq_size < size or lq_size % size or (lq_size // size).bit_count() != 1:
        raise UnsupportedError(f"lq_size {lq_size} is not supported, only image_size ({size}) times a power of two")
    multipliers = tuple(config.get("channel_mult", (1, 2, 4, 8)))
    levels = range(len(multipliers))
    blocks = config["num_res_blocks"]
    if size >> levels[-1] < window:
        raise UnsupportedError(
            f"window_size {window} is not supported with image_size {size}: the coarsest level is smaller"
        )
    if multipliers[0] != 1 or any(multiplier != int(multiplier) for multiplier in multipliers):
        raise UnsupportedError(
            f"channel_mult {list(multipliers)} is not supported, only whole numbers that begin with 1"
        )
    width = config.get("swin_embed_dim", 96)
    per_head = config.get("num_head_channels", -1)
    swin_levels = tuple(level for level in levels if size >> level in config["attention_resolutions"])
    resampling = "conv" if config.get("conv_resample", True) else "plain"
    return {
        "out_channels": latent,
        "channels": config["model_channels"],
        "multipliers": tuple(map(int, multipliers)),
        "blocks": (blocks,) * len(levels) if isinstance(blocks, int) else tuple(blocks),
        "swin_channels": width,
        "swin_blocks": config.get("swin_depth", 2),
        "swin_levels": None if len(swin_levels) == len(levels) else swin_levels,
        "head_channels": width // config.get("num_heads", 1) if per_head == -1 else per_head,
        "window": window,
        "mlp_ratio": _ratio(width, config.get("mlp_ratio", 2.0)),
        "time": "scale_shift" if config.get("use_scale_shift_norm", False) else "add",
        "resampling": "block" if config.get("resblock_updown", False) else resampling,
        "image_size": size,
        "condition_size": lq_size,
        "condition_channels": 4 if masked else 3,
    }


VQ_FIXED: Mapping[str, tuple[Any, ...]] = {
    "double_z": (False,),
    "in_channels": (3,),
    "out_ch": (3,),
    "padding_mode": ("zeros",),
    "resamp_with_conv": (True,),
    "use_linear_attn": (False,),
    "attn_type": ("vanilla",),
    "give_pre_end": (False,),
    "tanh_out": (False,),
}


def vq_arguments(config: Config) -> dict[str, Any]:
    """Arguments of VQAutoencoder from those of VQModelTorch; see `swinir_arguments`."""
    _refuse_unknown(config, {"embed_dim", "n_embed", "ddconfig", "remap", "sane_index_shape", "weight_gain"})
    details = config["ddconfig"]
    require(details, VQ_FIXED)
    taken = {"z_channels", "resolution", "ch", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout"}
    _refuse_unknown(details, taken | VQ_FIXED.keys())
    multipliers = tuple(details.get("ch_mult", (1, 2, 4, 8)))
    blocks = details["num_res_blocks"]
    blocks = blocks if isinstance(blocks, int) else tuple(blocks)
    resolutions = [details["resolution"] >> level for level in range(len(multipliers))]
    inner = details["z_channels"]
    return {
        "channels": details["ch"],
        "multipliers": multipliers,
        "blocks": blocks[0] if isinstance(blocks, tuple) and len(set(blocks)) == 1 else blocks,
        "attention_levels": tuple(
            level for level, resolution in enumerate(resolutions) if resolution in details["attn_resolutions"]
        ),
        "latent_channels": config["embed_dim"],
        "codes": config["n_embed"],
        "inner_channels": None if inner == config["embed_dim"] else inner,
    }


def kl_arguments(config: Config) -> dict[str, Any]:
    """Arguments of KLAutoencoder from the settings of diffusers' class."""
    taken = {"in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels", "act_fn"}
    taken |= {"layers_per_block", "latent_channels", "norm_num_groups", "sample_size", "scaling_factor", "shift_factor"}
    taken |= {"latents_mean", "latents_std", "force_upcast", "use_quant_conv", "use_post_quant_conv"}
    _refuse_unknown(config, taken | {"mid_block_add_attention", "weight_gain"})
    return _of_diffusers(arguments_of_config, config)


def transformer_arguments(config: Config) -> dict[str, Any]:
    """Arguments of MMDiT from the settings of diffusers' class, or of DiT4SR's."""
    taken = {"sample_size", "patch_size", "in_channels", "num_layers", "attention_head_dim", "num_attention_heads"}
    taken |= {"joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "out_channels", "qk_norm"}
    _refuse_unknown(config, taken | {"pos_embed_max_size", "dual_attention_layers", "weight_gain"})
    return _of_diffusers(mmdit_arguments_of_config, config)


SD_ENCODER = {
    *("attention_head_dim", "block_out_channels", "cross_attention_dim", "down_block_types", "in_channels"),
    *("layers_per_block", "norm_num_groups", "upcast_attention", "use_linear_projection", "weight_gain"),
}
"""Settings that Stable Diffusion's U-Net and its ControlNet have in common."""


def sd_unet_arguments(config: Config) -> dict[str, Any]:
    """Arguments of SDUNet from the settings of diffusers' class."""
    _refuse_unknown(config, SD_ENCODER | SD_UNET_FIXED.keys() | {"out_channels", "sample_size", "up_block_types"})
    return _of_diffusers(unet_arguments_of_config, config)


def controlnet_arguments(config: Config) -> dict[str, Any]:
    """Arguments of ControlNet from the settings of diffusers' class."""
    image = {"conditioning_channels", "conditioning_embedding_out_channels"}
    _refuse_unknown(config, SD_ENCODER | CONTROL_FIXED.keys() | image)
    return _of_diffusers(controlnet_arguments_of_config, config)


def _of_diffusers(read: Any, config: Config) -> dict[str, Any]:
    try:
        arguments: dict[str, Any] = read(config, "the configuration")
    except (ValueError, TypeError) as error:
        raise UnsupportedError(str(error)) from error
    return arguments


def rrdbnet_arguments(config: Config) -> dict[str, Any]:
    """Arguments of RRDBNet from those of the constructors of BasicSR, ESRGAN and BSRGAN."""
    arch = config.get("arch", "basicsr")
    if arch == "basicsr":
        names, scale = ("num_in_ch", "num_out_ch", "num_feat", "num_block", "num_grow_ch"), config.get("scale", 4)
        defaults = (3, 3, 64, 23, 32)
        _refuse_unknown(config, {*names, "scale", "arch", "net", "weight_gain"})
        require({"scale": scale}, {"scale": (4, 2, 1)})
    elif arch in ("esrgan", "bsrgan"):
        names, scale = ("in_nc", "out_nc", "nf", "nb", "gc"), config.get("sf", 4)
        defaults = (3, 3, 64, 23, 32)
        _refuse_unknown(config, {*names, "sf", "arch", "weight_gain"})
        require({"sf": scale}, {"sf": (4, 2)})
    else:
        raise UnsupportedError(f"arch {arch!r} is not supported, only 'basicsr', 'esrgan' or 'bsrgan'")
    inputs, outputs, channels, blocks, growth = map(config.get, names, defaults)
    if inputs != outputs:
        raise UnsupportedError(f"{names[0]} {inputs} and {names[1]} {outputs} differ, which framer_jax does not have")
    return {
        "scale": scale,
        "variant": "bsrgan" if arch != "basicsr" and scale == 2 else "real_esrgan",
        "channels": channels,
        "blocks": blocks,
        "growth": growth,
        "image_channels": inputs,
    }


def srvgg_arguments(config: Config) -> dict[str, Any]:
    """Arguments of SRVGG from those of SRVGGNetCompact."""
    _refuse_unknown(config, {"num_in_ch", "num_out_ch", "num_feat", "num_conv", "upscale", "act_type", *SRVGG_NOTES})
    require(config, {"act_type": ("prelu", "relu", "leakyrelu")})
    if config.get("num_in_ch", 3) != config.get("num_out_ch", 3):
        raise UnsupportedError(f"num_in_ch {config['num_in_ch']} is not supported, only num_out_ch")
    return {
        "scale": config.get("upscale", 4),
        "channels": config.get("num_feat", 64),
        "depth": config.get("num_conv", 16),
        "activation": config.get("act_type", "prelu").replace("leakyrelu", "leaky_relu"),
        "image_channels": config.get("num_in_ch", 3),
    }


def supresdiffgan_unet_arguments(config: Config) -> dict[str, Any]:
    """Arguments of SupResDiffGanUNet from those of diffusers' UNet2DModel."""
    widths = tuple(config.get("block_out_channels", (224, 448, 672, 896)))
    require(config, UNET2D_FIXED)
    taken = {"in_channels", "out_channels", "block_out_channels", "layers_per_block", "attention_head_dim"}
    taken |= {"down_block_types", "up_block_types", "add_attention", "norm_num_groups", "sample_size", "weight_gain"}
    _refuse_unknown(config, taken | UNET2D_FIXED.keys())
    for name in ("down_block_types", "up_block_types"):
        block = f"Resnet{name.split('_')[0].capitalize()}sampleBlock2D"
        require({name: list(config.get(name, ()))}, {name: ([block] * len(widths),)})
    if not config.get("add_attention", True):
        raise UnsupportedError("add_attention False is not supported: the middle has attention")
    inputs, outputs = config.get("in_channels", 3), config.get("out_channels", 3)
    if inputs != 2 * outputs:
        raise UnsupportedError(f"in_channels {inputs} is not supported, only twice the out_channels {outputs}")
    return {
        "out_channels": outputs,
        "channels": widths,
        "blocks": config.get("layers_per_block", 2),
        "head_width": config.get("attention_head_dim", 8),
        "groups": config.get("norm_num_groups", 32),
    }


UNET2D_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "norm_eps": (1e-5,),
    "time_embedding_type": ("positional",),
    "resnet_time_scale_shift": ("default",),
}
"""Settings of UNet2DModel of which framer_jax has one value, its default."""


def pair_discriminator_arguments(config: Config) -> dict[str, Any]:
    """Arguments of PairDiscriminator from those of SupResDiffGAN's discriminator."""
    _refuse_unknown(config, {"in_channels", "channels", "weight_gain"})
    inputs = config.get("in_channels", 6)
    if inputs % 2:
        raise UnsupportedError(f"in_channels {inputs} is not supported, only those of two images")
    return {"image_channels": inputs // 2, "channels": tuple(config["channels"])}


SRVGG_NOTES = ("net", "strengths", "weight_gain")
"""Entries of a fixture's configuration that are no settings of the network."""


def hf_extractor_arguments(config: Config) -> dict[str, Any]:
    """Arguments of HFExtractor from those of CDDFuse's detail branch, whose width is fixed."""
    _refuse_unknown(config, {"num_layers", "weight_gain"})
    return {**RELEASED, "modules": config.get("num_layers", 3)}


DINOV2_FIXED: Mapping[str, tuple[Any, ...]] = {
    "block_chunks": (0,),
    "in_chans": (3,),
    "qkv_bias": (True,),
    "proj_bias": (True,),
    "ffn_bias": (True,),
    "ffn_layer": ("mlp", "swiglufused"),
}

DINOV2_UNUSED = {"drop_path_rate", "drop_path_uniform", "weight_gain"}
"""Settings without an effect in evaluation, or of the fixture."""


def dinov2_arguments(config: Config) -> dict[str, Any]:
    """Arguments of DINOv2 from those of DinoVisionTransformer, in 'vit', and the name of its size, in 'arch'."""
    _refuse_unknown(config, {"vit", "arch", "weight_gain"})
    details, arch = dict(config["vit"]), config.get("arch")
    if arch is not None:
        require({"arch": arch}, {"arch": tuple(PUBLISHED)})
        size = PUBLISHED[arch]
        details = {"embed_dim": size["width"], "depth": size["depth"], "num_heads": size["heads"]} | details
    require(details, DINOV2_FIXED)
    taken = {"img_size", "patch_size", "init_values", "num_register_tokens", "interpolate_antialias"}
    taken |= {"interpolate_offset", "embed_dim", "depth", "num_heads", "mlp_ratio"}
    _refuse_unknown(details, taken | DINOV2_FIXED.keys() | DINOV2_UNUSED)
    gated = details.get("ffn_layer", "mlp") != "mlp"
    width, ratio, patch = details.get("embed_dim", 768), details.get("mlp_ratio", 4.0), details.get("patch_size", 16)
    return {
        "width": width,
        "depth": details.get("depth", 12),
        "heads": details.get("num_heads", 12),
        "hidden": gated_width(width, ratio) if gated else int(width * ratio),
        "mlp": "swiglu" if gated else "gelu",
        "patch": patch,
        "image_size": details.get("img_size", 224) // patch * patch,
        "registers": details.get("num_register_tokens", 0),
        "layer_scale": details.get("init_values") is not None,
        "position_offset": details.get("interpolate_offset", 0.1),
        "position_antialias": details.get("interpolate_antialias", False),
    }
