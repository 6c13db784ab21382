"""Training steps on their own, to be timed."""

from typing import Any

import jax
import ml_collections
import numpy as np

from configs import eddsrn, eddsrn_half, eddsrn_lite
from eddsrn_jax import parallel
from eddsrn_jax.assembly import compile_step
from eddsrn_jax.models import init_params, make_network
from eddsrn_jax.optimizer import make_optimizer
from eddsrn_jax.steps import create_train_state

CONFIGS = {"lite": eddsrn_lite, "half-size": eddsrn_half, "paper-size": eddsrn}
Batch = dict[str, np.ndarray]


def random_batch(size: int, side: int) -> Batch:
    """Noise: a step takes as long on anything."""
    rng = np.random.default_rng(0)
    return {
        "hr": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
        "key": rng.integers(0, 2**32, (size, 2), dtype=np.uint32),
    }


def prepare_step(config: ml_collections.ConfigDict, batch: Batch) -> tuple[Any, Any, Any]:
    """The compiled step on one device, its first state and its batch, in a tuple."""
    model = make_network(config.network, config.model)
    optimizer, _ = make_optimizer(
        **config.optimizer, steps_per_epoch=1000, total_steps=100_000
    )
    mesh = parallel.make_mesh(jax.devices()[:1])
    losses = ("loss", "loss_sr", "loss_db")
    params = init_params(model, jax.random.key(0))
    state = create_train_state(params, optimizer, losses=losses)
    step = compile_step(config, model, optimizer, mesh)
    state = parallel.replicate(state, mesh)
    return step, state, (parallel.split_batch(batch, mesh),)


def step_memory(config: ml_collections.ConfigDict, batch: Batch) -> float:
    """Gigabytes that a step takes beside its state and batch, as XLA plans it."""
    step, state, placed = prepare_step(config, batch)
    planned = step.lower(state, placed).compile().memory_analysis()
    return planned.temp_size_in_bytes / 1e9
