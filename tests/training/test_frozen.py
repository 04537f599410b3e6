"""Frozen weights are placed on devices only if a training step reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from framer_jax.checkpoints.open import build_recipe
from framer_jax.recipes.components.base_model import BASE
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.text import TEXTS
from framer_jax.recipes.tracing import leaves_read
from framer_jax.training.loop import train
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.sharding import make_mesh, place_batch
from framer_jax.training.state import abstract_train_state, init_train_state, place_frozen
from framer_jax.training.step import make_step
from tests.support import training_toys as toys
from tests.support.tiny import config, ported, text


def test_leaves_that_results_depend_on():
    number = jax.ShapeDtypeStruct((2,), jnp.float32)

    def function(used, unused, key, looped):
        lost = jnp.sin(unused["lost"])  # does not reach a result

        def body(total, _):
            return total + looped["in"], None

        total, _ = jax.lax.scan(body, used["a"], length=2)
        return total, jax.random.normal(key, (2,), jnp.float32) if lost is None else used["returned"]

    is_read = leaves_read(
        function,
        {"a": number, "returned": number, "b": number},
        {"lost": number},
        jax.random.key(0),
        {"in": number, "out": None},
    )
    assert is_read == ({"a": True, "returned": True, "b": False}, {"lost": False}, False, {"in": True, "out": None})


@pytest.mark.parametrize("mesh", [{"data": 1}, {"data": 2, "fsdp": 4}])
def test_only_weights_that_a_loss_reads_are_placed(mesh):
    settings = toys.settings(mesh=mesh)
    frozen = {"gain": np.ones((), np.float32), "autoencoder": {"kernel": np.ones((64, 8), np.float32)}}
    recipe = toys.recipe(frozen=frozen)
    mesh = make_mesh(settings)
    optimizers, shapes = make_optimizers(recipe, settings), jax.eval_shape(toys.prepare, toys.batch())
    abstract = abstract_train_state(recipe, optimizers, settings, mesh, shapes)
    placed = place_frozen(recipe, settings, mesh, shapes, abstract)
    assert placed["autoencoder"]["kernel"] is frozen["autoencoder"]["kernel"]
    assert placed["gain"].sharding.mesh.size == mesh.size
    state = init_train_state(recipe, optimizers, settings, mesh, shapes)
    step = make_step(recipe, toys.prepare, optimizers, settings, mesh, abstract)
    batch = place_batch(toys.batch(), mesh)
    with jax.transfer_guard("disallow"):
        _, metrics = step(state, placed, batch)
    assert np.isfinite(metrics.losses["main"])
    state = init_train_state(recipe, optimizers, settings, mesh, shapes)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        step(state, {**placed, "gain": frozen["gain"]}, batch)  # the guard notices weights on the host


def test_validation_gets_all_frozen_weights(tmp_path):
    frozen = {"gain": np.ones((), np.float32), "decoder": np.full((16, 8), 3.0, np.float32)}
    seen = []

    def validate(params, frozen, step):
        seen.append({name: (type(leaf), float(np.mean(leaf))) for name, leaf in frozen.items()})
        return {"psnr-y": 1.0}, {}

    settings = toys.settings(steps=2, validate_every=1, mesh={"data": 4, "fsdp": 2})
    train(toys.recipe(frozen=frozen), toys.batches(), toys.prepare, settings, tmp_path, validate=validate)
    assert len(seen) == 2
    assert issubclass(seen[0]["gain"][0], jax.Array) and seen[0]["gain"][1] == 1
    assert seen[0]["decoder"] == (np.ndarray, 3.0) == seen[1]["decoder"]


def test_on_latents_dit4sr_places_only_its_base(tmp_path):
    paths = (
        f"recipe.space.checkpoint={ported(tmp_path / 'vae.safetensors', 'kl_autoencoder')}",
        f"recipe.dit4sr.base_checkpoint={ported(tmp_path / 'base.safetensors', 'mmdit')}",
        f"recipe.text.null_embedding={text(tmp_path / 'null.safetensors')}",
        "recipe.text.condition=null",
    )
    names = ("recipe.name=dit4sr", "recipe.space.name=kl")
    section = config(*names, *paths)["recipe"]
    settings = toys.settings(mesh={"data": 1, "fsdp": 8}, fsdp_min_size=64)
    mesh = make_mesh(settings)

    def placed(data, shapes):
        recipe = build_recipe(section, data=data)
        optimizers = make_optimizers(recipe, settings)
        batch = {name: jax.ShapeDtypeStruct((8, *shape), jnp.float32) for name, shape in shapes.items()}
        abstract = abstract_train_state(recipe, optimizers, settings, mesh, batch)
        frozen = place_frozen(recipe, settings, mesh, batch, abstract)
        return frozen, {
            name for name, tree in frozen.items() if any(isinstance(x, jax.Array) for x in jax.tree.leaves(tree))
        }

    latents = {"hr_latent": (4, 4, 4), "lr_latent": (4, 4, 4), "text": (3, 16), "pooled_text": (12,)}
    frozen, on_the_mesh = placed("latents", latents)
    assert on_the_mesh == {BASE}
    kernel = frozen[BASE]["block_0"]["attention"]["query"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp")
    assert placed("photos", {"hr": (32, 32, 3), "lr": (8, 8, 3)})[1] == {AUTOENCODER, BASE, TEXTS}
