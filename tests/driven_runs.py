"""Starts runs of train.py as processes, and follows their messages and checkpoints."""

import re
import time

from processes import QUICK, command
from tiny import RESIDENT, tiny_flags


def train(folder, workdir, log, changes, **variables):
    """Starts train.py; its messages go to the file `log`."""
    flags = tiny_flags(folder, workdir, **RESIDENT | changes)
    with log.open("w") as file:
        return command("train.py", *flags, stderr=file, **QUICK | variables)


def wait_for(reached, run, log):
    """Waits until `reached` returns true or the run ends; fails after ten minutes."""
    deadline = time.monotonic() + 600
    while run.poll() is None and not reached():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)


def steps_logged(log):
    return re.findall(r" step (\d+)/", log.read_text())


def phase_of(workdir, log, *, validate_every=25):
    """Returns the phase that a run is in, judged by its messages and folders."""
    messages = log.read_text()
    if "first step after" not in messages:
        return "compile" if "XLA_FLAGS=" in messages else "start"
    if any(workdir.glob("checkpoints/*tmp*")):
        return "save"
    # A validation begins after its step's loss is logged, and ends with its own message.
    last = re.search(r" step (\d+)/.*\n$", messages)
    return "validation" if last and int(last[1]) % validate_every == 0 else "step"


def finished_steps(workdir):
    """Returns the steps that a run can resume from: 0 and all finished checkpoints."""
    names = [path.name for path in workdir.glob("checkpoints/*")]
    return [0, *(int(name) for name in names if name.isdigit())]
