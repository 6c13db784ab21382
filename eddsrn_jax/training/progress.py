"""Reports a run: progress bar, metrics.jsonl, curves.svg, and TensorBoard files."""

import contextlib
import datetime
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import RecordWriter, summary
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tqdm import tqdm

from eddsrn_jax.evaluation.curves import write_training_curves
from eddsrn_jax.files import naming, to_json, write_text
from eddsrn_jax.training.wandb_run import Record

_log = logging.getLogger(__name__)


class Reporter:
    """Reporter of a run's progress; active in the first process only."""

    def __init__(
        self, workdir: Path, steps: range, *, active: bool, record: Record | None = None
    ):
        """Opens the files, and drops rows after the step that the run resumes from.

        Args:
            workdir: folder of the run.
            steps: range from the number of steps already done to that of the whole run.
            active: whether to write at all; if False, every method does nothing.
            record: function that gets all scalars too, see `wandb_run`.
        """
        self._active, self._record = active, record
        self._total_steps = steps.stop
        if not active:
            return
        self._path = workdir / "metrics.jsonl"
        _cut_back(self._path, steps.start)
        self._file = self._path.open("a")
        self._events = _Events(workdir / "tensorboard", steps.start + 1)
        self._bar = tqdm(
            None,
            "training",
            steps.stop,
            initial=steps.start,
            unit="step",
            disable=not sys.stderr.isatty(),
        )

    def advance(self, step: int) -> None:
        """Moves the progress bar to a step."""
        if self._active:
            self._bar.update(step - self._bar.n)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records values by name, such as "val/psnr_y_crop4"."""
        if not self._active:
            return
        with naming(self._path):
            self._file.write(to_json({"step": step, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._events.add(step, summary.scalar(name, value))
        self._events.flush()
        if self._record:
            self._record(step, values)

    def curves(self) -> None:
        """Draws the recorded loss and validation into curves.svg."""
        if self._active:
            path = self._path.with_name("curves.svg")
            with naming(path):
                write_training_curves(path, self._path)

    def training(
        self,
        step: int,
        means: Mapping[str, float],
        speed: Mapping[str, float],
        *,
        learning_rate: float,
    ) -> None:
        """Records the training, and shows loss and speed on the progress bar or in a log.

        Args:
            step: number of steps done.
            means: mean metrics since the last time; empty if all steps were skipped.
            speed: values of `Clock.read`.
            learning_rate: learning rate of the last step.
        """
        values = {f"train/{name}": value for name, value in means.items()}
        self.scalars(step, {**values, "train/learning_rate": learning_rate, **speed})
        if not self._active:
            return
        parts = [f"loss {means['loss']:.4g}" if means else "no loss (all steps skipped)"]
        if speed:
            parts.append(f"{speed['time/images_per_second']:.3g} images/s")
            waiting = 100 * speed["time/share_waiting_for_data"]
            parts.append(f"{waiting:.1f} % waiting for data")
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join(parts))
            return
        if speed:
            seconds = (self._total_steps - step) * speed["time/seconds_per_step"]
            parts.append(f"{datetime.timedelta(seconds=round(seconds))} left")
        _log.info("step %d/%d: %s", step, self._total_steps, ", ".join(parts))

    def keep(self) -> None:
        """Forces the rows to disk, so that they are there before the next checkpoint."""
        if self._active:
            with naming(self._path):
                os.fsync(self._file.fileno())

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Records a uint8 [H, W, 3] picture."""
        if self._active:
            self._events.add(step, summary.image(name, image, dataformats="HWC"))

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._active:
            return
        self._bar.close()
        # If another error ends the run, an OSError here must not hide it: a full disk,
        # for example, raises again on closing.
        ignored = (OSError,) if kind else ()
        for file in (self._file, self._events):
            with contextlib.suppress(*ignored), naming(self._path):
                file.close()


class _Events:
    """A TensorBoard event file, written synchronously.

    SummaryWriter writes from a thread, which dies when the disk is full. After ten more
    values its queue would be full, and the run would block forever.
    """

    def __init__(self, folder: Path, first_step: int):
        """Opens the file; TensorBoard hides other files' values from `first_step` on."""
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._path = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = RecordWriter(str(self._path))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: Any) -> None:
        """Adds a summary, made by a function of tensorboardX.summary."""
        self._write(step=step, summary=values)

    def _write(self, **fields: Any) -> None:
        with naming(self._path):
            event = Event(wall_time=time.time(), **fields)
            self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Flushes the buffer to the file."""
        with naming(self._path):
            self._writer.flush()

    def close(self) -> None:
        """Flushes the buffer and closes the file."""
        with naming(self._path):
            self._writer.close()


def _cut_back(path: Path, step: int) -> None:
    """Drops the rows after a step, and lines that are not rows, such as a cut-off one."""
    if not path.exists():
        return
    lines = path.read_text(errors="replace").splitlines()
    kept = []
    for line in lines:
        # A crash can leave any bytes in the file, so any line may be invalid.
        with contextlib.suppress(ValueError, TypeError, LookupError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    if dropped := len(lines) - len(kept):
        _log.info("%s: %d rows after step %d are removed", path, dropped, step)
    write_text(path, "".join(kept))


class Clock:
    """Measures the speed since the last reading, and the time spent waiting for data."""

    def __init__(self, batch_size: int):
        """Starts; the batch size converts steps to images."""
        self._batch_size = batch_size
        self._made, self._compiled = time.perf_counter(), False
        self.restart()

    def restart(self) -> None:
        """Discards the measurements and starts again."""
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def time(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches, and measures how long each takes to arrive."""
        batches = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            self._steps += 1
            yield batch

    def after_step(self, result: Any) -> None:
        """Excludes the first step and its compilation from the measurement.

        After the first step it waits for the result and starts again. Later calls do
        nothing.
        """
        if self._compiled:
            return
        jax.block_until_ready(result)
        _log.info("first step after %.1f s", time.perf_counter() - self._made)
        self._compiled = True
        self.restart()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of a block, which is not spent on training."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Returns the speed since the last reading; empty if no step was measured."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        steps, waited = self._steps, self._waited
        self.restart()
        if not steps:
            return {}
        return {
            "time/seconds_per_step": seconds / steps,
            "time/images_per_second": steps * self._batch_size / seconds,
            "time/share_waiting_for_data": waited / seconds,
        }


class Tracer:
    """Traces some steps with JAX's profiler, for TensorBoard or Perfetto.

    As a context manager it also ends a trace for which too few steps were left.
    """

    def __init__(self, folder: Path, steps: int):
        """Sets the folder of the trace and the number of steps; 0 traces nothing."""
        self._folder, self._left = folder, steps
        self._running = False

    def after_step(self, result: Any) -> None:
        """Starts the trace after the first step, and ends it after enough more.

        Args:
            result: result of the step, which the last step waits for.
        """
        if self._running:
            self._left -= 1
        if self._left and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif self._running and not self._left:
            jax.block_until_ready(result)
            self._stop()

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._running = False
        _log.info("the profiler's trace is in %s", self._folder)
