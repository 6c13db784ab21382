"""Trains for a fixed number of minutes: python -m benchmarks.train_in_minutes.

It is meant for an accelerator that is available for minutes only. The learning rate
follows the clock instead of the step: after a warm-up it falls as half a cosine and
reaches 0 at the time limit, on a fast device as on a slow one. Nothing is validated and
no checkpoint is saved. The moving average of the weights is written at half time and at
the end, in float16 and in pieces. `cat weights.safetensors.*` joins the pieces. A later
run starts from the joined file with --config.init_from.

With `--write_photos` the command trains nothing. It writes small copies of the photos,
which are quick to transfer.
"""

import concurrent.futures
import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from ml_collections import config_flags
from PIL import Image

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.errors import UsageError
from eddsrn_jax.files import make_folder

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file of the run, such as configs/eddsrn_half.py:large."
)
_PHOTOS = flags.DEFINE_string(
    "photos", None, "Folder of photos to train on.", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder for the weights and the log.", required=True
)
_MINUTES = flags.DEFINE_float(
    "minutes", 7.5, "Time limit in minutes, including the start.", lower_bound=0.1
)
_WRITE_PHOTOS = flags.DEFINE_integer(
    "write_photos",
    0,
    "If above 0, train nothing: write the photos to --out as WebP files of this quality,"
    " 1 to 100.",
    lower_bound=0,
    upper_bound=100,
)
# Size of a piece of the weights, in bytes.
_PIECE = 15 * 2**20
# Shares of the time after the first step: the learning rate's warm-up, and the reserve
# for writing the weights at the end.
_WARMUP, _RESERVE = 0.03, 0.02
_LOG_SECONDS = 10.0


def main() -> None:
    """Trains, or writes the photos, as the flags say."""
    out, photos = Path(_OUT.value).expanduser(), Path(_PHOTOS.value).expanduser()
    make_folder(out, "--out")
    if _WRITE_PHOTOS.value:
        write_photos(photos, out, quality=_WRITE_PHOTOS.value)
    elif _CONFIG.value is None:
        raise UsageError(
            "--config is missing: expected one such as configs/eddsrn_half.py:large"
        )
    else:
        train(photos, out)


def write_photos(photos: Path, out: Path, *, quality: int) -> None:
    """Writes every photo of a folder as WebP; prints their number and total size."""
    from eddsrn_jax.data.sources import folder_source

    def write(file: Any) -> int:
        # The extension stays in the name: another photo may differ only in that.
        path = out / f"{file.name}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(file.read()).save(path, quality=quality, method=6)
        return path.stat().st_size

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(write, folder_source(photos).files()))
    print(f"{out}: {len(sizes)} photos, {sum(sizes) / 2**20:.1f} MiB")


def train(photos: Path, out: Path) -> None:
    """Trains until the time limit, and writes weights and log."""
    start = time.monotonic()
    deadline = start + 60 * _MINUTES.value
    # Imported here, so that --help is answered immediately.
    from eddsrn_jax.mesh import make_mesh, replicate
    from eddsrn_jax.models import make_network
    from eddsrn_jax.training.setup import compile_step, open_batches, open_data
    from eddsrn_jax.training.state import create_train_state
    from eddsrn_jax.training.step_metrics import StepMetrics

    # First of all: JAX only warns, and takes the CPU, if it cannot use the GPU.
    mesh = make_mesh()
    device = f"{mesh.size} x {jax.devices()[0].device_kind}"
    print(f"training on {device}", flush=True)
    config = _CONFIG.value
    config.data.source = f"folder:{photos}"
    config.data.pipeline = "resident"
    sampler, _ = open_data(config)
    print(f"opened {sampler.num_photos} photos in {time.monotonic() - start:.1f} s")

    model = make_network(config.network, config.model)
    params, optimizer = _first_params(config, model), _make_optimizer(config)
    state = replicate(create_train_state(params, optimizer, ema=True), mesh)
    step_fn = compile_step(config, model, optimizer, mesh)
    batches = open_batches(config, sampler, range(2**31), mesh)
    # One step that is not finite must not waste the whole time on the accelerator.
    metrics = StepMetrics(on_bad_step="skip", describe=sampler.describe)

    state, _ = step_fn(state, next(batches))
    jax.block_until_ready(state)
    begun = time.monotonic()
    print(f"first step after {begun - start:.1f} s", flush=True)
    finish = deadline - _RESERVE * (deadline - begun)
    step, halved = 1, False
    with (
        _writing_at_the_end(lambda: write_pieces(out, model, state, config)),
        _Log(out / "log.jsonl", begun, config.batch_size) as log,
    ):
        while (now := time.monotonic()) < finish or step < 2:
            step += 1
            share = min((now - begun) / max(finish - begun, 1e-9), 1.0)
            rate = config.optimizer.learning_rate * learning_rate_at(share)
            state = with_learning_rate(state, replicate(np.float32(rate), mesh))
            state, step_metrics = step_fn(state, next(batches))
            metrics.add(step, step_metrics)
            log.after_step(step, now, metrics, rate)
            if share > 0.5 and not halved:
                halved = True
                write_pieces(out, model, state, config)
    print(
        f"{step} steps, {metrics.skipped} skipped, in"
        f" {(time.monotonic() - start) / 60:.2f} minutes; the weights are in {out}, in"
        " pieces"
    )


