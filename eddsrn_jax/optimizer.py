"""Adam and its learning-rate schedules, durations in steps."""

import optax

from eddsrn_jax.errors import InputError


def step_decay(learning_rate: float, *, halve_every_steps: int) -> optax.Schedule:
    """Halved every so many steps.

    Source: paper, section 3.2 (5e-4, halved every 30 epochs).
    """
    return optax.exponential_decay(
        learning_rate, halve_every_steps, decay_rate=0.5, staircase=True
    )


def warmup_cosine(
    learning_rate: float, *, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Linear from 0 over the warm-up, then half a cosine down to a hundredth."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup_steps, total_steps // 2),
        decay_steps=total_steps,
        end_value=learning_rate / 100,
    )


def make_optimizer(
    *,
    schedule: str,
    learning_rate: float,
    halve_every_epochs: int,
    warmup_steps: int,
    clip_norm: float,
    steps_per_epoch: int,
    total_steps: int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam, default moments, from a config's `optimizer` section.

    Args:
        schedule: "step_decay" (the paper's) or "warmup_cosine".
        learning_rate: at the start, or after the warm-up.
        halve_every_epochs: of "step_decay".
        warmup_steps: of "warmup_cosine".
        clip_norm: largest global norm of a gradient; 0 does not clip.
        steps_per_epoch, total_steps: of the run.

    Returns:
        The optimiser, and the learning rate as a function of the step.

    Raises:
        InputError: unknown schedule.
    """
    if schedule == "step_decay":
        rate = step_decay(
            learning_rate, halve_every_steps=halve_every_epochs * steps_per_epoch
        )
    elif schedule == "warmup_cosine":
        rate = warmup_cosine(
            learning_rate, warmup_steps=warmup_steps, total_steps=total_steps
        )
    else:
        raise InputError(
            f"config.optimizer.schedule={schedule!r}: expected 'step_decay' or"
            " 'warmup_cosine'"
        )
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(rate)), rate
