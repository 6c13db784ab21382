"""Training states and configs to save, and their comparison."""

import functools

import jax
import numpy as np
import optax
from tiny import PLAIN

from configs import vdsr
from eddsrn_jax.mesh import make_mesh, replicate
from eddsrn_jax.models import VDSR, init_params
from eddsrn_jax.training.state import create_train_state

MODEL = VDSR(**PLAIN)
# Metrics of three steps since the last log, of which the last was not finite.
PROGRESS = {"sums": {"loss": 1.5, "grad_norm": 0.1}, "count": 2, "bad_in_row": 1}


@functools.cache
def _init_params(model, seed):
    return init_params(model, jax.random.key(seed))


def make_state(step=0, devices=1, model=MODEL):
    params = _init_params(model, step)
    state = create_train_state(params, optax.adam(1e-3))
    state = state.replace(step=np.int32(step))
    return replicate(state, make_mesh(jax.devices()[:devices]))


def make_config():
    config = vdsr.get_config()
    config.model.update(PLAIN)
    return config


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def steps_on_disk(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
