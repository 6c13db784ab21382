"""Tests multi-process runs, with all processes on this machine."""

import json
import re
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest
from processes import QUICK, command
from tiny import metrics_rows, tiny_config, tiny_flags

from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.files import locked
from eddsrn_jax.training.loop import train_and_evaluate

CHANGES = {"validation.every_steps": 5, "log_every_steps": 1, "total_steps": 5}
# A run that is too long to end by itself; tests stop it.
ENDLESS = {"log_every_steps": 5, "total_steps": 100_000, "checkpoint.every_steps": 5}
ENDLESS |= {"validation.every_steps": 100_000}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def joined(how, count):
    """Yields the flags and environment of each process of a run.

    Flags connect the processes, or the environment variables of srun, of Open MPI 4's
    mpirun or of a TPU pod.
    """
    port = free_port()
    for i in range(count):
        if how == "flags":
            flags = f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"
            yield (*flags, f"--process_id={i}"), {}
        elif how == "srun":
            variables = {
                # JAX derives the coordinator's port from the job's ID.
                "SLURM_JOB_ID": str(port),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": str(count),
                "SLURM_STEP_NUM_TASKS": str(count),
                "SLURM_PROCID": str(i),
                "SLURM_LOCALID": str(i),
            }
            yield (), variables
        elif how == "mpirun":
            variables = {
                # JAX derives the coordinator's port from the first number.
                "OMPI_MCA_orte_hnp_uri": f"{port * 2**12}.0;tcp://127.0.0.1:1",
                "OMPI_COMM_WORLD_SIZE": str(count),
                "OMPI_COMM_WORLD_RANK": str(i),
                "OMPI_COMM_WORLD_LOCAL_RANK": str(i),
                "OMPI_VERSION": "4.1.4",
            }
            yield (), variables
        else:
            variables = {
                # JAX then takes this machine for one with TPUs.
                "JAX_FORCE_TPU_INIT": "1",
                "JAX_PLATFORMS": "cpu",
                "JAX_COORDINATOR_PORT": str(port),
                "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * count),
                "TPU_WORKER_ID": str(i),
                # Without these, JAX queries Google's metadata server.
                "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
                "MEGASCALE_NUM_SLICES": "1",
                "MEGASCALE_SLICE_ID": "0",
            }
            yield (), variables


def start(count, script, *flags, how="flags"):
    """Starts a command as `count` processes of one run."""
    return [
        command(script, *flags, *own_flags, **QUICK, **variables)
        for own_flags, variables in joined(how, count)
    ]


def finish(processes, *, timeout=300):
    """Waits for processes, which must succeed; returns their outputs."""
    output = [process.communicate(timeout=timeout) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(output), output
    return output


def assert_same_rows(found, expected, steps):
    assert [row["step"] for row in found] == steps
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def scores(folder):
    """Returns the scores of all images without their times, which always differ."""
    results = json.loads((folder / "results.json").read_text())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in results["images"]]


@pytest.mark.slow
def test_two_processes_log_the_same_metrics_as_one(finished, tmp_path):
    """Two processes, each with half of every batch, log the same losses as one."""
    folder, _ = finished
    output = finish(
        start(2, "train.py", *tiny_flags(folder, tmp_path / "two", **CHANGES))
    )
    # All processes write checkpoints. Only one writes other files and prints the table.
    saved = (tmp_path / "two" / "checkpoints" / "5").glob("*/ocdbt.process_*")
    assert len({path.name for path in saved}) == 2
    assert len([*(tmp_path / "two" / "tensorboard").iterdir()]) == 1
    assert "| photos-val (1) | x4 SR" in output[0][0]
    assert "photos-val" not in output[1][0] + output[1][1]
    train_and_evaluate(tiny_config(folder, **CHANGES), tmp_path / "one")
    one, two = (metrics_rows(tmp_path / name) for name in ("one", "two"))
    assert_same_rows(two, one, [1, 2, 3, 4, 5, 5])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flags", "srun", "mpirun", "tpu"])
