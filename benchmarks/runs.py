"""Measures runs of train.py: the time until their first step, and the wait for data."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import user_environment
from eddsrn_jax.data import STREAMING_LIBRARY

# Steps between log rows, and steps until a run is stopped. The first row includes the
# pipeline's start; the second one counts.
_LOG_EVERY, _STEPS = 20, 40


def measure_runs(source: str, *, batch_size: int, side: int) -> Iterator[dict[str, Any]]:
    """Yields rows: seconds from command to first step, share of time waiting for data.

    The pipeline "stream" is left out where its library is not installed.

    Args:
        source: photos to train on, as config.data.source.
        batch_size: crops in a step.
        side: side of a crop in pixels.
    """
    pipelines = ["resident"]
    if importlib.util.find_spec(STREAMING_LIBRARY):
        pipelines.insert(0, "stream")
    for name, config in (("lite", "eddsrn_lite"), ("paper-size", "eddsrn")):
        for pipeline in pipelines:
            flags = [
                f"--config=configs/{config}.py",
                f"--config.data.source={source}",
                f"--config.data.pipeline={pipeline}",
                f"--config.batch_size={batch_size}",
                f"--config.data.hr_patch_size={side}",
                "--config.data.crops_per_image=200",
                f"--config.log_every_steps={_LOG_EVERY}",
                f"--config.total_steps={10 * _STEPS}",
            ]
            # The first run makes the pack and caches the programs that XLA can cache.
            _run(flags, stop_after=1)
            seconds, waiting = _run(flags, stop_after=_STEPS)
            kind = f"{name}, {pipeline}"
            yield {"what": f"command to first step, {kind}", "unit": "s", "jax": seconds}
            yield {"what": f"waiting for data, {kind}", "unit": "%", "jax": 100 * waiting}


def _run(flags: list[str], *, stop_after: int) -> tuple[float, float]:
    """Runs train.py and stops it after `stop_after` steps.

    Returns:
        Seconds to the first step, and the share of time spent waiting for data in the
        last log row.
    """
    start, seconds = time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as workdir:
        process = subprocess.Popen(
            [sys.executable, "train.py", f"--workdir={workdir}", *flags],
            env=user_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "first step" in line:
                seconds = time.perf_counter() - start
            done = re.search(r" step (\d+)/", line)
            if seconds and (stop_after == 1 or (done and int(done[1]) >= stop_after)):
                process.terminate()
        process.wait()
        if not seconds:
            raise RuntimeError("".join(lines[-5:]))
        metrics = Path(workdir, "metrics.jsonl")
        rows = [json.loads(x) for x in metrics.read_text().splitlines()]
    shares = [row.get("time/share_waiting_for_data", 0.0) for row in rows]
    return seconds, shares[-1] if shares else 0.0
