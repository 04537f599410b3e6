"""The latent spaces taesd and taesd3, and their decoders as previews of Stable Diffusion's latents."""

from itertools import count
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.autoencoder import read_autoencoder, read_preview
from framer_jax.checkpoints.networks import autoencoder_shapes
from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.diffusion.noise import noise_field
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.components.latent_space import AUTOENCODER, LatentTask
from framer_jax.recipes.components.spaces import build_space
from tests.support.tiny import config, ported

CHANNELS = {"taesd": 4, "taesd3": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("spaces")
    for name, channels in CHANNELS.items():
        ported(place / f"{name}.safetensors", "taesd", latent_channels=channels)
    ported(place / "vae.safetensors", "kl_autoencoder")
    return place


def section(folder, space, file, *changes):
    return config(f"recipe.space.name={space}", f"recipe.space.checkpoint={folder}/{file}.safetensors", *changes)[
        "recipe"
    ]


@pytest.mark.parametrize("name", CHANNELS)
def test_a_space_encodes_and_decodes_as_its_network(folder, name):
    recipe = section(folder, name, name)
    space = build_space(recipe, "inference", READER)
    described = build_space(recipe, "description", READER)
    assert (space.channels, space.image_pixels_per_latent) == (CHANNELS[name], 8)
    assert (described.channels, described.image_pixels_per_latent) == (CHANNELS[name], 8)
    vae = read_autoencoder(name, folder / f"{name}.safetensors")
    image = jax.random.uniform(jax.random.key(0), (1, 16, 8, 3), jnp.float32, -1, 1)
    z = space.encode(space.frozen, image)
    np.testing.assert_array_equal(z, vae.latents(vae.params, image))
    assert z.shape == (1, 2, 1, CHANNELS[name])
    assert space.decode(space.frozen, z).shape == image.shape
    published = autoencoder_shapes(recipe)[AUTOENCODER]["decoder"]["layer_1"]["kernel"].shape
    assert published == (3, 3, CHANNELS[name], 64)


@pytest.mark.parametrize("scale", range(1, 17))
def test_sides_of_lr_images_give_whole_latents_that_suit_the_denoiser(scale):
    for pixels in (4, 8):
        task = LatentTask(SimpleNamespace(image_pixels_per_latent=pixels), scale, residual=False)
        for multiple in (1, 2, 8, 12):
            unit = pixels * multiple
            least = next(side for side in count(1) if side * scale % unit == 0)
            assert task.lr_multiple(SimpleNamespace(size_multiple=multiple)) == least


@pytest.mark.parametrize(("scale", "multiple"), [(3, 16), (4, 4), (5, 16), (6, 8)])
def test_images_of_the_least_sides_are_sampled_at_any_scale(folder, scale, multiple):
    settings = section(folder, "taesd", "taesd", "recipe.name=supresdiffgan", f"recipe.scale={scale}")
    recipe = build_recipe(settings, "inference")
    assert recipe.lr_multiple == multiple
    lr = jax.ShapeDtypeStruct((1, multiple, 2 * multiple, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    sample = jax.eval_shape(
        lambda params, lr, key: recipe.sample(params, recipe.frozen, lr, noise_field(key, 1)),
        expected_params(recipe),
        lr,
        key,
    )
    assert sample.shape == (1, scale * multiple, 2 * scale * multiple, 3)


def test_the_autoencoder_of_another_space_is_refused(folder):
    for space, file, message in (
        ("taesd3", "taesd", r"recipe\.space\.checkpoint: taesd\.safetensors.*TAESD \(4 latent channels"),
        ("taesd", "vae", r"recipe\.space\.checkpoint: .*vae\.safetensors: holds kl_autoencoder, not taesd"),
        ("kl", "taesd", r"recipe\.space\.checkpoint: .*taesd\.safetensors: holds taesd, not kl_autoencoder"),
        ("taesd", "none", r"recipe\.space\.checkpoint: there is no file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build_space(section(folder, space, file), "inference", READER)


@pytest.mark.parametrize("shift", [None, 0.0])
def test_a_preview_decodes_normalized_latents(folder, shift):
    """Those of the autoencoder's own shift, also where the run has another one."""
    changes = () if shift is None else (f"recipe.space.shift={shift}",)
    space = build_space(section(folder, "kl", "vae", *changes), "inference", READER)
    preview = read_preview(folder / "taesd.safetensors", space.frozen, "kl", "--preview-decoder")
    z = jax.random.normal(jax.random.key(1), (1, 2, 3, 4), jnp.float32)
    vae = read_autoencoder("taesd", folder / "taesd.safetensors")
    own = z if shift is None else z - 0.1 * 1.5  # the tiny autoencoder's shift and scaling
    expected = vae.module.apply({"params": vae.params}, own, method="decode")
    decoded = space.decode({**space.frozen, **preview}, z)
    np.testing.assert_allclose(decoded, expected, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(space.decode(space.frozen, z), expected, atol=1e-2)


def test_previews_that_do_not_fit_are_refused(folder):
    frozen = build_space(section(folder, "kl", "vae"), "inference", READER).frozen
    for path, space, message in (
        ("taesd3", "kl", r"--preview-decoder: .*TAESD3 \(16 latent channels"),
        ("vae", "kl", "--preview-decoder: .*holds kl_autoencoder, not taesd"),
        ("none", "kl", "--preview-decoder: there is no file"),
        ("taesd", "wavelet", "--preview-decoder is for recipes in the latent space kl, .* is wavelet"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_preview(folder / f"{path}.safetensors", frozen, space, "--preview-decoder")