def test_four_processes_log_the_same_metrics_as_one(finished, tmp_path, how):
    folder, _ = finished
    flags = tiny_flags(folder, tmp_path / "four", **CHANGES)
    finish(start(4, "train.py", *flags, how=how))
    train_and_evaluate(tiny_config(folder, **CHANGES), tmp_path / "one")
    one, four = (metrics_rows(tmp_path / name) for name in ("one", "four"))
    assert_same_rows(four, one, [1, 2, 3, 4, 5, 5])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_multi_process_evaluation_matches_one_process(finished, tmp_path, count):
    folder, workdir = finished
    flags = (f"--workdir={workdir}", f"--dataset=mine={folder}", "--sigmas=1,2")
    one, many = tmp_path / "one", tmp_path / "many"
    finish(
        [command("evaluate.py", *flags, "--save_images", f"--output_dir={one}", **QUICK)]
    )
    output = finish(
        start(count, "evaluate.py", *flags, "--save_images", f"--output_dir={many}")
    )
    assert scores(many) == scores(one)
    assert ["| mine" in out for out, _ in output] == [True] + [False] * (count - 1)
    names = [sorted(p.relative_to(f) for p in f.rglob("*.png")) for f in (one, many)]
    # Two example pictures; input, bicubic and network of nine photos at two sigmas.
    assert names[0] == names[1] and len(names[0]) == 2 + 3 * 9 * 2


@pytest.mark.slow
def test_run_resumes_with_a_different_number_of_processes(finished, tmp_path):
    folder, _ = finished
    for count, steps in ((2, 3), (4, 6), (1, 10)):
        changes = {**CHANGES, "total_steps": steps}
        flags = tiny_flags(folder, tmp_path / "run", **changes)
        finish(start(count, "train.py", *flags))
    changes = {**CHANGES, "total_steps": 10}
    train_and_evaluate(tiny_config(folder, **changes), tmp_path / "one")
    losses = [
        {
            row["step"]: row["train/loss"]
            for row in metrics_rows(path)
            if "train/loss" in row
        }
        for path in (tmp_path / "run", tmp_path / "one")
    ]
    assert set(losses[0]) == set(range(1, 11))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def wait_for(path, found, *, seconds=600):
    """Waits until a file contains a match of a regular expression."""
    end = time.monotonic() + seconds
    while not (path.exists() and re.search(found, path.read_text())):
        assert time.monotonic() < end, f"no {found} in {path}"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("count, victim", [(2, 0), (2, 1), (4, 2)])
def test_death_of_one_process_ends_the_others_and_the_run_can_resume(
    finished, tmp_path, count, victim
):
    folder, _ = finished
    flags = tiny_flags(folder, tmp_path / "run", **ENDLESS)
    processes = start(count, "train.py", *flags)
    wait_for(tmp_path / "run" / "metrics.jsonl", '"step": 10')
    # A checkpoint is written in the background, and is named after its step at the end.
    saves, end = tmp_path / "run" / "checkpoints", time.monotonic() + 600
    while not any(path.name.isdigit() for path in saves.iterdir()):
        assert time.monotonic() < end, [*saves.iterdir()]
        time.sleep(0.05)
    processes[victim].kill()
    begun = time.monotonic()
    for process in (*processes[:victim], *processes[victim + 1 :]):
        _, err = process.communicate(timeout=300)
        assert time.monotonic() - begun < 60
        # JAX may notice the loss first; it then aborts the process.
        assert process.returncode in (1, -signal.SIGABRT)
        assert "another process" in err or "distributed service" in err
    processes[victim].communicate()
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        saved, _, _ = checkpoints.restore_params()
    assert saved >= 5
    flags = tiny_flags(folder, tmp_path / "run", **{**ENDLESS, "total_steps": saved + 10})
    output = finish(start(2, "train.py", *flags))
    assert re.search(r"steps \d+ to", output[0][1])
    assert metrics_rows(tmp_path / "run")[-1]["step"] == saved + 10


@pytest.mark.slow
def test_error_in_one_process_ends_all_processes(finished, tmp_path):
    folder, workdir = finished
    begun = time.monotonic()
    with locked(workdir):
        processes = start(2, "train.py", *tiny_flags(folder, workdir, total_steps=12))
        errors = [process.communicate(timeout=300)[1] for process in processes]
    assert time.monotonic() - begun < 60
    assert [process.returncode for process in processes] == [1, 1]
    messages = [error.splitlines()[-1] for error in errors]
    assert messages[0].startswith(f"error: {workdir}: another process is using this")
    assert messages[1].startswith("error: another process of this run has ended")
    assert "Traceback" not in errors[0] + errors[1]


