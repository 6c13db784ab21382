"""The training step: degradation, forward, backward, update; pure, for one device."""

import functools
from collections.abc import Callable, Mapping, Sequence
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

# What may not be finite, in the order of a step: the parameters before it, and after it.
BAD_PARTS = ("parameters", "loss", "gradient", "parameters after it")
# Of steps in a row that are skipped at most.
MOST_SKIPPED = 10


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
        skipped: int32, steps that changed nothing, for something was not finite.
        bad_in_row: int32, such steps up to now.
        bad_step: int32, the step that ends the run for that; else -1.
        bad_part: int32, where in BAD_PARTS the first thing is that was not finite in it.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    average: Any
    opt_state: Any
    sums: dict[str, jax.Array]
    count: jax.Array
    skipped: jax.Array
    bad_in_row: jax.Array
    bad_step: jax.Array
    bad_part: jax.Array

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
        skipped=jnp.zeros((), jnp.int32),
        bad_in_row=jnp.zeros((), jnp.int32),
        bad_step=jnp.full((), -1, jnp.int32),
        bad_part=jnp.zeros((), jnp.int32),
    )


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
    """One update from this device's share of a batch.

    To be mapped over the axis `DATA_AXIS` (see parallel.map_step): losses and
    gradients are averaged over it.

    Args:
        state: replicated.
        batch: "hr" uint8 [n, H, H, 3] and "key" uint32 [n, 2], see CropSampler.
        model: maps lr_blur to outputs, see eddsrn_jax.models.
        optimizer: updates the parameters.
        scale: factor of the super-resolution.
        degradation: arguments of training_triple.
        loss: arguments of joint_loss.
        updating: of update_state.

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
    """The network's inputs and targets, see `training_triple`, of a batch's crops."""
    keys = jax.random.wrap_key_data(batch["key"], impl="threefry2x32")
    make = functools.partial(training_triple, **degrading)
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
    changes: Mapping[str, Any],
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    log_every_steps: int,
    on_bad_step: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after an update, and the step's metrics with the gradient's norm.

    Args:
        state: before the step.
        grads: of its parameters, over all devices.
        metrics: "loss" and all else that the state adds up.
        changes: what else of the state is another now, by name.
        optimizer: updates the parameters.
        ema_decay: of the moving average, where the state has one.
        log_every_steps: metrics are added up anew after as many steps.
        on_bad_step: what becomes of a step in which something is not finite: "stop" ends
            the run, "skip" leaves all but the count of steps as it was, and ends the run
            after more than MOST_SKIPPED in a row.
    """
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params, average = optax.apply_updates(state.params, updates), state.average
    if average is not None:
        # Shorter at first: the weights that a run begins with are not worth keeping.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, average, 1.0 - decay)
    changes = {
        **changes,
        **{"params": params, "average": average, "opt_state": opt_state},
    }

    # A sum of squares is finite only where everything is, and not immense.
    checked = [state.params, metrics["loss"], grads, params]
    bad = ~jnp.isfinite(jnp.stack([optax.tree.norm(part) for part in checked]))
    if on_bad_step == "skip":
        before = {name: getattr(state, name) for name in changes}
        changes = jax.tree.map(lambda a, b: jnp.where(bad.any(), a, b), before, changes)
    bad_in_row = jnp.where(bad.any(), state.bad_in_row + 1, 0)
    ends = bad_in_row > (MOST_SKIPPED if on_bad_step == "skip" else 0)
    ends &= state.bad_step < 0

    # Beginning anew after they were logged; without steps that are skipped.
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
    """The metrics since they were last logged, averaged on the host; none of no step."""
    sums, count = jax.device_get((state.sums, state.count))
    return {name: float(value / count) for name, value in sums.items() if count}
