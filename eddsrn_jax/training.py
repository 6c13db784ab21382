"""A training run, from a config and a workdir to checkpoints and a table."""

import collections
import dataclasses
import functools
import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax

from eddsrn_jax import config as config_lib
from eddsrn_jax import parallel
from eddsrn_jax.adversarial import (
    ADVERSARIAL_LOSSES,
    adversarial_step,
    with_discriminator,
)
from eddsrn_jax.checkpoint import Checkpoints
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.frozen import open_packs
from eddsrn_jax.data.pack import Pack
from eddsrn_jax.data.pipeline import prefetch_to_device, stream_batches
from eddsrn_jax.data.resident import resident_batches
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation import evaluate_network
from eddsrn_jax.files import write_text
from eddsrn_jax.losses import loss_names
from eddsrn_jax.models import (
    SCALE,
    abstract_outputs,
    abstract_params,
    init_params,
    make_network,
)
from eddsrn_jax.models.scgan import Discriminator
from eddsrn_jax.optimizer import make_optimizer
from eddsrn_jax.reporting import Clock, Reporter, Tracer
from eddsrn_jax.restoration import Restorer
from eddsrn_jax.runtime import StopSignal, cache_root, make_folder
from eddsrn_jax.scoring import Photo, validate
from eddsrn_jax.steps import (
    BAD_PARTS,
    TrainState,
    create_train_state,
    mean_metrics,
    train_step,
    train_steps,
)
from eddsrn_jax.weights import load_weights

_log = logging.getLogger(__name__)

# Steps given to the device before the oldest of them must be done: enough to keep it
# busy, few enough that a signal is answered soon.
_STEPS_IN_FLIGHT = 2
# TensorBoard gets that many photographs of each validation.
_PICTURES = 4
# Smaller photographs leave nothing inside the border of the deblurred image.
_MIN_VALIDATION_SIDE = SCALE * 16


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    max_minutes: float = math.inf,
    profile_steps: int = 0,
) -> signal.Signals | None:
    """Trains, or goes on with the run that the workdir holds, then evaluates its best.

    Args:
        config: see configs/eddsrn.py.
        workdir: for checkpoints, logs and results; made where absent.
        max_minutes: after that long the run is saved and ends, to be resumed later.
        profile_steps: of the first full steps so many are traced into
            `workdir/profile`.

    Returns:
        The signal that ended the run early, with everything saved; else None.

    Raises:
        InputError: something in the config, the data or the workdir cannot be used.
        FloatingPointError: a loss, gradient or parameter was not finite.
        OSError: the workdir or the cache cannot be written.
    """
    start = time.monotonic()
    config_lib.check(config)
    make_folder(workdir, "--workdir")
    mesh = parallel.make_mesh()
    rows = parallel.process_rows(config.batch_size, mesh)
    sampler, held_out = open_data(config, workdir)
    total_steps = config.total_steps or config.num_epochs * sampler.steps_per_epoch
    model = make_network(config.network, config.model)
    optimizer, learning_rate = make_optimizer(
        **config.optimizer,
        steps_per_epoch=sampler.steps_per_epoch,
        total_steps=total_steps,
    )
    step_fn = compile_step(config, model, optimizer, mesh)

    with Checkpoints(workdir) as checkpoints, StopSignal(max_minutes) as stop:
        state = _restore_or_create(checkpoints, config, model, optimizer, mesh)
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
        batches = _open_batches(config, sampler, steps, mesh, rows)
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
                *(sampler.num_photos, len(held_out.photos)),
            )
            _log.info("XLA_FLAGS=%s", os.environ.get("XLA_FLAGS", ""))
            run = _Run(
                *(config, model, held_out.photos, learning_rate, checkpoints, reporter),
                sampler=sampler,
                skipped=int(state.skipped),
            )
            tracer = Tracer(workdir / "profile", profile_steps)
            in_flight: collections.deque[jax.Array] = collections.deque()
            together = config.steps_per_dispatch
            # So many times the same iterator: it is taken from in turn.
            groups = zip(*[run.clock.time(batches)] * together, strict=True)
            for step, group in zip(steps[together - 1 :: together], groups, strict=True):
                step += 1
                state, metrics = step_fn(state, group)
                if step == first_step + together:
                    # Compiled with the first step; no part of the speed.
                    jax.block_until_ready(metrics)
                    _log.info("first step after %.1f s", time.monotonic() - start)
                    run.clock.restart()
                    tracer.start()
                tracer.after_step(metrics)
                in_flight.append(metrics["loss"])
                if len(in_flight) > _STEPS_IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
                # Read once: a signal that comes while saving is for the next step.
                reason = stop.reason(step)
                run.after_step(step, state, stopping=reason is not None)
                if reason:
                    checkpoints.wait()
                    _log.info("%s: saved step %d, stopping", reason, step)
                    return stop.received
    evaluate_network(
        workdir=workdir,
        validation_set=held_out.as_source(),
        max_photos=config.validation.max_photos,
    )
    return None


