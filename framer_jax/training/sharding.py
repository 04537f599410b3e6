"""Where arrays lie: one mesh of axes ('data', 'fsdp'), rules for parameters, batches split over both axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from framer_jax.training.settings import MESH_AXES, TrainingSettings


def make_mesh(settings: TrainingSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `settings.mesh`, over the first devices if it asks for fewer than there are.

    Args:
      settings: of which `mesh` matters.
      devices: those there are, such as a described topology's; None for this machine's.

    Raises:
      ValueError: for unknown axes, sizes that do not fit the devices, or a part of the devices of several hosts.
    """
    sizes = {"data": -1, "fsdp": 1, **settings.mesh}
    unknown = sorted(set(sizes) - set(MESH_AXES))
    if unknown:
        raise ValueError(f"mesh has unknown axis {', '.join(unknown)}: it may hold {', '.join(MESH_AXES)}")
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    free = [name for name in MESH_AXES if sizes[name] == -1]
    taken = int(np.prod([sizes[name] for name in MESH_AXES if name not in free]))
    if len(free) > 1 or taken < 1 or any(sizes[name] < 1 for name in MESH_AXES if name not in free):
        raise ValueError(f"mesh {dict(sizes)}: axis sizes must be at least 1, one of them may be -1 (the rest)")
    if taken > count or (free and count % taken):
        raise ValueError(f"mesh {dict(sizes)} does not fit {count} devices: choose sizes that divide {count}")
    for name in free:
        sizes[name] = count // taken
    shape = tuple(sizes[name] for name in MESH_AXES)
    total = int(np.prod(shape))
    if jax.process_count() > 1 and total != count:
        raise ValueError(f"mesh {dict(sizes)} uses {total} of {count} devices: several hosts need all of them")
    return jax.make_mesh(shape, MESH_AXES, (AxisType.Auto,) * len(MESH_AXES), devices=devices[:total])


def leaf_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf as one string, 'params/denoiser/conv/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_spec(name: str, shape: tuple[int, ...], mesh: Mesh, settings: TrainingSettings) -> PartitionSpec:
    """Axis names per dimension of one array.

    The first rule whose regex is found in `name` and whose spec is not longer than `shape` decides; without one, the
    'fsdp' axis splits the largest dimension it divides in arrays of at least `settings.fsdp_min_size` elements.

    Raises:
      ValueError: if a rule's axis is unknown or does not divide its dimension.
    """
    for pattern, axes in settings.sharding_rules:
        if len(axes) <= len(shape) and re.search(pattern, name):
            for size, axis in zip(shape, axes, strict=False):
                if axis is not None and axis not in MESH_AXES:
                    raise ValueError(
                        f"sharding rule {pattern!r} names axis {axis!r}: the mesh has {', '.join(MESH_AXES)}"
                    )
                if axis is not None and size % mesh.shape[axis]:
                    raise ValueError(
                        f"sharding rule {pattern!r} splits a dimension of {size} in {name} over "
                        f"{mesh.shape[axis]} devices of {axis!r}: choose another dimension"
                    )
            return PartitionSpec(*axes)
    parts = mesh.shape["fsdp"]
    fitting = [(size, index) for index, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not fitting or int(np.prod(shape)) < settings.fsdp_min_size:
        return PartitionSpec()
    chosen = max(fitting)[1]
    return PartitionSpec(*("fsdp" if index == chosen else None for index in range(chosen + 1)))


def tree_shardings(tree: Any, mesh: Mesh, settings: TrainingSettings) -> Any:
    """A NamedSharding for each leaf (anything with a shape) of `tree`, by its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, leaf_spec(leaf_name(path), leaf.shape, mesh, settings)), tree
    )


def check_rules(params: Any, settings: TrainingSettings) -> None:
    """Refuse rules that no parameter answers to: a misspelt path would silently replicate."""
    leaves = [(leaf_name(path), leaf.ndim) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, axes in settings.sharding_rules:
        if not any(re.search(pattern, name) and len(axes) <= rank for name, rank in leaves):
            raise ValueError(
                f"sharding rule {pattern!r} with {len(axes)} axes fits no parameter: paths look like {leaves[0][0]!r}"
            )


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Examples split over all devices; `leading` axes before the example axis are not split."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, MESH_AXES))


def examples_stay(mesh: Mesh) -> AbstractContextManager[Any]:
    """While a loss is traced: results of linear layers and convolutions stay split by examples, as the batch is.

    Without that the partitioner, seeing one axis split a weight and the examples, may split the activations like the
    weight: it then gathers the whole batch on every device, layer by layer, where gathering the weight is far less.
    Nothing is done where weights are not split, or where the first axis does not split over the devices.
    """
    if mesh.shape["fsdp"] == 1:
        return nullcontext()
    sharding = batch_sharding(mesh)

    def constrained(call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*arguments, **keywords)
        linear = isinstance(context.module, nn.Dense | nn.Conv) and context.method_name == "__call__"
        if not linear or result.shape[0] % mesh.size:
            return result
        return jax.lax.with_sharding_constraint(result, sharding)

    return nn.intercept_methods(constrained)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Put this host's part of a batch (leaves with leading axis B / hosts) on the mesh as one global batch."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def place_tree(tree: Any, mesh: Mesh, settings: TrainingSettings) -> Any:
    """Put weights that every host holds whole (frozen ones, initial ones) on the mesh by the rules."""
    shardings = tree_shardings(tree, mesh, settings)
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree, shardings)


def to_host(tree: Any) -> Any:
    """Whole numpy arrays of a tree, on every host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
