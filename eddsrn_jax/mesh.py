"""Data parallelism: one axis of devices, a replicated state, sharded batches."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eddsrn_jax.compiler import enable_compilation_cache
from eddsrn_jax.errors import InputError
from eddsrn_jax.machine import Device, find_devices

_log = logging.getLogger(__name__)

DATA_AXIS = "data"


def make_mesh(devices: list[Device] | None = None) -> Mesh:
    """Makes a mesh with one axis, "data", over the given or all devices of the run.

    Every training needs a mesh, so JAX's compilation cache is set up here, see
    `enable_compilation_cache`.

    Raises:
        InputError: see `find_devices`.
    """
    enable_compilation_cache()
    devices = devices or find_devices()
    # JAX rejects the reshape of a pixel shuffle under explicit axes, so they are Auto.
    return jax.make_mesh(
        (len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def map_step(step: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Compiles a per-device step over the mesh; its state is donated.

    The state is replicated, and the batch is split along its first axis. The step itself
    averages over `DATA_AXIS`. `jax.pmap` does this too since JAX 0.8, with restrictions.
    """
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS)),
        out_specs=PartitionSpec(),
        # With this check, shard_map itself sums the gradients of replicated parameters.
        # Averaging the sums would yield the mean times the number of devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a training state: replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of host values onto every device."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's rows of a batch over its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def process_rows(batch_size: int, mesh: Mesh) -> slice:
    """Returns the rows of a global batch that this process feeds to its devices.

    Raises:
        InputError: the batch cannot be split evenly over the devices.
    """
    if batch_size % mesh.size:
        raise InputError(
            f"config.batch_size={batch_size} cannot be split evenly over"
            f" {mesh.size} devices; give config.batch_size="
            f"{-(-batch_size // mesh.size) * mesh.size}, or hide devices, such as with"
            " CUDA_VISIBLE_DEVICES=0"
        )
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
