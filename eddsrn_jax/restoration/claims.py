"""Lets several processes share the photos of one folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ModuleNotFoundError:
    # Windows has no such module.
    fcntl = None


@contextlib.contextmanager
def claimed(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock on a photo while it is restored.

    The lock ends with the process and leaves no file.

    Args:
        path: file of the photo, which is not changed.
        wait: whether to wait until another process has restored the photo.

    Yields:
        Whether this process may restore the photo. That is so, too, if Windows or the
        file system has no such locks.
    """
    if fcntl is None:
        yield True
        return
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            # The file system has no locks.
            pass
        if not _is_readable(path):
            # On SMB drives this process's own lock forbids it to read.
            fcntl.flock(file, fcntl.LOCK_UN)
        yield True


def _opened(path: Path) -> BinaryIO:
    """Opens a file for writing, which NFS needs for a lock, or else for reading."""
    try:
        return path.open("rb+")
    except OSError:
        return path.open("rb")


def _is_readable(path: Path) -> bool:
    """Returns whether a file can be opened and read once more."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True
