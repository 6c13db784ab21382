"""Shows the progress of long work: a bar on a terminal, else a log line now and then."""

import logging
import sys
import time

from tqdm import tqdm

_log = logging.getLogger(__name__)

# Seconds between two log lines.
_INTERVAL = 30.0


class Progress(tqdm):
    """A progress bar; without a terminal it logs its count every half minute."""

    def __init__(self, title: str, total: int | None = None):
        """Starts the count.

        Args:
            title: description of the work, such as "packing photos".
            total: number of photos; None if it is unknown.
        """
        self._title, self._photos, self._count = title, total, 0
        self._next = time.monotonic() + _INTERVAL
        super().__init__(
            total=total,
            desc=title,
            unit="photo",
            disable=not sys.stderr.isatty(),
            leave=False,
        )

    def update(self, n: float | None = 1) -> bool | None:
        """Counts photos that are done."""
        self._count += int(n or 0)
        if self.disable and time.monotonic() >= self._next:
            self._next = time.monotonic() + _INTERVAL
            of_all = f" of {self._photos}" if self._photos else ""
            _log.info("%s: %d%s photos", self._title, self._count, of_all)
        return super().update(n)
