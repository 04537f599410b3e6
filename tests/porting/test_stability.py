"""Stability's single files: one file of transformer, autoencoder and text encoders, in other names and another layout.

The layouts were compared with diffusers' own conversion; here the inverse is written out.
"""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from framer_jax.porting.table import LAYOUTS, read_torch
from framer_jax.trees import flatten_names
from tests.support.checkpoints import small_states

JOINED = {
    r"(transformer_blocks\.\d+)\.(attn2?)\.to_q\.(weight|bias)": (r"\1.\2.to_{}.\3", r"\1.x_block.\2.qkv.\3"),
    r"(transformer_blocks\.\d+)\.attn\.add_q_proj\.(weight|bias)": (
        r"\1.attn.add_{}_proj.\2",
        r"\1.context_block.attn.qkv.\2",
    ),
}

NAMES = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}


def stabilitys_transformer(state):
    last = max(int(match[1]) for key in state if (match := re.match(r"transformer_blocks\.(\d+)", key)))
    result = {}
    for key, value in state.items():
        if re.search(r"\.(to_[kv]|add_[kv]_proj)\.", key):
            continue  # joined with the queries
        name = key
        for pattern, (part, joined) in JOINED.items():
            if match := re.fullmatch(pattern, key):
                value = np.concatenate([state[match.expand(part).format(letter)] for letter in "qkv"])
                name = match.expand(joined)
        if key.startswith(("norm_out.", f"transformer_blocks.{last}.norm1_context.")):
            value = np.concatenate(np.split(value, 2)[::-1])  # shift before scale
        stem, _, tensor = name.rpartition(".")
        if name in NAMES:
            name = NAMES[name]
        elif ending := next((end for end in NAMES if stem == end or stem.endswith(f".{end}")), ""):
            name = f"{stem.removesuffix(ending)}{NAMES[ending]}.{tensor}"
        result[name.replace("transformer_blocks", "joint_blocks")] = value
    return result


def stabilitys_autoencoder(state):
    levels = 1 + max(int(match[1]) for key in state if (match := re.match(r"decoder\.up_blocks\.(\d+)", key)))
    result = {}
    for key, value in state.items():
        name = re.sub(r"up_blocks\.(\d+)\.(resnets|upsamplers)", lambda m: f"up.{levels - 1 - int(m[1])}.{m[2]}", key)
        for pattern, other in {
            r"down_blocks\.(\d+)": r"down.\1",
            r"(down|up)\.(\d+)\.resnets": r"\1.\2.block",
            r"downsamplers\.0": "downsample",
            r"upsamplers\.0": "upsample",
            r"mid_block\.resnets\.0": "mid.block_1",
            r"mid_block\.resnets\.1": "mid.block_2",
            r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
            r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
            r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
            "conv_norm_out": "norm_out",
            "conv_shortcut": "nin_shortcut",
        }.items():
            name = re.sub(pattern, other, name)
        result[name] = value[:, :, None, None] if "attn_1" in name and value.ndim == 2 else value
    return result


PARTS = {
    "mmdit": (stabilitys_transformer, "model.diffusion_model.", "transformer"),
    "kl_autoencoder": (stabilitys_autoencoder, "first_stage_model.", "autoencoder"),
}


@pytest.fixture(scope="module")
def states(fixtures):
    return small_states(fixtures)


@pytest.fixture(scope="module")
def single_file(states, tmp_path_factory):
    """Both parts and an encoder, whose tensors have a type that NumPy lacks and are not read."""
    path = tmp_path_factory.mktemp("stability") / "sd3.safetensors"
    tensors = {"text_encoders.clip_l.transformer.text_model.final_layer_norm.weight": np.ones(3, np.float32)}
    for name, (inverse, prefix, _) in PARTS.items():
        tensors |= {f"{prefix}{key}": np.ascontiguousarray(value) for key, value in inverse(states[name]).items()}
    save_file(tensors, path)
    return path


def same(params, expected):
    ours, theirs = flatten_names(params)[0], flatten_names(expected)[0]
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_single_file_is_read_as_from_diffusers(states, single_file, tmp_path, name):
    inverse, prefix, title = PARTS[name]
    save_file(states[name], tmp_path / "diffusers.safetensors")
    expected = read_torch(name, tmp_path / "diffusers.safetensors")
    ported = read_torch(name, single_file)
    same(ported.params, expected.params)
    assert ported.arguments == expected.arguments and ported.source["removed"] == [prefix]
    left_out, layout, *_ = ported.source["notes"]
    assert left_out.startswith("left out") and "text_encoders (1 tensors)" in left_out
    assert layout == f"read in Stability's layout of the {title}"
    save_file(
        {key: np.ascontiguousarray(value) for key, value in inverse(states[name]).items()}, tmp_path / "a.safetensors"
    )
    same(read_torch(name, tmp_path / "a.safetensors").params, expected.params)  # alone, without a prefix


def test_another_part_is_named(single_file):
    with pytest.raises(ValueError, match=r"sd3\.safetensors is not swinir: \d+ of \d+ names are unknown"):
        read_torch("swinir", single_file)


def test_matrices_that_cannot_be_split_are_named():
    with pytest.raises(
        ValueError, match=r"x: 'joint_blocks\.0\.x_block\.attn\.qkv\.weight' of shape \(4, 2\) is not 3"
    ):
        LAYOUTS["mmdit"].to_diffusers({"joint_blocks.0.x_block.attn.qkv.weight": np.ones((4, 2))}, "x")
