"""Ctrl-C during the start, hang-ups, and streams that nobody reads or writes."""

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
    "import sys; from eddsrn_jax.commands.streams import survive_closed_stderr\n"
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


HELP = ["train.py", "--help"]
COMMANDS = {
    "help of a command": HELP,
    "help": ["-m", "eddsrn_jax", "help"],
    "doctor": ["-m", "eddsrn_jax", "doctor"],
    "dry run": ["train.py", "--config=quickstart", "--dry_run"],
}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_nobody_reads_is_no_error(name, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    run = printing_into(writing, COMMANDS[name], unbuffered)
    os.close(writing)
    assert run.returncode == 0
    assert not [x for x in run.stderr.splitlines() if "rror" in x or "xception" in x]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has this device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["help of a command", "help", "doctor"])
def test_output_that_cannot_be_written_is_named_in_one_line(name, unbuffered):
    with open("/dev/full", "w") as full:
        run = printing_into(full, COMMANDS[name], unbuffered)
    message = "error: standard output cannot be written: No space left on device\n"
    assert (run.returncode, run.stderr) == (1, message)


def printing_into(stdout, arguments, unbuffered):
    """Runs Python with a stdout, with or without a buffer."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_standard_input_that_is_closed_is_a_wrong_argument():
    shell = f'exec "{sys.executable}" restore.py - <&-'
    run = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    message = "error: -: standard input and standard output must be open\n"
    assert (run.returncode, run.stdout, run.stderr) == (2, "", message)
