"""The machine that a process runs on: its devices, their memory, its cores."""

import contextlib
import math
import os
from pathlib import Path
from typing import TypeAlias

import jax
import psutil

from eddsrn_jax.errors import InputError

# Files with the memory limit of a Linux container, by cgroups of version 2 and 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# Files with the microseconds of CPU time that a Linux container may use in each period,
# and that period, by cgroups of version 2, which have both in one file, and 1.
CONTAINER_QUOTAS = (
    (Path("/sys/fs/cgroup/cpu.max"),),
    (
        Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
        Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ),
)
# Parts of messages about full memory: of XLA, the CUDA driver, cuDNN and cuBLAS.
_OUT_OF_MEMORY = (
    *("resource_exhausted", "out of memory", "cuda_error_out_of_memory"),
    *("cudnn_status_alloc_failed", "cublas_status_alloc_failed"),
)
# Type checkers take this class of JAX for a variable.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]


def device_memory(device: Device) -> int:
    """Returns the memory of a device in bytes.

    For a CPU it is that of the machine, or of the container that the process runs in.
    """
    if stats := device.memory_stats():
        return stats["bytes_limit"]
    return machine_memory()


def machine_memory() -> int:
    """Returns the memory of the machine, or of its container, in bytes."""
    limits = [psutil.virtual_memory().total]
    for path in CONTAINER_LIMITS:
        # A container without a limit has the word "max" in the file.
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


def usable_cores() -> int:
    """Returns `available_cores`, but at most 16.

    Memory that grows with this number stays bounded on large machines, where a container
    or a cluster's job may get little of it.
    """
    return min(available_cores(), 16)


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cores, container_cores() or cores)


def container_cores() -> int | None:
    """Returns the cores' worth of time that the process's container gets, rounded up.

    `docker run --cpus` and the CPU limits of Kubernetes set it. It is None if there is no
    limit. The number of cores that the process sees is that of the whole machine.
    """
    for files in CONTAINER_QUOTAS:
        # Without a limit, the quota is the word "max" or -1.
        with contextlib.suppress(OSError, ValueError):
            quota, period = (
                int(word) for path in files for word in path.read_text().split()
            )
            if quota > 0 and period > 0:
                return math.ceil(quota / period)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of JAX says that a device has too little memory."""
    text = str(error).lower()
    return any(mark in text for mark in _OUT_OF_MEMORY)


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
