"""Streams of a command whose reader goes away, or that cannot be written.

This module imports nothing that takes time, so that Ctrl-C is answered at once.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


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
    """Leaves a block that prints if nobody reads stdout any more, as with `| head`.

    Raises:
        SystemExit: stdout cannot be written, for example because the disk is full.
    """
    problem = ""
    try:
        yield
        problem = flush_stdout()
    except OSError as error:
        # Errors of files have the file's name.
        if error.filename is not None:
            raise
        problem = _lost_stdout(error)
    if problem:
        sys.exit(f"error: {problem}")


def flush_stdout() -> str:
    """Writes what stdout has buffered; returns why it cannot, or "".

    If nobody reads stdout any more, the rest is discarded, which is no problem.
    """
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        return _lost_stdout(error)
    return ""


def _lost_stdout(error: OSError) -> str:
    _discard(sys.stdout)
    # Windows has the second number for a closed pipe.
    if error.errno in (errno.EPIPE, errno.EINVAL):
        return ""
    return f"standard output cannot be written: {error.strerror}"


def _discard(stream: TextIO | None) -> None:
    """Sends a stream to nowhere; Python would fail again at exit, when it flushes it."""
    if stream:
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
