"""What restoring a photograph takes: python -m benchmarks.restoration [--sizes=...].

Each size is restored by restore.py in a process of its own, reading and writing included.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from eddsrn_jax.data.sources import open_split
from eddsrn_jax.images import read_image
from eddsrn_jax.tiling import cut

_SIZES = flags.DEFINE_list(
    "sizes", ["510x339", "1200x900", "4000x3000"], "Of the photographs, WIDTHxHEIGHT."
)
_FLAGS = flags.DEFINE_string("flags", "", "Others for restore.py, between blanks.")

# From a small process: a child counts what its parent had when it was forked.
_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def restore(path: Path, *, report: Path) -> tuple[float, float]:
    """Runs the command.

    Returns:
        Seconds that the photograph took, and the process's peak memory in GB.
    """
    command = [sys.executable, "restore.py", path, f"--report={report}"]
    command += _FLAGS.value.split()
    found = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command], stdout=subprocess.PIPE, check=True
    )
    (entry,) = json.loads(report.read_text())["files"]
    # Kilobytes, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return entry["seconds"], int(found.stdout) * unit / 1e9


def main(_: list[str]) -> None:
    """Prints a table."""
    file = next(open_split("bundled").validation.files())
    photo = read_image(file.content)
    print(f"{os.cpu_count()} cores; flags: {_FLAGS.value or 'none'}\n")
    print("| photograph | megapixels/s | peak memory |\n| --- | ---: | ---: |")
    for size in _SIZES.value:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "photo.png")
            pixels = np.ascontiguousarray(cut(photo, 0, 0, (height, width)))
            Image.fromarray(pixels).save(path)
            report = Path(folder, "report.json")
            # Once to compile.
            if width * height < 2e6:
                restore(path, report=report)
            seconds, gigabytes = restore(path, report=report)
        rate = width * height / 1e6 / seconds
        print(f"| {size} | {rate:.3f} | {gigabytes:.2f} GB |", flush=True)


if __name__ == "__main__":
    app.run(main)
