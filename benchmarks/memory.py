"""Measures memory: XLA's plan for training steps, the system's count for restore.py."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.restoring import photo_of
from benchmarks.steps import CONFIGS, random_batch, step_memory
from benchmarks.timing import user_environment

_SIDE = 192
# Run in a small process, because a child's peak memory includes its parent's memory at
# the fork.
_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure_memory() -> Iterator[dict[str, Any]]:
    """Yields rows: memory of steps by batch size, of restoring by photo and window.

    Restoring also has its speed.
    """
    for name, module in CONFIGS.items():
        default = module.get_config()
        for rematerialize in (False, True)[: 1 + ("rematerialize" in default.model)]:
            for batch_size in (4, 8, 16):
                config = module.get_config()
                if rematerialize:
                    config.model.rematerialize = True
                yield {
                    "what": f"memory of a step, {name}, {batch_size} crops of {_SIDE}"
                    + ", rematerialised" * rematerialize,
                    "unit": "GB",
                    "jax": step_memory(config, random_batch(batch_size, _SIDE)),
                }
    for height, width in ((339, 510), (900, 1200), (3000, 4000)):
        for window in (768, 512):
            what = f"restore.py, {width} x {height}, windows up to {window}"
            rate, gigabytes = restore(height, width, window)
            yield {"what": what, "unit": "megapixels/s", "jax": rate}
            yield {"what": f"memory of {what}", "unit": "GB", "jax": gigabytes}


def restore(height: int, width: int, window: int) -> tuple[float, float]:
    """Runs restore.py on a photo of a size, in a process of its own.

    Args:
        height, width: size of the photo in pixels.
        window: side of the largest window in pixels.

    Returns:
        Megapixels of the photo per second, reading and writing PNG included; and the
        process's peak memory in GB.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, report = Path(folder, "photo.png"), Path(folder, "report.json")
        Image.fromarray(photo_of(height, width)).save(path)
        flags = ["--weights=eddsrn-lite", f"--report={report}"]
        flags += [f"--largest_window={window}"]
        command = [sys.executable, "-c", _MEASURE, sys.executable, "restore.py", path]
        # A small photo is restored twice. The first run caches the programs that XLA can
        # cache, and is not counted.
        for _ in range(2 if height * width < 2e6 else 1):
            found = subprocess.run(
                [*command, *flags],
                capture_output=True,
                check=True,
                env=user_environment(),
            )
        (entry,) = json.loads(report.read_text())["files"]
    # ru_maxrss counts kilobytes, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return height * width / 1e6 / entry["seconds"], int(found.stdout) * unit / 1e9
