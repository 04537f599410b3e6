import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from framer_jax.recipes.base import Loss, Update
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.sharding import make_mesh, place_batch, place_tree
from framer_jax.training.state import inference_params, init_train_state
from framer_jax.training.step import _is_due, make_step, merge_averages
from tests.support import training_toys as toys

CLEAN = toys.recipe(toys.clean_loss)


def plain_prepare(batch):
    hr = batch["hr"].astype(jnp.float32) / 255
    return {"hr": hr, "lr": hr[:, ::-1]}


def setup(recipe, settings, prepare=plain_prepare, initial=None):
    mesh = make_mesh(settings)
    optimizers = make_optimizers(recipe, settings)
    shapes = jax.eval_shape(prepare, toys.batch(settings.global_batch))
    state = init_train_state(recipe, optimizers, settings, mesh, shapes, initial)
    step = make_step(recipe, prepare, optimizers, settings, mesh, state)
    frozen = place_tree(recipe.frozen, mesh, settings)
    batch = place_batch(toys.batch(settings.global_batch), mesh)
    return state, step, frozen, batch


def run(recipe, settings, steps=3, prepare=plain_prepare):
    traced = []

    def counted(batch):
        traced.append(1)
        return prepare(batch)

    state, step, frozen, batch = setup(recipe, settings, counted)
    traced.clear()
    history = []
    for _ in range(steps):
        state, metrics = step(state, frozen, batch)
        history.append(jax.device_get(metrics))
        jax.block_until_ready(state)  # eight fake devices
    assert len(traced) == 1  # one program, compiled once
    return state, history


def close(first, second, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), tolerance, tolerance), first, second
    )


def test_one_step_is_adam_by_hand():
    settings = toys.settings(weight_decay=0.1, b1=0.8)
    state, step, frozen, batch = setup(CLEAN, settings)
    params = jax.device_get(state.params)
    prepared = plain_prepare(toys.batch())

    def loss(denoiser):
        return jnp.mean(toys.clean_loss({**params, "denoiser": denoiser}, {}, {}, prepared, None, 0).values)

    value, gradient = jax.value_and_grad(loss)(params["denoiser"])
    # Adam's first step is the sign of the gradient (epsilon aside); decay spares the bias.
    expected = jax.tree.map(
        lambda p, g: p - 0.01 * (g / (jnp.abs(g) + 1e-8) + (0.1 * p if p.ndim > 1 else 0 * p)),
        params["denoiser"],
        gradient,
    )
    state, metrics = step(state, frozen, batch)
    close(state.params["denoiser"], expected)
    averages = {name: float(a.compute()) for name, a in jax.device_get(metrics.averages).items()}
    assert averages["loss"] == pytest.approx(float(value), rel=1e-5)
    assert averages["grad_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    assert averages["learning_rate"] == pytest.approx(0.01)
    assert averages["param_norm"] == pytest.approx(float(optax.tree.norm(jax.device_get(state.params))), rel=1e-5)
    assert averages["error"] > 0
    assert metrics.averages["error"].count == 8
    assert metrics.finite
    assert toys.same(state.params["critic"], params["critic"])


def test_state_is_donated_and_key_stays():
    state, step, frozen, batch = setup(CLEAN, toys.settings(ema_decay=0.5))
    key = np.array(jax.random.key_data(state.key))
    new, _ = step(state, frozen, batch)
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state, state.ema))
    assert [jax.tree_util.keystr(path) for path, leaf in leaves if not leaf.is_deleted()] == []
    assert np.array_equal(jax.random.key_data(new.key), key)
    assert int(new.step) == 1


def test_frozen_weights_are_used_and_kept():
    recipe = toys.recipe(toys.clean_loss, frozen={"gain": jnp.float32(0)})
    state, step, frozen, batch = setup(recipe, toys.settings())
    before = jax.device_get(state.params)
    state, _ = step(state, frozen, batch)
    assert float(frozen["gain"]) == 0
    assert toys.same(before, state.params)  # no gradient through a zero gain


