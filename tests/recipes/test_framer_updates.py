"""FRAMER on several updates of one recipe, which share one set of heads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.losses.framer import draw_negatives, framer_loss, paper, released
from framer_jax.recipes.base import Loss, Recipe, Update
from framer_jax.recipes.framer import _KEY, HEADS, add_framer, framer

CHANNELS = (4, 6, 4)
"""Channels of the taps; the last one is the teacher."""

BATCH = {"hr": jnp.ones((2, 8, 8, 3), jnp.float32), "lr": jnp.ones((2, 4, 4, 3), jnp.float32)}


def init(key, batch):
    kernels = [
        jax.random.normal(jax.random.fold_in(key, i), (3, width), jnp.float32) for i, width in enumerate(CHANNELS)
    ]
    return {"denoiser": {f"tap_{i}": kernel for i, kernel in enumerate(kernels)}}


def loss_of(factor, side=8):
    def loss(params, frozen, state, batch, key, step):
        image = factor * batch["hr"][:, :side] * (1 + jnp.arange(8, dtype=jnp.float32))[None, None, :, None]
        taps = tuple(image @ params["denoiser"][f"tap_{i}"] for i in range(len(CHANNELS)))
        return Loss(jnp.square(taps[-1]).mean(axis=(1, 2, 3)), {}, taps, state)

    return loss


def recipe(**changes) -> Recipe:
    updates = (
        Update("pixel", ("denoiser",), loss_of(1.0), stop=2),
        Update("semantic", ("denoiser",), loss_of(2.0), start=2),
    )
    values = {"updates": updates, **changes}
    return Recipe(name="toy", scale=2, init=init, sample=lambda params, frozen, lr, noise: lr, **values)


def run(framed, update, params):
    loss = framed.updates[update].loss
    return jax.jit(loss)(params, {}, {}, BATCH, jax.random.key(1), jnp.int32(0))


def test_two_updates_share_one_set_of_heads():
    framed = framer(recipe(), paper(), updates=("pixel", "semantic"))
    params = framed.init(jax.random.key(0), BATCH)
    assert set(params[HEADS]) == {"head_0", "head_1"}
    assert [update.groups for update in framed.updates] == [("denoiser", HEADS)] * 2
    assert [(update.start, update.stop) for update in framed.updates] == [(0, 2), (2, None)]
    for index in range(2):
        plain, extended = run(recipe(), index, params), run(framed, index, params)
        np.testing.assert_allclose(extended.values, plain.values + extended.metrics["framer_term"], rtol=1e-6)
        assert float(jnp.abs(extended.metrics["framer_term"]).max()) > 0
    assert framed.sample is not None and framed.exported == recipe().exported, "inference is untouched"


def test_the_first_update_is_the_default():
    framed = framer(recipe(), paper())
    assert [update.groups for update in framed.updates] == [("denoiser", HEADS), ("denoiser",)]


def test_updates_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no update 'critic': choose from pixel, semantic"):
        framer(recipe(), paper(), updates=("pixel", "critic"))
    other = (Update("pixel", ("denoiser",), loss_of(1.0)), Update("semantic", ("denoiser",), loss_of(1.0, side=4)))
    framed = framer(recipe(updates=other), paper(), updates=("pixel", "semantic"))
    with pytest.raises(ValueError, match="'semantic' differ in shape"):
        framed.init(jax.random.key(0), BATCH)


def test_objective_none_and_variant_none_are_the_recipe_itself():
    base = recipe()
    assert framer(base, paper(objective="none")) is base
    assert add_framer(base, {"variant": "none"}) is base
    with pytest.raises(ValueError, match=r"framer\.variant 'papre': did you mean 'paper'"):
        add_framer(base, {"variant": "papre"})
    with pytest.raises(ValueError, match="taps=prediction"):
        add_framer(replace(base, tap_kind="hidden"), {"variant": "released"})


@pytest.mark.parametrize(("teacher", "students"), [("last", 3), ("middle", 2), ("next", 2)])
def test_the_released_variant_repeats_the_last_block_for_itself_as_the_teacher_only(monkeypatch, teacher, students):
    monkeypatch.setattr("tests.recipes.test_framer_updates.CHANNELS", (4, 4, 4))
    variant = released(teacher=teacher)
    framed = framer(recipe(tap_kind="prediction"), variant)
    params = framed.init(jax.random.key(0), BATCH)
    metrics = run(framed, 0, params).metrics
    assert {name for name in metrics if "cosine_low" in name} == {f"framer_cosine_low/{i}" for i in range(students)}
    taps = recipe().updates[0].loss(params, {}, {}, BATCH, jax.random.key(1), jnp.int32(0)).taps
    taps = (*taps, taps[-1]) if teacher == "last" else taps
    negatives = draw_negatives(jax.random.fold_in(jax.random.key(1), _KEY), students, variant)
    expected = jax.jit(framer_loss, static_argnums=2)(taps, negatives, variant).values
    np.testing.assert_allclose(metrics["framer_term"], 0.1 * expected, rtol=1e-5)
