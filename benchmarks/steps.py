"""Training steps outside a run, for measurements of time and memory."""

from typing import Any

import jax
import ml_collections
import numpy as np

from configs import eddsrn, eddsrn_half, eddsrn_lite
from eddsrn_jax.mesh import make_mesh, replicate, shard_batch
from eddsrn_jax.models import init_params, make_network
from eddsrn_jax.training.optimizer import make_optimizer
from eddsrn_jax.training.setup import compile_step
from eddsrn_jax.training.state import create_train_state

CONFIGS = {"lite": eddsrn_lite, "half-size": eddsrn_half, "paper-size": eddsrn}
Batch = dict[str, np.ndarray]


def random_batch(size: int, side: int) -> Batch:
    """Returns a batch of noise; a step's time does not depend on the content."""
    rng = np.random.default_rng(0)
    return {
        "hr": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
        "key": rng.integers(0, 2**32, (size, 2), dtype=np.uint32),
    }


def prepare_step(config: ml_collections.ConfigDict, batch: Batch) -> tuple[Any, Any, Any]:
    """Returns a jitted step for one device, its first state, and the placed batch.

    The optimizer is Adam, like that of the PyTorch twin.
    """
    model = make_network(config.network, config.model)
    options = {**config.optimizer, "name": "adam"}
    optimizer, _ = make_optimizer(**options, steps_per_epoch=1000, total_steps=100_000)
    mesh = make_mesh(jax.devices()[:1])
    params = init_params(model, jax.random.key(0))
    state = create_train_state(params, optimizer)
    step = compile_step(config, model, optimizer, mesh)
    state = replicate(state, mesh)
    return step, state, shard_batch(batch, mesh)


def step_memory(config: ml_collections.ConfigDict, batch: Batch) -> float:
    """Returns the gigabytes that XLA plans for a step beyond its state and batch."""
    step, state, placed = prepare_step(config, batch)
    planned = step.lower(state, placed).compile().memory_analysis()
    return planned.temp_size_in_bytes / 1e9
