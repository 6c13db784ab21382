"""Networks and runs that are small enough to compile and finish in seconds."""

import json

import flax.linen as nn
import jax
import optax

from configs import eddsrn, vdsr
from eddsrn_jax.checkpoints.manager import Checkpoints, read_run
from eddsrn_jax.config_values import flatten
from eddsrn_jax.models import init_params
from eddsrn_jax.models.layers import Conv, depth_to_space
from eddsrn_jax.ops.resize import bicubic_upscale
from eddsrn_jax.training.optimizer import OPTIMIZERS
from eddsrn_jax.training.state import create_train_state

# Widths of the archived run in tests/checkpoints/. With equal widths, tests share their
# compiled programs.
SMALL = {
    "features": (4, 4, 4, 4),
    "num_pairs": 1,
    "sr_features": (4, 4, 4),
    "deblur_features": 4,
}
# Three convolutions, which compile in a tenth of the time. Tests of runs, rather than of
# networks, train this network.
PLAIN = {"features": 4, "num_layers": 3}
# Without TensorFlow, whose import takes half the time of a launched command.
RESIDENT = {"data.pipeline": "resident"}
_NETWORKS = {"EDDSRN": (eddsrn, SMALL), "VDSR": (vdsr, PLAIN)}


class TwoOutputs(nn.Module):
    """A network of three convolutions with both outputs, which compiles quickly."""

    stride = 1
    # Two convolutions, and the bicubic enlargement.
    receptive_radius = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        features = nn.relu(Conv(8, dtype=self.dtype, name="stem")(x))
        deblurred = x + Conv(3, dtype=self.dtype, name="deblur_head")(features)
        changes = depth_to_space(Conv(48, dtype=self.dtype, name="sr_head")(features), 4)
        outputs = {"sr": bicubic_upscale(x, 4) + changes, "deblurred": deblurred}
        return {name: image.astype("float32") for name, image in outputs.items()}


# Keyword arguments of train_step.
STEP_OPTIONS = {
    "scale": 4,
    "degradation": {"sigma_range": (1.0, 2.0)},
    "loss": {"sr": "mse", "deblurred": "charbonnier", "alpha": 0.2, "eps": 1e-3},
    "ema_decay": 0.9,
}


def tiny_config(photo_folder, *, network="VDSR", **changes):
    """Returns a recipe of ten steps, four in an epoch.

    Validations and checkpoints come every six steps.
    """
    module, fields = _NETWORKS[network]
    config = module.get_config()
    changes = {
        **{f"model.{name}": value for name, value in fields.items()},
        "data.source": f"folder:{photo_folder}",
        "data.cache_dir": str(photo_folder.parent / "packs"),
        "data.hr_patch_size": 64,
        "data.crops_per_image": 5,
        "degradation.sigma_range": (1.0, 2.0),
        "validation.sigmas": (1.0, 1.25, 1.5, 1.75, 2.0),
        "batch_size": 8,
        "total_steps": 10,
        "log_every_steps": 3,
        "validation.every_steps": 6,
        "checkpoint.every_steps": 6,
        **changes,
    }
    config.update_from_flattened_dict(changes)
    return config


def tiny_flags(folder, workdir, *, network="VDSR", **changes):
    """Returns train.py's flags for the run of `tiny_config`."""
    module, _ = _NETWORKS[network]
    config, default = tiny_config(folder, network=network, **changes), module.get_config()
    changed = {k: v for k, v in flatten(config).items() if v != flatten(default)[k]}
    return [
        f"--config={module.__name__.replace('.', '/')}.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    ]


def final_state(workdir, step, *, ema=False, optimizer="adam"):
    """Returns the newest checkpoint's state of a tiny run; it must be of that step."""
    params = init_params(read_run(workdir).model, jax.random.key(0))
    rule = OPTIMIZERS[optimizer](optax.constant_schedule(1.0), b2=0.999)
    like = create_train_state(params, optax.chain(optax.identity(), rule), ema=ema)
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
