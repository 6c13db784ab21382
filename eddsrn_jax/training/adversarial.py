"""The training step against a discriminator; step.py has the plain one.

Source: Goodfellow et al., "Generative Adversarial Nets", 2014, the non-saturating loss.
Features are matched as in Xu et al., "Learning to Super-Resolve Blurry Face and Text
Images", ICCV 2017. That paper's loss weights are not known here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.mesh import DATA_AXIS
from eddsrn_jax.models import STRIDE
from eddsrn_jax.training.losses import add_up, joint_loss, mse
from eddsrn_jax.training.state import TrainState
from eddsrn_jax.training.step import (
    Metrics,
    apply_training,
    degrade,
    discard_if_nonfinite,
    update,
)


@flax.struct.dataclass
class AdversarialState(TrainState):
    """A training state with a discriminator.

    Attributes:
        discriminator: parameters of the discriminator.
        discriminator_opt_state: state of the discriminator's optimizer.
    """

    discriminator: Any
    discriminator_opt_state: Any

    @property
    def trained(self) -> Any:
        """The parameters of the network and of the discriminator."""
        return self.params, self.discriminator


def with_discriminator(
    state: TrainState,
    discriminator: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
) -> AdversarialState:
    """Adds an untrained discriminator to a training state.

    Args:
        state: training state of the network.
        discriminator: module such as models.scgan.Discriminator.
        optimizer: optimizer of the discriminator.
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
    ema_decay: float,
) -> tuple[AdversarialState, Metrics]:
    """Updates a network and its discriminator once each, from one pass of the network.

    Args:
        state, batch, scale, degradation, loss, ema_decay: see `train_step`.
        model: network that maps lr_blur to outputs with "sr".
        discriminator: module that maps images to logits, positive for photos, and to
            features.
        optimizer: optimizer of both networks; each has its own state.
        weight: weight of the adversarial loss, which is added to joint_loss.
        feature_weight: weight of the feature loss. That is the mean squared error between
            the discriminator's features of "sr" and of the photo, averaged over layers.

    Returns:
        The new state and the metrics, see `train_step`. The network minimizes "loss", the
        discriminator minimizes "loss_discriminator".
    """
    examples = degrade(batch, scale=scale, **degradation)
    hr = examples["hr"]

    def judge(params: Any, images: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        # Flax returns anything else only if a collection is mutable.
        return discriminator.apply({"params": params}, images)  # pyright: ignore[reportReturnType]

    _, hr_features = judge(state.discriminator, hr)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array, dict]]:
        inputs = examples["lr_blur"]
        outputs, batch_stats = apply_training(model, params, state.batch_stats, inputs)
        total, metrics = joint_loss(outputs, examples, **loss)
        logits, features = judge(state.discriminator, outputs["sr"])
        metrics["loss_adversarial"] = jnp.mean(nn.softplus(-logits))
        pairs = list(zip(features, hr_features, strict=True))
        metrics["loss_features"] = add_up(mse(*pair) for pair in pairs) / len(pairs)
        total += weight * metrics["loss_adversarial"]
        total += feature_weight * metrics["loss_features"]
        return total, (batch_stats, outputs["sr"], {**metrics, "loss": total})

    grads, (batch_stats, sr, losses) = jax.grad(loss_fn, has_aux=True)(state.params)

    grads, losses = jax.lax.pmean((grads, losses), DATA_AXIS)
    new = update(state, grads, optimizer=optimizer, ema_decay=ema_decay)
    new, losses["loss_discriminator"] = update_discriminator(
        new, judge=judge, hr=hr, sr=sr, optimizer=optimizer
    )
    new = dataclasses.replace(new, batch_stats=batch_stats)
    return discard_if_nonfinite(state, new, grads=grads, losses=losses)


def update_discriminator(
    state: AdversarialState,
    *,
    judge: Callable[[Any, jax.Array], tuple[jax.Array, Any]],
    hr: jax.Array,
    sr: jax.Array,
    optimizer: optax.GradientTransformation,
) -> tuple[AdversarialState, jax.Array]:
    """Updates the discriminator once; returns the new state and the loss.

    Args:
        state: training state.
        judge: applies the discriminator with given parameters to images.
        hr: photos of this device, [n, H, W, 3].
        sr: images that the network made in their place.
        optimizer: optimizer of the discriminator.
    """

    def loss_fn(params: Any) -> jax.Array:
        (real, _), (restored, _) = judge(params, hr), judge(params, sr)
        return jnp.mean(nn.softplus(-real)) + jnp.mean(nn.softplus(restored))

    loss_and_grads = jax.value_and_grad(loss_fn)(state.discriminator)
    loss, grads = jax.lax.pmean(loss_and_grads, DATA_AXIS)
    updates, opt_state = optimizer.update(
        grads, state.discriminator_opt_state, state.discriminator
    )
    params = optax.apply_updates(state.discriminator, updates)
    new = dataclasses.replace(
        state, discriminator=params, discriminator_opt_state=opt_state
    )
    return new, loss