@contextlib.contextmanager
def _writing_at_the_end(write: Callable[[], None]) -> Iterator[None]:
    """Writes when the training ends, also if it diverges.

    Steps that are not finite change nothing, so the last weights are good.
    """
    try:
        yield
    except FloatingPointError:
        write()
        raise
    write()


def _first_params(config: Any, model: Any) -> Any:
    """Returns the parameters to start from: given weights, or random ones."""
    from eddsrn_jax.models import init_params
    from eddsrn_jax.models.complexity import count_parameters
    from eddsrn_jax.training.setup import load_params

    params = init_params(model, jax.random.key(config.seed))
    if config.init_from:
        start = params if config.init_from_partial else None
        params = load_params(Path(config.init_from).expanduser(), model, start=start)
    print(f"{config.name}: {count_parameters(params):,} parameters")
    return params


def _make_optimizer(config: Any) -> optax.GradientTransformation:
    """Returns the config's optimizer with a learning rate that is set before each step.

    The learning rate is part of the state. A schedule would be part of the program, which
    would have to be compiled again once the number of steps is known.
    """
    from eddsrn_jax.training.optimizer import OPTIMIZERS

    optimizer = functools.partial(
        OPTIMIZERS[config.optimizer.name], b2=config.optimizer.b2
    )
    adjustable = optax.inject_hyperparams(optimizer)(0.0)
    clip = optax.clip_by_global_norm(config.optimizer.clip_norm or math.inf)
    return optax.chain(clip, adjustable)


class _Log:
    """Writes and prints mean metrics and the speed every ten seconds."""

    def __init__(self, path: Path, begun: float, batch_size: int):
        self._file = path.open("w")
        self._time, self._step, self._batch_size = begun, 1, batch_size

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def after_step(self, step: int, now: float, metrics: Any, rate: float) -> None:
        """Writes a row if one is due."""
        if now - self._time <= _LOG_SECONDS:
            return
        means = metrics.pop_means()
        seconds = (now - self._time) / (step - self._step)
        row = {
            "step": step,
            "ms": 1e3 * seconds,
            "images_per_second": self._batch_size / seconds,
            "rate": rate,
            "skipped": metrics.skipped,
            **means,
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        print(row, flush=True)
        self._time, self._step = now, step


def learning_rate_at(share: float) -> float:
    """Returns the learning rate, relative to its peak, after a share of the time."""
    if share < _WARMUP:
        return share / _WARMUP
    return (1 + math.cos(math.pi * (share - _WARMUP) / (1 - _WARMUP))) / 2


def with_learning_rate(state: Any, rate: jax.Array) -> Any:
    """Returns a state whose next step uses that learning rate."""
    clip, optimizer = state.opt_state
    hyperparams = {**optimizer.hyperparams, "learning_rate": rate}
    return state.replace(opt_state=(clip, optimizer._replace(hyperparams=hyperparams)))


def write_pieces(out: Path, model: Any, state: Any, config: Any) -> None:
    """Writes the averaged weights in float16 and in pieces; replaces earlier pieces."""
    from eddsrn_jax.checkpoints.weights import Network, write_network

    path = out / "weights.safetensors"
    network = Network(
        model,
        jax.device_get(state.used_params),
        config.name,
        int(state.step),
        tuple(config.degradation.sigma_range),
    )
    write_network(path, network, dtype="float16")
    # There may be more of them than now.
    for piece in out.glob(f"{path.name}.*"):
        piece.unlink()
    for name, piece in _pieces(path):
        (out / name).write_bytes(piece)
    path.unlink()


def _pieces(path: Path) -> Iterator[tuple[str, bytes]]:
    content = path.read_bytes()
    for i, first in enumerate(range(0, len(content), _PIECE)):
        yield f"{path.name}.{i}", content[first : first + _PIECE]


if __name__ == "__main__":
    run_command(main, flags.FLAGS, reserves_memory=True)
