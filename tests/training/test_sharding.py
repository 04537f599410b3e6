"""Meshes, and where arrays lie on them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from framer_jax.training.sharding import (
    batch_sharding,
    check_rules,
    constrain_batch_sharding,
    hybrid_grid,
    leaf_spec,
    make_mesh,
    number_of_slices,
    place_batch,
    place_tree,
    to_first_host,
    tree_shardings,
)
from tests.support import training_toys as toys


def mesh_settings(data, fsdp, **changes):
    settings = toys.settings(mesh={"data": data, "fsdp": fsdp}, **changes)
    return make_mesh(settings), settings


def test_mesh_fills_the_free_axis():
    assert dict(make_mesh(toys.settings(mesh={"data": -1, "fsdp": 4})).shape) == {"data": 2, "fsdp": 4}
    assert dict(make_mesh(toys.settings(mesh={})).shape) == {"data": 8, "fsdp": 1}
    assert make_mesh(toys.settings(mesh={"data": 2})).size == 2


@pytest.mark.parametrize(
    ("mesh", "line"),
    [
        ({"data": 16}, "does not fit 8 devices"),
        ({"data": -1, "fsdp": 3}, "does not fit 8 devices"),
        ({"data": -1, "fsdp": -1}, "mesh.data is -1, and so is mesh.fsdp"),
        ({"data": 0}, "mesh.data is 0: it must be a whole number of at least 1, or -1"),
        ({"model": 2}, "mesh.model is unknown: the axes are data and fsdp"),
    ],
)
def test_bad_mesh(mesh, line):
    with pytest.raises(ValueError, match=line):
        make_mesh(toys.settings(mesh=mesh))


@given(st.lists(st.integers(1, 32), max_size=4).map(tuple), st.sampled_from([1, 2, 4, 8]), st.integers(0, 200))
@budget(deadline=None, max_examples=40)
def test_default_rule(shape, parts, smallest):
    mesh, settings = mesh_settings(8 // parts, parts, fsdp_min_size=smallest)
    spec = leaf_spec("params/x", shape, mesh, settings)
    split = [size for size, axis in zip(shape, spec, strict=False) if axis == "fsdp"]
    divisible = [size for size in shape if size % parts == 0]
    if parts > 1 and divisible and np.prod(shape) >= smallest:
        assert split == [max(divisible)]
    else:
        assert spec == P()


def test_rules_come_first_and_reach_the_optimiser_state():
    mesh, settings = mesh_settings(2, 4, sharding_rules=[("denoiser/.*kernel", [None, "fsdp"]), ("critic", [])])
    tree = {
        "params": {"denoiser": {"kernel": jnp.zeros((8, 4))}, "critic": {"kernel": jnp.zeros((8, 8))}},
        "opt_state": {"main": {"mu": {"denoiser": {"kernel": jnp.zeros((8, 4))}}, "count": jnp.int32(0)}},
        "key": jax.random.key(0),
    }
    specs = jax.tree.map(lambda sharding: sharding.spec, tree_shardings(tree, mesh, settings))
    assert specs["params"]["denoiser"]["kernel"] == P(None, "fsdp")
    assert specs["opt_state"]["main"]["mu"]["denoiser"]["kernel"] == P(None, "fsdp")
    assert specs["params"]["critic"]["kernel"] == P()
    assert specs["opt_state"]["main"]["count"] == P()
    assert specs["key"] == P()


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (("kernel", ["model"]), "sharding_rules has the axes .*model.*: .* data, fsdp or None"),
        (("kernel", [None, "fsdp"]), "splits a dimension of 3 in params/kernel over 4 devices"),
    ],
)
def test_bad_rules(rule, line):
    with pytest.raises(ValueError, match=line):
        leaf_spec("params/kernel", (8, 3), *mesh_settings(2, 4, sharding_rules=[rule]))


def test_rule_that_matches_nothing():
    params = {"denoiser": {"kernel": jnp.zeros((8, 3))}}
    check_rules(params, toys.settings(sharding_rules=[("kernel$", ["fsdp"])]))
    with pytest.raises(
        ValueError, match="'kernle' with 1 axes matches no parameter: paths look like 'denoiser/kernel'"
    ):
        check_rules(params, toys.settings(sharding_rules=[("kernle", ["fsdp"])]))


def test_placing_batches_and_trees_keeps_values():
    mesh, settings = mesh_settings(2, 4)
    placed = place_batch(toys.batch(), mesh)
    assert placed["hr"].sharding == batch_sharding(mesh)
    assert placed["hr"].addressable_shards[0].data.shape == (1, 4, 4, 3)
    assert toys.same(toys.batch(), to_first_host(placed, mesh))
    tree = {"kernel": np.arange(24, dtype=np.float32).reshape(8, 3)}
    weights = place_tree(tree, mesh, settings)
    assert weights["kernel"].addressable_shards[0].data.shape == (2, 3)
    assert toys.same(tree, to_first_host(weights, mesh))


@pytest.mark.parametrize(("fsdp", "examples", "constraints"), [(4, 8, 3), (4, 6, 0), (1, 8, 0)])
def test_outputs_of_linear_layers_keep_the_sharding_of_the_batch(fsdp, examples, constraints):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.remat(nn.Dense)(8)(x)
            return nn.Dense(4)(nn.LayerNorm()(nn.Conv(8, (3,))(x)))

    mesh, _ = mesh_settings(8 // fsdp, fsdp)
    network, x = Network(), jnp.ones((examples, 4, 8))
    params = network.init(jax.random.key(0), x)

    def constrained(params, x):
        with constrain_batch_sharding(mesh):
            return network.apply(params, x)

    assert str(jax.make_jaxpr(constrained)(params, x)).count("sharding_constraint[") == constraints
    np.testing.assert_allclose(jax.jit(constrained)(params, x), network.apply(params, x), rtol=1e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX's arrangement of devices reads of a TPU."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0

    side: int = 2

    @property
    def coords(self):
        place = self.id % self.side**2
        return (place % self.side, place // self.side, 0)


@pytest.mark.parametrize(("side", "fsdp"), [(2, 1), (2, 2), (2, 4), (4, 2), (4, 8), (4, 16)])
def test_parameters_are_split_within_a_slice(side, fsdp):
    """Also where `fsdp` is no product of a slice's sides, such as 8 of 4x4."""
    count = 2 * side**2
    chips = [Chip(index, index // side**2, side=side) for index in range(count)]
    assert number_of_slices(chips) == 2
    assert number_of_slices(jax.devices()) == 1
    grid = hybrid_grid((count // fsdp, fsdp), 2, chips)
    assert grid.shape == (count // fsdp, fsdp)
    assert {chip.id for chip in grid.flat} == set(range(count))
    slices = np.vectorize(lambda chip: chip.slice_index)(grid)
    assert (slices == slices[:, :1]).all()
    assert (np.diff(slices[:, 0]) >= 0).all()


def test_parameters_that_need_more_than_a_slice_are_refused():
    chips = [Chip(index, index // 4) for index in range(8)]
    with pytest.raises(ValueError, match=r"training.mesh.fsdp 8 does not fit into a slice of 4 devices \(2 slices\)"):
        hybrid_grid((1, 8), 2, chips)
