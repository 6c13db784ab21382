"""The training step, a pure function that runs on each device.

It degrades crops, applies the network forward and backward, and updates the parameters.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.mesh import DATA_AXIS
from eddsrn_jax.ops.degradation import training_triple
from eddsrn_jax.training.losses import joint_loss
from eddsrn_jax.training.state import MOST_SKIPPED, TrainState


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    scale: int,
    degradation: Mapping[str, Any],
    loss: Mapping[str, Any],
    **updating: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates the state once, from this device's shard of a batch.

    The step must be mapped over the axis `DATA_AXIS` (see mesh.map_step). It averages
    losses and gradients over that axis.

    Args:
        state: replicated state.
        batch: "hr" uint8 [n, H, H, 3] and "key" uint32 [n, 2], see CropSampler.
        model: network that maps lr_blur to outputs, see eddsrn_jax.models.
        optimizer: optimiser of the parameters.
        scale: factor of the super-resolution.
        degradation: keyword arguments of training_triple.
        loss: keyword arguments of joint_loss.
        updating: keyword arguments of update_state.

    Returns:
        The new state, and the step's losses and gradient norm (before clipping).
    """
    examples = make_examples(batch, scale=scale, **degradation)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        inputs = examples["lr_blur"]
        outputs, batch_stats = apply_training(model, params, state.batch_stats, inputs)
        total, metrics = joint_loss(outputs, examples, **loss)
        return total, (batch_stats, metrics)

    grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = jax.lax.pmean((grads, metrics), DATA_AXIS)
    changes = {"batch_stats": batch_stats}
    return update_state(
        *(state, grads, metrics, changes), optimizer=optimizer, **updating
    )


def make_examples(batch: dict[str, jax.Array], **degrading: Any) -> dict[str, jax.Array]:
    """Makes the network's inputs and targets from crops, see `training_triple`."""
    keys = jax.random.wrap_key_data(batch["key"], impl="threefry2x32")
    make = functools.partial(training_triple, **degrading)
    return jax.vmap(make)(keys, batch["hr"])


def apply_training(
    model: nn.Module, params: Any, batch_stats: Any, inputs: jax.Array
) -> tuple[Any, Any]:
    """Applies a network in training; returns outputs and new batch-norm statistics."""
    if not batch_stats:
        return model.apply({"params": params}, inputs), batch_stats
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, new = model.apply(variables, inputs, train=True, mutable=["batch_stats"])
    return outputs, new["batch_stats"]


def update_state(
    state: TrainState,
    grads: Any,
    metrics: dict[str, jax.Array],
    changes: Mapping[str, Any],
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    log_every_steps: int,
    on_bad_step: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates the parameters, checks that they are finite, and adds up the metrics.

    Args:
        state: state before the step.
        grads: gradients of the parameters, averaged over all devices.
        metrics: "loss" and all other losses in `state.sums`.
        changes: other fields of the state that the step has changed, by name.
        optimizer: optimiser of the parameters.
        ema_decay: decay of the moving average, if the state has one.
        log_every_steps: number of steps after which the sums of metrics restart.
        on_bad_step: reaction to non-finite values. "stop" stops the run. "skip" counts
            the step but discards its update, and stops the run after more than
            MOST_SKIPPED consecutive such steps.

    Returns:
        The new state, and the metrics with "grad_norm", the norm of `grads`.
    """
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params, ema_params = optax.apply_updates(state.params, updates), state.ema_params
    if ema_params is not None:
        # The decay is smaller at first: the initial weights are not worth keeping.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema_params = optax.incremental_update(params, ema_params, 1.0 - decay)
    changes = {
        **changes,
        **{"params": params, "ema_params": ema_params, "opt_state": opt_state},
    }

    # The norm is finite only if every value is, and none is so large that it overflows.
    checked = [state.params, metrics["loss"], grads, params]
    bad = ~jnp.isfinite(jnp.stack([optax.tree.norm(part) for part in checked]))
    if on_bad_step == "skip":
        before = {name: getattr(state, name) for name in changes}
        changes = jax.tree.map(lambda a, b: jnp.where(bad.any(), a, b), before, changes)
    bad_in_row = jnp.where(bad.any(), state.bad_in_row + 1, 0)
    ends = bad_in_row > (MOST_SKIPPED if on_bad_step == "skip" else 0)
    ends &= state.bad_step < 0

    # The sums restart after each logging. Non-finite steps are left out of them.
    kept, counted = state.step % log_every_steps != 0, ~bad.any()
    sums = {
        name: kept * value + jnp.where(counted, metrics[name], 0.0)
        for name, value in state.sums.items()
    }
    state = state.replace(
        step=state.step + 1,
        **changes,
        sums=sums,
        count=kept * state.count + counted,
        skipped=state.skipped + (bad.any() if on_bad_step == "skip" else 0),
        bad_in_row=bad_in_row,
        bad_step=jnp.where(ends, state.step + 1, state.bad_step),
        bad_part=jnp.where(ends, bad.argmax().astype(jnp.int32), state.bad_part),
    )
    return state, metrics


def train_steps(
    state: TrainState,
    batches: tuple[dict[str, jax.Array], ...],
    *,
    step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Any]],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs one step for each batch in turn, in one program (batched dispatch).

    Args:
        state: replicated state.
        batches: this device's shards of the batches, all of one size.
        step: training step, such as `train_step`.

    Returns:
        The new state, and the metrics of the last step.
    """
    if len(batches) == 1:
        return step(state, batches[0])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    state, metrics = jax.lax.scan(step, state, stacked)
    return state, jax.tree.map(lambda x: x[-1], metrics)


def mean_metrics(state: TrainState) -> dict[str, float]:
    """Returns the mean metrics since the last logging; empty if none was counted."""
    sums, count = jax.device_get((state.sums, state.count))
    return {name: float(value / count) for name, value in sums.items() if count}
