"""The autoencoders of Stable Diffusion, and their folders. Their parity fixtures are in test_check_parity.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.kl_autoencoder import Gaussian, KLAutoencoder
from framer_jax.porting.diffusers_folder import read_config, read_folder, write_folder
from framer_jax.porting.kl_autoencoder import (
    KL_AUTOENCODER,
    arguments_of_config,
    config_of_arguments,
)
from framer_jax.porting.maps import to_flax, to_torch
from framer_jax.porting.table import read_torch
from framer_jax.trees import check_same_structure, flatten_names
from tests.support.autoencoders import write_autoencoder
from tests.support.drawn import drawn
from tools.parity.cases import load_case

SD2 = {"latent_channels": 4, "quantisation_convs": True, "scaling": 0.18215, "shift": 0.0}
TINY = KLAutoencoder(channels=8, multipliers=(1, 2), blocks=1, groups=4, latent_channels=4)
IMAGE = jax.random.uniform(jax.random.key(0), (2, 8, 12, 3), jnp.float32, -1.0, 1.0)
FIXTURES = ("vae_sd2_tiny", "vae_sd3_tiny")


@functools.cache
def variables():
    return drawn(TINY.init, jax.random.key(0), IMAGE)


def shapes(module, side=64):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))[
        "params"
    ]


@pytest.mark.parametrize(("changes", "count"), [({}, 83_819_683), (SD2, 83_653_863)], ids=["sd3", "sd2"])
def test_published_sizes_and_arguments_from_shapes(changes, count):
    module = KLAutoencoder(**changes)
    leaves = shapes(module)
    assert sum(leaf.size for leaf in jax.tree.leaves(leaves)) == count
    state = to_torch(
        KL_AUTOENCODER, jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), leaves), "ours"
    )
    assert KLAutoencoder(**KL_AUTOENCODER.arguments(state)) == module
    assert KLAutoencoder(**arguments_of_config(config_of_arguments(KL_AUTOENCODER.arguments(state)), "")) == module


def test_shapes_and_reconstruction():
    assert TINY.pixels_per_latent == 2
    latent = TINY.apply(variables(), IMAGE, method="encode")
    assert latent.mean.shape == latent.log_variance.shape == (2, 4, 6, 4)
    decoded = TINY.apply(variables(), latent.mean, method="decode")
    np.testing.assert_array_equal(TINY.apply(variables(), IMAGE), decoded)
    assert decoded.shape == IMAGE.shape and decoded.dtype == jnp.float32
    with pytest.raises(ValueError, match="multiples of 2"):
        jax.eval_shape(TINY.init, jax.random.key(0), IMAGE[:, :7])


def test_bfloat16_stays_close_to_float32():
    rough = TINY.clone(dtype=jnp.bfloat16)
    image, reference = rough.apply(variables(), IMAGE), TINY.apply(variables(), IMAGE)
    assert image.dtype == jnp.float32
    assert 1e-4 < np.sqrt(np.mean(np.square(image - reference)) / np.mean(np.square(reference))) < 0.03


def test_the_standard_deviation_is_differentiable():
    latent = Gaussian(jnp.zeros((1, 2, 2, 4)), jnp.full((1, 2, 2, 4), np.log(4.0), jnp.float32))
    np.testing.assert_allclose(latent.standard_deviation, 2.0, rtol=1e-6)
    gradient = jax.grad(lambda latent: latent.standard_deviation.sum())(latent)
    np.testing.assert_allclose(gradient.log_variance, 1.0, rtol=1e-6)  # half of the standard deviation


def test_variances_are_clipped_as_published():
    tree = jax.tree.map(np.array, variables())
    tree["params"]["encoder"]["conv_out"]["bias"][4:] = (-100, 100, 0, 0)
    log_variance = TINY.apply(tree, IMAGE, method="encode").log_variance
    assert (
        (log_variance[..., 0] == -30).all()
        and (log_variance[..., 1] == 20).all()
        and (np.abs(log_variance[..., 2:]) < 20).all()
    )


def test_normalised_latents_are_those_of_the_denoisers():
    z = jax.random.normal(jax.random.key(2), (1, 2, 2, 4))
    np.testing.assert_allclose(TINY.normalised(z), (z - 0.0609) * 1.5305, rtol=1e-6)
    np.testing.assert_allclose(TINY.denormalised(TINY.normalised(z)), z, atol=1e-6)
    np.testing.assert_allclose(KLAutoencoder(**SD2).normalised(z), 0.18215 * z, rtol=1e-6)


@pytest.mark.parametrize("name", FIXTURES)
def test_folders_of_diffusers_survive_a_round_trip(fixtures, tmp_path, name):
    case = load_case(fixtures / f"{name}.npz")
    config = {**case.config, "_class_name": "AutoencoderKL", "_diffusers_version": "0.30.0"}
    write_folder(tmp_path / "theirs", config, case.weights["model"], max_shard_bytes=500_000)
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) == 4
    params, arguments, source = read_torch("kl_autoencoder", tmp_path / "theirs")
    assert source["files"][0]["file"] == "config.json" and len(source["files"]) == 5
    module = KLAutoencoder(**arguments)
    check_same_structure(params, shapes(module), name)
    assert (module.groups, module.scaling, module.shift) == (
        8,
        case.config["scaling_factor"],
        case.config.get("shift_factor", 0.0),
    )
    write_autoencoder(tmp_path / "ours", params, arguments)
    again, state = read_folder(tmp_path / "ours")
    assert list(state) and state.keys() == case.weights["model"].keys()
    assert all(np.array_equal(state[key], value) for key, value in case.weights["model"].items())
    assert arguments_of_config(again, "") == arguments
    for key, value in case.config.items():
        if key != "sample_size":
            assert again[key] == value, key
    with pytest.raises(FileExistsError, match="allow to overwrite"):
        write_autoencoder(tmp_path / "ours", params, arguments)
    write_autoencoder(tmp_path / "ours", params, arguments, overwrite=True)
    assert read_config(tmp_path / "ours") == again


def test_older_names_of_the_attention_are_known(fixtures):
    state = load_case(fixtures / "vae_sd2_tiny.npz").weights["model"]
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(key):
        for now, then in older.items():
            key = key.replace(f".{now}.", f".{then}.")
        return key

    old = {renamed(key): value for key, value in state.items()}
    assert sum(key not in state for key in old) == 16
    ours, theirs = (flatten_names(to_flax(KL_AUTOENCODER, tensors, "")[0])[0] for tensors in (old, state))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(value, theirs[name]) for name, value in ours.items())
    with pytest.raises(ValueError, match="two tensors for"):
        to_flax(KL_AUTOENCODER, old | state, "both")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "describes a AutoencoderTiny"),
        ({"act_fn": "gelu"}, "act_fn 'gelu' is not supported, only 'silu'"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types"),
        ({"latents_mean": [0.0]}, "latents_mean"),
        ({"block_out_channels": [16, 24, 32, 32]}, "not multiples of the first"),
        ({"use_quant_conv": False}, "differ"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_settings_are_errors(changes, message):
    config = config_of_arguments({"channels": 16, "multipliers": (1, 2, 2, 2), "blocks": 2, "groups": 8, **SD2})
    with pytest.raises(ValueError, match=message) as caught:
        arguments_of_config(config | changes, "vae/config.json")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("vae/config.json")
