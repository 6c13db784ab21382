"""Streams that nobody reads, that are closed, or that cannot be written."""

import json
import os
import subprocess
import sys
import threading

import pytest
from processes import ROOT, python

from eddsrn_jax.restoration import batch
from eddsrn_jax.restoration.jobs import Limits, Placing

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


def test_a_report_goes_into_a_stream_once_and_replaces_nothing(tmp_path):
    pipe, found = tmp_path / "report.json", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    batch.restore_files(
        [tmp_path / "absent.png"],
        pytest.fail,
        placing=Placing(),
        limits=Limits(),
        report=pipe,
    )
    reader.join(10)
    (entry,) = json.loads(found[0])["files"]
    assert entry["status"] == "failed" and pipe.is_fifo()