@pytest.mark.parametrize("mesh", [{"data": 8, "fsdp": 1}, {"data": 2, "fsdp": 4}])
def test_eight_devices_give_the_loss_of_one(mesh):
    recipe = toys.recipe()  # with noise in prepare and loss
    alone, first = run(recipe, toys.settings(ema_decay=0.9), prepare=toys.prepare)
    spread, second = run(recipe, toys.settings(ema_decay=0.9, mesh=mesh), prepare=toys.prepare)
    close([m.losses["main"] for m in first], [m.losses["main"] for m in second])
    close(alone.params, spread.params, 1e-4)
    close(alone.ema, spread.ema, 1e-4)
    if mesh["fsdp"] == 4:
        kernel = spread.params["denoiser"]["out"]["kernel"]  # [8, 3]
        assert kernel.addressable_shards[0].data.shape == (2, 3)


def test_microbatches_give_the_full_batch():
    mesh = {"data": 2, "fsdp": 1}
    whole, first = run(CLEAN, toys.settings(mesh=mesh))
    parts, second = run(CLEAN, toys.settings(gradient_accumulation_steps=4, mesh=mesh))
    close(whole.params, parts.params)
    for one, other in zip(first, second, strict=True):
        for name in one.averages:
            assert one.averages[name].compute() == pytest.approx(other.averages[name].compute(), rel=1e-5), name
        assert other.averages["error"].count == 8


def test_microbatches_pass_on_the_mutable_state():
    recipe = toys.recipe(toys.clean_loss, init_state=lambda: {"calls": jnp.float32(0)})
    state, _ = run(recipe, toys.settings(gradient_accumulation_steps=4))
    assert float(state.mutable["calls"]) == 12


def test_cadence_of_updates():
    updates = (
        Update("main", ("denoiser",), toys.clean_loss),
        Update("critic", ("critic",), toys.critic_loss, every=2, offset=1, start=2),
    )
    recipe = toys.recipe(updates=updates, init_state=lambda: {"calls": jnp.float32(0)})
    state, step, frozen, batch = setup(recipe, toys.settings(updates={"critic": {"learning_rate": 0.5}}))
    changed, window = [], None
    for _ in range(6):
        before = np.asarray(state.params["critic"]["kernel"])
        state, metrics = step(state, frozen, batch)
        changed.append(not np.array_equal(before, np.asarray(state.params["critic"]["kernel"])))
        window = merge_averages(window, metrics.averages) if window else metrics.averages
    assert changed == [False, False, False, True, False, True]  # steps 3 and 5
    assert window["critic/loss"].count == 2
    assert window["main/loss"].count == 6
    assert float(window["critic/learning_rate"].total) == pytest.approx(1.0)
    assert int(state.opt_state["critic"][0].count) == 2


def due_steps(steps, **timing):
    update = Update("main", ("denoiser",), toys.clean_loss, **timing)
    due = [_is_due(update, jnp.int32(step)) for step in range(steps)]
    return [step for step, is_due in enumerate(due) if is_due is None or bool(is_due)]


@given(st.integers(0, 8), st.integers(1, 8) | st.none(), st.integers(1, 4), st.integers(0, 3))
@budget(deadline=None, max_examples=60)
def test_steps_of_an_update(start, length, every, offset):
    stop = None if length is None else start + length
    expected = [step for step in range(20) if step >= start and (stop is None or step < stop)]
    expected = [step for step in expected if (step - offset) % every == 0]
    assert due_steps(20, start=start, stop=stop, every=every, offset=offset) == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3))
@budget(deadline=None, max_examples=20)
def test_consecutive_phases_cover_every_step_once(lengths):
    stops = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    phases = zip([0, *stops], [*stops, None], strict=True)
    steps = [step for start, stop in phases for step in due_steps(24, start=start, stop=stop)]
    assert steps == list(range(24))


