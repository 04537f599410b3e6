"""The kernel itself, step by step on the CPU, next to the products and the softmax that it stands for."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from framer_jax.inference.export import exported_program
from framer_jax.macs import products
from framer_jax.models.layers import attention
from framer_jax.models.splash_attention import splash_attention


def tokens(batch, queries, keys, heads=2, width=16, dtype=jnp.float32):
    lengths = (queries, keys, keys)
    drawn = [
        jax.random.normal(jax.random.fold_in(jax.random.key(3), index), (batch, length, heads, width))
        for index, length in enumerate(lengths)
    ]
    return [array.astype(dtype) for array in drawn]


def interpreted(query, key, value):
    return splash_attention(query, key, value, interpret=True)


@pytest.mark.parametrize(("queries", "keys"), [(128, 128), (130, 77), (5, 600)])
def test_it_is_attention_with_any_number_of_tokens(queries, keys):
    arrays = tokens(2, queries, keys)

    def loss(function):
        return lambda *arrays: jnp.sum(jnp.sin(function(*arrays)))

    expected = attention(*arrays, "manual")
    np.testing.assert_allclose(jax.jit(interpreted)(*arrays), expected, atol=2e-6)
    gradients = jax.jit(jax.grad(loss(interpreted), (0, 1, 2)))(*arrays)
    for actual, right in zip(gradients, jax.grad(loss(attention), (0, 1, 2))(*arrays), strict=True):
        np.testing.assert_allclose(actual, right, atol=5e-6)


def test_of_bfloat16_the_softmax_is_float32():
    arrays = tokens(1, 130, 140, dtype=jnp.bfloat16)
    result = jax.jit(interpreted)(*arrays)
    assert result.dtype == jnp.bfloat16
    expected = attention(*[array.astype(jnp.float32) for array in arrays], "manual")
    np.testing.assert_allclose(result.astype(jnp.float32), expected, atol=0.02)


@pytest.fixture
def mesh():
    return jax.make_mesh((4, 2), ("data", "fsdp"), (AxisType.Auto,) * 2)


def test_on_a_mesh_each_device_computes_its_examples(mesh):
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    arrays = [jax.device_put(array, sharding) for array in tokens(8, 20, 30)]

    def split(*arrays):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return interpreted(*arrays)

    gradients = jax.jit(jax.grad(lambda *arrays: jnp.sum(jnp.sin(split(*arrays))), (0, 1, 2)))(*arrays)
    expected = jax.grad(lambda *arrays: jnp.sum(jnp.sin(attention(*arrays, "manual"))), (0, 1, 2))(*arrays)
    for actual, right in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(actual, right, atol=5e-6)
    gathers = ["all-gather" in jax.jit(run).lower(*arrays).compile().as_text() for run in (split, interpreted)]
    assert gathers == [False, True]


def test_a_batch_that_the_devices_do_not_divide_is_computed_by_all(mesh):
    arrays = [jax.device_put(array, NamedSharding(mesh, PartitionSpec())) for array in tokens(3, 20, 30)]

    @jax.jit
    def run(*arrays):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return interpreted(*arrays)

    result = run(*arrays)
    np.testing.assert_allclose(result, attention(*arrays, "manual"), atol=2e-6)


def macs(jaxpr):
    return sum(product.macs for product in products(jaxpr))


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def holds_kernel(traced, platform="tpu"):
    return "tpu_custom_call" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("implementation", "length"), [("splash", 8), ("auto", 1024), ("xla", 1024)])
def test_attention_is_the_kernel_on_tpus_and_xla_elsewhere(implementation, length, one_device):
    arrays = tokens(1, length, length, heads=1, width=8, dtype=jnp.bfloat16)
    traced = jax.jit(lambda *arrays: attention(*arrays, implementation)).trace(*arrays)
    assert holds_kernel(traced) == (implementation == "splash")  # here, the default backend is a CPU
    assert not holds_kernel(traced, "cpu")
    result = traced.lower().compile()(*arrays)
    np.testing.assert_allclose(result, attention(*arrays, "xla"), rtol=0.01, atol=1e-4)
    assert macs(traced.jaxpr) == macs(jax.make_jaxpr(lambda *arrays: attention(*arrays, "xla"))(*arrays)) > 0


def test_the_kernel_needs_a_mesh_where_there_are_several_devices(mesh):
    """The partitioner refuses to split it, for example where a run on many chips samples its validation images."""
    shape = jax.ShapeDtypeStruct((8, 8, 1, 8), jnp.bfloat16)

    def run(*arrays):
        return attention(*arrays, "splash")

    assert not holds_kernel(jax.jit(run).trace(shape, shape, shape))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert holds_kernel(jax.jit(run).trace(shape, shape, shape))


def test_a_kernel_for_gpus_is_xla_elsewhere():
    arrays = tokens(1, 20, 30, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(attention(*arrays, "cudnn"), attention(*arrays, "xla"))


@pytest.mark.parametrize("implementation", ["auto", "splash"])
def test_programs_for_export_may_have_any_number_of_tokens(implementation):
    (length,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
    exported = jax.export.export(jax.jit(lambda *arrays: attention(*arrays, implementation)))(shape, shape, shape)
    arrays = tokens(1, 5, 5, width=8)
    np.testing.assert_allclose(exported.call(*arrays), attention(*arrays, "xla"), atol=1e-6)


@pytest.mark.parametrize(("length", "width", "kernel"), [(1024, 128, True), (1023, 128, False), (1024, 129, False)])
def test_auto_is_the_kernel_for_many_tokens_where_there_is_a_tpu(length, width, kernel, one_device, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    shape = jax.ShapeDtypeStruct((1, length, 1, width), jnp.bfloat16)
    assert holds_kernel(jax.jit(lambda *arrays: attention(*arrays)).trace(shape, shape, shape)) == kernel


def test_a_kernel_of_tpus_is_exported_for_tpus_alone(one_device):
    shape = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)

    def run(*arrays):
        return attention(*arrays, "splash")

    assert "tpu_custom_call" in exported_program(run, ("tpu",), (shape,) * 3).mlir_module()
    with pytest.raises(ValueError, match=r"kernel of TPUs \(splash\), .*--platforms tpu, or .*attention=xla"):
        exported_program(run, ("cpu", "tpu"), (shape,) * 3)


@pytest.mark.slow  # needs libtpu, which compiles for chips that are not there
@pytest.mark.filterwarnings("ignore:Error .* persistent compilation cache")  # of programs for chips that are not there
@pytest.mark.parametrize("width", [64, 128])
def test_compiled_for_chips_it_needs_a_fraction_of_the_memory(width):
    """docs/results/topologies.md has the figures of DiT4SR's joint attention, whose heads are 64 wide."""
    pytest.importorskip("libtpu")
    devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
    mesh = Mesh(np.asarray(devices).reshape(4, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    shape = jax.ShapeDtypeStruct((8, 2202, 24, width), jnp.bfloat16, sharding=sharding)

    def temporaries(implementation):
        def total(*arrays):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return attention(*arrays, implementation).astype(jnp.float32).sum()

        with jax.numpy_dtype_promotion("standard"):  # JAX's own gradient of bfloat16 attention mixes dtypes
            compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(shape, shape, shape).compile()
        print(implementation, compiled.memory_analysis().temp_size_in_bytes / 2**20, "MiB")
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries("splash") < temporaries("xla") / 5
