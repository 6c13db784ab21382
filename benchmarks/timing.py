"""Timing calls beside each other, and naming the machine they ran on."""

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

# Threads of one framework spin for a while when their work is done.
_PAUSE_SECONDS = 0.02


def interleave(
    calls: Mapping[str, Callable[[], Any]], *, repeats: int
) -> dict[str, float]:
    """Times calls in turn, so that a machine that slows down slows all of them.

    Args:
        calls: by name; each ends with its work done. Called twice before it counts.
        repeats: of each.

    Returns:
        Median seconds by name.
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
    """For commands: as a user's, without the XLA flags that are set for this process."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit.stdout.strip(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor_name() -> str:
    """The processor's, with the instructions that matter to convolutions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    features = set(fields.get("flags", "").split())
    known = [x for x in ("avx2", "avx512f", "amx_bf16") if x in features]
    return " ".join([fields.get("model name", platform.machine()), *known])
