"""The adversarial training step, on one fixed batch of eight crops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import STEP_OPTIONS, TwoOutputs

from eddsrn_jax.mesh import make_mesh, map_step, replicate, shard_batch
from eddsrn_jax.models import init_params
from eddsrn_jax.models.scgan import SCGAN, Discriminator
from eddsrn_jax.training.adversarial import adversarial_step, with_discriminator
from eddsrn_jax.training.state import create_train_state
from eddsrn_jax.training.step import CHECKED_PARTS, discard_if_nonfinite, train_step

DISCRIMINATOR = Discriminator(features=4, num_layers=3)


def run(batch, step, model, optimizer, *, devices=1, steps=1):
    """Repeats a step on one batch; returns the last state and every step's metrics."""
    mesh = make_mesh(jax.devices()[:devices])
    params = init_params(model, jax.random.key(0))
    state = create_train_state(params, optimizer, ema=True)
    if step.func is adversarial_step:
        key = jax.random.key(1)
        state = with_discriminator(state, DISCRIMINATOR, optimizer, key=key)
    state = replicate(state, mesh)
    step = functools.partial(step, model=model, optimizer=optimizer, **STEP_OPTIONS)
    mapped, history = map_step(step, mesh), []
    for _ in range(steps):
        state, metrics = mapped(state, shard_batch(batch, mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def adversarial(weight, feature_weight):
    return functools.partial(
        adversarial_step,
        discriminator=DISCRIMINATOR,
        weight=weight,
        feature_weight=feature_weight,
    )


@pytest.mark.parametrize("part", ["loss", "updated parameters"])
def test_a_step_with_a_nonfinite_discriminator_is_discarded(part):
    state = create_train_state({"kernel": jnp.ones(2)}, optax.sgd(1.0))
    old = with_discriminator(state, DISCRIMINATOR, optax.sgd(1.0), key=jax.random.key(0))
    changed = dataclasses.replace(old, step=old.step + 1, params={"kernel": jnp.zeros(2)})
    losses = {"loss": jnp.ones(()), "loss_discriminator": jnp.ones(())}
    if part == "loss":
        losses["loss_discriminator"] *= jnp.nan
    else:
        worse = jax.tree.map(lambda x: x * jnp.nan, old.discriminator)
        changed = dataclasses.replace(changed, discriminator=worse)
    kept, metrics = discard_if_nonfinite(old, changed, grads=old.params, losses=losses)
    assert CHECKED_PARTS[metrics["bad_part"]] == part
    assert kept.step == 1
    jax.tree.map(np.testing.assert_array_equal, kept.trained, old.trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [TwoOutputs(), SCGAN(features=4, num_layers=1)],
    ids=["without batch norm", "with batch norm"],
)
def test_adversarial_step_with_zero_weights_equals_the_plain_step(batch, model):
    plain, plain_history = run(
        batch, functools.partial(train_step), model, optax.sgd(0.1), steps=2
    )
    state, history = run(batch, adversarial(0, 0), model, optax.sgd(0.1), steps=2)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, state.used_params, plain.used_params)
    for found, expected in zip(history, plain_history, strict=True):
        for name in expected:
            close(found[name], expected[name])
    assert {*history[0]} - {*plain_history[0]} == {
        "loss_adversarial",
        "loss_features",
        "loss_discriminator",
    }


def moving(side):
    """Returns an optimizer that updates only one side: "network" or "discriminator"."""
    sides = {"network": optax.set_to_zero(), "discriminator": optax.set_to_zero()}
    sides[side] = optax.adam(1e-3)

    def label(params):
        name = "discriminator" if "logit" in params else "network"
        return jax.tree.map(lambda _: name, params)

    return optax.multi_transform(sides, label)


def test_adversarial_steps_lower_the_losses_of_both_networks(batch):
    """Trains each side while the other is frozen, because their losses are opposed."""
    model = SCGAN(features=4, num_layers=1)
    for side, losses in (
        ("network", ("loss", "loss_adversarial", "loss_features")),
        ("discriminator", ("loss_discriminator",)),
    ):
        _, history = run(batch, adversarial(1.0, 1.0), model, moving(side), steps=8)
        for name in losses:
            assert history[-1][name] < history[0][name]


@pytest.mark.slow
def test_adversarial_steps_on_one_and_four_devices_agree(batch):
    """Batch norm averages its statistics over all devices, as the step does gradients."""
    model = SCGAN(features=4, num_layers=1)
    results = [
        run(batch, adversarial(0.1, 0.1), model, optax.sgd(0.1), devices=n, steps=2)
        for n in (1, 4)
    ]
    (one, one_history), (four, four_history) = results
    for before, after in zip(one_history, four_history, strict=True):
        for name in before:
            np.testing.assert_allclose(before[name], after[name], rtol=1e-4)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, one.used_params, four.used_params)
    jax.tree.map(close, one.discriminator, four.discriminator)
