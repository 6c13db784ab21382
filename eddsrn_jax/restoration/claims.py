"""Lets several processes share the photos of one folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

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
