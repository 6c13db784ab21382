"""Launches the project's commands as processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Flags for commands whose computation is not under test. Programs compile in a third of
# the time, and XLA can cache them, as they are without oneDNN, the default on x86.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def command(script, *flags, cwd=None, stdin=None, stderr=subprocess.PIPE, **variables):
    """Starts a script of the repository's root, or a module: "-m", then its name."""
    script = script if script == "-m" else ROOT / script
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    del environment["XLA_FLAGS"]
    environment |= variables
    return subprocess.Popen(
        [sys.executable, script, *flags],
        env=environment,
        text=True,
        cwd=cwd,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def python(code, *, arguments=(), **options):
    """Starts Python with code that imports only quick modules."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        **{"stderr": subprocess.PIPE, **options},
    )


def measured(script, *flags):
    """Runs a command; returns its exit code, stderr and peak memory in kilobytes."""
    # Measured from a small process, because a child's peak memory includes its parent's
    # memory at the fork.
    code = (
        "import resource, subprocess, sys; run = subprocess.run(sys.argv[1:]);"
        "print(run.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, sys.executable, ROOT / script, *flags],
        capture_output=True,
    )
    exit_code, kilobytes = map(int, run.stdout.split())
    return exit_code, run.stderr.decode(errors="replace"), kilobytes