@pytest.mark.parametrize("stop", [1, 3])
def test_an_update_changes_nothing_after_its_stop(stop):
    updates = (
        Update("first", ("denoiser",), toys.clean_loss, stop=stop),
        Update("second", ("critic",), toys.critic_loss, start=stop),
    )
    recipe = toys.recipe(updates=updates, init_state=lambda: {"calls": jnp.float32(0)})
    state, step, frozen, batch = setup(recipe, toys.settings(weight_decay=0.1))
    groups = {"first": "denoiser", "second": "critic"}
    changed = {name: [] for name in groups}
    for _ in range(5):
        before = jax.device_get({name: (state.params[groups[name]], state.opt_state[name]) for name in groups})
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready(state)
        for name, group in groups.items():
            params, opt_state = before[name]
            changed[name].append(not toys.same(params, state.params[group]))
            assert changed[name][-1] == (not toys.same(opt_state, state.opt_state[name]))
            assert metrics.averages[f"{name}/loss"].count == int(changed[name][-1])
    assert changed["first"] == [index < stop for index in range(5)]
    assert changed["second"] == [index >= stop for index in range(5)]
    assert int(state.opt_state["first"][0].count) == stop
    assert float(state.mutable["calls"]) == stop  # the second loss does not count calls


def test_later_update_sees_the_earlier_one():
    def spy(params, frozen, state, batch, key, step):
        return Loss(jnp.sum(params["denoiser"]["conv"]["bias"]) * jnp.ones(8, jnp.float32), {}, (), state)

    updates = (Update("main", ("denoiser",), toys.clean_loss), Update("critic", ("critic",), spy))
    state, step, frozen, batch = setup(toys.recipe(updates=updates), toys.settings())
    state, metrics = step(state, frozen, batch)
    assert float(metrics.losses["critic"]) == pytest.approx(float(jnp.sum(state.params["denoiser"]["conv"]["bias"])))


@pytest.mark.parametrize("microbatches", [1, 4])
def test_outputs_of_an_update_reach_later_ones(microbatches):
    """They keep the order of the examples, are computed before the update, and have no gradient."""

    def first(params, frozen, state, batch, key, step):
        out = toys.denoise(params["denoiser"], batch["lr"])
        return toys.clean_loss(params, frozen, state, batch, key, step)._replace(outputs={"out": out})

    def second(params, frozen, state, batch, key, step):
        scores = jnp.einsum("bhwc,cd->bhwd", batch["out"], params["critic"]["kernel"])
        difference = (batch["out"] - batch["lr"]).mean(axis=(1, 2, 3))  # only right in the order of the examples
        return Loss(jnp.mean((scores - 1.0) ** 2, axis=(1, 2, 3)), {"difference": difference}, (), state)

    updates = (Update("main", ("denoiser",), first), Update("critic", ("critic",), second))
    settings = toys.settings(gradient_accumulation_steps=microbatches, mesh={"data": 2, "fsdp": 1})
    start = jax.device_get(setup(toys.recipe(updates=updates), settings)[0].params)
    _, history = run(toys.recipe(updates=updates), settings, steps=1)
    lr = plain_prepare(toys.batch(8))["lr"]
    out = toys.denoise(start["denoiser"], lr)
    np.testing.assert_allclose(history[0].averages["critic/difference"].compute(), (out - lr).mean(), atol=1e-6)
    _, alone = run(CLEAN, settings, steps=1)
    close(history[0].losses["main"], alone[0].losses["main"])
    scores = jnp.einsum("bhwc,cd->bhwd", out, start["critic"]["kernel"])
    close(history[0].losses["critic"], jnp.square(scores - 1).mean())
    for timing in ({"every": 2}, {"start": 1}, {"stop": 3}):
        not_always = (Update("main", ("denoiser",), first, **timing), updates[1])
        with pytest.raises(ValueError, match=r"update 'main' has outputs \(out\) but does not run in every step"):
            run(toys.recipe(updates=not_always), settings, steps=1)


