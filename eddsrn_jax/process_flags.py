"""Flags that connect the processes of a command, on one machine or several."""

from absl import flags

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first process, if there are several."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    None,
    "Number of processes of the run; needs --coordinator.",
    lower_bound=1,
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id",
    None,
    "Index of this process, from 0; needs --coordinator.",
    lower_bound=0,
)


def connect_by_flags() -> None:
    """Connects the processes that the flags describe, see `distributed.connect`."""
    from eddsrn_jax.distributed import connect

    connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
