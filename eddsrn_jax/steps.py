"""The training step: degradation, forward, backward, update; pure, for one device."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.degradation import training_triple
from eddsrn_jax.losses import joint_loss
from eddsrn_jax.parallel import DATA_AXIS


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step, and therefore all that is saved.

    Attributes:
        step: int32, updates done.
        params: of the network.
        average: moving average of `params`, which is then what is used; or None.
        opt_state: of the optimiser.
        sums: float32 by name, metrics added up since they were last logged. Kept here
            so that a resumed run logs what an uninterrupted one does.
        count: int32, steps in `sums`.
        bad_step: int32, the first step whose loss or gradient was not finite; else -1.
    """

    step: jax.Array
    params: Any
    average: Any
    opt_state: Any
    sums: dict[str, jax.Array]
    count: jax.Array
    bad_step: jax.Array

    @property
    def used_params(self) -> Any:
        """What is validated, evaluated and restored with."""
        return self.params if self.average is None else self.average


def create_train_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    losses: Sequence[str],
    averaged: bool = False,
) -> TrainState:
    """The state of a run that has not begun.

    Args:
        params: to start from.
        optimizer: of the run.
        losses: as joint_loss names them.
        averaged: whether a moving average of the parameters is kept.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
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
    sr: str,
    alpha: float,
    eps: float,
    ema_decay: float,
    log_every_steps: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's share of a batch.

    To be mapped over the axis `DATA_AXIS` (see parallel.map_step): losses and
    gradients are averaged over it.

    Args:
        state: replicated.
        batch: "hr" uint8 [n, H, H, 3] and "key" uint32 [n, 2], see CropSampler.
        model: maps lr_blur to outputs, see EDDSRN.
        optimizer: updates the parameters.
        scale, sigma_range: of the degradation, see training_triple.
        sr, alpha, eps: of the loss, see joint_loss.
        ema_decay: of the moving average, where the state has one.
        log_every_steps: metrics are added up anew after as many steps.

    Returns:
        The new state, and the step's losses and gradient norm (before clipping).
    """
    keys = jax.random.wrap_key_data(batch["key"], impl="threefry2x32")
    examples = jax.vmap(
        lambda key, hr: training_triple(key, hr, scale=scale, sigma_range=sigma_range)
    )(keys, batch["hr"])

    def loss_fn(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = model.apply({"params": params}, examples["lr_blur"])
        return joint_loss(outputs, examples, sr=sr, alpha=alpha, eps=eps)

    grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = jax.lax.pmean((grads, metrics), DATA_AXIS)
    metrics["grad_norm"] = optax.tree.norm(grads)
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
    state: TrainState, batches: tuple[dict[str, jax.Array], ...], **options: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
    """An update from each batch in turn, in one program.

    Args:
        state: replicated.
        batches: this device's shares, all of one size.
        options: of `train_step`.

    Returns:
        The new state, and what the last step returns.
    """
    if len(batches) == 1:
        return train_step(state, batches[0], **options)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    state, metrics = jax.lax.scan(
        functools.partial(train_step, **options), state, stacked
    )
    return state, jax.tree.map(lambda x: x[-1], metrics)


def mean_metrics(state: TrainState) -> dict[str, float]:
    """The metrics since they were last logged, averaged on the host."""
    sums, count = jax.device_get((state.sums, state.count))
    return {name: float(value / count) for name, value in sums.items()}
