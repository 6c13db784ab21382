"""Stops a run after a step when a signal or a time limit asks for it."""

import math
import signal
import threading
import time

import jax

from eddsrn_jax.distributed import AnyFlag, gather

# Windows has no such signal.
_HANGUP = getattr(signal, "SIGHUP", None)
# A signal that comes so soon after another is not a second request.
_SAME_SIGNAL_SECONDS = 1
_SIGNALS = [x for x in (signal.SIGTERM, signal.SIGINT, _HANGUP) if x is not None]


class StopSignal:
    """Remembers SIGTERM, SIGINT or SIGHUP, so that a run stops after a step.

    SIGHUP, which comes when the terminal is closed, stays ignored under nohup.

    A second signal takes effect immediately, as without this class. One within a second
    of the first is taken for the same one: a shell passes on what the system sends to
    its commands too. A closed terminal never ends the run immediately. The run also stops
    at the deadline. If one of several processes has to stop, all stop after the same
    step.

    Python allows signal handlers in the main thread only. In other threads the time limit
    and other processes stop the run.

    Attributes:
        received: the signal that this process received, or None.
    """

    def __init__(self, deadline: float = math.inf):
        """Sets the deadline, a value of `time.monotonic`."""
        self._deadline = deadline
        self._any_stops = AnyFlag()

    def reason(self) -> str | None:
        """Returns why the run has to stop now, or None if it goes on.

        All processes must call it after every step. Several processes stop two steps
        after one of them has a reason.
        """
        own = self._own_reason()
        if jax.process_count() == 1:
            return own
        if self._any_stops(own is not None):
            return own or "asked by another process"
        return None

    def _own_reason(self) -> str | None:
        if self.received:
            return self.received.name
        return "the time limit is reached" if time.monotonic() > self._deadline else None

    def asked_of_any(self) -> bool:
        """Returns whether any process has to stop; all processes must call it."""
        return any(gather(self._own_reason() is not None))

    def __enter__(self) -> "StopSignal":
        self.received: signal.Signals | None = None
        self._received_at = -math.inf
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number != _HANGUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), now
        elif number != _HANGUP and now > self._received_at + _SAME_SIGNAL_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set from Python, so it cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
