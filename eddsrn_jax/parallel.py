"""Data parallelism: one axis of devices, a replicated state, batches split over it."""

import ctypes
import json
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eddsrn_jax.errors import InputError, UsageError

_log = logging.getLogger(__name__)

DATA_AXIS = "data"
# Seconds without a sign of life after which a process counts as dead, and the others end.
_HEARTBEAT_TIMEOUT = 30
# What is in the errors of what the processes do together.
_FAILED = re.compile("Gloo|NCCL|[Cc]oordination|^UNAVAILABLE|^DEADLINE_EXCEEDED|^ABORTED")

# A signal's handler as the system has it, which need not be Python's.
_exchange_handler = ctypes.pythonapi.PyOS_setsig
_exchange_handler.argtypes = [ctypes.c_int, ctypes.c_void_p]
_exchange_handler.restype = ctypes.c_void_p
# That of JAX for SIGTERM, where there are several processes.
_jax_handler: int | None = None


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run, if there are several, before any uses a device.

    Args:
        coordinator: HOST:PORT of the first process; where None what SLURM's srun or a TPU
            pod says in the environment, and if they say nothing there is one process.
        num_processes: of the run.
        process_id: of this process, from 0.

    Raises:
        UsageError: one is missing, they do not fit, or no other process is found.
    """
    numbers = (num_processes, process_id)
    if coordinator and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UsageError(f"--coordinator={coordinator}: expected HOST:PORT")
    if coordinator and (None in numbers or process_id >= num_processes):
        raise UsageError(
            f"--coordinator={coordinator} needs --num_processes and a --process_id below"
            f" it, not {num_processes} and {process_id}"
        )
    if not coordinator and numbers != (None, None):
        raise UsageError("--num_processes, --process_id: expected a --coordinator too")
    if coordinator and process_id == 0:
        _check_free(coordinator)
    several = coordinator or _several_by_environment()
    # Where JAX has found TPUs it says so; whether they are of a pod only it can tell.
    if not several and "tpu" not in (jax.config.jax_platforms or ""):
        return
    if several:
        _log.info("waiting for the other processes")
    try:
        _initialize(coordinator, num_processes, process_id)
    except (ValueError, OSError) as error:
        if several:
            raise UsageError(f"the other processes cannot be found: {error}") from error
        _log.warning("no pod of TPUs is found, this is the only process: %s", error)
    # Later they wait for each other as long as it takes, at their first meeting half a
    # minute: less than one may need for its photographs.
    gather(None)
    if jax.process_index() > 0:
        # The first process speaks for all; of errors each does.
        logging.getLogger("eddsrn_jax").setLevel(logging.ERROR)


def _check_free(coordinator: str) -> None:
    """UsageError where another program has the port, which ends in JAX's crash."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise UsageError(f"--coordinator={coordinator}: {error}") from error


def _initialize(*of_this_process: str | int | None) -> None:
    """Joins them; SIGTERM stays Python's, where JAX would take it for good."""
    global _jax_handler
    # Waiting for the others, Python would not get to what it does at these.
    handlers = {
        number: signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        jax.distributed.initialize(
            *of_this_process,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
    finally:
        _jax_handler = _exchange_handler(signal.SIGTERM, None)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def tell_to_end() -> None:
    """Has `told_to_end` be true in all processes, after some step that is the same."""
    if _jax_handler is None:
        raise RuntimeError("the processes were not joined by parallel.connect")
    # JAX takes SIGTERM for a machine's notice that it is wanted for something else.
    handler = _exchange_handler(signal.SIGTERM, _jax_handler)
    signal.raise_signal(signal.SIGTERM)
    _exchange_handler(signal.SIGTERM, handler)


def told_to_end(step: int) -> bool:
    """Whether all processes are to end after this step; every step must be asked for."""
    return multihost_utils.reached_preemption_sync_point(step)


def lost_another(error: BaseException) -> bool:
    """Whether an error says that another process has ended, or is not seen."""
    if not jax.distributed.is_initialized():
        return False
    # By what was waiting for the other it is of either type.
    of_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return of_jax and _FAILED.search(str(error)) is not None


def _several_by_environment() -> bool:
    """Whether srun, or Kubernetes with TPUs, says that it has started several."""
    by_srun = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    return by_srun or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def gather(value: Any) -> list[Any]:
    """What each process has, in all of them: anything that JSON holds, by their order."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size))
    padded = np.pad(data, (0, int(sizes.max()) - data.size))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)
    ]


def device_memory(device: jax.Device) -> int:
    """Bytes that a device has; of a CPU the machine's."""
    if stats := device.memory_stats():
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis "data", over all devices of all processes."""
    devices = devices or jax.devices()
    # Auto: under explicit axes the reshape of a pixel shuffle is refused.
    return jax.make_mesh(
        (len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def map_step(step: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Compiles a per-device step over the mesh; its state is donated.

    What `jax.pmap` has been since JAX 0.8, without its restrictions: the state is
    replicated, the batch split along its first axis, and the step itself averages
    over `DATA_AXIS`.
    """
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS)),
        out_specs=PartitionSpec(),
        # Checked, shard_map sums the gradients of replicated parameters by itself,
        # and averaging them once more gives them times the number of devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a training state."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of host values onto every device."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def split_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's rows of a batch over its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def process_rows(batch_size: int, mesh: Mesh) -> slice:
    """The rows of a global batch that this process feeds to its devices.

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
