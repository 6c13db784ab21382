"""The processes of a run: connecting them, gathering values, stopping together."""

import collections
import json
import logging
import os
import re
import signal
import socket
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from eddsrn_jax.errors import InputError, UsageError

_log = logging.getLogger(__name__)

# Seconds without a heartbeat after which a process counts as dead and the others end.
_HEARTBEAT_TIMEOUT = 30
# Matches errors of collective operations and of the coordination between processes.
_FAILED = re.compile("Gloo|NCCL|[Cc]oordination|^UNAVAILABLE|^DEADLINE_EXCEEDED|^ABORTED")

# Flags of `AnyFlag` that may be unread: enough to keep the devices busy.
_FLAGS_IN_FLIGHT = 2


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connects the processes of a run, if there are several.

    It must be called before the process uses a device.

    Args:
        coordinator: HOST:PORT of the first process. If None, it comes from the
            environment of SLURM's srun, of Open MPI's mpirun or of a TPU pod. Without
            these, the run has one process.
        num_processes: number of processes of the run.
        process_id: index of this process, from 0.

    Raises:
        UsageError: an argument is missing, the arguments are inconsistent, the port is
            taken, or no other process is found.
    """
    numbers = (num_processes, process_id)
    if coordinator and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UsageError(f"--coordinator={coordinator}: expected HOST:PORT")
    if coordinator and (
        num_processes is None or process_id is None or process_id >= num_processes
    ):
        raise UsageError(
            f"--coordinator={coordinator} needs --num_processes and a --process_id below"
            f" it; they are {num_processes} and {process_id}"
        )
    if not coordinator and numbers != (None, None):
        raise UsageError("--num_processes and --process_id need --coordinator")
    if coordinator and process_id == 0:
        _check_free(coordinator)
    several = coordinator or _several_by_environment()
    # jax_platforms names TPUs if there are any. Only JAX can tell whether they are part
    # of a pod.
    if not several and "tpu" not in (jax.config.values["jax_platforms"] or ""):
        return
    if several:
        _log.info("waiting for the other processes")
    try:
        _initialize(coordinator, num_processes, process_id)
    except (ValueError, OSError, RuntimeError) as error:
        # Under Open MPI 5, JAX raises RuntimeError if the package mpi4py is missing.
        if isinstance(error, RuntimeError) and "mpi4py" not in str(error):
            raise
        if several:
            raise UsageError(f"the other processes cannot be found: {error}") from error
        _log.warning("no TPU pod was found, so this is the only process: %s", error)
    # Only the first collective operation has a timeout, of half a minute. It is done now,
    # because opening the photos may take longer.
    wait_for_others()
    if jax.process_index() > 0:
        # The first process logs for all; every process logs its own errors.
        logging.getLogger("eddsrn_jax").setLevel(logging.ERROR)


def _check_free(coordinator: str) -> None:
    """Raises UsageError if another program uses the port, with which JAX would crash."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise UsageError(f"--coordinator={coordinator}: {error}") from error


def _initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connects the processes. A signal ends this one while it waits for the others."""
    # JAX would otherwise handle SIGTERM in place of Python.
    jax.config.update("jax_enable_preemption_service", False)
    # Python's handlers cannot run while JAX waits for the other processes; the system's
    # default handlers can. Only the main thread may change handlers.
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            handlers[number] = signal.signal(number, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            local_device_ids=None if coordinator else _local_devices(),
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
    finally:
        for number, handler in handlers.items():
            # None: the handler was not set from Python, so it cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class AnyFlag:
    """Tells all processes whether one of them has set its flag.

    A call's answer is the same in all processes. It is about the flags of two calls
    before, so a process waits only for those that are more than two calls behind.
    """

    def __init__(self):
        devices = np.array(jax.devices()).reshape(jax.process_count(), -1)
        self._mesh = jax.sharding.Mesh(devices, ("process", "device"))
        self._rows = PartitionSpec("process")
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        self._any = jax.jit(jnp.any, out_shardings=everywhere)
        self._unread: collections.deque[jax.Array] = collections.deque()

    def __call__(self, flag: bool) -> bool:
        """Returns whether a process passed True two calls ago; False at first.

        Every process must make each call.
        """
        row = np.array([flag])
        flags = multihost_utils.host_local_array_to_global_array(
            row, self._mesh, self._rows
        )
        self._unread.append(self._any(flags))
        return len(self._unread) > _FLAGS_IN_FLIGHT and bool(self._unread.popleft())


def lost_a_process(error: BaseException) -> bool:
    """Returns whether an error means that another process ended or is unreachable."""
    if not jax.distributed.is_initialized():
        return False
    # The type depends on the operation that was waiting for the other process.
    of_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return of_jax and _FAILED.search(str(error)) is not None


def _several_by_environment() -> bool:
    """Returns whether srun, mpirun or a TPU pod started several processes."""
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    by_launcher = any(int(os.environ.get(name, 1)) > 1 for name in counts)
    return by_launcher or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _local_devices() -> list[int] | None:
    """Returns the GPUs that this process may use, by number, as JAX takes them.

    By default, srun and mpirun let JAX take one GPU for each process. The only process
    of a machine takes all of them. An empty list means all, None JAX's own choice.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    tasks, nodes = (os.environ.get(f"SLURM_STEP_NUM_{x}", "") for x in ("TASKS", "NODES"))
    # mpirun may have been started in a shell of srun; JAX looks for it first, too.
    by_mpirun = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    alone = by_mpirun == "1" if by_mpirun else tasks != "" and tasks == nodes
    return [] if alone else None


def require_equal(value: Any, difference: str) -> None:
    """Checks that all processes of a run have the same value.

    Args:
        value: JSON-compatible value of this process.
        difference: beginning of the error message, such as "the configs differ".

    Raises:
        InputError: the values differ; all processes raise it. The message has the first
            values that differ.
    """
    values = gather(value)
    for number, other in enumerate(values):
        if other != values[0]:
            pair = _first_difference(values[0], other)
            raise InputError(
                f"the processes of this run must agree, but {difference}: process 0 has"
                f" {pair[0]}, process {number} has {pair[1]}"
            )


def _first_difference(a: Any, b: Any) -> tuple[str, str]:
    """Returns the first entries in which two JSON values differ, as text."""
    if isinstance(a, dict) and isinstance(b, dict):
        entries = [
            {name: f"{name}={value!r}" for name, value in x.items()} for x in (a, b)
        ]
        names = {**a, **b}
        pairs = ([x.get(name, f"no {name}") for x in entries] for name in names)
        first, second = next(pair for pair in pairs if pair[0] != pair[1])
        return first, second
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        a, b = next((x, y) for x, y in zip(a, b, strict=True) if x != y)
    elif isinstance(a, list) and isinstance(b, list):
        return f"{len(a)} entries", f"{len(b)} entries"
    return repr(a), repr(b)


def wait_for_others() -> None:
    """Waits until all processes of the run have called this function.

    A process that ends long before the others does so after this: JAX would end them.
    """
    gather(None)


def gather(value: Any) -> list[Any]:
    """Gathers a JSON-compatible value of each process; returns them in process order."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(data.size))
    padded = np.pad(data, (0, int(sizes.max()) - data.size))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)
    ]
