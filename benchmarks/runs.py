"""Whole runs of train.py: how soon they start, and how long they wait for data."""

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

# A first reading, which contains the pipeline's start, and one that counts.
_LOG_EVERY, _STEPS = 20, 40


def measure_runs(source: str, *, batch_size: int, side: int) -> Iterator[dict[str, Any]]:
    """Rows: seconds from the command to the first step, share of waiting for data.

    Args:
        source: of photographs, as config.data.source.
        batch_size, side: of crops.
    """
    for name, config in (("lite", "eddsrn_lite"), ("paper-size", "eddsrn")):
        for pipeline in ("stream", "resident"):
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
            # Compiled programs and packs are kept from the first run.
            _run(flags, stop_after=1)
            seconds, waiting = _run(flags, stop_after=_STEPS)
            kind = f"{name}, {pipeline}"
            yield {"what": f"command to first step, {kind}", "unit": "s", "jax": seconds}
            yield {"what": f"waiting for data, {kind}", "unit": "%", "jax": 100 * waiting}


def _run(flags: list[str], *, stop_after: int) -> tuple[float, float]:
    """Seconds to the first step, and the share waited in the last reading."""
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
