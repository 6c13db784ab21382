"""Writing files: whole or absent, whenever the process ends, named in errors, by one."""

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from eddsrn_jax.errors import InputError

_log = logging.getLogger(__name__)


def below(folder: Path, *names: str) -> Path:
    """A path below a folder, by names that may be a stranger's.

    Raises:
        InputError: they lead out of it.
    """
    path = folder.joinpath(*names)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: {'/'.join(names)!r} would be written outside of it")
    return path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has errors name the file that is written, which the system's do not."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A file to write, which takes the path's name when all went well."""
    # No process's number: those of two machines may be the same.
    temporary = path.with_name(f".eddsrn-{secrets.token_hex(4)}{path.suffix}")
    try:
        with naming(path):
            yield temporary
            # On disk before it has the name, should the power fail.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def delete_leftovers(folder: Path) -> None:
    """Deletes what killed processes had begun to write in a folder that is locked."""
    for path in folder.glob(".eddsrn-*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, or replaces it; a full disk does not mind one that is so."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with written_beside(path) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def locked(folder: Path, *, name: str = ".lock", wait: bool = False) -> Iterator[bool]:
    """Keeps others who ask too from a folder, until the block or the process ends.

    Args:
        folder: they share.
        name: of the lock; a folder that serves two purposes needs two.
        wait: until it is free.

    Yields:
        Whether it does: some file systems of networks have no locks.

    Raises:
        InputError: another process has it, and this one shall not wait.
    """
    with (folder / name).open("w") as file:
        yield _lock(file, folder, wait)


def _lock(file: TextIO, folder: Path, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise InputError(f"{folder}: another process is writing there") from error
        _log.info("%s: another process is writing there; waiting for it", folder)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        _log.warning("%s cannot be locked: %s", folder, error)
        return False
    return True
