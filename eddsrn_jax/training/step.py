"""The training step, a pure function that runs on each device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.mesh import DATA_AXIS
from eddsrn_jax.ops.degradation import paired_triple, training_triple
from eddsrn_jax.training.losses import joint_loss
from eddsrn_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
_State = TypeVar("_State", bound=TrainState)

# Parts of a step that are checked for non-finite values, in the order of computation.
CHECKED_PARTS = ("parameters", "loss", "gradient", "updated parameters")


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    scale: int,
    degradation: Mapping[str, Any],
    loss: Mapping[str, Any],
    ema_decay: float,
) -> tuple[TrainState, Metrics]:
    """Updates the state once, from this device's shard of a batch.

    The step must be mapped over the axis `DATA_AXIS` (see mesh.map_step). It averages
    losses and gradients over that axis.

    Args:
        state: replicated state.
        batch: "hr" uint8 [n, H, H, 3], "key" uint32 [n, 2] and, for pairs, "lr"; see
            CropSampler.batch.
        model: network that maps lr_blur to outputs, see eddsrn_jax.models.
        optimizer: optimizer of the parameters.
        scale: factor of the super-resolution.
        degradation: keyword arguments of training_triple.
        loss: keyword arguments of joint_loss.
        ema_decay: decay of the moving average, if the state has one.

    Returns:
        The new state and the metrics, see `discard_if_nonfinite`.
    """
    examples = degrade(batch, scale=scale, **degradation)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        inputs = examples["lr_blur"]
        outputs, batch_stats = apply_training(model, params, state.batch_stats, inputs)
        total, losses = joint_loss(outputs, examples, **loss)
        return total, (batch_stats, losses)

    grads, (batch_stats, losses) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, losses = jax.lax.pmean((grads, losses), DATA_AXIS)
    new = update(state, grads, optimizer=optimizer, ema_decay=ema_decay)
    return discard_if_nonfinite(
        state,
        dataclasses.replace(new, batch_stats=batch_stats),
        grads=grads,
        losses=losses,
    )


def degrade(
    batch: dict[str, jax.Array], *, scale: int, **degradation: Any
) -> dict[str, jax.Array]:
    """Makes the network's inputs and targets from crops.

    `training_triple` describes them. Crops of pairs already have inputs; `paired_triple`
    describes those.
    """
    keys = jax.random.wrap_key_data(batch["key"], impl="threefry2x32")
    if "lr" in batch:
        make = functools.partial(paired_triple, scale=scale)
        return jax.vmap(make)(keys, batch["hr"], batch["lr"])
    make = functools.partial(training_triple, scale=scale, **degradation)
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


def update(
    state: _State,
    grads: Any,
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> _State:
    """Updates the parameters, their moving average and the optimizer's state.

    Args:
        state: state before the step.
        grads: gradients of the parameters, averaged over all devices.
        optimizer: optimizer of the parameters.
        ema_decay: decay of the moving average, if the state has one.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        # The decay is smaller at first: the initial weights are not worth keeping.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema_params = optax.incremental_update(params, ema_params, 1.0 - decay)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        ema_params=ema_params,
        opt_state=opt_state,
    )


def discard_if_nonfinite(
    old: _State, new: _State, *, grads: Any, losses: Metrics
) -> tuple[_State, Metrics]:
    """Keeps the old state, except for its step, if the step has non-finite values.

    Args:
        old, new: states before and after the step.
        grads: gradients of the parameters, averaged over all devices.
        losses: "loss", and others by name.

    Returns:
        The state, and the metrics: the losses, "grad_norm" (before clipping), and
        "bad_part", int32: index in CHECKED_PARTS of the first non-finite part, or -1.
    """
    # A norm is finite only if every value is, and none is so large that it overflows.
    checked = (old.trained, losses, grads, new.trained)
    norms = [optax.tree.norm(part) for part in checked]
    bad = ~jnp.isfinite(jnp.stack(norms))
    kept = jax.tree.map(lambda a, b: jnp.where(bad.any(), a, b), old, new)
    bad_part = jnp.where(bad.any(), bad.argmax(), -1)
    metrics = {**losses, "grad_norm": norms[2], "bad_part": bad_part}
    return dataclasses.replace(kept, step=new.step), metrics