@pytest.mark.slow
def test_only_one_process_warns_of_undecodable_photos(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "photos")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    flags = tiny_flags(tmp_path / "photos", tmp_path / "run", total_steps=1)
    output = finish(start(2, "train.py", *flags))
    named = [error.count("bad.png: cannot be decoded") for _, error in output]
    assert named == [1, 0]


def test_rejects_a_coordinator_port_in_use():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        flags = (f"--coordinator={place}", "--num_processes=2", "--process_id=0")
        run = command("evaluate.py", *flags)
        _, err = run.communicate(timeout=300)
    assert run.returncode == 2
    assert err == f"error: --coordinator={place}: [Errno 98] Address already in use\n"


@pytest.mark.slow
def test_processes_wait_for_one_that_prepares_photos_slowly(finished, tmp_path):
    folder, _ = finished
    slow, flags = tmp_path / "slow", tiny_flags(folder, tmp_path / "run", total_steps=1)
    slow.mkdir()
    own = (), (f"--config.data.cache_dir={slow}",)
    with locked(slow, name=".lock-packs"):
        processes = [
            command("train.py", *flags, *more, *joined_flags, **QUICK, **variables)
            for more, (joined_flags, variables) in zip(
                own, joined("flags", 2), strict=True
            )
        ]
        wait_for(tmp_path / "run" / "train.log", "")
        time.sleep(40)
    finish(processes)


@pytest.mark.slow
def test_processes_resume_from_the_newest_intact_checkpoint(finished, tmp_path):
    folder, workdir = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "checkpoints/10/train/manifest.ocdbt").write_bytes(b"")
    flags = tiny_flags(folder, tmp_path / "run", total_steps=12)
    (_, err), _ = finish(start(2, "train.py", *flags))
    assert "checkpoints/10 cannot be restored: " in err and ", steps 6 to 12 (" in err
    assert (tmp_path / "run" / "damaged-checkpoint-10").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_one_process_saves_a_checkpoint_and_stops_all(
    finished, tmp_path, number
):
    folder, _ = finished
    processes = start(2, "train.py", *tiny_flags(folder, tmp_path / "run", **ENDLESS))
    wait_for(tmp_path / "run" / "metrics.jsonl", '"step": 5')
    processes[1].send_signal(number)
    output = [process.communicate(timeout=300) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0, 130 if number == signal.SIGINT else 0], output
    found = re.search(r"another process: saved step (\d+), stopping", output[0][1])
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        step, _, params = checkpoints.restore_params(int(found[1]))
    assert step == int(found[1])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def assert_all_end(processes, stopped):
    """Asserts that SIGTERM ends one process at once, and that the others then end."""
    begun = time.monotonic()
    for i in [stopped, *(set(range(len(processes))) - {stopped})]:
        _, err = processes[i].communicate(timeout=300)
        assert time.monotonic() - begun < (10 if i == stopped else 60)
        assert processes[i].returncode == (128 + signal.SIGTERM if i == stopped else 1)
        assert "Traceback" not in err
        if i != stopped:
            assert "error: another process of this run has ended" in err


@pytest.mark.slow
def test_second_signal_to_one_process_aborts_the_whole_run(finished, tmp_path):
    folder, _ = finished
    processes = start(2, "train.py", *tiny_flags(folder, tmp_path / "run", **ENDLESS))
    wait_for(tmp_path / "run" / "metrics.jsonl", '"step": 5')
    for _ in range(2):
        processes[1].send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert_all_end(processes, 1)


@pytest.mark.slow
def test_signal_to_one_process_aborts_a_multi_process_evaluation(finished, tmp_path):
    folder, workdir = finished
    # One set could be scored before the signal comes.
    sets = [f"--dataset=set{i}={folder}" for i in range(20)]
    flags = (f"--workdir={workdir}", "--save_images", f"--output_dir={tmp_path / 'out'}")
    processes = start(2, "evaluate.py", *flags, *sets)
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("out/images/set0/*/*.png")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    assert_all_end(processes, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_process_waiting_for_others_to_connect(tmp_path, number):
    (_, (flags, _)) = joined("flags", 2)
    with (tmp_path / "log").open("w") as file:
        run = command("evaluate.py", *flags, stderr=file)
    wait_for(tmp_path / "log", "waiting for the other processes")
    time.sleep(0.5)
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == -number, (tmp_path / "log").read_text()
