"""Says what a run would cost: parameters, shapes, memory, time per step."""

import datetime
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from eddsrn_jax.config_values import Config
from eddsrn_jax.mesh import make_mesh, process_rows, replicate, shard_batch
from eddsrn_jax.models import SCALE, abstract_params, apply, make_network
from eddsrn_jax.models.complexity import count_parameters, macs_per_pixel
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.memory import explaining_memory
from eddsrn_jax.training.optimizer import make_optimizer
from eddsrn_jax.training.resuming import count_steps
from eddsrn_jax.training.setup import compile_step, new_state

# Steps that are timed, after the first one.
_TIMED = 5
# The photos, which are not read, determine the epoch's length. A step takes as long with
# any learning rate.
_STEPS_PER_EPOCH = 1000


def dry_run(config: Config) -> Iterator[str]:
    """Makes a few training steps on random crops; reads no photos and writes no files.

    Args:
        config: values of the run, see `train_and_evaluate`.

    Yields:
        Lines for the user.

    Raises:
        InputError: the config cannot be used, or a step does not fit in memory.
    """
    check(config)
    mesh = make_mesh()
    process_rows(config.batch_size, mesh)
    model = make_network(config.network, config.model)
    params, side = abstract_params(model), config.data.hr_patch_size
    yield (
        f"{config.name}: {config.network}, {count_parameters(params):,} parameters,"
        f" {macs_per_pixel(model):,.0f} multiply-accumulates per pixel of the small image"
    )
    small = (config.batch_size, side // SCALE, side // SCALE, 3)
    images = jax.ShapeDtypeStruct(small, "float32")
    outputs = jax.eval_shape(lambda p, x: apply(model, p, x), params, images)
    shapes = [f"{name} {list(x.shape)}" for name, x in outputs.items()]
    yield f"a batch of {config.batch_size} crops: {list(small)} -> {', '.join(shapes)}"

    with explaining_memory(config):
        yield from _measure_steps(config, model, mesh)


def _measure_steps(config: Config, model: Any, mesh: jax.sharding.Mesh) -> Iterator[str]:
    total_steps = count_steps(config, _STEPS_PER_EPOCH)
    optimizer, _ = make_optimizer(
        **config.optimizer, steps_per_epoch=_STEPS_PER_EPOCH, total_steps=total_steps
    )
    state = replicate(new_state(config, model, optimizer), mesh)
    batch = shard_batch(_random_batch(config), mesh)
    start = time.perf_counter()
    step = compile_step(config, model, optimizer, mesh).lower(state, batch).compile()
    device = f"{mesh.size} x {jax.devices()[0].device_kind}"
    yield f"compiled in {time.perf_counter() - start:.1f} s for {device}"
    kept = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    planned = step.memory_analysis()
    if planned is not None:
        temporary = planned.temp_size_in_bytes / 1e6
        yield (
            f"memory per device: {kept:,.1f} MB for the state, {temporary:,.1f} MB for a"
            " step"
        )
    seconds = []
    for _ in range(1 + _TIMED):
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    whole = datetime.timedelta(seconds=math.ceil(total_steps * median))
    length = f"{total_steps:,} steps take {whole}, without validation"
    if not config.total_steps:
        length = f"the photos determine the number of steps in {config.num_epochs} epochs"
    yield (
        f"a step: {1e3 * median:,.1f} ms (median of {_TIMED}),"
        f" {config.batch_size / median:,.1f} crops per second; {length}"
    )


def _random_batch(config: Config) -> dict[str, np.ndarray]:
    """Returns this process's rows of a batch of noise."""
    rng, side = np.random.default_rng(0), config.data.hr_patch_size
    count = config.batch_size // jax.process_count()
    return {
        "hr": rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        "key": rng.integers(0, 2**32, (count, 2), dtype=np.uint32),
    }
