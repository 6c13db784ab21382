"""Atomic writes, strict JSON, errors that name the file, locks on folders."""

import contextlib
import hashlib
import json
import logging
import math
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from eddsrn_jax.errors import InputError

try:
    import fcntl
except ModuleNotFoundError:
    # Windows has no such module.
    fcntl = None

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the name of the written file to OSErrors that have none."""
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
    """Yields a temporary path, which is renamed to `path` if the block succeeds."""
    # A random name, as processes on two machines may have the same id.
    temporary = path.with_name(f".eddsrn-{secrets.token_hex(4)}{path.suffix}")
    try:
        with naming(path):
            yield temporary
            # On disk before it is renamed, in case the power fails.
            # Windows can only flush files that are open for writing.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def delete_leftovers(folder: Path) -> None:
    """Deletes the temporary files that killed processes left in a locked folder."""
    for path in folder.glob(".eddsrn-*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, unless it has this text already.

    Writing the same text again thus succeeds on a full disk.
    """
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with written_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(tree: Any, **options: Any) -> str:
    """Returns a tree as strict JSON; non-finite numbers, which JSON lacks, become null.

    Args:
        tree: value to write.
        options: further arguments of `json.dumps`.
    """
    return json.dumps(_without_infinities(tree), allow_nan=False, **options)


def _without_infinities(tree: Any) -> Any:
    """Replaces the non-finite floats of a tree by None."""
    if isinstance(tree, Mapping):
        return {key: _without_infinities(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_infinities(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


@contextlib.contextmanager
def locked(folder: Path, *, name: str = ".lock", wait: bool = False) -> Iterator[bool]:
    """Holds an advisory lock on a folder until the block or the process ends.

    Args:
        folder: folder to lock.
        name: file name of the lock; a folder that serves two purposes needs two locks.
        wait: whether to wait until the lock is free.

    Yields:
        Whether the lock is held: Windows and some network file systems have no such
        locks.

    Raises:
        InputError: another process holds the lock, and `wait` is False.
    """
    with _open_lock(folder / name) as file:
        yield _lock(file, folder, wait)


def _open_lock(path: Path) -> TextIO:
    try:
        return path.open("w")
    except PermissionError:
        # Another user owns the file. Locking it needs no permission to write.
        if not path.exists():
            raise
        return path.open()


def _lock(file: TextIO, folder: Path, wait: bool) -> bool:
    if fcntl is None:
        _log.warning("%s cannot be locked, so use it in one run only", folder)
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise InputError(
                f"{folder}: another process is using this folder; wait until it ends"
            ) from error
        _log.info("%s: waiting for another process that is using this folder", folder)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        _log.warning("%s cannot be locked, so use it in one run only: %s", folder, error)
        return False
    return True


def cache_root() -> Path:
    """Returns the user's cache folder for this project.

    A user without a home folder gets a private folder among the temporary files.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "eddsrn_jax"
    try:
        return Path.home() / ".cache" / "eddsrn_jax"
    except RuntimeError:
        # Windows has no such number, and its temporary folder is the user's own.
        user = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir(), f"eddsrn_jax-{user}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # The cache holds programs, so nobody else may have made it.
        private = os.name == "nt" or not found.st_mode & 0o022
        if stat.S_ISDIR(found.st_mode) and private and found.st_uid == user:
            return folder
    return Path(tempfile.mkdtemp(prefix="eddsrn_jax-"))


def make_folder(folder: Path, name: str) -> None:
    """Creates a folder if it does not exist.

    Args:
        folder: path of the folder.
        name: flag or config value that names the folder, for the error message.

    Raises:
        InputError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{name}={folder}: the folder cannot be created ({error.strerror})"
        ) from error
