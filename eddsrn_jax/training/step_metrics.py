"""The metrics of the training steps, read on the host."""

import collections
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax

from eddsrn_jax.training.step import CHECKED_PARTS

_log = logging.getLogger(__name__)

# The run stops after more consecutive skipped steps than this.
MOST_SKIPPED = 10
# Steps that may be unfinished while the next one is dispatched: enough to keep the device
# busy, few enough to answer a signal soon.
_STEPS_IN_FLIGHT = 2
# Appended to every error about a non-finite value.
ADVICE = (
    "; earlier checkpoints are intact (try a lower config.optimizer.learning_rate, or set"
    " config.optimizer.clip_norm)"
)


class StepMetrics:
    """Averages the metrics of the steps between logs, and stops at non-finite values.

    Attributes:
        skipped: number of skipped steps since this object was made.
    """

    def __init__(
        self,
        *,
        on_bad_step: str,
        describe: Callable[[int], str],
        saved: Mapping[str, Any] | None = None,
    ):
        """Starts without metrics, or with those of an interrupted run.

        Args:
            on_bad_step: reaction to a non-finite step, whose update the step itself has
                discarded. "stop" stops the run. "skip" counts the step, and stops the
                run after more than MOST_SKIPPED consecutive ones.
            describe: describes the batch of a step, counted from 0, for the error.
            saved: result of `to_json` before the interruption.
        """
        saved = saved or {}
        self._sums = collections.defaultdict(float, saved.get("sums", {}))
        self._count = saved.get("count", 0)
        self._bad_in_row = saved.get("bad_in_row", 0)
        self._most_skipped = MOST_SKIPPED if on_bad_step == "skip" else 0
        self._describe = describe
        self._unread: collections.deque[tuple[int, Any]] = collections.deque()
        self.skipped = self._reported = 0

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Adds the metrics of a dispatched step; waits if too many are unfinished.

        Raises:
            FloatingPointError: an earlier step stops the run.
        """
        self._unread.append((step, metrics))
        if len(self._unread) > _STEPS_IN_FLIGHT:
            self._read()

    def finish(self) -> None:
        """Waits for all dispatched steps, and warns of skipped ones.

        Raises:
            FloatingPointError: a step stops the run.
        """
        while self._unread:
            self._read()
        if new := self.skipped - self._reported:
            _log.warning("skipped %d steps with non-finite values", new)
            self._reported = self.skipped

    def pop_means(self) -> dict[str, float]:
        """Returns the means since the last call; empty if all steps were skipped.

        Raises:
            FloatingPointError: see `finish`.
        """
        self.finish()
        count = self._count
        means = {name: total / count for name, total in self._sums.items() if count}
        self._sums.clear()
        self._count = 0
        return means

    def to_json(self) -> dict[str, Any]:
        """Returns the unlogged sums for a checkpoint, so that a resumed run logs them."""
        return {
            "sums": dict(self._sums),
            "count": self._count,
            "bad_in_row": self._bad_in_row,
        }

    def _read(self) -> None:
        step, metrics = self._unread.popleft()
        values = jax.device_get(dict(metrics))
        bad_part = int(values.pop("bad_part"))
        if bad_part < 0:
            self._bad_in_row = 0
            self._count += 1
            for name, value in values.items():
                self._sums[name] += float(value)
            return
        self._bad_in_row += 1
        if self._bad_in_row > self._most_skipped:
            self._unread.clear()
            part, batch = CHECKED_PARTS[bad_part], self._describe(step - 1)
            raise FloatingPointError(
                f"step {step}: non-finite values, first in the {part}; its batch: {batch}"
                f"{ADVICE}"
            )
        self.skipped += 1
