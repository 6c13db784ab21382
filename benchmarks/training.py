"""The training step beside PyTorch's: degradation, forward, backward, Adam."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
import torch

from benchmarks.timing import interleave
from benchmarks.twin import TrainerTwin, make_twin, torch_device
from configs import eddsrn, eddsrn_lite
from eddsrn_jax import parallel
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.optimizer import make_optimizer
from eddsrn_jax.steps import create_train_state
from eddsrn_jax.training import compile_step

CONFIGS = {"lite": eddsrn_lite, "paper-size": eddsrn}
Batch = dict[str, np.ndarray]


def random_batch(size: int, side: int) -> Batch:
    """Noise: a step takes as long on anything."""
    rng = np.random.default_rng(0)
    return {
        "hr": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
        "key": rng.integers(0, 2**32, (size, 2), dtype=np.uint32),
    }


def prepare_step(config: ml_collections.ConfigDict, batch: Batch) -> tuple[Any, Any, Any]:
    """The compiled step on one device, its first state and its batch."""
    model = EDDSRN(**config.model)
    optimizer, _ = make_optimizer(
        **config.optimizer, steps_per_epoch=1000, total_steps=100_000
    )
    mesh = parallel.make_mesh(jax.devices()[:1])
    losses = ("loss", "loss_sr", "loss_db")
    params = init_params(model, jax.random.key(0))
    state = create_train_state(params, optimizer, losses=losses)
    step = compile_step(config, model, optimizer, mesh)
    state, batch = parallel.replicate(state, mesh), parallel.split_batch(batch, mesh)
    return step, state, batch


def _jax_call(config: ml_collections.ConfigDict, batch: Batch) -> Callable[[], None]:
    step, state, placed = prepare_step(config, batch)

    def call() -> None:
        nonlocal state
        state, metrics = step(state, placed)
        jax.block_until_ready((state, metrics))

    return call


def _torch_call(
    config: ml_collections.ConfigDict, batch: Batch, *, compiled: bool
) -> Callable[[], None]:
    model = EDDSRN(**config.model)
    twin = make_twin(model, {"params": init_params(model, jax.random.key(0))})
    trainer = TrainerTwin(twin.to(torch_device()), config, dtype=config.model.dtype)
    if compiled:
        trainer.loss = torch.compile(trainer.loss)
    hr = torch.from_numpy(batch["hr"]).to(torch_device())
    generator = torch.Generator().manual_seed(0)

    def call() -> None:
        # Reading the loss waits for the step.
        float(trainer.step(hr, generator))

    return call


def compare_steps(
    *, batch_size: int, side: int, repeats: int, compiled: bool
) -> Iterator[dict[str, Any]]:
    """Rows of the table: images per second of both, and how many times PyTorch's."""
    batch = random_batch(batch_size, side)
    for name, module in CONFIGS.items():
        for dtype in ("float32", "bfloat16"):
            config = module.get_config()
            config.model.dtype = dtype
            calls = {
                "jax": _jax_call(config, batch),
                "torch": _torch_call(config, batch, compiled=compiled),
            }
            seconds = interleave(calls, repeats=repeats)
            rates = {peer: batch_size / value for peer, value in seconds.items()}
            yield {
                "what": f"training step, {name}, {dtype}, {batch_size} crops of {side}",
                "unit": "images/s",
                **rates,
                "ratio": rates["jax"] / rates["torch"],
            }


def step_memory(config: ml_collections.ConfigDict, batch: Batch) -> float:
    """Gigabytes that a step takes beside its state and batch, as XLA plans it."""
    step, state, placed = prepare_step(config, batch)
    planned = step.lower(state, placed).compile().memory_analysis()
    return planned.temp_size_in_bytes / 1e9
