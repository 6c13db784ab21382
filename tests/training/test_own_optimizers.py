"""Tests that training takes a user's own optimizer by import path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import RESIDENT, tiny_config

from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.config_values import flatten
from eddsrn_jax.errors import InputError
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.optimizer import import_optimizer, make_optimizer

MODULE = """
import jax.numpy as jnp
import optax

not_a_function = 3

def half(learning_rate):
    return optax.sgd(lambda step: learning_rate(step) / 2)

def none(learning_rate):
    return None

def failing(learning_rate):
    raise ValueError("no rate")

def one_value(learning_rate):
    return optax.GradientTransformation(
        lambda params: (), lambda updates, state, params: (jnp.zeros(()), state)
    )
"""


@pytest.fixture
def module(write_module):
    """Writes the module; returns its name."""
    return write_module(MODULE)


def make(tmp_path, name, **changes):
    config = tiny_config(tmp_path, **{"optimizer.name": name, **changes})
    return make_optimizer(**config.optimizer, steps_per_epoch=4, total_steps=10)


def test_it_gets_the_learning_rate_of_every_step(module, tmp_path):
    path = f"{module}:half"
    import_optimizer(path)
    changes = {
        "optimizer.schedule": "warmup_constant_decay",
        "optimizer.learning_rate": 0.5,
        "optimizer.warmup_steps": 2,
        "optimizer.decay_steps": 2,
        "optimizer.clip_norm": 0.0,
    }
    optimizer, _ = make(tmp_path, path, **changes)
    params = {"kernel": jnp.zeros(3)}
    state, found = optimizer.init(params), []
    for _ in range(10):
        updates, state = optimizer.update({"kernel": jnp.ones(3)}, state, params)
        found.append(-float(updates["kernel"][0]))
    rates = [0, 0.25, *6 * [0.5], 0.5, 0.25]
    np.testing.assert_allclose(found, np.array(rates) / 2, atol=1e-6)


def test_gradients_are_clipped_before_it(module, tmp_path):
    import_optimizer(f"{module}:half")
    changes = {"optimizer.clip_norm": 1.0, "optimizer.learning_rate": 1.0}
    optimizer, _ = make(tmp_path, f"{module}:half", **changes)
    params = jnp.zeros(4)
    updates, _ = optimizer.update(10 * jnp.ones(4), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.25, atol=1e-6)


def test_a_run_trains_with_an_optimizer_of_optax_and_resumes(
    module, photo_folder, tmp_path
):
    import_optimizer("optax:lion")
    changes = {"optimizer.name": "optax:lion", "total_steps": 6, **RESIDENT}
    config, workdir = tiny_config(photo_folder, **changes), tmp_path / "run"
    train_and_evaluate(config, workdir)
    config = tiny_config(photo_folder, **{**changes, "total_steps": 7})
    train_and_evaluate(config, workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        network, saved = checkpoints.restore_network(7)
    assert flatten(saved)["optimizer.name"] == "optax:lion"
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(network.params))
    # Lion's steps have the length of the learning rate, whatever the gradients are.
    optimizer, _ = make(tmp_path, "optax:lion", **{"optimizer.learning_rate": 0.25})
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))
    np.testing.assert_allclose(jnp.abs(updates), 0.25, rtol=0.01)
    assert isinstance(optimizer, optax.GradientTransformation)


@pytest.mark.parametrize(
    "name, message",
    [
        ("absent", "has no absent"),
        ("not_a_function", "expected a function of the learning rate"),
        ("none", "returned NoneType, expected an optax.GradientTransformation"),
        ("failing", r"makes no optimizer from a learning rate \(ValueError: no rate\)"),
        ("one_value", r"cannot update the network's parameters \("),
    ],
)
def test_what_is_no_optimizer_is_named(module, tmp_path, name, message):
    path = f"{module}:{name}"
    with pytest.raises(InputError, match=f":{name}: .*{message}"):
        import_optimizer(path)
        check(tiny_config(tmp_path, **{"optimizer.name": path}))


def test_a_name_that_no_flag_has_imported_is_refused(tmp_path):
    config = tiny_config(tmp_path, **{"optimizer.name": "optax:lion"})
    with pytest.raises(InputError, match="name that too: --config.optimizer.name=optax:"):
        check(config)
    config = tiny_config(tmp_path, **{"optimizer.name": "lion"})
    with pytest.raises(InputError, match="'adam' or 'muon', or the import path of your"):
        check(config)
