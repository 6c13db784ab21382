"""Settings of all tests, and fixtures with photos to test with."""

import os

# Set before JAX is imported.
os.environ["JAX_PLATFORMS"] = os.environ.get("EDDSRN_TEST_PLATFORM", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Eight virtual devices, and an optimisation level at which programs compile twice as
    # fast. Commands that tests launch run without these flags.
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    )
else:
    # GPUs would compute float32 with the 10 bits of TF32.
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    # Workers and the commands that they launch share a GPU's memory.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
# Tests and the commands that they launch share their compiled programs.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import gc
import importlib
import logging
import shutil
import signal
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import logging as absl_logging
from PIL import Image
from tiny import tiny_config

from eddsrn_jax.commands.command_line import execute
from eddsrn_jax.compiler import enable_compilation_cache
from eddsrn_jax.data.sources import open_split
from eddsrn_jax.evaluation.inputs import degrade_photo
from eddsrn_jax.files import locked
from eddsrn_jax.images import read_image
from eddsrn_jax.images.pictures import read_header, read_picture
from eddsrn_jax.models import NETWORKS
from eddsrn_jax.ops.degradation import OWN_DEGRADATIONS
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.losses import LOSSES
from eddsrn_jax.training.optimizer import OPTIMIZERS

# Some tests send Ctrl-C to processes. A shell makes its background commands ignore it,
# and their child processes inherit that, so the default is restored here.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Compiling makes many Python objects, among which Python would often look for garbage.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_numpy_rank_promotion", "raise")
# The commands do this too. Without it, Orbax's messages depend on the tests before.
absl_logging.set_verbosity(absl_logging.FATAL)
enable_compilation_cache()

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """Returns a real photo, uint8 [300, 448, 3]; no side is a power of two."""
    chelsea = next(
        f for f in open_split("bundled").validation.files() if "chelsea" in f.name
    )
    return read_image(chelsea.content)[:, :448]


@pytest.fixture(scope="session")
def batch(photo: np.ndarray) -> dict[str, np.ndarray]:
    """Returns eight crops, and the PRNG keys of their degradation."""
    crops = [photo[8 * i : 8 * i + 64, 16 * i : 16 * i + 64] for i in range(8)]
    keys = np.random.default_rng(0).integers(0, 2**32, (8, 2), dtype=np.uint32)
    return {"hr": np.stack(crops), "key": keys}


@pytest.fixture
def photo_folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Makes a folder of eight small photos of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        height, width = 96 + 4 * i, 128 - 8 * i
        part = photo[10 * i : 10 * i + height, 20 * i : 20 * i + width]
        Image.fromarray(part).save(folder / f"photo{i}.png")
    return folder


@pytest.fixture
def pairs(tmp_path, photo):
    """Writes two pairs of sigma 1.5; returns the value that names their folders."""
    for i, name in enumerate(("a", "b/c")):
        hr = photo[8 * i : 8 * i + 98, : 130 + i]
        _, lr = degrade_photo(hr[:96, :128], 1.5, max_sigma=2.0)
        for folder, suffix, image in (("small", "x4" * i, lr), ("sharp", "", hr)):
            path = tmp_path / folder / f"{name}{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return f"pairs:{tmp_path / 'small'},{tmp_path / 'sharp'}"


@pytest.fixture
def read(tmp_path):
    """Returns a function that reads a picture and checks that its header agrees."""

    def read(content: bytes, name: str = "picture.bin"):
        path = tmp_path / name
        path.write_bytes(content)
        header = read_header(path)
        pixels, metadata = read_picture(path)
        assert (header.height, header.width, header.channels) == pixels.shape
        assert header.dtype == pixels.dtype
        return pixels, metadata

    return read


def shared_data(name: str) -> Path:
    """Returns a folder of `shared/data` beside the repository; skips without it."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"needs the reference data {name}, which is not part of the project")
    return path


def _train(tmp_path_factory, photo: np.ndarray, **changes) -> tuple[Path, Path]:
    """Trains a run once for all xdist workers; returns its photos' folder and workdir."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    root /= changes["network"]
    root.mkdir(exist_ok=True)
    folder, done = root / "photos", root / "done"
    with locked(root, wait=True):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            for i in range(8):
                part = photo[10 * i : 10 * i + 96 + 4 * i, 20 * i : 20 * i + 128 - 4 * i]
                Image.fromarray(part).save(folder / f"photo{i}.png")
            config = tiny_config(folder, **changes)
            assert train_and_evaluate(config, root / "run") is None
            done.touch()
    # Each worker gets a copy, because some tests write into the workdir.
    workdir = tmp_path_factory.mktemp("run") / "run"
    return folder, shutil.copytree(root / "run", workdir)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, photo):
    """Trains a plain network without interruption; returns photos' folder and workdir."""
    return _train(tmp_path_factory, photo, network="VDSR")


@pytest.fixture(scope="session")
def finished_eddsrn(tmp_path_factory, photo):
    """Trains a small ED-DSRN with averaged weights; returns photos and workdir."""
    return _train(tmp_path_factory, photo, network="EDDSRN", ema_decay=0.9)


@pytest.fixture
def collect_failed_reads():
    """Collects failed reads after a test, so that no other test reports them.

    2026-11: when an orbax read fails, its other pending reads are left to the garbage
    collector, which reports them as unraisable exceptions.
    """
    # Only objects of the test are collected; a search of all would take seconds.
    gc.freeze()
    yield
    gc.collect()
    gc.unfreeze()


@pytest.fixture
def call(monkeypatch, capsys, caplog):
    """Returns a function that runs a command in this process.

    It takes the command's name and arguments, and returns the exit code, standard output
    and standard error with the log messages before it.
    """

    def run(name, *arguments):
        module = importlib.reload(importlib.import_module(f"eddsrn_jax.commands.{name}"))
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        caplog.clear()
        with caplog.at_level(logging.INFO, "eddsrn_jax"), warnings.catch_warnings():
            code = execute(module.main, module.FLAGS, takes_arguments=name == "restore")
        out, err = capsys.readouterr()
        messages = [
            record.getMessage()
            for record in caplog.records
            if record.name.startswith("eddsrn_jax")
        ]
        return code, out, "".join(f"{message}\n" for message in messages) + err

    return run


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Returns a function that writes a user's module into the current folder.

    The function takes the module's code and returns its name. What a test imports by path
    is forgotten after it.
    """
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)

    def write(code):
        name = f"own_code_of_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(code)
        return name

    yield write
    for names in (NETWORKS, LOSSES, OPTIMIZERS, OWN_DEGRADATIONS):
        for path in [path for path in names if ":" in path]:
            del names[path]
