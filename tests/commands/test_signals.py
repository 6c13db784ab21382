"""Ctrl-C during the start, hang-ups, and messages that nobody reads."""

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT, command


def python(code, **options):
    """Starts Python with code that imports only quick modules."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        **{"stderr": subprocess.PIPE, **options},
    )


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


PRINTING = (
    "import sys; from eddsrn_jax.commands.signals import survive_closed_stderr\n"
    "survive_closed_stderr()\n"
    "for i in range(3): print(i, file=sys.stderr, flush=True)\n"
    "print('done')"
)


@pytest.mark.parametrize("how", ["broken", "closed"])
def test_work_goes_on_without_stderr(how):
    if how == "broken":
        reading, writing = os.pipe()
        os.close(reading)
        run = python(PRINTING, stderr=writing)
        os.close(writing)
    else:
        shell = f'exec "{sys.executable}" -c "{PRINTING}" 2>&-'
        run = subprocess.Popen(
            ["sh", "-c", shell], cwd=ROOT, text=True, stdout=subprocess.PIPE
        )
    out, _ = run.communicate(timeout=300)
    assert (run.returncode, out) == (0, "done\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train.py", "--help"),
        ("-m", "eddsrn_jax", "help"),
        ("-m", "eddsrn_jax", "doctor"),
    ],
)
def test_output_that_nobody_reads_is_no_error(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert b"Exception ignored" not in run.stderr and b"Traceback" not in run.stderr
    # Python's code for a failed flush at exit is 120.
    assert run.returncode in (0, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has this device")
def test_output_that_cannot_be_written_is_named_in_one_line():
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "train.py", "--help"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    message = "error: standard output cannot be written: No space left on device\n"
    assert (run.returncode, run.stderr) == (1, message)