def test_clip_limits_the_gradient():
    def loss(params, frozen, state, batch, key, step):
        return Loss(jnp.sum(params["critic"]["kernel"]) * jnp.ones(8, jnp.float32), {}, (), state)

    recipe = toys.recipe(updates=(Update("main", ("critic",), loss),))
    settings = toys.settings(clip_norm=0.1, b1=0.0)
    state, step, frozen, batch = setup(recipe, settings)
    state, metrics = step(state, frozen, batch)
    assert float(metrics.averages["grad_norm"].total) == pytest.approx(24**0.5)  # reported before the clip
    second_moment = state.opt_state["main"][0].nu["critic"]["kernel"]
    assert float(jnp.sum(second_moment)) == pytest.approx(0.1**2 * 0.001, rel=1e-4)


def test_ema_formula():
    state, step, frozen, batch = setup(CLEAN, toys.settings(ema_decay=0.15))
    expected = {"denoiser": jax.device_get(state.params["denoiser"])}
    assert toys.same(expected, state.ema)
    for made in range(3):
        state, _ = step(state, frozen, batch)
        keep = min(0.15, (1 + made) / (10 + made))
        params = {"denoiser": state.params["denoiser"]}
        expected = jax.tree.map(lambda old, new, keep=keep: keep * old + (1 - keep) * np.asarray(new), expected, params)
    close(state.ema, expected)
    assert inference_params(state, CLEAN.exported) is state.ema


def test_ema_of_two_exported_groups():
    updates = (Update("main", ("denoiser",), toys.clean_loss), Update("critic", ("critic",), toys.critic_loss))
    settings = toys.settings(ema_decay=0.9)
    one, _ = run(toys.recipe(updates=updates), settings)
    two, _ = run(toys.recipe(updates=updates, exported=("denoiser", "critic")), settings)
    assert set(one.ema) == {"denoiser"}
    assert set(two.ema) == {"denoiser", "critic"}
    close(one.ema["denoiser"], two.ema["denoiser"], 1e-6)
    with pytest.raises(ValueError, match="recipe 'toy' exports decoder: the groups are critic, denoiser"):
        setup(toys.recipe(toys.clean_loss, exported=("denoiser", "decoder")), settings)


def test_no_ema_keeps_no_copy():
    state, *_ = setup(CLEAN, toys.settings())
    assert state.ema == {}
    assert inference_params(state, CLEAN.exported) == {"denoiser": state.params["denoiser"]}


def test_finite_flag():
    def loss(params, frozen, state, batch, key, step):
        bad = jnp.where(step == 1, jnp.float32(jnp.nan), jnp.float32(1))
        return Loss(bad * jnp.sum(params["critic"]["kernel"]) * jnp.ones(8, jnp.float32), {}, (), state)

    _, history = run(toys.recipe(updates=(Update("main", ("critic",), loss),)), toys.settings())
    assert [bool(m.finite) for m in history] == [True, False, False]


def test_initial_weights_and_errors():
    initial = {
        "denoiser": jax.tree.map(np.ones_like, jax.device_get(setup(CLEAN, toys.settings())[0].params["denoiser"]))
    }
    state, step, frozen, batch = setup(CLEAN, toys.settings(ema_decay=0.5), initial=initial)
    assert toys.same(state.params["denoiser"], initial["denoiser"])
    assert toys.same(state.ema["denoiser"], initial["denoiser"])
    step(state, frozen, batch)
    initial["denoiser"]["out"]["kernel"] = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"initial weights .* float32\[2, 3\] instead of float32\[8, 3\]"):
        setup(CLEAN, toys.settings(), initial=initial)
    with pytest.raises(ValueError, match=r"unexpected \(1\): other/x"):
        setup(CLEAN, toys.settings(), initial={"other": {"x": np.zeros(3, np.float32)}})
    with pytest.raises(ValueError, match="trains decoder: the groups are critic, denoiser"):
        setup(toys.recipe(updates=(Update("main", ("decoder",), toys.clean_loss),)), toys.settings())


def test_loss_must_be_per_example():
    def loss(params, frozen, state, batch, key, step):
        return Loss(jnp.sum(params["critic"]["kernel"]), {}, (), state)

    with pytest.raises(ValueError, match=r"one per example, \(8,\)"):
        run(toys.recipe(updates=(Update("main", ("critic",), loss),)), toys.settings())
