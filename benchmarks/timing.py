"""Times functions side by side, and describes the machine."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

# Pause before each call: a framework's threads keep spinning for a while after their work
# is done, and would slow down the other framework.
_PAUSE_SECONDS = 0.02


def interleave(
    calls: Mapping[str, Callable[[], Any]], *, repeats: int
) -> dict[str, float]:
    """Times functions in turn, so that a machine that slows down slows all of them.

    Args:
        calls: functions by name. Each returns only when its work is done. The first two
            calls of each are not timed.
        repeats: timed calls of each function.

    Returns:
        Median seconds of a call, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(-2, repeats):
        for name, call in calls.items():
            time.sleep(_PAUSE_SECONDS)
            start = time.perf_counter()
            call()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def user_environment() -> dict[str, str]:
    """Returns this process's environment without the variables that each command sets.

    These are XLA_FLAGS and XLA_PYTHON_CLIENT_PREALLOCATE. A user's own values of them are
    lost too.
    """
    own = ("XLA_FLAGS", "XLA_PYTHON_CLIENT_PREALLOCATE")
    return {name: value for name, value in os.environ.items() if name not in own}


def machine() -> dict[str, Any]:
    """Returns the hardware, versions, commit and date of a measurement."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
    command = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        commit = "unknown"
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor_name() -> str:
    """Returns the processor's name and its instruction sets that help convolutions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    features = set(fields.get("flags", "").split())
    known = [x for x in ("avx2", "avx512f", "amx_bf16") if x in features]
    return " ".join([fields.get("model name", platform.machine()), *known])
