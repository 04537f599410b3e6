"""Placement of arrays on one mesh with the axes ('data', 'fsdp'): parameters by rules, batches over both axes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from framer_jax.training.settings import MESH_AXES, TrainingSettings


def make_mesh(settings: TrainingSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `settings.mesh`, over the first devices if it needs fewer than there are.

    Args:
      settings: only `mesh` matters.
      devices: available devices, such as those of a topology description; None: all devices of this program.

    Raises:
      ValueError: unknown axes, sizes that do not fit the devices, or only some of the devices of several hosts.
    """
    sizes = {"data": -1, "fsdp": 1, **settings.mesh}
    unknown = sorted(set(sizes) - set(MESH_AXES))
    if unknown:
        raise ValueError(f"training.mesh has unknown axis {', '.join(unknown)}: the axes are {', '.join(MESH_AXES)}")
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    free = [name for name in MESH_AXES if sizes[name] == -1]
    fixed = int(np.prod([sizes[name] for name in MESH_AXES if name not in free]))
    if len(free) > 1 or any(sizes[name] < 1 for name in MESH_AXES if name not in free):
        raise ValueError(f"training.mesh {sizes}: axis sizes must be at least 1; one of them may be -1 (the rest)")
    if fixed > count or (free and count % fixed):
        raise ValueError(f"training.mesh {sizes} does not fit {count} devices: choose sizes that divide {count}")
    for name in free:
        sizes[name] = count // fixed
    shape = tuple(sizes[name] for name in MESH_AXES)
    total = int(np.prod(shape))
    if jax.process_count() > 1 and total != count:
        raise ValueError(f"training.mesh {sizes} uses {total} of {count} devices: several hosts must use all of them")
    types = (AxisType.Auto,) * len(MESH_AXES)
    if (slices := number_of_slices(devices[:total])) > 1:
        return Mesh(hybrid_grid(shape, slices, devices[:total]), MESH_AXES, axis_types=types)
    return jax.make_mesh(shape, MESH_AXES, types, devices=devices[:total])


def number_of_slices(devices: Sequence[Any]) -> int:
    """How many slices of TPUs the devices belong to: fast links join the chips of one, a network the slices."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def hybrid_grid(shape: tuple[int, ...], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """Devices of several slices [data, fsdp]: 'fsdp' stays within a slice, whose links it needs most.

    Args:
      shape: sizes of the axes data and fsdp.
      slices: number of slices, of equal size.
      devices: all of them.

    Raises:
      ValueError: `fsdp` does not fit into a slice.
    """
    data, fsdp = shape
    if data % slices:
        raise ValueError(
            f"training.mesh.fsdp {fsdp} does not fit into a slice of {len(devices) // slices} devices ({slices} "
            "slices): choose a size that divides it"
        )
    grid = mesh_utils.create_hybrid_device_mesh(
        (data // slices, fsdp), (slices, 1), devices=devices, allow_split_physical_axes=True
    )
    return np.asarray(grid)


def leaf_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf as one string, such as 'params/denoiser/conv/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_spec(name: str, shape: tuple[int, ...], mesh: Mesh, settings: TrainingSettings) -> PartitionSpec:
    """The mesh axis of each dimension of one array.

    The first rule whose regex matches a part of `name` and whose spec is not longer than `shape` decides. Without such
    a rule, the 'fsdp' axis splits the largest dimension that it divides in arrays of at least `settings.fsdp_min_size`
    elements.

    Raises:
      ValueError: the axis of a rule does not divide its dimension.
    """
    for pattern, axes in settings.sharding_rules:
        if len(axes) <= len(shape) and re.search(pattern, name):
            for size, axis in zip(shape, axes, strict=False):
                if axis is not None and size % mesh.shape[axis]:
                    raise ValueError(
                        f"sharding rule {pattern!r} splits a dimension of {size} in {name} over "
                        f"{mesh.shape[axis]} devices of {axis!r}: choose another dimension"
                    )
            return PartitionSpec(*axes)
    parts = mesh.shape["fsdp"]
    divisible = [(size, index) for index, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not divisible or int(np.prod(shape)) < settings.fsdp_min_size:
        return PartitionSpec()
    chosen = max(divisible)[1]
    return PartitionSpec(*("fsdp" if index == chosen else None for index in range(chosen + 1)))


def tree_shardings(tree: Any, mesh: Mesh, settings: TrainingSettings) -> Any:
    """A NamedSharding for each leaf of `tree` (anything with a shape), which depends on its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, leaf_spec(leaf_name(path), leaf.shape, mesh, settings)), tree
    )


def check_rules(params: Any, settings: TrainingSettings) -> None:
    """Refuse rules that match no parameter, because a misspelt path would silently replicate the parameter.

    Raises:
      ValueError: the message names the rule.
    """
    leaves = [(leaf_name(path), leaf.ndim) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, axes in settings.sharding_rules:
        if not any(re.search(pattern, name) and len(axes) <= rank for name, rank in leaves):
            raise ValueError(
                f"sharding rule {pattern!r} with {len(axes)} axes matches no parameter: "
                f"paths look like {leaves[0][0]!r}"
            )


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Sharding of a batch: examples over all devices; `leading` axes before the example axis are not split."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, MESH_AXES))


def constrain_batch_sharding(mesh: Mesh) -> AbstractContextManager[Any]:
    """A context in which outputs of linear layers and convolutions are constrained to the sharding of the batch.

    Without the constraint, where one mesh axis splits both a weight and the examples, the partitioner may split the
    activations like the weight: it then gathers the whole batch on every device in every layer, although gathering the
    weight transfers far less. Nothing is constrained if weights are not split, or if the first axis of an output is not
    divisible by the number of devices.
    """
    if mesh.shape["fsdp"] == 1:
        return nullcontext()
    sharding = batch_sharding(mesh)

    def constrain(call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*arguments, **keywords)
        is_linear = isinstance(context.module, nn.Dense | nn.Conv) and context.method_name == "__call__"
        if not is_linear or output.shape[0] % mesh.size:
            return output
        return jax.lax.with_sharding_constraint(output, sharding)

    return nn.intercept_methods(constrain)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Place this host's part of a batch (leaves with leading axis B / hosts) on the mesh as one global batch."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def place_tree(tree: Any, mesh: Mesh, settings: TrainingSettings) -> Any:
    """Place weights of which every host has a full copy (frozen or initial weights) on the mesh by the rules."""
    shardings = tree_shardings(tree, mesh, settings)
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)


@functools.cache  # so that each shape is compiled once in a run
def _gathering(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, PartitionSpec()))


def to_first_host(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a tree as full NumPy arrays on the first host, and None on the others; every host must call it.

    One array after the other is gathered on the devices, so that they need memory for one of them at a time.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    gather = _gathering(mesh)
    is_first = jax.process_index() == 0

    def fetch(leaf: Any) -> np.ndarray | None:
        gathered = gather(leaf)
        array = np.asarray(gathered.addressable_data(0)) if is_first else None
        gathered.block_until_ready()  # before the next one is gathered
        return array

    arrays = jax.tree.map(fetch, tree)
    return arrays if is_first else None
