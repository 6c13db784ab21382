"""What a run shows: progress, metrics.jsonl, TensorBoard scalars and pictures."""

import datetime
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

_log = logging.getLogger(__name__)


class Reporter:
    """Writes a run's progress; silent in all processes but the first."""

    def __init__(self, workdir: Path, *, first_step: int, total_steps: int, active: bool):
        """Opens the files, cut back to the step that the run resumes from.

        Args:
            workdir: of the run.
            first_step: steps already done.
            total_steps: of the whole run.
            active: False makes every method do nothing.
        """
        self._active = active
        self.total_steps = total_steps
        if not active:
            return
        self._path = workdir / "metrics.jsonl"
        _cut_back(self._path, first_step)
        self._file = self._path.open("a")
        # Rows of steps that will be done again are hidden by TensorBoard itself.
        self._writer = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=first_step + 1
        )
        self._bar = tqdm(
            *(None, "training", total_steps),
            initial=first_step,
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
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def progress(
        self, step: int, values: Mapping[str, float], *, seconds_per_step: float
    ) -> None:
        """Shows values beside the progress bar, or as a log line without a terminal."""
        if not self._active:
            return
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(text)
        else:
            seconds = round((self.total_steps - step) * seconds_per_step)
            left = datetime.timedelta(seconds=seconds)
            _log.info("step %d/%d, %s left: %s", step, self.total_steps, left, text)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Records a uint8 [H, W, 3] picture."""
        if self._active:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._bar.close()
            self._file.close()
            self._writer.close()


def _cut_back(path: Path, step: int) -> None:
    """Drops the rows after a step, and a last one that was never finished."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    path.write_text("".join(kept))


class Clock:
    """Measures the speed since it was last read, and the time spent waiting for data."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured."""
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def time(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Passes batches on."""
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

    def pause(self, seconds: float) -> None:
        """Leaves out time that was spent on something other than training."""
        self._start += seconds

    def read(self) -> dict[str, float]:
        """Images per second and share of waiting since the last reading."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        values = {
            "time/images_per_second": self._steps * self._batch_size / seconds,
            "time/share_waiting_for_data": self._waited / seconds,
        }
        self.restart()
        return values
