"""Data parallelism: one axis of devices, a replicated state, sharded batches."""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
import psutil
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eddsrn_jax.errors import InputError

_log = logging.getLogger(__name__)

DATA_AXIS = "data"
# Files with the memory limit of a Linux container, by cgroups of version 2 and 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# Type checkers take this class of JAX for a variable.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]


def device_memory(device: Device) -> int:
    """Returns the memory of a device in bytes.

    For a CPU it is that of the machine, or of the container that the process runs in.
    """
    if stats := device.memory_stats():
        return stats["bytes_limit"]
    limits = [psutil.virtual_memory().total]
    for path in CONTAINER_LIMITS:
        # A container without a limit has the word "max" in the file.
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may run on, at most 16.

    Memory that grows with this number stays bounded on large machines, where a container
    or a cluster's job may get little of it.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cores, 16)


def find_devices() -> list[Device]:
    """Returns all devices of the run.

    Raises:
        InputError: JAX finds no device of the platforms that it was told to use.
    """
    try:
        return jax.devices()
    # JAX raises an AssertionError without a message if the machine has no GPU.
    except (RuntimeError, AssertionError) as error:
        platforms = jax.config.values["jax_platforms"] or ""
        reason = (str(error) or "none is found").splitlines()[0]
        raise InputError(
            f"JAX_PLATFORMS={platforms}: no device can be used ({reason}); unset"
            " JAX_PLATFORMS to use any device. A GPU needs pip install 'jax[cuda13]'"
        ) from error


def make_mesh(devices: list[Device] | None = None) -> Mesh:
    """Makes a mesh with one axis, "data", over the given or all devices of the run.

    Raises:
        InputError: see `find_devices`.
    """
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
            f" {mesh.size} devices"
        )
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
