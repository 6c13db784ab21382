"""Checks that a workdir's run can continue with a config, and reports the changes."""

import logging
from pathlib import Path
from typing import Any

import jax

from eddsrn_jax import config_values
from eddsrn_jax.config_values import Config
from eddsrn_jax.data.crops import count_steps_per_epoch
from eddsrn_jax.errors import InputError
from eddsrn_jax.training.optimizer import MAX_COUNT, make_optimizer

_log = logging.getLogger(__name__)

# Values in which the processes of a run may differ. The photos themselves are compared
# when they are open.
OF_A_PROCESS = (
    *("data.source", "data.validation_source", "data.tfds_data_dir", "data.cache_dir"),
    *("data.tfds_download", "data.on_error", "pipeline.num_threads", "pipeline.prefetch"),
)
# Values that may change after the last step: they do not influence the trained network.
_WITHOUT_EFFECT = (
    *("name", "init_from", "init_from_partial", "on_bad_step", "log_every_steps"),
    *("total_steps", "num_epochs"),
    *("data.on_error", "data.cache_dir", "data.pipeline", "data.tfds_data_dir"),
    *("data.tfds_download", "data.validation_source", "model.rematerialize"),
)
_SECTIONS_WITHOUT_EFFECT = ("pipeline.", "validation.", "checkpoint.")
# Relative change of the learning rate at a resumption that counts as a jump.
_JUMP = 0.05


def count_steps(config: Config, steps_per_epoch: int) -> int:
    """Returns the number of steps that a config asks for.

    Raises:
        InputError: there are more than JAX's programs can count.
    """
    steps = config.total_steps or config.num_epochs * steps_per_epoch
    if steps > MAX_COUNT:
        raise InputError(
            f"config.num_epochs={config.num_epochs}: these are {steps} steps, and at most"
            f" {MAX_COUNT} are possible"
        )
    return steps


def check_resumption(
    saved: Config, config: Config, workdir: Path, *, step: int, num_photos: int
) -> None:
    """Checks that a run can go on as its config says; warns of changed values.

    Args:
        saved: config of the checkpoint that the run resumes from.
        config: config of the resumed run.
        workdir: workdir of the run, for messages.
        step: number of steps done.
        num_photos: number of photos that the run trains on.

    Raises:
        InputError: the run would silently do something else than the config says.
    """
    changed = config_values.differences(saved, config)
    if jax.process_index() > 0:
        # The saved config is that of the first process.
        changed = {name: x for name, x in changed.items() if name not in OF_A_PROCESS}
    if config.init_from and "init_from" in changed:
        raise InputError(
            f"config.init_from={config.init_from}: {workdir} already holds a run of"
            f" {step} steps, which continues from its own weights; give another --workdir"
            " to start from these weights"
        )
    if "seed" in changed:
        raise InputError(
            f"config.seed={config.seed}: {workdir} holds a run of seed {saved.seed}; give"
            " another --workdir to start with another seed"
        )
    total = count_steps(config, _steps_per_epoch(config, num_photos))
    if step > total:
        name = "total_steps" if config.total_steps else "num_epochs"
        raise InputError(
            f"config.{name}={config[name]}: the run in {workdir} has done {step} steps"
            f" already, more than these {total}; give another --workdir or more steps"
        )
    effective = {
        name: pair
        for name, pair in changed.items()
        if name not in _WITHOUT_EFFECT and not name.startswith(_SECTIONS_WITHOUT_EFFECT)
    }
    if step == total and effective:
        values = [
            f"config.{k}={new!r} (it was {old!r})" for k, (old, new) in effective.items()
        ]
        raise InputError(
            f"{workdir}: this run is complete after {step} steps, so that"
            f" {', '.join(values)} would have no effect; give another --workdir, or more"
            " steps with config.total_steps"
        )
    for name, (old, new) in changed.items():
        _log.warning("config.%s is now %s, it was %s", name, new, old)
    if step < total:
        _report_jump(saved, config, step=step, num_photos=num_photos)


def _steps_per_epoch(config: Config, num_photos: int) -> int:
    return count_steps_per_epoch(
        num_photos,
        crops_per_image=config.data.crops_per_image,
        batch_size=config.batch_size,
    )


def _report_jump(saved: Config, config: Config, *, step: int, num_photos: int) -> None:
    """Warns if another number of steps changes the learning rate abruptly."""
    if saved.optimizer.to_dict() != config.optimizer.to_dict():
        return
    old, new = (_steps_per_epoch(x, num_photos) for x in (saved, config))
    before = _learning_rate(saved, step - 1, old)
    planned = _learning_rate(saved, step, old)
    now = _learning_rate(config, step, new)
    if abs(now - planned) > _JUMP * max(abs(planned), abs(before)):
        part, counts = "the run", (count_steps(config, new), count_steps(saved, old))
        if counts[0] == counts[1]:
            part, counts = "an epoch", (new, old)
        _log.warning(
            "the learning rate jumps from %.3g to %.3g at step %d, because %s has %d"
            " steps now instead of %d. To keep the present rate, stop the run, and resume"
            " it with --config.optimizer.schedule=warmup_constant_decay"
            " --config.optimizer.learning_rate=%.3g --config.optimizer.warmup_steps=0",
            before,
            now,
            step,
            part,
            *counts,
            before,
        )


def _learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """Returns the learning rate of a step, counted from 0."""
    options: dict[str, Any] = {
        "steps_per_epoch": steps_per_epoch,
        "total_steps": count_steps(config, steps_per_epoch),
    }
    _, rate = make_optimizer(**config.optimizer, **options)
    return float(rate(step))
