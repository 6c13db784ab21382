"""The GPUs that a process of a run takes."""

import pytest

from eddsrn_jax.distributed import _local_devices

# srun sets these variables if it starts one process on each of two machines, and if it
# starts two processes on one machine.
ALONE_BY_SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
TWO_BY_SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        (ALONE_BY_SRUN, []),
        (TWO_BY_SRUN, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, None),
        (ALONE_BY_SRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, None),
        (ALONE_BY_SRUN | {"JAX_LOCAL_DEVICE_IDS": "1"}, None),
    ],
)
def test_the_only_process_of_a_machine_takes_all_gpus(environment, expected, monkeypatch):
    for name in (*TWO_BY_SRUN, "OMPI_COMM_WORLD_LOCAL_SIZE", "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _local_devices() == expected
