"""Stops a run after a step when a signal or a time limit asks for it."""

import math
import signal
import threading
import time

import jax

from eddsrn_jax.distributed import AnyFlag, gather

# Windows has no such signal.
_HANGUP = getattr(signal, "SIGHUP", None)
_SIGNALS = [x for x in (signal.SIGTERM, signal.SIGINT, _HANGUP) if x is not None]


class StopSignal:
    """Remembers SIGTERM, SIGINT or SIGHUP, so that a run stops after a step.

    SIGHUP, which comes when the terminal is closed, stays ignored under nohup.

    A second signal takes effect immediately, as without this class. The run also stops
    when `max_minutes` have passed. If one of several processes has to stop, all stop
    after the same step.

    In any thread but the main one Python allows no signal handlers. There, only the time
    limit and other processes stop the run.

    Attributes:
        received: the signal that this process received, or None. In a multi-process run,
            reaching `max_minutes` counts as SIGTERM.
    """

    def __init__(self, max_minutes: float = math.inf):
        self._max_minutes = max_minutes
        self._any_received = AnyFlag()

    def reason(self) -> str | None:
        """Returns why the run has to stop now, or None if it goes on.

        All processes must call it after every step. Several processes stop two steps
        after the signal.
        """
        late = time.monotonic() - self._start > 60 * self._max_minutes
        if jax.process_count() == 1:
            if self.received:
                return self.received.name
            return f"{self._max_minutes:g} minutes have passed" if late else None
        if late and not self.received:
            self._receive(signal.SIGTERM, None)
        if self._any_received(self.received is not None):
            return self.received.name if self.received else "SIGTERM in another process"
        return None

    def received_by_any(self) -> bool:
        """Returns whether any process received a signal; all processes must call it."""
        return any(gather(self.received is not None))

    def __enter__(self) -> "StopSignal":
        self._start = time.monotonic()
        self.received: signal.Signals | None = None
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number != _HANGUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # Python has no handler for a signal that another library handles.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
