"""Trains from a config; writes checkpoints, logs and a table of scores to a workdir."""

import contextlib
import dataclasses
import logging
import math
import os
import signal
import time
from pathlib import Path

import flax.linen as nn
import jax

from eddsrn_jax import config_values
from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.config_values import Config
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.pack import Pack
from eddsrn_jax.data.photo_record import record_photos
from eddsrn_jax.distributed import require_equal, wait_for_others
from eddsrn_jax.evaluation.inputs import SPOILINGS
from eddsrn_jax.evaluation.network import evaluate_network
from eddsrn_jax.evaluation.scoring import Scoring
from eddsrn_jax.files import (
    delete_leftovers,
    locked,
    make_folder,
    to_json,
    write_text,
)
from eddsrn_jax.mesh import make_mesh, process_rows
from eddsrn_jax.models import make_network
from eddsrn_jax.paths import has_checkpoints, workdir_path
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.memory import explaining_memory
from eddsrn_jax.training.optimizer import make_optimizer
from eddsrn_jax.training.preemption import StopSignal
from eddsrn_jax.training.progress import Clock, Reporter, Tracer
from eddsrn_jax.training.resuming import OF_A_PROCESS, count_steps
from eddsrn_jax.training.run_log import logging_to
from eddsrn_jax.training.setup import (
    compile_step,
    initial_weights,
    open_batches,
    open_data,
    restore_or_create,
)
from eddsrn_jax.training.step_metrics import StepMetrics
from eddsrn_jax.training.validator import Validator
from eddsrn_jax.training.wandb_run import Record, wandb_run

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Run:
    """The parts of a run that stay the same for all its steps.

    Attributes:
        config: values of the run.
        workdir: folder for checkpoints, logs and results.
        mesh: devices that share each batch.
        sampler: the training crops.
        held_out: pack of the photos to validate with.
    """

    config: Config
    workdir: Path
    mesh: jax.sharding.Mesh
    sampler: CropSampler
    held_out: Pack


def train_and_evaluate(
    config: Config,
    workdir: Path | str,
    *,
    max_minutes: float = math.inf,
    profile_steps: int = 0,
    wandb_project: str | None = None,
) -> signal.Signals | None:
    """Starts or resumes the run of a workdir, then evaluates its best checkpoint.

    Args:
        config: values of the run, see configs/eddsrn.py.
        workdir: folder for checkpoints, logs and results; made if absent.
        max_minutes: time limit in minutes, packing and compiling included; the run then
            saves its state and stops.
        profile_steps: number of steps to trace into `workdir/profile`, after the first.
        wandb_project: project on Weights & Biases that gets the scalars of the log too.

    Returns:
        The signal that this process received and that stopped the run early; else None.
        A run that stops early has saved its state.

    Raises:
        InputError: the config, the data or the workdir cannot be used, or another run
            uses the workdir; or no run can be started on Weights & Biases.
        FloatingPointError: a loss, gradient or parameter was not finite.
        OSError: the workdir or the cache cannot be written.
    """
    deadline = time.monotonic() + 60 * max_minutes
    check(config)
    workdir = workdir_path(workdir)
    mesh = make_mesh()
    _require_same_run(config, workdir)
    make_folder(workdir, "--workdir")
    # These fail here, before the photos are packed.
    process_rows(config.batch_size, mesh)
    if config.init_from and not has_checkpoints(workdir):
        initial_weights(config.init_from)
    with contextlib.ExitStack() as files:
        record = _open_logs(files, workdir, config, wandb_project)
        sampler, held_out = open_data(config, workdir)
        run = _Run(config, workdir, mesh, sampler, held_out)
        with StopSignal(deadline) as stop, explaining_memory(config):
            finished = _train(run, stop, profile_steps=profile_steps, record=record)
            # A reason may have come after the last step but one, or during the last save.
            if finished and stop.asked_of_any():
                _log.info("stopped: trained and saved, but not evaluated")
                finished = False
        if finished:
            evaluate_network(
                workdir=workdir,
                validation_set=held_out.as_source(),
                scoring=_final_scoring(config),
            )
    wait_for_others()
    return None if finished else stop.received


def _open_logs(
    files: contextlib.ExitStack, workdir: Path, config: Config, wandb_project: str | None
) -> Record | None:
    """Locks the workdir and starts its logs, in the first process, until `files` closes.

    Returns:
        The function that records values on Weights & Biases, if that is asked for.
    """
    if jax.process_index() > 0:
        return None
    if files.enter_context(locked(workdir)):
        delete_leftovers(workdir)
    files.enter_context(logging_to(workdir))
    if not wandb_project:
        return None
    return files.enter_context(wandb_run(wandb_project, workdir, config))


def _require_same_run(config: Config, workdir: Path) -> None:
    """Raises InputError if the processes of a run have different configs or workdirs."""
    values = {
        f"config.{name}": repr(x) for name, x in config_values.flatten(config).items()
    }
    for name in OF_A_PROCESS:
        values.pop(f"config.{name}", None)
    require_equal(
        {**values, "--workdir": str(workdir.resolve())}, "their settings differ"
    )


