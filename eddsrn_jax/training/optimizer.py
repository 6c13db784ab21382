"""Optimizers and learning-rate schedules; durations are in steps."""

from collections.abc import Callable, MutableMapping
from typing import Any

import optax

from eddsrn_jax.errors import InputError
from eddsrn_jax.own_code import explaining, import_function
from eddsrn_jax.training.muon import muon

# Steps, sizes and counts are 32-bit integers in JAX's programs.
MAX_COUNT = 2**31 - 1
# The names of the schedules in configs.
SCHEDULES = ("step_decay", "warmup_cosine", "warmup_constant_decay")


def step_decay(learning_rate: float, *, halve_every_steps: int) -> optax.Schedule:
    """Returns a schedule that halves the rate every `halve_every_steps` steps.

    Source: paper, section 3.2 (5e-4, halved every 30 epochs).
    """
    return optax.exponential_decay(
        learning_rate, halve_every_steps, decay_rate=0.5, staircase=True
    )


def warmup_cosine(
    learning_rate: float, *, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Returns a linear warm-up from 0, then half a cosine to 1 % of the peak.

    The warm-up takes at most half of all steps.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup_steps, total_steps // 2),
        decay_steps=total_steps,
        end_value=learning_rate / 100,
    )


def warmup_constant_decay(
    learning_rate: float, *, warmup_steps: int, decay_steps: int, total_steps: int
) -> optax.Schedule:
    """Returns a linear warm-up from 0, a constant rate, then a linear decay to 0.

    Before the decay begins, the rate does not depend on `total_steps`. A run can
    therefore be extended at any time until then.

    Source: Hagele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", NeurIPS 2024.
    """
    decay_steps = min(decay_steps, total_steps)
    warmup_steps = min(warmup_steps, total_steps - decay_steps)
    parts = [
        optax.linear_schedule(0.0, learning_rate, warmup_steps),
        optax.constant_schedule(learning_rate),
        optax.linear_schedule(learning_rate, 0.0, decay_steps),
    ]
    return optax.join_schedules(parts, [warmup_steps, total_steps - decay_steps])


# Functions of a learning rate and b2, by the names in configs.
OPTIMIZERS: MutableMapping[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "muon": muon,
}


def import_optimizer(path: str) -> None:
    """Adds an optimizer of optax or of the user's own to OPTIMIZERS.

    Args:
        path: import path that the user has named, see `import_object`. It is that of a
            function of the learning rate, which is itself a function of the step, such
            as "optax:lion". The function returns an optax.GradientTransformation, whose
            `update` needs gradients, state and parameters only.

    Raises:
        InputError: the path cannot be imported, or is not that of a function.
    """
    make = import_function(path, "the learning rate")

    def own(rate: optax.Schedule, *, b2: float) -> optax.GradientTransformation:
        with explaining(f"{path}: makes no optimizer from a learning rate"):
            optimizer = make(rate)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise InputError(
                f"{path}: returned {type(optimizer).__name__}, expected an"
                " optax.GradientTransformation"
            )
        return optimizer

    OPTIMIZERS[path] = own


def make_optimizer(
    *,
    name: str,
    schedule: str,
    learning_rate: float,
    halve_every_epochs: int,
    warmup_steps: int,
    decay_steps: int,
    b2: float,
    clip_norm: float,
    steps_per_epoch: int,
    total_steps: int,
) -> tuple[optax.GradientTransformation, Callable[[int], Any]]:
    """Makes the optimizer and its schedule from a config's `optimizer` section.

    Args:
        name: "adam" (the paper's), "muon", or an imported path.
        schedule: one of SCHEDULES; "step_decay" is the paper's.
        learning_rate: rate at the start, or after the warm-up.
        halve_every_epochs: epochs between halvings, for "step_decay".
        warmup_steps: steps of the warm-up, for the two schedules that have one.
        decay_steps: steps of the final decay, for "warmup_constant_decay".
        b2: decay of Adam's second moment; imported optimizers do not get it.
        clip_norm: largest global norm of the gradients; 0 does not clip.
        steps_per_epoch: steps in an epoch of the run.
        total_steps: steps of the whole run.

    Returns:
        The optimizer, and the learning rate as a function of the step.

    Raises:
        ValueError: the schedule is unknown.
        InputError: an imported function makes no optimizer.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r}: expected one of {SCHEDULES}")
    if schedule == "step_decay":
        interval = min(halve_every_epochs * steps_per_epoch, MAX_COUNT)
        rate = step_decay(learning_rate, halve_every_steps=interval)
    elif schedule == "warmup_cosine":
        rate = warmup_cosine(
            learning_rate, warmup_steps=warmup_steps, total_steps=total_steps
        )
    else:
        rate = warmup_constant_decay(
            learning_rate,
            warmup_steps=warmup_steps,
            decay_steps=decay_steps,
            total_steps=total_steps,
        )
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, OPTIMIZERS[name](rate, b2=b2)), rate
