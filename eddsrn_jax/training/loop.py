"""Trains from a config; writes checkpoints, logs and a table of scores to a workdir."""

import collections
import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax

from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.inputs import SPOILINGS
from eddsrn_jax.evaluation.network import evaluate_network
from eddsrn_jax.evaluation.scoring import Photo, validate
from eddsrn_jax.files import delete_leftovers, locked, make_folder, write_text
from eddsrn_jax.mesh import make_mesh, process_rows
from eddsrn_jax.models import make_network
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.optimizer import make_optimizer
from eddsrn_jax.training.preemption import StopSignal
from eddsrn_jax.training.progress import Clock, Reporter, Tracer
from eddsrn_jax.training.setup import (
    compile_step,
    open_batches,
    open_data,
    restore_or_create,
)
from eddsrn_jax.training.state import BAD_PARTS, TrainState
from eddsrn_jax.training.step import mean_metrics

_log = logging.getLogger(__name__)

# Dispatches in flight before the host waits for the oldest: enough to keep the device
# busy, few enough to answer a signal soon.
_STEPS_IN_FLIGHT = 2
# Appended to every error about a non-finite value.
_ADVICE = (
    "; the checkpoints before it are whole (try a lower"
    " config.optimizer.learning_rate, or config.optimizer.clip_norm)"
)
# Number of photos of each validation that are shown in TensorBoard.
_PICTURES = 4


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    max_minutes: float = math.inf,
    profile_steps: int = 0,
) -> signal.Signals | None:
    """Starts or resumes the run of a workdir, then evaluates its best checkpoint.

    Args:
        config: values of the run, see configs/eddsrn.py.
        workdir: folder for checkpoints, logs and results; made if absent.
        max_minutes: time limit in minutes; the run then saves its state and stops.
        profile_steps: number of dispatches to trace into `workdir/profile`, after the
            first one. A dispatch is `config.steps_per_dispatch` steps.

    Returns:
        The signal that this process received and that stopped the run early; else None.
        A run that stops early has saved its state.

    Raises:
        InputError: the config, the data or the workdir cannot be used, or another run
            uses the workdir.
        FloatingPointError: a loss, gradient or parameter was not finite.
        OSError: the workdir or the cache cannot be written.
    """
    check(config)
    make_folder(workdir, "--workdir")
    mesh = make_mesh()
    rows = process_rows(config.batch_size, mesh)
    with locked(workdir) if jax.process_index() == 0 else contextlib.nullcontext() as own:
        if own:
            delete_leftovers(workdir)
        sampler, held_out = open_data(config, workdir)
        with StopSignal(max_minutes) as stop:
            finished = _train(
                *(config, workdir, mesh, rows, sampler, held_out.photos, stop),
                profile_steps=profile_steps,
            )
            # A signal may have arrived while the last step was being saved.
            if finished and stop.received_by_any():
                _log.info("told to stop: trained and saved, not evaluated")
                finished = False
        if not finished:
            return stop.received
        evaluate_network(
            workdir=workdir,
            validation_set=held_out.as_source(),
            max_photos=config.validation.max_photos,
            **_final_degradations(config),
        )
    return None


