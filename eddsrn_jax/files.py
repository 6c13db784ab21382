"""Writing files: whole or absent, whenever the process ends, and named in errors."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


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
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, or replaces it."""
    with written_beside(path) as temporary:
        temporary.write_text(text)
