"""Ctrl-C during the start, signals in callbacks, and hang-ups."""

import os
import signal
import subprocess
import time

import pytest
from processes import command, python


def test_ctrl_c_during_imports_ends_with_130_and_no_traceback():
    run = python(
        "import time; from eddsrn_jax.commands.signals import interruptible\n"
        "with interruptible():\n"
        "    print('ready', flush=True)\n"
        "    try: time.sleep(300)\n"
        "    except BaseException: print('caught by an import')"
    )
    assert run.stdout.readline() == "ready\n"
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=300)
    assert (run.returncode, out, err) == (130, "", "interrupted\n")


@pytest.mark.parametrize("delay", [0.4, 1.5])
def test_ctrl_c_soon_after_the_start_ends_with_130(delay):
    # After its start the command waits for its standard input.
    run = command("restore.py", "-", stdin=subprocess.PIPE)
    time.sleep(delay)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 130 and "Traceback" not in err


@pytest.mark.parametrize("number, code", [("SIGTERM", 143), ("SIGINT", -2)])
def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(number, code):
    run = python(
        "import gc, signal, sys, time\n"
        "from eddsrn_jax.commands.signals import raised_again\n"
        "sys.unraisablehook = lambda dropped: raised_again(dropped.exc_value)\n"
        "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))\n"
        "def callback(*_):\n"
        "    gc.callbacks.remove(callback)\n"
        f"    signal.raise_signal(signal.{number})\n"
        "gc.callbacks.append(callback)\n"
        "gc.collect()\n"
        "time.sleep(60)"
    )
    run.communicate(timeout=300)
    # The shell shows -2, the default for an uncaught KeyboardInterrupt, as 130.
    assert run.returncode == code


def test_a_hang_up_leaves_no_temporary_file(tmp_path):
    run = python(
        "import signal, time; from pathlib import Path\n"
        # The tests themselves may run under nohup.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from eddsrn_jax.commands.signals import end_on_hangup\n"
        "from eddsrn_jax.files import written_beside\n"
        "end_on_hangup()\n"
        f"with written_beside(Path({str(tmp_path / 'a.png')!r})) as temporary:\n"
        "    temporary.touch()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(300)"
    )
    assert run.stdout.readline() == "ready\n"
    assert len(os.listdir(tmp_path)) == 1
    run.send_signal(signal.SIGHUP)
    run.communicate(timeout=300)
    assert run.returncode == 129 and not os.listdir(tmp_path)