@dataclasses.dataclass
class _Run:
    """What happens between steps: logging, validation, checkpoints."""

    config: ml_collections.ConfigDict
    model: nn.Module
    photos: Sequence[Photo]
    learning_rate: optax.Schedule
    checkpoints: Checkpoints
    reporter: Reporter
    sampler: CropSampler
    # Steps, up to the last message about them.
    skipped: int

    def __post_init__(self) -> None:
        self.clock = Clock(self.config.batch_size)

    def after_step(self, step: int, state: TrainState, *, stopping: bool) -> None:
        """Does what is due after a step; saves if the run is stopping."""
        config = self.config
        last = step == self.reporter.total_steps
        self.checkpoints.check()
        self.reporter.advance(step)
        if last or step % config.log_every_steps == 0:
            self._log(step, state)
        start = time.perf_counter()
        scores = None
        if last or step % config.validation.every_steps == 0:
            scores = self._validate(step, state)
        if last or stopping or scores or step % config.checkpoint.every_steps == 0:
            self._check_finite(state)
            self.checkpoints.save(state, config, metrics=scores)
        self.clock.pause(time.perf_counter() - start)

    def _log(self, step: int, state: TrainState) -> None:
        self._check_finite(state)
        values = {f"train/{k}": v for k, v in mean_metrics(state).items()}
        values["train/learning_rate"] = float(self.learning_rate(step - 1))
        speed = self.clock.read()
        self.reporter.scalars(step, values | speed)
        self.reporter.progress(step, values | speed)

    def _check_finite(self, state: TrainState) -> None:
        """Says what was skipped; ends the run where something stays not finite."""
        if (skipped := int(state.skipped)) > self.skipped:
            _log.warning("%d steps skipped: not finite", skipped - self.skipped)
            self.skipped = skipped
        if (step := int(state.bad_step)) >= 0:
            part = BAD_PARTS[int(state.bad_part)]
            raise FloatingPointError(
                f"step {step}: not finite, first the {part}; its batch:"
                f" {self.sampler.describe(step - 1)}; the checkpoints before it are whole"
                " (try a lower config.optimizer.learning_rate, or"
                " config.optimizer.clip_norm)"
            )

    def _validate(self, step: int, state: TrainState) -> dict[str, float]:
        self._check_finite(state)
        restorer = Restorer(self.model, jax.device_get(state.used_params))
        values, examples = validate(
            restorer,
            self.photos,
            sigmas=self.config.validation.sigmas,
            num_examples=_PICTURES,
        )
        scores = {f"val/{name}": value for name, value in values.items()}
        self.reporter.scalars(step, scores)
        text = ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items())
        _log.info("step %d: %s", step, text)
        for name, picture in examples.items():
            self.reporter.picture(step, f"val/{name}", picture)
        return scores


