"""Times the training step in JAX and PyTorch: degradation, forward, backward, Adam."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import torch

from benchmarks.steps import CONFIGS, Batch, prepare_step, random_batch
from benchmarks.timing import interleave
from benchmarks.twin import TrainerTwin, make_twin, torch_device
from eddsrn_jax.models import init_params, make_network


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
    model = make_network(config.network, config.model)
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
    """Yields rows: images per second of JAX and of PyTorch, and the ratio of both.

    Args:
        batch_size: crops in a step.
        side: side of a crop in pixels.
        repeats: timed steps.
        compiled: whether PyTorch's step is compiled.
    """
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
