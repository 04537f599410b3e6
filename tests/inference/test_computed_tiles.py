"""Batches of tiles that a CPU computes at the same time."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.inference import computed_tiles
from framer_jax.inference.computed_tiles import BATCHES, in_order

COUNT = 7


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(computed_tiles.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


def calls():
    """Call i has the index i and a tile of that value."""
    for index in range(COUNT):
        yield np.array([index]), (np.full((1, 4, 4, 3), index, np.float32),)


def run(function, several=True):
    return list(in_order(jax.jit(function), calls(), several))


@pytest.mark.parametrize("several", [False, True])
def test_results_come_in_order(several):
    results = run(lambda tiles: 2 * tiles, several)
    assert [int(indices[0]) for indices, _ in results] == list(range(COUNT))
    for index, output in results:
        np.testing.assert_array_equal(output, np.full((1, 4, 4, 3), 2 * index[0], np.float32))


def simultaneous(monkeypatch, available):
    """How many batches were computed at the same time at most; each waits until no further one arrives."""
    monkeypatch.setattr(computed_tiles, "available_memory", lambda: available)
    condition, counts = threading.Condition(), {"now": 0, "most": 0}

    def enter(tiles):
        with condition:
            counts["now"] += 1
            counts["most"] = max(counts["most"], counts["now"])
            condition.notify_all()
            condition.wait_for(lambda: counts["most"] >= BATCHES, timeout=0.2)
            counts["now"] -= 1
        return np.asarray(tiles)

    run(lambda tiles: jax.pure_callback(enter, jax.ShapeDtypeStruct(tiles.shape, tiles.dtype), tiles))
    return counts["most"]


@pytest.mark.parametrize(("available", "most"), [(2**34, BATCHES), (None, 1), (100, 1)])
def test_as_many_at_a_time_as_memory_allows(monkeypatch, available, most):
    assert simultaneous(monkeypatch, available) == most


def test_one_core_computes_one_at_a_time(monkeypatch):
    monkeypatch.setattr(computed_tiles.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert simultaneous(monkeypatch, 2**34) == 1


def test_all_batches_have_the_callers_precision():
    values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    traced = []

    def product(tiles):
        traced.append(jax.config.jax_default_matmul_precision)
        return tiles.reshape(6, 8) @ jnp.asarray(values)

    with jax.default_matmul_precision("float32"):
        run(product)
    assert traced == ["float32"]  # one program, compiled in the caller's thread


def test_an_error_of_one_batch_is_raised():
    def check(tiles):
        if tiles.max() == 3:
            raise RuntimeError("tile 3")
        return np.asarray(tiles)

    iterator = in_order(
        jax.jit(lambda tiles: jax.pure_callback(check, jax.ShapeDtypeStruct(tiles.shape, tiles.dtype), tiles)),
        calls(),
        True,
    )
    received = [int(next(iterator)[0][0]) for _ in range(3)]
    assert received == [0, 1, 2]
    with pytest.raises(Exception, match="tile 3"):
        next(iterator)
