"""Compares two commits bit for bit: python -m benchmarks.same_results --before=REF.

Each commit trains the same small network on the bundled photos: once without
interruption, and once stopped and resumed. Each evaluates the first run, exports its
weights and restores two photos with the weights eddsrn-lite. The command prints every
picture and array that differs, and its exit code is then 1. It uses only the commands of
the project, so the layouts of the two commits may differ.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from safetensors.numpy import load_file

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.data.sources import open_split

_BEFORE = flags.DEFINE_string("before", "HEAD", "First commit to compare.")
_AFTER = flags.DEFINE_string(
    "after", None, "Second commit to compare. Default: the files as they are now."
)
_STEPS = flags.DEFINE_integer("steps", 30, "Number of training steps.", lower_bound=4)
_ROOT = Path(__file__).parents[1]


def main() -> int:
    """Runs both commits, prints the differences and returns the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = folder / "photos"
        photos.mkdir()
        for file in open_split("bundled").validation.files():
            (photos / Path(file.name).name).write_bytes(file.content.read_bytes())
        commits = {"before": _BEFORE.value, "after": _AFTER.value}
        for name, commit in commits.items():
            run(commit, folder / name, photos, _STEPS.value)
        compared, different = compare(folder / "before/out", folder / "after/out")
    for name in different:
        print(f"differs: {name}")
    print(f"{compared} pictures and arrays compared, {len(different)} differ")
    return 1 if different else 0


def _check_out(commit: str | None, tree: Path) -> Path:
    """Writes a commit's files to a new folder; returns it, or this one without commit."""
    if commit is None:
        return _ROOT
    tree.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", commit], cwd=_ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x"], cwd=tree, check=True, input=archive.stdout)
    return tree


def run(commit: str | None, folder: Path, photos: Path, steps: int) -> None:
    """Trains, resumes, evaluates, exports and restores with one commit's commands.

    Args:
        commit: commit to check out; None takes the files as they are now.
        folder: folder to make; results go to its subfolder `out`.
        photos: folder of photos to restore.
        steps: number of training steps.

    Raises:
        CalledProcessError: a command fails.
    """
    out, tree = folder / "out", _check_out(commit, folder / "tree")
    out.mkdir(parents=True)
    _train(tree, folder, "whole", steps)
    _train(tree, folder, "resumed", steps // 2)
    _train(tree, folder, "resumed", steps)
    _command(
        tree,
        "evaluate.py",
        f"--workdir={folder / 'whole'}",
        f"--dataset=photos={photos}",
        f"--output_dir={out / 'evaluation'}",
        "--save_images",
    )
    _command(
        tree,
        "restore.py",
        photos,
        "--weights=eddsrn-lite",
        f"--output_dir={out / 'restored'}",
        "--outputs=sr,deblurred",
    )


def _train(tree: Path, folder: Path, name: str, until: int) -> None:
    """Trains in the workdir `folder / name` until a step, and exports the weights."""
    workdir = folder / name
    _command(
        tree,
        "train.py",
        "--config=configs/quickstart.py",
        f"--workdir={workdir}",
        f"--config.total_steps={until}",
        f"--config.data.cache_dir={folder / 'packs'}",
        "--config.ema_decay=0.9",
        "--config.batch_size=2",
        "--config.validation.max_photos=1",
    )
    # Before the commands had a folder of their own, this one was a module.
    is_module = (tree / "eddsrn_jax" / "export_weights.py").exists()
    export = ["eddsrn_jax.export_weights"] if is_module else ["eddsrn_jax", "export"]
    _command(
        tree,
        "-m",
        *export,
        f"--workdir={workdir}",
        f"--out={folder / 'out' / name}.safetensors",
        "--dtype=float32",
    )


def _command(tree: Path, *arguments: str | Path) -> None:
    subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tree,
        check=True,
        # These programs compile faster, and XLA can cache them.
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    )


def compare(before: Path, after: Path) -> tuple[int, list[str]]:
    """Returns the number of results, and the names of those that differ."""
    a, b = dict(_contents(before)), dict(_contents(after))
    names = sorted(a.keys() | b.keys())
    return len(names), [name for name in names if a.get(name) != b.get(name)]


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the bytes of every picture and array of weights."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            for array, value in load_file(path).items():
                yield f"{name}: {array}", np.asarray(value).tobytes()
        elif path.suffix == ".png":
            yield name, path.read_bytes()


if __name__ == "__main__":
    run_command(main, flags.FLAGS)