def open_data(
    config: ml_collections.ConfigDict, workdir: Path | None = None
) -> tuple[CropSampler, Pack]:
    """The crops to train on, and the photographs to validate on.

    Args:
        config, workdir: see `train_and_evaluate` and `open_packs`.

    Raises:
        InputError: the config's data cannot be used.
        OSError: no room for the pack.
    """
    data = config.data
    folder = Path(data.cache_dir or cache_root() / "packs").expanduser()
    make_folder(folder, "config.data.cache_dir")
    train, held_out = open_packs(
        {name: data[name] for name in ("source", "validation_source", "tfds_data_dir")},
        folder,
        workdir=workdir,
        active=jax.process_index() == 0,
        download=data.tfds_download,
        on_error=data.on_error,
    )
    sampler = CropSampler(
        train,
        seed=config.seed,
        batch_size=config.batch_size,
        crops_per_image=data.crops_per_image,
        patch_size=data.hr_patch_size,
    )
    held_out = held_out.at_least(_MIN_VALIDATION_SIDE, "the least to validate on")
    most = range(min(len(held_out.images), config.validation.max_photos))
    return sampler, held_out.take(most)


def _open_batches(
    config: ml_collections.ConfigDict,
    sampler: CropSampler,
    steps: range,
    mesh: jax.sharding.Mesh,
    rows: slice,
) -> Iterator[dict[str, jax.Array]]:
    """The batches of `steps` on their devices, some of them ahead."""
    if config.data.pipeline == "resident":
        batches = resident_batches(sampler, steps, mesh, rows=rows)
        return prefetch_to_device(batches, lambda batch: batch)
    batches = stream_batches(sampler, steps, rows=rows, **config.pipeline)
    return prefetch_to_device(batches, lambda b: parallel.split_batch(b, mesh))


def compile_step(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The training steps of a config, see `train_steps`, mapped over a mesh."""
    step = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        scale=SCALE,
        **config.degradation,
        loss=dict(config.loss),
        ema_decay=config.ema_decay,
        log_every_steps=config.log_every_steps,
        on_bad_step=config.on_bad_step,
    )
    if discriminator := _discriminator(config):
        step = functools.partial(
            adversarial_step,
            **step.keywords,
            discriminator=discriminator,
            weight=config.adversarial.weight,
            feature_weight=config.adversarial.feature_weight,
        )
    return parallel.map_step(functools.partial(train_steps, step=step), mesh)


def _discriminator(config: ml_collections.ConfigDict) -> Discriminator | None:
    """What the config trains against, if anything."""
    if not config.adversarial.weight:
        return None
    return Discriminator(
        config.adversarial.features,
        config.adversarial.num_layers,
        config.model.dtype,
    )


def _write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Leaves the config in the workdir, to be read by people."""
    if jax.process_index() == 0:
        text = json.dumps(config.to_dict(), indent=2, default=str)
        write_text(workdir / "config.json", text + "\n")


def _restore_or_create(
    checkpoints: Checkpoints,
    config: ml_collections.ConfigDict,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """The newest checkpoint's state, or a new one, from `init_from` if that is set."""
    state = _new_state(config, model, optimizer)
    restored = checkpoints.restore_latest(parallel.replicate(state, mesh))
    if restored is not None:
        state, before = restored
        for name, (old, new) in config_lib.differences(before, config).items():
            _log.warning("config.%s is now %s, it was %s", name, new, old)
        return state
    if config.init_from:
        params = load_params(Path(config.init_from).expanduser(), model)
        state = _new_state(config, model, optimizer, params)
    return parallel.replicate(state, mesh)


def _new_state(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    params: Any = None,
) -> TrainState:
    """The state of a run that has not begun; with parameters of its own where None."""
    key = jax.random.key(config.seed)
    discriminator = _discriminator(config)
    losses = loss_names(abstract_outputs(model))
    state = create_train_state(
        init_params(model, key) if params is None else params,
        optimizer,
        losses=losses + ADVERSARIAL_LOSSES if discriminator else losses,
        averaged=config.ema_decay > 0,
    )
    if discriminator:
        state = with_discriminator(state, discriminator, optimizer, key=key)
    return state


def load_params(path: Path, model: nn.Module) -> Any:
    """Weights to start from: a .safetensors file, or the best of a run's workdir.

    Raises:
        InputError: not there, damaged, or of another architecture.
    """
    like = abstract_params(model)
    if path.suffix == ".safetensors":
        return load_weights(path, like)
    with Checkpoints(path, read_only=True) as checkpoints:
        return checkpoints.restore_params(like=like)[2]
