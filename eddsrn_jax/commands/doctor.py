"""Checks the installation: versions, devices, the cache folder, and each command.

It restores a small picture to see whether that works. The exit code is 1 if it does not,
else 0.
"""

import argparse
import io
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import eddsrn_jax
from eddsrn_jax.commands.extras import EXTRAS, installing, missing
from eddsrn_jax.commands.streams import while_read

# Modules that restoring needs, by the names of their distributions.
_MODULES = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "numpy": "numpy",
    "scipy": "scipy",
    "pillow": "PIL",
    "imagecodecs": "imagecodecs",
    "tifffile": "tifffile",
    "pillow-heif": "pillow_heif",
    "simplejpeg": "simplejpeg",
    "safetensors": "safetensors",
    "psutil": "psutil",
    "absl-py": "absl",
    "ml_collections": "ml_collections",
    "orbax-checkpoint": "orbax",
    "tqdm": "tqdm",
}
# The extra that each other command needs, and the modules that it uses of it.
_NEEDS = {
    "train": ("train", EXTRAS["train"]),
    "evaluate": ("train", ("skimage",)),
    "export": ("train", ()),
    "demo": ("demo", EXTRAS["demo"]),
}
# Height and width of the picture to restore, in pixels.
_SIZE = (24, 32)


def describe() -> Iterator[str]:
    """Yields lines about Python, the packages, the devices and the cache folder."""
    yield f"eddsrn_jax {eddsrn_jax.__version__} in {Path(eddsrn_jax.__file__).parent}"
    yield f"Python {platform.python_version()} on {platform.platform()}"
    absent = missing(_MODULES.values())
    found = [name for name, module in _MODULES.items() if module not in absent]
    yield "packages: " + ", ".join(f"{name} {_version(name)}" for name in found)
    if not {"jax", "jaxlib", "psutil", "numpy"} & {*absent}:
        yield from _describe_devices()
    yield _describe_cache()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def _describe_devices() -> Iterator[str]:
    from eddsrn_jax.compiler import set_xla_flags, share_gpu_memory
    from eddsrn_jax.errors import InputError
    from eddsrn_jax.machine import device_memory, find_devices

    # Before JAX starts, as in the other commands.
    set_xla_flags()
    share_gpu_memory()
    try:
        devices = find_devices()
    except InputError as error:
        yield f"devices: {error}"
        return
    for device in devices:
        memory = device_memory(device) / 1e9
        yield f"device: {device.platform} ({device.device_kind}), {memory:.1f} GB"


def _describe_cache() -> str:
    """Returns a line about the folder of photos and compiled programs."""
    from eddsrn_jax.files import cache_root

    folder = cache_root()
    advice = "set XDG_CACHE_HOME to another folder"
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if existing == folder:
            files = [path for path in folder.rglob("*") if path.is_file()]
            state = f"{sum(path.stat().st_size for path in files) / 1e6:,.1f} MB"
        else:
            state = "not made yet"
        if not os.access(existing, os.W_OK):
            state += f", cannot be written; {advice}"
    except OSError as error:
        state = f"cannot be read: {error.strerror}; {advice}"
    return f"cache folder: {folder} ({state})"


def try_restoring() -> str:
    """Restores a small picture; returns the reason if that fails, else an empty text."""
    if absent := missing(_MODULES.values()):
        return f"{', '.join(absent)} missing; run pip install eddsrn_jax"
    try:
        import numpy as np

        from eddsrn_jax.machine import find_devices
        from eddsrn_jax.restoration.restorer import Restorer

        find_devices()
        height, width = _SIZE
        photo = np.full((height, width, 3), 128, np.uint8)
        shape = np.shape(Restorer.from_pretrained()(photo).sr)
    # Whatever the reason is, the user is to see it.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    wanted = (4 * height, 4 * width, 3)
    return "" if shape == wanted else f"the result has {shape}, expected {wanted}"


def describe_command(name: str) -> str:
    """Returns a line that says whether a command is ready, or which packages it lacks.

    The command restore is tried instead, see `try_restoring`.
    """
    extra, modules = _NEEDS[name]
    absent = missing(modules)
    if not absent:
        return f"{name}: ready"
    return f"{name}: {', '.join(absent)} missing; {installing(extra)}"


def main() -> int:
    """Prints the report; returns 1 if restoring does not work, else 0."""
    for line in describe():
        print(line, flush=True)
    start = time.perf_counter()
    problem = try_restoring()
    if problem:
        print(f"restore: does not work ({problem})")
    else:
        print(f"restore: ready (tried in {time.perf_counter() - start:.1f} s)")
    for name in _NEEDS:
        print(describe_command(name))
    return 1 if problem else 0


def run() -> None:
    """Runs the command as a process."""
    # This command must also run where the libraries of the others are missing.
    parser = argparse.ArgumentParser("eddsrn doctor", description=__doc__)
    # Paths may have characters that stdout cannot show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = 0
    try:
        with while_read():
            parser.parse_args()
            code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
