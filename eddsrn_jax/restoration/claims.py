"""Lets several processes share the photos of one folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def claimed(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock on a photo while it is restored.

    The lock ends with the process and leaves no file.

    Args:
        path: file of the photo, which is not changed.
        wait: whether to wait until another process has restored the photo.

    Yields:
        Whether this process may restore the photo. That is so, too, if the file system
        has no locks.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            # Some network file systems lock only files that are open for writing.
            pass
        yield True
