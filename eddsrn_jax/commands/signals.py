"""Reactions of a command to signals, and to a closed stderr.

This module imports nothing that takes time, so that Ctrl-C is answered at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO


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


def survive_closed_stderr() -> None:
    """Lets the process work on if nobody reads its messages any more."""
    if sys.stderr is None:
        sys.stderr = open(  # noqa: SIM115
            os.devnull, "w", encoding="utf-8", errors="backslashreplace"
        )
    messages: Any = _Messages(sys.stderr)
    sys.stderr = messages


@contextlib.contextmanager
def while_read() -> Iterator[None]:
    """Leaves a block quietly if nobody reads its output any more, as with `| head`."""
    try:
        yield
    except BrokenPipeError:
        _discard(sys.stdout)
    flush_stdout()


def flush_stdout() -> None:
    """Writes what stdout has buffered; without a reader it is discarded.

    Raises:
        SystemExit: it cannot be written, for example because the disk is full.
    """
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        sys.exit(f"error: standard output cannot be written: {error.strerror}")


def _discard(stream: TextIO) -> None:
    """Sends a stream to nowhere; Python would fail again at exit, when it flushes it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Messages:
    """The stream of messages; it falls silent when its reader goes away."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with self._until_closed():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._until_closed():
            self._stream.flush()

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
