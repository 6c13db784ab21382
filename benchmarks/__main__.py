"""Compares JAX and PyTorch on this machine: python -m benchmarks [--sections=...].

Prints a table and saves it below benchmarks/results, with machine, versions and commit.
PyTorch runs the same networks with the same weights in channels-last memory. The section
"networks" compares their outputs before it times them. The calls of both alternate, and a
ratio divides their medians: above 1 JAX is faster.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.errors import UsageError

Row = dict[str, Any]

_SECTIONS = flags.DEFINE_list(
    "sections",
    ["training", "networks", "photos", "sizes", "runs", "memory"],
    "Sections to measure, separated by commas.",
)
_PHOTOS = flags.DEFINE_string(
    "photos", None, "Folder of photos to train on. Default: the bundled photos."
)
_SET = flags.DEFINE_string(
    "set",
    None,
    "Folder of photos to restore, such as Set14. Default: the bundled photos.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Crops in a training step.")
_SIDE = flags.DEFINE_integer("side", 192, "Side of a crop in pixels.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Number of timed calls; the median counts.")
_TORCH_COMPILE = flags.DEFINE_boolean(
    "torch_compile",
    None,
    "Compile PyTorch's networks. Default: on GPUs only, because eager execution was"
    " faster on the CPUs measured.",
)
_RESULTS = Path(__file__).parent / "results"


def sections() -> dict[str, Callable[[], Iterator[Row]]]:
    """Returns the function that measures each section, by the section's name."""
    # Imported here, so that --help is answered immediately and XLA's flags are set first.
    from benchmarks import memory, restoring, runs, training

    compiled = _TORCH_COMPILE.value
    if compiled is None:
        compiled = jax.default_backend() == "gpu"
    repeats = _REPEATS.value
    folder = Path(_SET.value).expanduser() if _SET.value else None
    source = f"folder:{_PHOTOS.value}" if _PHOTOS.value else "bundled"
    batch = {"batch_size": _BATCH_SIZE.value, "side": _SIDE.value}
    timed = {"repeats": repeats, "compiled": compiled}
    return {
        "training": lambda: training.compare_steps(**batch, **timed),
        "networks": lambda: restoring.compare_networks(**timed),
        "photos": lambda: restoring.compare_photos(folder, **timed),
        "sizes": lambda: restoring.time_sizes(repeats=repeats),
        "runs": lambda: runs.measure_runs(source, **batch),
        "memory": memory.measure_memory,
    }


def main() -> None:
    """Measures the sections that the flags name, then prints and saves the table."""
    from benchmarks.timing import machine
    from eddsrn_jax.compiler import enable_compilation_cache

    enable_compilation_cache()
    measure = sections()
    for name in _SECTIONS.value:
        if name not in measure:
            raise UsageError(
                f"--sections={name}: expected names from {', '.join(measure)}"
            )
    # Before the measurements, so that a missing package costs no time.
    where, rows = machine(), []
    for name in _SECTIONS.value:
        for row in measure[name]():
            rows.append(row)
            print(format_row(row), flush=True)
    _RESULTS.mkdir(exist_ok=True)
    slug = re.sub(r"\W+", "-", where["device"] if _on_gpu() else where["processor"])
    # Results of some sections must not replace the results of all.
    names = [slug.strip("-").lower()]
    if set(_SECTIONS.value) != set(measure):
        names += _SECTIONS.value
    path = _RESULTS / f"{'-'.join(names)}.json"
    path.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
    table = format_table(where, rows)
    path.with_suffix(".md").write_text(f"{table}\n")
    print(f"\n{table}\n\nsaved in {path} and {path.with_suffix('.md').name}")


def _on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def format_table(where: dict[str, Any], rows: Sequence[Row]) -> str:
    """Returns a Markdown table below a line that names the machine and the versions."""
    versions = where["versions"]
    device = where["device"] if _on_gpu() else f"{where['cores']} x {where['processor']}"
    return "\n".join(
        [
            f"{device}; jax {versions['jax']}, PyTorch {versions['torch']}, Python"
            f" {where['python']}, {where['date']}:",
            "",
            "| what | unit | JAX | PyTorch | ratio |",
            "| --- | --- | ---: | ---: | ---: |",
            *map(format_row, rows),
        ]
    )


def format_row(row: Row) -> str:
    """Returns one line of the table."""

    def number(name: str) -> str:
        # Three significant digits, without an exponent.
        return f"{float(f'{row[name]:.3g}'):g}" if name in row else ""

    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    numbers = f"{number('jax')} | {number('torch')} | {ratio}"
    return f"| {row['what']} | {row['unit']} | {numbers} |"


if __name__ == "__main__":
    run_command(main, flags.FLAGS)
