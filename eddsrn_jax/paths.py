"""Paths that users give, and their form in messages."""

import contextlib
import functools
import os
import re
import unicodedata
from pathlib import Path

from eddsrn_jax.errors import InputError

# Controls, direction marks, lone surrogates and line separators: a terminal would obey
# them, or could not show them.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def below(folder: Path, *names: str) -> Path:
    """Joins names, which may be untrusted, to a path below a folder.

    Raises:
        InputError: the names lead out of the folder.
    """
    path = folder.joinpath(*names)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{folder}: {'/'.join(names)!r} would be written outside this folder"
        )
    return path


def file_key(path: Path) -> str:
    """Returns text that is equal for two paths of the same file, which need not exist.

    On macOS and Windows `a.png` and `A.PNG` are one file.
    """
    return _key(os.path.realpath(path))


def _key(path: str) -> str:
    folder, name = os.path.split(path)
    if folder == path:
        return path
    if _ignores_case(folder):
        # `casefold` would take "ß" for "ss".
        name = "".join(x.upper() if len(x.upper()) == 1 else x for x in name)
        name = unicodedata.normalize("NFC", name)
    return os.path.join(_key(folder), name)


@functools.cache
def _ignores_case(folder: str) -> bool:
    """Returns whether names in a folder that differ in case only name the same file."""
    while not os.path.isdir(folder):
        folder, before = os.path.dirname(folder), folder
        if folder == before:
            return False
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if (same := _is_found_in_another_case(entry.path)) is not None:
                    return same
    with contextlib.suppress(OSError):
        # A folder is on the file system of its own name, unless something is mounted.
        return _is_found_in_another_case(folder) or False
    return False


def _is_found_in_another_case(path: str) -> bool | None:
    """Returns whether a file is found by its name in another case; None if it has none.

    Raises:
        OSError: the file has vanished.
    """
    parent, name = os.path.split(path)
    other = "".join(x.swapcase() if x.isascii() else x for x in name)
    if other == name:
        return None
    found = os.lstat(path)
    try:
        return os.path.samestat(found, os.lstat(os.path.join(parent, other)))
    except FileNotFoundError:
        return False


def expand_home(name: Path | str) -> Path:
    """Returns a path in which `~` or `~USER` at the beginning is that home folder.

    A file or folder of that very name takes precedence. A user who does not exist is no
    error: shells have replaced every other `~USER`, so the text is the name of a file.
    """
    path = Path(name)
    if not str(name).startswith("~") or os.path.lexists(path):
        return path
    return Path(os.path.expanduser(name))


def local_path(path: Path | str, name: str) -> Path:
    """Returns the path of a flag or a config value, see `expand_home`.

    Args:
        path: path of a file or folder, which need not exist.
        name: flag or config value that gives the path, for the error message.

    Raises:
        InputError: the path is an address such as gs://bucket/x, contains a null
            character, or names the home folder of an unknown user.
    """
    text = str(path)
    # pathlib turns gs://bucket into gs:/bucket.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise InputError(f"{name}={text}: an address; only local paths can be used")
    if "\0" in text:
        raise InputError(f"{name}={text!r}: a path cannot contain a null character")
    expanded = expand_home(text)
    if text.startswith("~") and expanded == Path(text) and not os.path.lexists(expanded):
        raise InputError(
            f"{name}={text}: the home folder of {expanded.parts[0]} is unknown"
        )
    return expanded


def has_checkpoints(workdir: Path) -> bool:
    """Returns whether a run in this workdir has saved a checkpoint."""
    return any((workdir / "checkpoints").glob("[0-9]*"))


def workdir_path(path: Path | str) -> Path:
    """Returns the path of a run's workdir, see `local_path`.

    Raises:
        InputError: see `local_path`; or the path is not UTF-8, which orbax needs.
    """
    path = local_path(path, "--workdir")
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        message = f"--workdir={path.absolute()}: the path of a workdir must be UTF-8"
        raise InputError(printable(message)) from error
    return path


def printable(text: Path | str) -> str:
    """Returns a path or message that any terminal and any UTF-8 file can hold.

    Control characters are escaped as "\\x1b", and bytes that are not UTF-8 as "\\xe9".
    """
    return "".join(_escaped(char) for char in str(text))


def _escaped(char: str) -> str:
    # Python stands for the byte b of a file's name by the character 0xDC00 + b.
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return ascii(char)[1:-1] if unicodedata.category(char) in _HIDDEN else char