def _final_scoring(config: Config) -> Scoring:
    """Returns how the trained network is scored.

    The paper's protocol has its own sigmas, whichever ones the run is validated with.
    """
    name, own = config.validation.degradation, config.degradation.own
    scoring = Scoring(max_photos=config.validation.max_photos, own=own)
    if name == "paper":
        return scoring
    return dataclasses.replace(
        scoring, sigmas=config.validation.sigmas, spoilings=SPOILINGS[name]
    )


def _train(
    run: _Run, stop: StopSignal, *, profile_steps: int, record: Record | None
) -> bool:
    """Trains from the newest checkpoint on; returns whether the run is complete."""
    config, per_epoch = run.config, run.sampler.steps_per_epoch
    num_steps = count_steps(config, per_epoch)
    model = make_network(config.network, config.model)
    optimizer, learning_rate = make_optimizer(
        **config.optimizer, steps_per_epoch=per_epoch, total_steps=num_steps
    )
    train_step = compile_step(config, model, optimizer, run.mesh)
    clock = Clock(config.batch_size)
    tracer = Tracer(run.workdir / "profile", profile_steps)
    with tracer, _open_checkpoints(run) as checkpoints:
        state, progress = restore_or_create(
            checkpoints, config, model, optimizer, run.mesh, run.sampler.num_photos
        )
        steps = range(int(state.step), num_steps)
        _announce(run, steps)
        batches = open_batches(config, run.sampler, steps, run.mesh)
        metrics = StepMetrics(
            on_bad_step=config.on_bad_step,
            describe=run.sampler.describe,
            saved=progress,
        )
        with _open_reporter(run, steps, record) as reporter:
            validator = _make_validator(run, model, reporter)
            for step, batch in enumerate(clock.time(batches), steps.start + 1):
                state, step_metrics = train_step(state, batch)
                metrics.add(step, step_metrics)
                clock.after_step(step_metrics)
                tracer.after_step(step_metrics)
                checkpoints.check()
                reporter.advance(step)
                due = _due_actions(config, step, num_steps)
                if "log" in due:
                    rate, means = float(learning_rate(step - 1)), metrics.pop_means()
                    reporter.training(step, means, clock.read(), learning_rate=rate)
                with clock.paused():
                    scores = None
                    if "validate" in due:
                        metrics.finish()
                        scores = validator(step, state.used_params)
                    # Read once: a signal during the save acts after the next step.
                    reason = stop.reason()
                    if reason or scores or "save" in due:
                        metrics.finish()
                        reporter.keep()
                        progress = metrics.to_json()
                        checkpoints.save(state, config, progress=progress, metrics=scores)
                if reason:
                    checkpoints.wait()
                    _log.info("%s: saved step %d, stopping", reason, step)
                    return False
    return True


def _open_checkpoints(run: _Run) -> Checkpoints:
    keep = run.config.checkpoint.keep_every_steps
    return Checkpoints(run.workdir, keep_every_steps=keep)


def _open_reporter(run: _Run, steps: range, record: Record | None) -> Reporter:
    active = jax.process_index() == 0
    return Reporter(run.workdir, steps, active=active, record=record)


def _due_actions(config: Config, step: int, last_step: int) -> set[str]:
    """Returns the actions that follow a step; all of them follow the last step."""
    periods = {
        "log": config.log_every_steps,
        "validate": config.validation.every_steps,
        "save": config.checkpoint.every_steps,
    }
    return {x for x, every in periods.items() if step % every == 0 or step == last_step}


def _make_validator(run: _Run, model: nn.Module, reporter: Reporter) -> Validator:
    validation = run.config.validation
    return Validator(
        model,
        run.held_out.photos,
        reporter,
        sigmas=validation.sigmas,
        own=run.config.degradation.own,
        degradation=validation.degradation,
    )


def _announce(run: _Run, steps: range) -> None:
    """Logs what the run does, and writes its config and the record of its photos."""
    config = run.config
    if not steps:
        _log.info("%s: %d steps are done, no step is left", run.workdir, steps.start)
    elif jax.process_index() == 0:
        text = to_json(config.to_dict(), indent=2, default=str)
        write_text(run.workdir / "config.json", text + "\n")
        train, validation = run.sampler.listing, run.held_out.listing
        record_photos(run.workdir, config, train=train, validation=validation)
    _log.info(
        "%s, steps %d to %d (%d per epoch) of %d crops, on %d x %s; photos: %d for"
        " training, %d for validation",
        config.name,
        steps.start,
        steps.stop,
        run.sampler.steps_per_epoch,
        config.batch_size,
        run.mesh.size,
        jax.devices()[0].device_kind,
        run.sampler.num_photos,
        len(run.held_out.images),
    )
    _log.info("XLA_FLAGS=%s", os.environ.get("XLA_FLAGS", ""))
    if steps:
        _log.info("compiling the training step")
