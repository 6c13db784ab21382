"""The training step against a discriminator; step.py has the plain one.

Source: Goodfellow et al., "Generative Adversarial Nets", 2014, the non-saturating loss.
Features are matched as in Xu et al., "Learning to Super-Resolve Blurry Face and Text
Images", ICCV 2017. That paper's loss weights are not known here.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.mesh import DATA_AXIS
from eddsrn_jax.models import STRIDE
from eddsrn_jax.training.losses import joint_loss, mse
from eddsrn_jax.training.state import TrainState
from eddsrn_jax.training.step import apply_training, make_examples, update_state

# The losses that the step adds to those of joint_loss.
ADVERSARIAL_LOSSES = ("loss_adversarial", "loss_features", "loss_discriminator")


@flax.struct.dataclass
class AdversarialState(TrainState):
    """A training state with a discriminator.

    Attributes:
        discriminator: parameters of the discriminator.
        discriminator_opt_state: state of the discriminator's optimiser.
    """

    discriminator: Any
    discriminator_opt_state: Any


def with_discriminator(
    state: TrainState,
    discriminator: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
) -> AdversarialState:
    """Adds an untrained discriminator to a training state.

    Args:
        state: training state; its `sums` must contain ADVERSARIAL_LOSSES.
        discriminator: module such as models.scgan.Discriminator.
        optimizer: optimiser of the discriminator.
        key: PRNG key for the discriminator's initial parameters.
    """
    side = STRIDE * 2**discriminator.num_layers
    params = discriminator.init(key, jnp.zeros((1, side, side, 3)))["params"]
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return AdversarialState(
        **fields,
        discriminator=params,
        discriminator_opt_state=optimizer.init(params),
    )


def adversarial_step(
    state: AdversarialState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    discriminator: nn.Module,
    optimizer: optax.GradientTransformation,
    scale: int,
    degradation: Mapping[str, Any],
    weight: float,
    feature_weight: float,
    loss: Mapping[str, Any],
    **updating: Any,
) -> tuple[AdversarialState, dict[str, jax.Array]]:
    """Updates a network and its discriminator once each, from one pass of the network.

    Args:
        state, batch, scale, degradation, loss, updating: see `train_step`.
        model: network that maps lr_blur to outputs with "sr".
        discriminator: module that maps images to logits, positive for photos, and to
            features.
        optimizer: optimiser of both networks; each has its own state.
        weight: weight of the adversarial loss, which is added to joint_loss.
        feature_weight: weight of the feature loss. That is the mean squared error between
            the discriminator's features of "sr" and of the photo, averaged over layers.

    Returns:
        The new state, and the losses and the network's gradient norm. The network
        minimises "loss", the discriminator minimises "loss_discriminator".
    """
    examples = make_examples(batch, scale=scale, **degradation)
    hr = examples["hr"]

    def judge(params: Any, images: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        return discriminator.apply({"params": params}, images)

    _, hr_features = judge(state.discriminator, hr)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array, dict]]:
        inputs = examples["lr_blur"]
        outputs, batch_stats = apply_training(model, params, state.batch_stats, inputs)
        total, metrics = joint_loss(outputs, examples, **loss)
        logits, features = judge(state.discriminator, outputs["sr"])
        metrics["loss_adversarial"] = jnp.mean(nn.softplus(-logits))
        pairs = list(zip(features, hr_features, strict=True))
        metrics["loss_features"] = sum(mse(*pair) for pair in pairs) / len(pairs)
        total += weight * metrics["loss_adversarial"]
        total += feature_weight * metrics["loss_features"]
        return total, (batch_stats, outputs["sr"], {**metrics, "loss": total})

    grads, (batch_stats, sr, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)

    def discriminator_loss(params: Any) -> jax.Array:
        (photographs, _), (made, _) = judge(params, hr), judge(params, sr)
        return jnp.mean(nn.softplus(-photographs)) + jnp.mean(nn.softplus(made))

    value_and_grad = jax.value_and_grad(discriminator_loss)
    metrics["loss_discriminator"], judge_grads = value_and_grad(state.discriminator)
    grads, judge_grads, metrics = jax.lax.pmean((grads, judge_grads, metrics), DATA_AXIS)
    updates, opt_state = optimizer.update(
        judge_grads, state.discriminator_opt_state, state.discriminator
    )
    changes = {
        "batch_stats": batch_stats,
        "discriminator": optax.apply_updates(state.discriminator, updates),
        "discriminator_opt_state": opt_state,
    }
    return update_state(
        *(state, grads, metrics, changes), optimizer=optimizer, **updating
    )
