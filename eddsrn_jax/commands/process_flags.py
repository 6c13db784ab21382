"""Flags that connect the processes of a command, on one machine or several."""

from absl import flags


def define_process_flags(flag_values: flags.FlagValues) -> None:
    """Adds the flags that describe the processes of a run."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first process, if there are several.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Number of processes of the run; needs --coordinator.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Index of this process, from 0; needs --coordinator.",
        lower_bound=0,
        flag_values=flag_values,
    )


def connect_by_flags(flag_values: flags.FlagValues) -> None:
    """Connects the processes that the flags describe, see `distributed.connect`."""
    from eddsrn_jax.distributed import connect

    connect(flag_values.coordinator, flag_values.num_processes, flag_values.process_id)
