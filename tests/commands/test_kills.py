"""A run that is killed again and again ends like an uninterrupted one."""

import collections
import re
import shutil
import signal
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from driven_runs import finished_steps, phase_of, steps_logged, train, wait_for
from tiny import final_state, metrics_rows

# Phases in which a run is killed, with the longest delay before the kill in seconds.
PHASES = {"step": 0.1, "save": 0.05, "validation": 0.2, "compile": 4.0}
# Minimum number of kills in total, and in each phase.
KILLS, EACH = 50, 5
SAVE_EVERY, VALIDATE_EVERY = 10, 25
DRIVEN = {
    "data.pipeline": "stream",
    "total_steps": 600,
    "batch_size": 4,
    "log_every_steps": 1,
    "checkpoint.every_steps": SAVE_EVERY,
    "validation.every_steps": VALIDATE_EVERY,
}


def kill(run, workdir, log):
    """Kills a run; returns its phase and the step that it must resume from."""
    # The run is suspended first, so that its phase cannot change before the kill.
    run.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{run.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", run, log)
    found = phase_of(workdir, log), max(finished_steps(workdir))
    run.kill()
    run.communicate()
    assert run.returncode == -signal.SIGKILL, log.read_text()
    return found


def wait_for_aim(aim, run, workdir, log, rng, start_seconds):
    """Waits until a run is in a phase, and then for a random time."""
    if aim == "anything":
        # The range is the time until the first step, plus a second of training, which is
        # a tenth of the run.
        time.sleep(rng.uniform(0, 1 + start_seconds))
        return
    if aim != "compile":
        step = rng.integers(1, 12)
        wait_for(lambda: len(steps_logged(log)) >= step, run, log)
    wait_for(lambda: phase_of(workdir, log) == aim, run, log)
    time.sleep(rng.uniform(0, PHASES[aim]))


@pytest.mark.slow
def test_a_run_killed_fifty_times_ends_like_an_uninterrupted_one(finished, tmp_path):
    folder, _ = finished
    rng, log, workdir = np.random.default_rng(0), tmp_path / "log", tmp_path / "killed"
    cache = tmp_path / "xla"

    def start(workdir):
        variables = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        return train(folder, workdir, log, DRIVEN, **variables)

    run = start(tmp_path / "whole")
    _ = run.communicate(timeout=600)
    assert run.returncode == 0, log.read_text()

    seen, lost, seconds, resumed_from = collections.Counter(), {}, [], 0
    while sum(seen.values()) < KILLS or min(seen[phase] for phase in PHASES) < EACH:
        number = sum(seen.values())
        assert number < 2 * KILLS, seen
        aim = ["step", "save", "validation", "compile", "anything"][number % 5]
        if aim == "compile":
            shutil.rmtree(cache, ignore_errors=True)
        began = time.monotonic()
        run = start(workdir)
        if aim not in ("compile", "anything"):
            wait_for(lambda: "first step after" in log.read_text(), run, log)
            seconds.append(time.monotonic() - began)
        wait_for_aim(aim, run, workdir, log, rng, statistics.median(seconds or [0]))
        phase, can_go_on_from = kill(run, workdir, log)
        # Unless the cache was deleted, the program is loaded and not compiled.
        phase = "start" if phase == "compile" and aim != "compile" else phase
        seen[phase] += 1
        if found := re.search(r", steps (\d+) to 600", log.read_text()):
            assert int(found[1]) == resumed_from, log.read_text()
        if done := steps_logged(log):
            lost.setdefault(phase, []).append(int(done[-1]) - can_go_on_from)
        resumed_from = can_go_on_from

    run = start(workdir)
    _ = run.communicate(timeout=600)
    assert run.returncode == 0, log.read_text()
    assert f", steps {resumed_from} to 600" in log.read_text()
    began = time.monotonic()
    killed = final_state(workdir, 600)
    reading = time.monotonic() - began
    most = {phase: max(steps) for phase, steps in lost.items()}
    print(
        f"\nkills: {dict(seen)}; most steps lost: {most}, {SAVE_EVERY} lie between saves;"
        f" from start to first step {statistics.median(seconds):.1f} s, of which reading"
        f" the checkpoint {reading:.2f} s"
    )
    whole = final_state(tmp_path / "whole", 600)
    jax.tree.map(np.testing.assert_array_equal, killed, whole)
    assert metrics_rows(workdir) == metrics_rows(tmp_path / "whole")
    assert all(path.name.isdigit() for path in workdir.glob("checkpoints/*"))
    for phase, steps in most.items():
        # A kill during a save also loses that save. The next save waits for it, so no
        # more can be lost.
        assert steps <= SAVE_EVERY * (2 if phase == "save" else 1)
