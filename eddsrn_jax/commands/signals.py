"""Reactions of a command to signals.

This module imports nothing that takes time, so that Ctrl-C is answered at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ends the process on Ctrl-C, with exit code 130 and no traceback.

    For imports: an exception raised inside them would show a traceback, or be lost.
    """
    # A shell makes its background commands ignore Ctrl-C; that is left as it is.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(number: int, _: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    # No files are written yet, so there is nothing to clean up.
    os._exit(128 + number)


def end_on_hangup() -> None:
    """Makes the process unwind its stack when its terminal is closed.

    Temporary files are then removed, as on Ctrl-C. nohup's setting is left as it is.
    """
    # Windows has no such signal.
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) is signal.SIG_DFL:
        signal.signal(hangup, lambda number, _: sys.exit(128 + number))


def raised_again(error: BaseException | None) -> bool:
    """Raises a signal again if Python has dropped the exception of its handler.

    Python does so if the signal arrives during a callback of the garbage collector, such
    as JAX's.

    Args:
        error: exception that `sys.unraisablehook` was called with.

    Returns:
        Whether the exception was an exit or interruption by a signal.
    """
    if isinstance(error, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(error, SystemExit) and isinstance(error.code, int):
        number = error.code - 128
    else:
        return False
    if number > 0:
        threading.Timer(0.1, _interrupt_main_thread, (number,)).start()
    return number > 0


def _interrupt_main_thread(number: int) -> None:
    # A signal raised by another thread would not end the main thread's waiting. Windows
    # cannot send a signal to a thread.
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)
