"""A network and a run that are small enough to compile and finish in seconds."""

import json

import jax
import optax

from configs import eddsrn
from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.config_values import flatten
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.training.state import create_train_state

SMALL = {
    "features": (8, 8, 16, 16),
    "num_pairs": 1,
    "sr_features": (8, 8, 4),
    "deblur_features": 8,
}

# Keyword arguments of train_step.
STEP_OPTIONS = {
    "scale": 4,
    "degradation": {"sigma_range": (1.0, 2.0)},
    "loss": {"sr": "mse", "deblurred": "charbonnier", "alpha": 0.2, "eps": 1e-3},
    "ema_decay": 0.9,
}


def tiny_config(photo_folder, **changes):
    """Returns a recipe of ten steps, four in an epoch.

    Validations and checkpoints come every six steps.
    """
    config = eddsrn.get_config()
    changes = {
        **{f"model.{name}": value for name, value in SMALL.items()},
        "data.source": f"folder:{photo_folder}",
        "data.cache_dir": str(photo_folder.parent / "packs"),
        "data.hr_patch_size": 64,
        "data.crops_per_image": 5,
        "batch_size": 8,
        "total_steps": 10,
        "log_every_steps": 3,
        "validation.every_steps": 6,
        "checkpoint.every_steps": 6,
        **changes,
    }
    config.update_from_flattened_dict(changes)
    return config


def tiny_flags(folder, workdir, **changes):
    """Returns train.py's flags for the run of `tiny_config`."""
    config = tiny_config(folder, **changes)
    default = eddsrn.get_config()
    changed = {k: v for k, v in flatten(config).items() if v != flatten(default)[k]}
    return [
        "--config=configs/eddsrn.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    ]


def final_state(workdir, step, *, ema=False):
    """Returns the newest checkpoint's state of a tiny run; it must be of that step."""
    model = EDDSRN(**SMALL)
    params = init_params(model, jax.random.key(0))
    like = create_train_state(
        params,
        optax.chain(optax.identity(), optax.adam(optax.constant_schedule(1.0))),
        ema=ema,
    )
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore_latest(like).state
    assert state.step == step
    return jax.device_get(state)


def metrics_rows(workdir, *, with_times=False):
    """Returns the rows that a run logged, by default without their times.

    Times differ from run to run.
    """
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    if with_times:
        return rows
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
