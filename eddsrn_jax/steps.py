"""The training step: degradation, forward, backward, update; pure, for one device."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.degradation import training_triple
from eddsrn_jax.losses import joint_loss
from eddsrn_jax.models import join_params, split_params
from eddsrn_jax.parallel import DATA_AXIS


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step, and therefore all that is saved.

    Attributes:
        step: int32, updates done.
        params: of the network, those that are trained.
        batch_stats: statistics of its batch norm; empty where it has none.
        average: moving average of `params`, which is then what is used; or None.
        opt_state: of the optimiser.
        sums: float32 by name, metrics added up since they were last logged. Kept here
            so that a resumed run logs what an uninterrupted one does.
        count: int32, steps in `sums`.
        bad_step: int32, the first step whose loss or gradient was not finite; else -1.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    average: Any
    opt_state: Any
    sums: dict[str, jax.Array]
    count: jax.Array
    bad_step: jax.Array

    @property
    def used_params(self) -> Any:
        """What is validated, evaluated and restored with, statistics included."""
        trained = self.params if self.average is None else self.average
        return join_params(trained, self.batch_stats)


def create_train_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    losses: Sequence[str],
    averaged: bool = False,
) -> TrainState:
    """The state of a run that has not begun.

    Args:
        params: to start from, statistics included.
        optimizer: of the run.
        losses: see loss_names.
        averaged: whether a moving average of the parameters is kept.
    """
    params, batch_stats = split_params(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        average=params if averaged else None,
        opt_state=optimizer.init(params),
        sums={name: jnp.zeros(()) for name in (*losses, "grad_norm")},
        count=jnp.zeros((), jnp.int32),
        bad_step=jnp.full((), -1, jnp.int32),
    )


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    scale: int,
    sigma_range: tuple[float, float],
    ema_decay: float,
    log_every_steps: int,
    **loss: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's share of a batch.

    To be mapped over the axis `DATA_AXIS` (see parallel.map_step): losses and
    gradients are averaged over it.

    Args:
        state: replicated.
        batch: "hr" uint8 [n, H, H, 3] and "key" uint32 [n, 2], see CropSampler.
        model: maps lr_blur to outputs, see eddsrn_jax.models.
        optimizer: updates the parameters.
        scale, sigma_range: of the degradation, see training_triple.
        ema_decay: of the moving average, where the state has one.
        log_every_steps: metrics are added up anew after as many steps.
        loss: further arguments of joint_loss.

    Returns:
        The new state, and the step's losses and gradient norm (before clipping).
    """
    examples = make_examples(batch, scale=scale, sigma_range=sigma_range)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        inputs = examples["lr_blur"]
        outputs, batch_stats = apply_training(model, params, state.batch_stats, inputs)
        total, metrics = joint_loss(outputs, examples, **loss)
        return total, (batch_stats, metrics)

    grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    return update_state(
        state.replace(batch_stats=batch_stats),
        *jax.lax.pmean((grads, metrics), DATA_AXIS),
        optimizer=optimizer,
        ema_decay=ema_decay,
        log_every_steps=log_every_steps,
    )


def make_examples(
    batch: dict[str, jax.Array], *, scale: int, sigma_range: tuple[float, float]
) -> dict[str, jax.Array]:
    """The network's inputs and targets, see `training_triple`, of a batch's crops."""
    keys = jax.random.wrap_key_data(batch["key"], impl="threefry2x32")
    make = functools.partial(training_triple, scale=scale, sigma_range=sigma_range)
    return jax.vmap(make)(keys, batch["hr"])


def apply_training(
    model: nn.Module, params: Any, batch_stats: Any, inputs: jax.Array
) -> tuple[Any, Any]:
    """A network's outputs in training, and the statistics of its batch norm after it."""
    if not batch_stats:
        return model.apply({"params": params}, inputs), batch_stats
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, new = model.apply(variables, inputs, train=True, mutable=["batch_stats"])
    return outputs, new["batch_stats"]


def update_state(
    state: TrainState,
    grads: Any,
    metrics: dict[str, jax.Array],
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    log_every_steps: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after an update, and the step's metrics with the gradient's norm.

    Args:
        state: before it, but for what the forward pass changed.
        grads: of its parameters, over all devices.
        metrics: "loss" and all else that the state adds up.
        optimizer, ema_decay, log_every_steps: see `train_step`.
    """
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params, average = optax.apply_updates(state.params, updates), state.average
    if average is not None:
        # Shorter at first: the weights that a run begins with are not worth keeping.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, average, 1.0 - decay)

    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    kept = state.step % log_every_steps != 0
    first_bad = (state.bad_step < 0) & ~finite
    state = state.replace(
        step=state.step + 1,
        params=params,
        average=average,
        opt_state=opt_state,
        sums={k: kept * v + metrics[k] for k, v in state.sums.items()},
        count=kept * state.count + 1,
        bad_step=jnp.where(first_bad, state.step + 1, state.bad_step),
    )
    return state, metrics


def train_steps(
    state: TrainState,
    batches: tuple[dict[str, jax.Array], ...],
    *,
    step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Any]],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """An update from each batch in turn, in one program.

    Args:
        state: replicated.
        batches: this device's shares, all of one size.
        step: does one, such as `train_step`.

    Returns:
        The new state, and what the last step returns.
    """
    if len(batches) == 1:
        return step(state, batches[0])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    state, metrics = jax.lax.scan(step, state, stacked)
    return state, jax.tree.map(lambda x: x[-1], metrics)


def mean_metrics(state: TrainState) -> dict[str, float]:
    """The metrics since they were last logged, averaged on the host."""
    sums, count = jax.device_get((state.sums, state.count))
    return {name: float(value / count) for name, value in sums.items()}