def _final_degradations(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the arguments of `evaluate_network` that choose the degradations.

    There are none for the paper's protocol, which is the default there.
    """
    name = config.validation.degradation
    if name == "paper":
        return {}
    return {"sigmas": config.validation.sigmas, "spoilings": SPOILINGS[name]}


def _train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    rows: slice,
    sampler: CropSampler,
    photos: Sequence[Photo],
    stop: StopSignal,
    *,
    profile_steps: int,
) -> bool:
    """Trains from the newest checkpoint on; returns whether the run is complete."""
    start = time.monotonic()
    total_steps = config.total_steps or config.num_epochs * sampler.steps_per_epoch
    model = make_network(config.network, config.model)
    optimizer, learning_rate = make_optimizer(
        **config.optimizer,
        steps_per_epoch=sampler.steps_per_epoch,
        total_steps=total_steps,
    )
    step_fn = compile_step(config, model, optimizer, mesh)

    with Checkpoints(workdir) as checkpoints:
        state = restore_or_create(checkpoints, config, model, optimizer, mesh)
        first_step = int(state.step)
        if (total_steps - first_step) % config.steps_per_dispatch:
            raise InputError(
                f"config.steps_per_dispatch={config.steps_per_dispatch} does not divide"
                f" the steps from {first_step} to {total_steps}"
            )
        if first_step < total_steps:
            _write_config(workdir, config)
        else:
            _log.info("%s: %d steps done, nothing left to train", workdir, first_step)
        steps = range(first_step, total_steps)
        batches = open_batches(config, sampler, steps, mesh, rows)
        with Reporter(
            workdir,
            first_step=first_step,
            total_steps=total_steps,
            active=jax.process_index() == 0,
        ) as reporter:
            _log.info(
                "%s, steps %d to %d (%d an epoch) of %d crops, on %d x %s;"
                " photographs: %d to train on, %d to validate on",
                *(config.name, first_step, total_steps, sampler.steps_per_epoch),
                *(config.batch_size, mesh.size, jax.devices()[0].device_kind),
                *(sampler.num_photos, len(photos)),
            )
            _log.info("XLA_FLAGS=%s", os.environ.get("XLA_FLAGS", ""))
            run = _Run(
                *(config, model, photos, learning_rate, checkpoints, reporter),
                sampler=sampler,
                skipped=int(state.skipped),
            )
            tracer = Tracer(workdir / "profile", profile_steps)
            in_flight: collections.deque[jax.Array] = collections.deque()
            together = config.steps_per_dispatch
            # zip takes from the same iterator in turn, so it groups consecutive batches.
            groups = zip(*[run.clock.time(batches)] * together, strict=True)
            for step, group in zip(steps[together - 1 :: together], groups, strict=True):
                step += 1
                state, metrics = step_fn(state, group)
                if step == first_step + together:
                    # The first dispatch includes compilation, so it is not timed.
                    jax.block_until_ready(metrics)
                    _log.info("first step after %.1f s", time.monotonic() - start)
                    run.clock.restart()
                    tracer.start()
                tracer.after_step(metrics)
                in_flight.append(metrics["loss"])
                if len(in_flight) > _STEPS_IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
                scores = run.after_step(step, state)
                # Read once: a signal that arrives while saving acts after the next step.
                reason = stop.reason(step, together)
                run.save_if_due(step, state, scores, stopping=reason is not None)
                if reason:
                    checkpoints.wait()
                    _log.info("%s: saved step %d, stopping", reason, step)
                    return False
    return True


@dataclasses.dataclass
class _Run:
    """Logging, validation and checkpoints between steps."""

    config: ml_collections.ConfigDict
    model: nn.Module
    photos: Sequence[Photo]
    learning_rate: optax.Schedule
    checkpoints: Checkpoints
    reporter: Reporter
    sampler: CropSampler
    # Number of skipped steps that have been reported.
    skipped: int

    def __post_init__(self) -> None:
        self.clock = Clock(self.config.batch_size)

    def after_step(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Logs and validates if due; returns the validation's scores, else None."""
        self.checkpoints.check()
        self.reporter.advance(step)
        if self._due(step, self.config.log_every_steps):
            self._log(step, state)
        if not self._due(step, self.config.validation.every_steps):
            return None
        with self.clock.paused():
            return self._validate(step, state)

    def save_if_due(
        self,
        step: int,
        state: TrainState,
        scores: dict[str, float] | None,
        *,
        stopping: bool,
    ) -> None:
        """Saves a checkpoint if one is due, after a validation, or when stopping."""
        every = self.config.checkpoint.every_steps
        if stopping or scores or self._due(step, every):
            with self.clock.paused():
                self._check_finite(state)
                self.reporter.keep()
                self.checkpoints.save(state, self.config, metrics=scores)

    def _due(self, step: int, every: int) -> bool:
        return step == self.reporter.total_steps or step % every == 0

    def _log(self, step: int, state: TrainState) -> None:
        self._check_finite(state)
        values = {f"train/{k}": v for k, v in mean_metrics(state).items()}
        values["train/learning_rate"] = float(self.learning_rate(step - 1))
        speed = self.clock.read()
        self.reporter.scalars(step, values | speed)
        self.reporter.progress(step, values | speed)

    def _check_finite(self, state: TrainState) -> None:
        """Warns of new skipped steps; raises FloatingPointError if the run must stop."""
        if (skipped := int(state.skipped)) > self.skipped:
            _log.warning("%d steps skipped: not finite", skipped - self.skipped)
            self.skipped = skipped
        if (step := int(state.bad_step)) >= 0:
            part = BAD_PARTS[int(state.bad_part)]
            raise FloatingPointError(
                f"step {step}: not finite, first the {part}; its batch:"
                f" {self.sampler.describe(step - 1)}{_ADVICE}"
            )

    def _validate(self, step: int, state: TrainState) -> dict[str, float]:
        self._check_finite(state)
        restorer = Restorer(self.model, jax.device_get(state.used_params))
        try:
            values, examples = validate(
                restorer,
                self.photos,
                sigmas=self.config.validation.sigmas,
                spoilings=SPOILINGS[self.config.validation.degradation],
                num_examples=_PICTURES,
            )
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {step}: validation: {error}{_ADVICE}"
            ) from error
        scores = {f"val/{name}": value for name, value in values.items()}
        self.reporter.scalars(step, scores)
        text = ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items())
        _log.info("step %d: %s", step, text)
        for name, picture in examples.items():
            self.reporter.picture(step, f"val/{name}", picture)
        return scores


def _write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the config to the workdir as JSON, for people to read."""
    if jax.process_index() == 0:
        text = json.dumps(config.to_dict(), indent=2, default=str)
        write_text(workdir / "config.json", text + "\n")
