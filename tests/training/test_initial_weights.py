"""Runs that start from some of another network's weights."""

import jax
import numpy as np
import optax
import pytest
from tiny import PLAIN, tiny_config

from eddsrn_jax.checkpoints.found_weights import SHIPPED
from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.checkpoints.parameters import merge
from eddsrn_jax.checkpoints.weights import Network, read_network, write_network
from eddsrn_jax.config_values import from_json
from eddsrn_jax.errors import InputError
from eddsrn_jax.mesh import make_mesh
from eddsrn_jax.models import VDSR, init_params
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.setup import load_params, restore_or_create
from eddsrn_jax.training.state import create_train_state

SMALLER = VDSR(**PLAIN)
LARGER = VDSR(**PLAIN | {"num_layers": 4})


@pytest.fixture
def weights(tmp_path):
    """Writes the weights of the smaller network; returns its parameters and the file."""
    params = jax.device_get(init_params(SMALLER, jax.random.key(7)))
    path = tmp_path / "w.safetensors"
    write_network(path, Network(SMALLER, params, "VDSR", 9, (1.0, 2.0)), dtype="float32")
    return params, path


def assert_mixed(found, taken, random):
    """Checks that a larger network has the common layers' weights, and random others."""
    assert found.keys() == random.keys() > taken.keys()
    for name, layer in found.items():
        origin = taken if name in taken else random
        jax.tree.map(np.testing.assert_array_equal, layer, origin[name])


def test_a_run_takes_the_weights_that_fit_and_names_the_others(weights, tmp_path, caplog):
    taken, path = weights
    values = {"init_from": str(path), "init_from_partial": True, "model.num_layers": 4}
    config = tiny_config(tmp_path, **values)
    check(config)
    run = tmp_path / "run"
    with caplog.at_level("INFO", "eddsrn_jax"), Checkpoints(run) as checkpoints:
        options = (optax.adam(1e-3), make_mesh(), 4)
        state, _ = restore_or_create(checkpoints, config, LARGER, *options)
    random = init_params(LARGER, jax.random.key(config.seed))
    assert_mixed(jax.device_get(state.params), taken, random)
    (added,) = random.keys() - taken.keys()
    assert caplog.messages == [
        f"{path}: {len(taken)} of the network's {len(random)} parameters are"
        f" taken; random are {added}"
    ]


def test_the_weights_may_be_those_of_a_run(weights, tmp_path):
    taken, _ = weights
    with Checkpoints(tmp_path / "run") as checkpoints:
        state = create_train_state(taken, optax.adam(1e-3))
        progress = {"sums": {}, "count": 0, "bad_in_row": 0}
        checkpoints.save(state, tiny_config(tmp_path), progress=progress, metrics=None)
    random = init_params(LARGER, jax.random.key(0))
    found = load_params(tmp_path / "run", LARGER, start=random)
    assert_mixed(jax.device_get(found), taken, random)


def test_included_weights_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = read_network(SHIPPED["eddsrn-lite"])
    found = load_params("eddsrn-lite", network.model)
    jax.tree.map(np.testing.assert_array_equal, found, network.params)
    message = "init_from=eddsrn: no such .* included weights are photo, gaussian, eddsrn-"
    with pytest.raises(InputError, match=message):
        load_params("eddsrn", network.model)


def test_weights_of_another_shape_keep_their_start(caplog):
    new = {"a/kernel": (2, 3), "a/bias": (3,), "b/c/bias": (5,), "unused/bias": (3,)}
    new = {name: np.ones(shape, np.float16) for name, shape in new.items()}
    names = {
        "a": {"kernel": (2, 4), "bias": (3,)},
        "b": {"c": {"bias": (4,)}, "d": {"bias": (4,)}},
        "bc": {"bias": (5,)},
    }
    start = jax.tree.map(np.zeros, names, is_leaf=lambda x: isinstance(x, tuple))
    with caplog.at_level("INFO", "eddsrn_jax"):
        found = merge(new, start, "w")
    assert found["a"]["bias"].tolist() == [1, 1, 1]
    del found["a"]["bias"]
    assert all((x == 0).all() for x in jax.tree.leaves(found))
    assert caplog.messages == [
        "w: 1 of the network's 5 parameters are taken; random are a/kernel, b, bc"
    ]


def test_weights_of_which_none_fits_are_refused(weights):
    _, path = weights
    wider = VDSR(**PLAIN | {"features": 5})
    start = init_params(wider, jax.random.key(0))
    message = "none of its 3 parameters has the name and shape of one of the network's 3"
    with pytest.raises(InputError, match=f"^{path}: {message}$"):
        load_params(path, wider, start=start)
    with pytest.raises(InputError, match="w.safetensors has another architecture"):
        load_params(path, wider)


def test_partial_weights_need_a_place(tmp_path):
    config = tiny_config(tmp_path, init_from_partial=True)
    message = "config.init_from_partial=True: expected False, because config.init_from is"
    with pytest.raises(InputError, match=message):
        check(config)
    assert from_json({}).init_from_partial is False
